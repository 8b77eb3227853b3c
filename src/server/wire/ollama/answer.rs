//! Answers of Ollama's API. Times are RFC 3339, durations nanoseconds.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use phi4d_generate::{Finish, ToolCall, Usage};

/// Which of the two endpoints answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Chat,
    Generate,
}

/// One line of an answer, or a whole answer.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Line<'a> {
    model: &'a str,
    created_at: String,
    #[serde(flatten)]
    said: Said,
    done: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    done_reason: Option<&'static str>,
    #[serde(flatten)]
    figures: Option<Figures>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
enum Said {
    Chat {
        message: AnswerMessage,
    },
    Generate {
        response: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        thinking: String,
    },
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct AnswerMessage {
    role: &'static str,
    content: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    thinking: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<AnswerCall>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct AnswerCall {
    id: String,
    function: AnswerFunction,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct AnswerFunction {
    index: usize,
    name: String,
    arguments: Map<String, Value>,
}

/// What an answer took.
#[derive(Debug, Clone, Copy, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Figures {
    total_duration: u64,
    load_duration: u64,
    prompt_eval_count: usize,
    prompt_eval_duration: u64,
    eval_count: usize,
    eval_duration: u64,
}

impl Figures {
    /// `load` until the model was there, then `reading` until the first token, `total` in all.
    pub(crate) fn new(usage: Usage, load: Duration, reading: Duration, total: Duration) -> Self {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self {
            total_duration: nanos(total),
            load_duration: nanos(load),
            prompt_eval_count: usage.prompt_tokens,
            prompt_eval_duration: nanos(reading),
            eval_count: usage.completion_tokens,
            eval_duration: nanos(total.saturating_sub(load + reading)),
        }
    }
}

impl<'a> Line<'a> {
    /// Some more of an answer.
    pub(crate) fn more(
        kind: Kind,
        model: &'a str,
        text: String,
        thinking: String,
        calls: Vec<(usize, ToolCall)>,
    ) -> Self {
        let said = match kind {
            Kind::Generate => Said::Generate { response: text, thinking },
            Kind::Chat => Said::Chat {
                message: AnswerMessage {
                    role: "assistant",
                    content: text,
                    thinking,
                    // A call that was cut off has no arguments to give.
                    tool_calls: calls.into_iter().filter_map(AnswerCall::of).collect(),
                },
            },
        };
        let created_at = phi4d_telemetry::timestamp(std::time::SystemTime::now());
        Self { model, created_at, said, done: false, done_reason: None, figures: None }
    }

    /// The same as the last line.
    pub(crate) fn ended(self, reason: &'static str, figures: Option<Figures>) -> Self {
        Self { done: true, done_reason: Some(reason), figures, ..self }
    }
}

impl AnswerCall {
    fn of((index, call): (usize, ToolCall)) -> Option<Self> {
        let arguments = serde_json::from_str(&call.arguments).ok()?;
        let function = AnswerFunction { index, name: call.name, arguments };
        Some(Self { id: call.id, function })
    }
}

/// Ollama's word for why an answer ended.
pub(crate) fn done_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop | Finish::ToolCalls => "stop",
        Finish::Length => "length",
    }
}

/// `GET /api/version`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Version {
    /// The version of Ollama's API that is spoken.
    pub(crate) version: &'static str,
    pub(crate) phi4d: &'static str,
}

/// `GET /api/tags` and `GET /api/ps`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Models<T> {
    pub(crate) models: Vec<T>,
}

/// A model, as `/api/tags` has it.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct TaggedModel<'a> {
    pub(crate) name: &'a str,
    pub(crate) model: &'a str,
    pub(crate) modified_at: String,
    /// 0 where it is not known. In `/api/ps`, where models come and go: the memory that it may take.
    pub(crate) size: u64,
    pub(crate) digest: String,
    pub(crate) details: Details,
}

/// A model, as `/api/ps` has it.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct LoadedModel<'a> {
    #[serde(flatten)]
    pub(crate) model: TaggedModel<'a>,
    pub(crate) expires_at: String,
    pub(crate) size_vram: u64,
    pub(crate) context_length: usize,
}

/// What kind of model it is.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Details {
    parent_model: &'static str,
    format: &'static str,
    family: &'static str,
    families: [&'static str; 1],
    parameter_size: &'static str,
    quantization_level: &'static str,
}

impl Default for Details {
    fn default() -> Self {
        Self {
            parent_model: "",
            format: "onnx",
            family: "phi4",
            families: ["phi4"],
            parameter_size: "",
            quantization_level: "",
        }
    }
}

impl Details {
    /// Those of an embedding model.
    pub(crate) fn of_embeddings() -> Self {
        Self { family: "bert", families: ["bert"], ..Self::default() }
    }
}

/// What is shown of a model by `/api/show`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShowFacts {
    pub(crate) context_tokens: usize,
    pub(crate) vocabulary: usize,
    /// Whether it fills gaps.
    pub(crate) inserts: bool,
}

/// Why an operation on models is refused or has nothing to do.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Progress {
    pub(crate) status: &'static str,
}

/// `POST /api/show`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Shown {
    license: &'static str,
    modelfile: &'static str,
    parameters: &'static str,
    template: String,
    modified_at: String,
    details: Details,
    model_info: ShownInfo,
    capabilities: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
enum ShownInfo {
    Generating(ModelInfo),
    Embedding(EmbeddingInfo),
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct EmbeddingInfo {
    #[serde(rename = "general.architecture")]
    architecture: &'static str,
    #[serde(rename = "bert.context_length")]
    context_length: usize,
    #[serde(rename = "bert.embedding_length")]
    embedding_length: usize,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct ModelInfo {
    #[serde(rename = "general.architecture")]
    architecture: &'static str,
    #[serde(rename = "phi4.context_length")]
    context_length: usize,
    #[serde(rename = "phi4.vocab_size")]
    vocab_size: usize,
}

impl Shown {
    pub(crate) fn new(modified_at: String, template: String, facts: ShowFacts) -> Self {
        let mut capabilities = vec!["completion", "tools"];
        if facts.inserts {
            capabilities.push("insert");
        }
        Self {
            license: "",
            modelfile: "",
            parameters: "",
            template,
            modified_at,
            details: Details::default(),
            model_info: ShownInfo::Generating(ModelInfo {
                architecture: "phi4",
                context_length: facts.context_tokens,
                vocab_size: facts.vocabulary,
            }),
            capabilities,
        }
    }

    /// Of an embedding model, which takes texts of `context` tokens and gives vectors of `dimensions`
    /// numbers.
    pub(crate) fn embedding(modified_at: String, context: usize, dimensions: usize) -> Self {
        Self {
            license: "",
            modelfile: "",
            parameters: "",
            template: String::new(),
            modified_at,
            details: Details::of_embeddings(),
            model_info: ShownInfo::Embedding(EmbeddingInfo {
                architecture: "bert",
                context_length: context,
                embedding_length: dimensions,
            }),
            capabilities: vec!["embedding"],
        }
    }
}
