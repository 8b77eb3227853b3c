//! The messages of a conversation, in the chat API's shape; and what conversations of all APIs have
//! in common.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::Value;

use super::bounds;
use super::common::{List, Object, TextOr, shown, too_long, unknown_word, unsupported_word};
use crate::error::ApiError;
use phi4d_generate::{Ending, Message, Role, ToolCall};

const ROLES: &str = "\"system\", \"developer\", \"user\", \"assistant\" or \"tool\"";
const MESSAGES: &str = "a list of at least one message";
const CONTENT: &str = "a string, or a list of {\"type\": \"text\", \"text\": …}";

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct WireMessage {
    role: Option<String>,
    content: Option<TextOr<Object<Part>, { bounds::PARTS }>>,
    tool_calls: Option<WireCalls>,
    tool_call_id: Option<String>,
    function_call: Option<Value>,
    audio: Option<Value>,
}

type WireCalls = List<Object<WireCall>, { bounds::CALLS }>;

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Part {
    #[serde(rename = "type")]
    kind: Option<String>,
    text: Option<String>,
    refusal: Option<String>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct WireCall {
    id: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    function: Option<Object<WireCalled>>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct WireCalled {
    name: Option<String>,
    arguments: Option<String>,
}

/// A conversation as it is read, of any API. Each message comes with its place in the request, which
/// errors name.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    messages: Vec<Message>,
    /// The last message's place.
    place: String,
    /// Ids of all calls so far.
    called: HashSet<String>,
}

impl Conversation {
    /// Adds a message. A tool's result must belong to a call in an earlier message.
    pub(super) fn add(&mut self, message: Message, place: &str) -> Result<(), ApiError> {
        if let Some(id) = message.answers.as_ref().filter(|id| !self.called.contains(*id)) {
            return Err(ApiError::invalid_value(
                format!("{place}.tool_call_id"),
                format_args!("{id:?}"),
                "the id of one of the tool_calls in an earlier message",
            ));
        }
        place.clone_into(&mut self.place);
        self.called.extend(message.calls.iter().map(|call| call.id.clone()));
        self.messages.push(message);
        self.check_calls()
    }

    /// Adds a text without calls.
    pub(super) fn add_text(
        &mut self,
        role: Role,
        text: String,
        place: &str,
    ) -> Result<(), ApiError> {
        self.add(Message::text(role, text), place)
    }

    /// Adds a tool's result.
    pub(super) fn add_result(
        &mut self,
        id: String,
        content: String,
        place: &str,
    ) -> Result<(), ApiError> {
        self.add(Message { answers: Some(id), ..Message::text(Role::Tool, content) }, place)
    }

    /// Adds a call to the last message if the assistant wrote it, else as a message of its own.
    pub(super) fn add_call(&mut self, call: ToolCall, place: &str) -> Result<(), ApiError> {
        match self.messages.last_mut() {
            Some(last) if last.role == Role::Assistant => {
                self.called.insert(call.id.clone());
                last.calls.push(call);
                self.check_calls()
            }
            _ => {
                let calls = vec![call];
                self.add(Message { calls, ..Message::text(Role::Assistant, "") }, place)
            }
        }
    }

    /// Who wrote the last message.
    pub(super) fn last_role(&self) -> Option<Role> {
        self.messages.last().map(|message| message.role)
    }

    /// The messages, at least one.
    pub(super) fn finish(self, ending: Ending) -> Result<Vec<Message>, ApiError> {
        if self.messages.len() > bounds::MESSAGES {
            return Err(too_long("messages", self.messages.len(), bounds::MESSAGES));
        }
        match self.messages.last() {
            None => Err(ApiError::invalid_value("messages", "[]", MESSAGES)),
            Some(last) if ending == Ending::Open && !last.calls.is_empty() => {
                let expected = "false where the last message has tool_calls";
                Err(ApiError::invalid_value("continue_final_message", true, expected))
            }
            Some(_) => Ok(self.messages),
        }
    }

    fn check_calls(&self) -> Result<(), ApiError> {
        let count = self.messages.last().map_or(0, |message| message.calls.len());
        if count > bounds::CALLS {
            return Err(too_long(&format!("{}.tool_calls", self.place), count, bounds::CALLS));
        }
        Ok(())
    }
}

/// The role of a message at `place`.
pub(super) fn role(given: Option<&str>, place: &str) -> Result<Role, ApiError> {
    let field = || format!("{place}.role");
    match given {
        Some("system" | "developer") => Ok(Role::System),
        Some("user") => Ok(Role::User),
        Some("assistant") => Ok(Role::Assistant),
        Some("tool") => Ok(Role::Tool),
        Some("function") => Err(unsupported_word(field(), given, ROLES)),
        other => Err(unknown_word(field(), other, ROLES)),
    }
}

/// The id of the call that a message answers: that of a tool must, others do not.
pub(super) fn answered(
    role: Role,
    id: Option<String>,
    place: &str,
) -> Result<Option<String>, ApiError> {
    match (role, id) {
        (Role::Tool, None) => {
            let expected = "the id of the call whose result this is";
            Err(ApiError::missing(format!("{place}.tool_call_id"), expected))
        }
        (Role::Tool, id) => Ok(id),
        _ => Ok(None),
    }
}

/// Refuses calls in messages that the assistant did not write.
pub(super) fn check_caller(role: Role, calls: usize, place: &str) -> Result<(), ApiError> {
    if calls > 0 && role != Role::Assistant {
        return Err(ApiError::invalid_value(
            format!("{place}.tool_calls"),
            "a list",
            "it only in messages of the role \"assistant\"",
        ));
    }
    Ok(())
}

/// The messages of a chat request.
pub(super) fn conversation(
    given: Option<List<Object<WireMessage>, { bounds::MESSAGES }>>,
    ending: Ending,
) -> Result<Vec<Message>, ApiError> {
    let Some(List(given)) = given else {
        return Err(ApiError::missing("messages", MESSAGES));
    };
    let mut conversation = Conversation::default();
    for (index, Object(message)) in given.into_iter().enumerate() {
        let place = format!("messages[{index}]");
        conversation.add(message.checked(&place)?, &place)?;
    }
    conversation.finish(ending)
}

impl WireMessage {
    fn checked(self, place: &str) -> Result<Message, ApiError> {
        let role = role(self.role.as_deref(), place)?;
        for (name, value) in [("function_call", &self.function_call), ("audio", &self.audio)] {
            if let Some(value) = value {
                let field = format!("{place}.{name}");
                return Err(ApiError::unsupported(field, shown(value), "null"));
            }
        }
        let calls = calls(self.tool_calls, role, place)?;
        let answers = answered(role, self.tool_call_id, place)?;
        let place = format!("{place}.content");
        let content = match self.content {
            // What the assistant said may be nothing.
            None if role == Role::Assistant => String::new(),
            None => return Err(ApiError::missing(place, CONTENT)),
            Some(TextOr::Text(text)) => text,
            Some(TextOr::List(parts)) => {
                joined(parts, &place, |part| match part.kind.as_deref() {
                    Some("text") => Ok(("text", part.text)),
                    Some("refusal") => Ok(("refusal", part.refusal)),
                    kind => Err((kind.map(str::to_owned), "\"text\"")),
                })?
            }
        };
        Ok(Message { role, content, calls, answers })
    }
}

fn calls(given: Option<WireCalls>, role: Role, place: &str) -> Result<Vec<ToolCall>, ApiError> {
    let calls = given.map_or_else(Vec::new, |List(calls)| calls);
    check_caller(role, calls.len(), place)?;
    let checked = |(index, Object(call)): (usize, Object<WireCall>)| {
        call.checked(&format!("{place}.tool_calls[{index}]"))
    };
    calls.into_iter().enumerate().map(checked).collect()
}

impl WireCall {
    fn checked(self, place: &str) -> Result<ToolCall, ApiError> {
        let missing = |field: &str, what: &str| ApiError::missing(format!("{place}.{field}"), what);
        if self.kind.as_deref().is_some_and(|kind| kind != "function") {
            let kind = self.kind.as_deref();
            return Err(unsupported_word(format!("{place}.type"), kind, "\"function\""));
        }
        let Some(Object(called)) = self.function else {
            return Err(missing("function", "an object with name and arguments"));
        };
        Ok(ToolCall {
            id: self.id.ok_or_else(|| missing("id", "a string"))?,
            name: called.name.ok_or_else(|| missing("function.name", "a string"))?,
            arguments: called
                .arguments
                .ok_or_else(|| missing("function.arguments", "a string of JSON"))?,
        })
    }
}

/// Adds the text of a message's next part.
pub(super) fn append(whole: &mut String, part: &str) {
    if !whole.is_empty() && !part.is_empty() {
        whole.push('\n');
    }
    whole.push_str(part);
}

/// A part's field that holds its text, with the text; or the part's kind and what is accepted.
type PartText = Result<(&'static str, Option<String>), (Option<String>, &'static str)>;

/// The texts of a message's parts as one. A line break is between two, so that words of different
/// parts do not run together.
pub(super) fn joined<P>(
    parts: Vec<Object<P>>,
    place: &str,
    text_of: impl Fn(P) -> PartText,
) -> Result<String, ApiError> {
    let mut whole = String::new();
    for (index, Object(part)) in parts.into_iter().enumerate() {
        let field = |name: &str| format!("{place}[{index}].{name}");
        match text_of(part) {
            Ok((_, Some(text))) => append(&mut whole, &text),
            Ok((name, None)) => return Err(ApiError::missing(field(name), "a string")),
            Err((kind, kinds)) => {
                return Err(unsupported_word(field("type"), kind.as_deref(), kinds));
            }
        }
    }
    Ok(whole)
}
