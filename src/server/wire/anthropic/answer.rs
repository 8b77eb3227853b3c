//! Answers of Anthropic's messages API.

use serde::Serialize;
use serde_json::{Map, Value};

use phi4d_generate::{Answer, Finish, Usage};

/// A part of an answer.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Block {
    Text { text: String },
    Thinking { thinking: String, signature: &'static str },
    ToolUse { id: String, name: String, input: Map<String, Value> },
}

/// A message: a whole answer, or the beginning of a streamed one.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Whole<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    role: &'static str,
    model: &'a str,
    content: Vec<Block>,
    stop_reason: Option<&'static str>,
    stop_sequence: Option<&'a str>,
    usage: MessageUsage,
}

/// Tokens read and made. Those that were cached are counted apart.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct MessageUsage {
    input_tokens: usize,
    cache_creation_input_tokens: usize,
    cache_read_input_tokens: usize,
    output_tokens: usize,
}

impl From<Usage> for MessageUsage {
    fn from(usage: Usage) -> Self {
        Self {
            input_tokens: usage.prompt_tokens - usage.cached_tokens,
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: usage.cached_tokens,
            output_tokens: usage.completion_tokens,
        }
    }
}

impl<'a> Whole<'a> {
    /// A message without content.
    pub(crate) fn empty(id: &'a str, model: &'a str, usage: Usage) -> Self {
        Self {
            id,
            kind: "message",
            role: "assistant",
            model,
            content: Vec::new(),
            stop_reason: None,
            stop_sequence: None,
            usage: usage.into(),
        }
    }

    /// The message of `answer`, whose text ended before `stop`.
    pub(crate) fn new(
        id: &'a str,
        model: &'a str,
        answer: Answer,
        stop: Option<&'a str>,
        usage: Usage,
    ) -> Self {
        let mut content = Vec::new();
        if !answer.reasoning.is_empty() {
            content.push(Block::Thinking { thinking: answer.reasoning, signature: "" });
        }
        if !answer.text.is_empty() || answer.calls.is_empty() {
            content.push(Block::Text { text: answer.text });
        }
        content.extend(answer.calls.into_iter().filter_map(|call| {
            // A call that was cut off has no input to give.
            let input = serde_json::from_str(&call.arguments).ok()?;
            Some(Block::ToolUse { id: call.id, name: call.name, input })
        }));
        let stop_reason = Some(stop_reason(answer.finished.reason, stop));
        let message = Self::empty(id, model, usage);
        Self { content, stop_reason, stop_sequence: stop, ..message }
    }
}

/// Anthropic's word for why an answer ended; `stop` is the stop sequence that came up.
pub(crate) fn stop_reason(finish: Finish, stop: Option<&str>) -> &'static str {
    match (finish, stop) {
        (Finish::Length, _) => "max_tokens",
        (Finish::ToolCalls, _) => "tool_use",
        (Finish::Stop, Some(_)) => "stop_sequence",
        (Finish::Stop, None) => "end_turn",
    }
}

/// `POST /v1/messages/count_tokens`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Counted {
    pub(crate) input_tokens: usize,
}

/// One event of a stream.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Event<'a> {
    MessageStart { message: Whole<'a> },
    ContentBlockStart { index: usize, content_block: Block },
    ContentBlockDelta { index: usize, delta: Delta },
    ContentBlockStop { index: usize },
    MessageDelta { delta: Stopped<'a>, usage: MessageUsage },
    MessageStop,
}

/// Some more of a block.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "type")]
pub(crate) enum Delta {
    #[serde(rename = "text_delta")]
    Text { text: String },
    #[serde(rename = "thinking_delta")]
    Thinking { thinking: String },
    #[serde(rename = "input_json_delta")]
    InputJson { partial_json: String },
}

/// Why a message ended.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Stopped<'a> {
    pub(crate) stop_reason: &'static str,
    pub(crate) stop_sequence: Option<&'a str>,
}
