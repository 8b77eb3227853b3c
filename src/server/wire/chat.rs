//! `POST /v1/chat/completions`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::common::{
    ChunkUsage, Delivery, Envelope, Integer, List, Object, StreamFields, TextOr, WireUsage,
    finish_reason, read_fields, shown, token_ids_of,
};
use super::known::{ignored, names_of};
use super::logprobs::ChatLogprobs;
use super::sampling::{GivenNames, SamplingFields};
use super::steering::{SteeringFields, copies};
use super::unsupported;
use crate::generate::{
    Answer, Copies, Finish, Message, Parameters, Prompt, Role, TextDelta, Usage,
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
        let fields: ChatFields = read_fields(body)?;
        let stream: StreamFields = read_fields(body)?;
        unsupported::check_chat(body)?;
        let known = [
            names_of::<SamplingFields>(),
            names_of::<SteeringFields>(),
            names_of::<ChatFields>(),
            names_of::<StreamFields>(),
        ];
        let names = sampling.given_names();
        let mut parameters = sampling.parameters()?;
        steering.steer(&mut parameters)?;
        parameters.top_logprobs = top_logprobs(fields.logprobs, fields.top_logprobs)?;
        Ok(Self {
            model: fields.model,
            prompt: Prompt::Chat(conversation(fields.messages)?),
            parameters,
            names,
            delivery: stream.delivery()?,
            copies: copies(fields.n, None)?,
            return_token_ids: fields.return_token_ids.unwrap_or(false),
            ignored: ignored(body, &known)?,
        })
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
mod tests {
    use super::*;
    use crate::generate::Finished;
    use crate::server::wire::common::SYSTEM_FINGERPRINT;
    use serde_json::{json, to_value};

    fn messages(given: &Value) -> Result<Vec<Message>, ApiError> {
        match ChatRequest::parse(&json!({ "messages": given }))?.prompt {
            Prompt::Chat(messages) => Ok(messages),
            other => panic!("{other:?}"),
        }
    }

    fn message(role: Role, content: &str) -> Message {
        Message { role, content: content.to_owned() }
    }

    #[test]
    fn conversations_arrive() {
        let given = json!([
            {"role": "developer", "content": "d"},
            {"role": "user", "content": [
                {"type": "text", "text": "a"}, {"type": "text", "text": "b"}
            ], "name": "ignored"},
            {"role": "assistant", "content": "", "refusal": null, "tool_calls": []},
        ]);
        let expected =
            [message(Role::System, "d"), message(Role::User, "ab"), message(Role::Assistant, "")];
        assert_eq!(messages(&given).unwrap(), expected);
    }

    #[test]
    fn faulty_conversations_name_the_place() {
        let missing = "missing_required_parameter";
        let (value, feature) = ("invalid_value", "unsupported_parameter");
        let user = |content: Value| json!([{"role": "user", "content": content}]);
        let table = [
            (json!(null), "messages", missing),
            (json!([]), "messages", value),
            (json!("hi"), "messages", "invalid_type"),
            (json!([["user", "hi"]]), "messages[0]", "invalid_type"),
            (json!([{"content": "x"}]), "messages[0].role", missing),
            (json!([{"role": 5, "content": "x"}]), "messages[0].role", "invalid_type"),
            (json!([{"role": "robot", "content": "x"}]), "messages[0].role", value),
            (json!([{"role": "tool", "content": "x"}]), "messages[0].role", feature),
            (json!([{"role": "user"}]), "messages[0].content", missing),
            (user(json!(null)), "messages[0].content", missing),
            (user(json!(7)), "messages[0].content", "invalid_type"),
            (user(json!(["x"])), "messages[0].content[0]", "invalid_type"),
            (user(json!([{"text": "x"}])), "messages[0].content[0].type", missing),
            (user(json!([{"type": "text"}])), "messages[0].content[0].text", missing),
            (
                user(json!([{"type": "text", "text": "x"}, {"type": "image_url"}])),
                "messages[0].content[1].type",
                feature,
            ),
            (
                json!([{"role": "assistant", "content": null, "tool_calls": [{}]}]),
                "messages[0].tool_calls",
                feature,
            ),
        ];
        for (given, param, code) in table {
            let error = messages(&given).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{given}: {}", error.message);
            assert_eq!(error.code, code, "{given}: {}", error.message);
        }
    }

    #[test]
    fn logprobs_need_their_switch() {
        let top = |fields: Value| {
            let mut body = json!({"messages": [{"role": "user", "content": "x"}]});
            body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            ChatRequest::parse(&body).map(|request| request.parameters.top_logprobs)
        };
        assert_eq!(top(json!({})).unwrap(), None);
        assert_eq!(top(json!({"logprobs": false})).unwrap(), None);
        assert_eq!(top(json!({"logprobs": true})).unwrap(), Some(0));
        assert_eq!(top(json!({"logprobs": true, "top_logprobs": 3})).unwrap(), Some(3));
        for fields in [json!({"top_logprobs": 3}), json!({"logprobs": true, "top_logprobs": -1})] {
            assert_eq!(top(fields).unwrap_err().param.as_deref(), Some("top_logprobs"));
        }
    }

    fn envelope(object: &'static str) -> Envelope {
        Envelope {
            id: "chatcmpl-1".to_owned(),
            object,
            created: 5,
            model: "phi-4".to_owned(),
            system_fingerprint: SYSTEM_FINGERPRINT,
        }
    }

    fn finished() -> Finished {
        Finished {
            reason: Finish::Length,
            usage: Usage { prompt_tokens: 4, cached_tokens: 1, completion_tokens: 2 },
        }
    }

    #[test]
    fn the_answers_shape_is_openais() {
        let answer = Answer { text: "hi".to_owned(), tokens: Vec::new(), finished: finished() };
        let envelope = envelope(ChatCompletion::OBJECT);
        let expected = json!({
            "id": "chatcmpl-1", "object": "chat.completion", "created": 5, "model": "phi-4",
            "system_fingerprint": SYSTEM_FINGERPRINT,
            "choices": [{
                "index": 0, "logprobs": null, "finish_reason": "length",
                "message": {"role": "assistant", "content": "hi", "refusal": null}
            }],
            "usage": {
                "prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6,
                "prompt_tokens_details": {"cached_tokens": 1}
            }
        });
        let shape = ChatCompletion::new(&envelope, vec![answer], finished().usage, false, None);
        assert_eq!(to_value(shape).unwrap(), expected);
    }

    #[test]
    fn the_chunks_shapes_are_openais() {
        let envelope = envelope(ChatChunk::OBJECT);
        let choice = |chunk: ChatChunk| to_value(chunk).unwrap()["choices"].clone();
        let start = to_value(ChatChunk::start(&envelope, ChunkUsage::NotAsked, 0, None)).unwrap();
        assert_eq!(start["object"], "chat.completion.chunk");
        assert!(start.get("usage").is_none());
        assert_eq!(
            start["choices"],
            json!([{"index": 0, "delta": {"role": "assistant", "content": ""},
                    "logprobs": null, "finish_reason": null}])
        );
        let delta = TextDelta { text: "a".to_owned(), tokens: Vec::new() };
        assert_eq!(
            choice(ChatChunk::text(&envelope, ChunkUsage::NotYet, 0, delta, [true, false])),
            json!([{"index": 0, "delta": {"content": "a"},
                    "logprobs": {"content": [], "refusal": null}, "finish_reason": null}])
        );
        let end =
            to_value(ChatChunk::end(&envelope, ChunkUsage::NotYet, 0, Finish::Length)).unwrap();
        assert_eq!(end["usage"], json!(null));
        assert!(end.as_object().unwrap().contains_key("usage"));
        assert_eq!(
            end["choices"],
            json!([{"index": 0, "delta": {}, "logprobs": null, "finish_reason": "length"}])
        );
        let usage = to_value(ChatChunk::usage(&envelope, finished().usage)).unwrap();
        assert_eq!(usage["choices"], json!([]));
        assert_eq!(usage["usage"]["total_tokens"], 6);
    }
}
