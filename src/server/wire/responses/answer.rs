//! Answers of OpenAI's responses API.

use serde::Serialize;
use serde_json::{Map, Value};

use phi4d_generate::Usage;

/// How far an item or a response is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    InProgress,
    Completed,
    Incomplete,
    Failed,
}

/// One item of a response.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Item {
    Reasoning {
        id: String,
        status: Status,
        summary: [(); 0],
        content: Vec<Part>,
    },
    Message {
        id: String,
        status: Status,
        role: &'static str,
        content: Vec<Part>,
    },
    FunctionCall {
        id: String,
        status: Status,
        call_id: String,
        name: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        arguments: String,
    },
    CustomToolCall {
        id: String,
        status: Status,
        call_id: String,
        name: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        input: String,
    },
}

/// One part of an item.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Part {
    OutputText { text: String, annotations: [(); 0], logprobs: [(); 0] },
    ReasoningText { text: String },
}

impl Part {
    pub(crate) fn text(text: String) -> Self {
        Self::OutputText { text, annotations: [], logprobs: [] }
    }
}

impl Item {
    pub(crate) fn reasoning(id: String, status: Status, content: Vec<Part>) -> Self {
        Self::Reasoning { id, status, summary: [], content }
    }

    pub(crate) fn message(id: String, status: Status, content: Vec<Part>) -> Self {
        Self::Message { id, status, role: "assistant", content }
    }

    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Reasoning { id, .. }
            | Self::Message { id, .. }
            | Self::FunctionCall { id, .. }
            | Self::CustomToolCall { id, .. } => id,
        }
    }
}

/// A response.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Response<'a> {
    pub(crate) id: &'a str,
    pub(crate) object: &'static str,
    /// Seconds since 1970.
    pub(crate) created_at: u64,
    pub(crate) model: &'a str,
    pub(crate) status: Status,
    pub(crate) error: Option<Failure<'a>>,
    incomplete_details: Option<IncompleteDetails>,
    pub(crate) output: &'a [Item],
    pub(crate) usage: Option<ResponseUsage>,
    background: bool,
    previous_response_id: Option<&'a str>,
    service_tier: &'static str,
    store: bool,
    #[serde(flatten)]
    echo: &'a Map<String, Value>,
}

/// Why a response failed.
#[derive(Debug, Clone, Copy, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Failure<'a> {
    pub(crate) code: &'a str,
    pub(crate) message: &'a str,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct IncompleteDetails {
    reason: &'static str,
}

/// Tokens read and made.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ResponseUsage {
    input_tokens: usize,
    input_tokens_details: InputDetails,
    output_tokens: usize,
    output_tokens_details: OutputDetails,
    total_tokens: usize,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct InputDetails {
    cached_tokens: usize,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct OutputDetails {
    reasoning_tokens: usize,
}

impl From<Usage> for ResponseUsage {
    fn from(usage: Usage) -> Self {
        Self {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputDetails { cached_tokens: usage.cached_tokens },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputDetails { reasoning_tokens: usage.reasoning_tokens },
            total_tokens: usage.prompt_tokens + usage.completion_tokens,
        }
    }
}

impl<'a> Response<'a> {
    /// A response without output.
    pub(crate) fn begun(
        id: &'a str,
        created_at: u64,
        model: &'a str,
        echo: &'a Map<String, Value>,
    ) -> Self {
        Self {
            id,
            object: "response",
            created_at,
            model,
            status: Status::InProgress,
            error: None,
            incomplete_details: None,
            output: &[],
            usage: None,
            background: false,
            previous_response_id: None,
            service_tier: "default",
            store: false,
            echo,
        }
    }

    /// The same response, which goes on from `previous` and is kept or not.
    pub(crate) fn after(self, previous: Option<&'a str>, store: bool) -> Self {
        Self { previous_response_id: previous, store, ..self }
    }

    /// The same response when it is complete.
    pub(crate) fn ended(self, status: Status, output: &'a [Item], usage: Usage) -> Self {
        let incomplete_details = (status == Status::Incomplete)
            .then_some(IncompleteDetails { reason: "max_output_tokens" });
        Self { status, output, usage: Some(usage.into()), incomplete_details, ..self }
    }

    /// The same response after an error.
    pub(crate) fn failed(self, failure: Failure<'a>, output: &'a [Item]) -> Self {
        Self { status: Status::Failed, error: Some(failure), output, ..self }
    }
}

/// What an event says, beside its number.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "type")]
pub(crate) enum Event<'a> {
    #[serde(rename = "response.created")]
    Created { response: Response<'a> },
    #[serde(rename = "response.in_progress")]
    InProgress { response: Response<'a> },
    #[serde(rename = "response.completed")]
    Completed { response: Response<'a> },
    #[serde(rename = "response.incomplete")]
    Incomplete { response: Response<'a> },
    #[serde(rename = "response.failed")]
    Failed { response: Response<'a> },
    #[serde(rename = "response.output_item.added")]
    ItemAdded { output_index: usize, item: &'a Item },
    #[serde(rename = "response.output_item.done")]
    ItemDone { output_index: usize, item: &'a Item },
    #[serde(rename = "response.content_part.added")]
    PartAdded { item_id: &'a str, output_index: usize, content_index: usize, part: &'a Part },
    #[serde(rename = "response.content_part.done")]
    PartDone { item_id: &'a str, output_index: usize, content_index: usize, part: &'a Part },
    #[serde(rename = "response.output_text.delta")]
    TextDelta {
        item_id: &'a str,
        output_index: usize,
        content_index: usize,
        delta: &'a str,
        logprobs: [(); 0],
    },
    #[serde(rename = "response.output_text.done")]
    TextDone {
        item_id: &'a str,
        output_index: usize,
        content_index: usize,
        text: &'a str,
        logprobs: [(); 0],
    },
    #[serde(rename = "response.reasoning_text.delta")]
    ReasoningDelta { item_id: &'a str, output_index: usize, content_index: usize, delta: &'a str },
    #[serde(rename = "response.reasoning_text.done")]
    ReasoningDone { item_id: &'a str, output_index: usize, content_index: usize, text: &'a str },
    #[serde(rename = "response.function_call_arguments.delta")]
    ArgumentsDelta { item_id: &'a str, output_index: usize, delta: &'a str },
    #[serde(rename = "response.function_call_arguments.done")]
    ArgumentsDone { item_id: &'a str, output_index: usize, name: &'a str, arguments: &'a str },
    #[serde(rename = "response.custom_tool_call_input.delta")]
    InputDelta { item_id: &'a str, output_index: usize, delta: &'a str },
    #[serde(rename = "response.custom_tool_call_input.done")]
    InputDone { item_id: &'a str, output_index: usize, input: &'a str },
}

/// What was deleted.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Deleted<'a> {
    pub(crate) id: &'a str,
    pub(crate) object: &'static str,
    pub(crate) deleted: bool,
}

/// Some of a stored request's own items.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct InputItems {
    object: &'static str,
    data: Vec<Value>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

impl InputItems {
    pub(crate) fn new(data: Vec<Value>, has_more: bool) -> Self {
        let id_of = |item: Option<&Value>| item?["id"].as_str().map(str::to_owned);
        let (first_id, last_id) = (id_of(data.first()), id_of(data.last()));
        Self { object: "list", data, first_id, last_id, has_more }
    }
}

/// The number of tokens of a request's prompt.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct InputTokens {
    pub(crate) object: &'static str,
    pub(crate) input_tokens: usize,
}
