//! `POST /v1/chat/completions`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::common::{
    ChunkUsage, Delivery, Envelope, Integer, List, Object, StreamFields, TextOr, WireUsage,
    finish_reason, read_fields, shown, token_ids_of,
};
use super::form::FormFields;
use super::known::{ignored, names_of};
use super::logprobs::ChatLogprobs;
use super::sampling::{GivenNames, SamplingFields};
use super::steering::{SteeringFields, copies};
use super::unsupported;
use crate::generate::{
    Answer, Chat, Copies, Ending, Finish, Message, Parameters, Prompt, Role, TextDelta, Usage,
};
use crate::server::error::ApiError;

const ROLES: &str = "\"system\", \"developer\", \"user\" or \"assistant\"";
const CONTENT: &str = "a string, or a list of {\"type\": \"text\", \"text\": …}";

/// A checked chat request, ready for `generate`.
#[derive(Debug)]
pub(crate) struct ChatRequest {
    pub(crate) model: Option<String>,
    pub(crate) prompt: Prompt,
    pub(crate) parameters: Parameters,
    pub(crate) names: GivenNames,
    pub(crate) delivery: Delivery,
    pub(crate) copies: Copies,
    /// Whether prompt and answers are wanted as token ids, too.
    pub(crate) return_token_ids: bool,
    /// Names of fields that nobody read.
    pub(crate) ignored: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct ChatFields {
    model: Option<String>,
    messages: Option<List<Object<WireMessage>>>,
    logprobs: Option<bool>,
    top_logprobs: Option<Integer>,
    n: Option<Integer>,
    add_generation_prompt: Option<bool>,
    continue_final_message: Option<bool>,
    chat_template_kwargs: Option<Map<String, Value>>,
    return_token_ids: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct WireMessage {
    role: Option<String>,
    content: Option<TextOr<Object<Part>>>,
    tool_calls: Option<Value>,
    function_call: Option<Value>,
    audio: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: Option<String>,
    text: Option<String>,
}

impl ChatRequest {
    /// Reads a request's JSON.
    ///
    /// # Errors
    /// A 400 that names the first field at fault.
    pub(crate) fn parse(body: &Value) -> Result<Self, ApiError> {
        let sampling: SamplingFields = read_fields(body)?;
        let steering: SteeringFields = read_fields(body)?;
        let form: FormFields = read_fields(body)?;
        let fields: ChatFields = read_fields(body)?;
        let stream: StreamFields = read_fields(body)?;
        unsupported::check_chat(body)?;
        let known = [
            names_of::<SamplingFields>(),
            names_of::<SteeringFields>(),
            names_of::<FormFields>(),
            names_of::<ChatFields>(),
            names_of::<StreamFields>(),
        ];
        let names = sampling.given_names();
        let mut parameters = sampling.parameters()?;
        steering.steer(&mut parameters)?;
        parameters.constraint = form.constraint()?;
        parameters.top_logprobs = top_logprobs(fields.logprobs, fields.top_logprobs)?;
        Ok(Self {
            model: fields.model,
            prompt: Prompt::Chat(Chat {
                messages: conversation(fields.messages)?,
                ending: ending(fields.add_generation_prompt, fields.continue_final_message)?,
                variables: fields.chat_template_kwargs.unwrap_or_default(),
            }),
            parameters,
            names,
            delivery: stream.delivery()?,
            copies: copies(fields.n, None)?,
            return_token_ids: fields.return_token_ids.unwrap_or(false),
            ignored: ignored(body, &known)?,
        })
    }
}

fn ending(add: Option<bool>, go_on: Option<bool>) -> Result<Ending, ApiError> {
    match (add, go_on) {
        (Some(true), Some(true)) => Err(ApiError::invalid_value(
            "continue_final_message",
            true,
            "false where add_generation_prompt is true",
        )),
        (_, Some(true)) => Ok(Ending::Open),
        (Some(false), _) => Ok(Ending::Closed),
        _ => Ok(Ending::ModelTurn),
    }
}

fn top_logprobs(asked: Option<bool>, top: Option<Integer>) -> Result<Option<u64>, ApiError> {
    match (asked, top) {
        (Some(true), None) => Ok(Some(0)),
        (Some(true), Some(top)) => top.fit("top_logprobs", "an integer from 0 to 20").map(Some),
        (_, None) => Ok(None),
        (_, Some(top)) => {
            Err(top.refused("top_logprobs", "it only together with \"logprobs\": true"))
        }
    }
}

fn conversation(given: Option<List<Object<WireMessage>>>) -> Result<Vec<Message>, ApiError> {
    const ACCEPTED: &str = "a list of at least one message";
    let Some(List(messages)) = given else {
        return Err(ApiError::missing("messages", ACCEPTED));
    };
    if messages.is_empty() {
        return Err(ApiError::invalid_value("messages", "[]", ACCEPTED));
    }
    messages
        .into_iter()
        .enumerate()
        .map(|(index, Object(message))| message.checked(&format!("messages[{index}]")))
        .collect()
}

impl WireMessage {
    fn checked(self, place: &str) -> Result<Message, ApiError> {
        let role = match self.role.as_deref() {
            None => return Err(ApiError::missing(format!("{place}.role"), ROLES)),
            Some("system" | "developer") => Role::System,
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            Some(role @ ("tool" | "function")) => {
                let role = format_args!("{role:?}");
                return Err(ApiError::unsupported(format!("{place}.role"), role, ROLES));
            }
            Some(other) => {
                let other = format_args!("{other:?}");
                return Err(ApiError::invalid_value(format!("{place}.role"), other, ROLES));
            }
        };
        let extras = [
            ("tool_calls", &self.tool_calls),
            ("function_call", &self.function_call),
            ("audio", &self.audio),
        ];
        for (name, value) in extras {
            if let Some(value) = value.as_ref().filter(|value| *value != &Value::Array(Vec::new()))
            {
                let field = format!("{place}.{name}");
                return Err(ApiError::unsupported(field, shown(value), "null"));
            }
        }
        let place = format!("{place}.content");
        let content = match self.content {
            None => return Err(ApiError::missing(place, CONTENT)),
            Some(TextOr::Text(text)) => text,
            Some(TextOr::List(parts)) => joined(parts, &place)?,
        };
        Ok(Message { role, content })
    }
}

/// The parts' texts as one, with nothing between them.
fn joined(parts: Vec<Object<Part>>, place: &str) -> Result<String, ApiError> {
    let mut whole = String::new();
    for (index, Object(part)) in parts.into_iter().enumerate() {
        let place = format!("{place}[{index}]");
        match part.kind.as_deref() {
            Some("text") => {}
            None => return Err(ApiError::missing(format!("{place}.type"), "\"text\"")),
            Some(other) => {
                let other = format_args!("{other:?}");
                return Err(ApiError::unsupported(format!("{place}.type"), other, "\"text\""));
            }
        }
        let Some(text) = part.text else {
            return Err(ApiError::missing(format!("{place}.text"), "a string"));
        };
        whole.push_str(&text);
    }
    Ok(whole)
}

/// `chat.completion`.
#[derive(Debug, Serialize)]
pub(crate) struct ChatCompletion<'a> {
    #[serde(flatten)]
    envelope: &'a Envelope,
    choices: Vec<Choice>,
    usage: WireUsage,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<&'a [u32]>,
}

#[derive(Debug, Serialize)]
struct Choice {
    index: usize,
    message: AnswerMessage,
    logprobs: Option<ChatLogprobs>,
    finish_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

#[derive(Debug, Serialize)]
struct AnswerMessage {
    role: &'static str,
    content: String,
    refusal: Option<()>,
}

impl<'a> ChatCompletion<'a> {
    pub(crate) const OBJECT: &'static str = "chat.completion";

    /// `prompt` is given if token ids are wanted.
    pub(crate) fn new(
        envelope: &'a Envelope,
        answers: Vec<Answer>,
        usage: Usage,
        logprobs: bool,
        prompt: Option<&'a [u32]>,
    ) -> Self {
        let choice = |(index, answer): (usize, Answer)| Choice {
            index,
            logprobs: logprobs.then(|| ChatLogprobs::new(&answer.tokens)),
            token_ids: prompt.map(|_| token_ids_of(&answer.tokens)),
            message: AnswerMessage { role: "assistant", content: answer.text, refusal: None },
            finish_reason: finish_reason(answer.finished.reason),
        };
        Self {
            envelope,
            choices: answers.into_iter().enumerate().map(choice).collect(),
            usage: usage.into(),
            prompt_token_ids: prompt,
        }
    }
}

/// `chat.completion.chunk`.
#[derive(Debug, Serialize)]
pub(crate) struct ChatChunk<'a> {
    #[serde(flatten)]
    envelope: &'a Envelope,
    /// One, or none in the chunk that brings the usage.
    choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "ChunkUsage::is_not_asked")]
    usage: ChunkUsage,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<&'a [u32]>,
}

#[derive(Debug, Default, Serialize)]
struct ChunkChoice {
    index: usize,
    delta: DeltaMessage,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

#[derive(Debug, Default, Serialize)]
struct DeltaMessage {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}

impl<'a> ChatChunk<'a> {
    pub(crate) const OBJECT: &'static str = "chat.completion.chunk";

    /// The first chunk of answer `index`: whose turn it is; with the prompt if token ids are wanted.
    pub(crate) fn start(
        envelope: &'a Envelope,
        usage: ChunkUsage,
        index: usize,
        prompt: Option<&'a [u32]>,
    ) -> Self {
        let delta = DeltaMessage { role: Some("assistant"), content: Some(String::new()) };
        let choice = ChunkChoice { index, delta, ..ChunkChoice::default() };
        Self { prompt_token_ids: prompt, ..Self::with(envelope, usage, choice) }
    }

    pub(crate) fn text(
        envelope: &'a Envelope,
        usage: ChunkUsage,
        index: usize,
        delta: TextDelta,
        [logprobs, token_ids]: [bool; 2],
    ) -> Self {
        let choice = ChunkChoice {
            index,
            logprobs: logprobs.then(|| ChatLogprobs::new(&delta.tokens)),
            token_ids: token_ids.then(|| token_ids_of(&delta.tokens)),
            delta: DeltaMessage { role: None, content: Some(delta.text) },
            finish_reason: None,
        };
        Self::with(envelope, usage, choice)
    }

    pub(crate) fn end(
        envelope: &'a Envelope,
        usage: ChunkUsage,
        index: usize,
        reason: Finish,
    ) -> Self {
        let finish_reason = Some(finish_reason(reason));
        Self::with(envelope, usage, ChunkChoice { index, finish_reason, ..ChunkChoice::default() })
    }

    pub(crate) fn usage(envelope: &'a Envelope, usage: Usage) -> Self {
        let usage = ChunkUsage::Known(usage.into());
        Self { envelope, choices: Vec::new(), usage, prompt_token_ids: None }
    }

    fn with(envelope: &'a Envelope, usage: ChunkUsage, choice: ChunkChoice) -> Self {
        Self { envelope, choices: vec![choice], usage, prompt_token_ids: None }
    }
}

#[cfg(test)]
#[path = "chat_tests.rs"]
mod tests;
