//! The turns of a conversation in a chat request.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::Value;

use super::bounds;
use super::common::{List, Object, TextOr, shown};
use crate::error::ApiError;
use phi4d_generate::{Ending, Message, Role, ToolCall};

const ROLES: &str = "\"system\", \"developer\", \"user\", \"assistant\" or \"tool\"";
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

/// The calls of one message.
type WireCalls = List<Object<WireCall>, { bounds::CALLS }>;

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Part {
    #[serde(rename = "type")]
    kind: Option<String>,
    text: Option<String>,
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

/// The turns, at least one, checked one by one and against each other.
pub(super) fn conversation(
    given: Option<List<Object<WireMessage>, { bounds::MESSAGES }>>,
    ending: Ending,
) -> Result<Vec<Message>, ApiError> {
    const ACCEPTED: &str = "a list of at least one message";
    let Some(List(given)) = given else {
        return Err(ApiError::missing("messages", ACCEPTED));
    };
    let mut messages: Vec<Message> = Vec::with_capacity(given.len());
    let mut called = HashSet::new();
    for (index, Object(message)) in given.into_iter().enumerate() {
        let place = format!("messages[{index}]");
        let message = message.checked(&place)?;
        check_answer(&message, &called, &place)?;
        called.extend(message.calls.iter().map(|call| call.id.clone()));
        messages.push(message);
    }
    match messages.last() {
        None => Err(ApiError::invalid_value("messages", "[]", ACCEPTED)),
        Some(last) if ending == Ending::Open && !last.calls.is_empty() => {
            let expected = "false where the last message has tool_calls";
            Err(ApiError::invalid_value("continue_final_message", true, expected))
        }
        Some(_) => Ok(messages),
    }
}

/// A result must be that of a call which the model has made; `called` are the ids of those.
fn check_answer(message: &Message, called: &HashSet<String>, place: &str) -> Result<(), ApiError> {
    let Some(id) = &message.answers else { return Ok(()) };
    if called.contains(id) {
        return Ok(());
    }
    Err(ApiError::invalid_value(
        format!("{place}.tool_call_id"),
        format_args!("{id:?}"),
        "the id of one of the tool_calls in an earlier message",
    ))
}

impl WireMessage {
    fn checked(self, place: &str) -> Result<Message, ApiError> {
        let role = match self.role.as_deref() {
            None => return Err(ApiError::missing(format!("{place}.role"), ROLES)),
            Some("system" | "developer") => Role::System,
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            Some("tool") => Role::Tool,
            Some(role @ "function") => {
                let role = format_args!("{role:?}");
                return Err(ApiError::unsupported(format!("{place}.role"), role, ROLES));
            }
            Some(other) => {
                let other = format_args!("{other:?}");
                return Err(ApiError::invalid_value(format!("{place}.role"), other, ROLES));
            }
        };
        for (name, value) in [("function_call", &self.function_call), ("audio", &self.audio)] {
            if let Some(value) = value {
                let field = format!("{place}.{name}");
                return Err(ApiError::unsupported(field, shown(value), "null"));
            }
        }
        let calls = calls(self.tool_calls, role, place)?;
        let answers = match (role, self.tool_call_id) {
            (Role::Tool, None) => {
                let expected = "the id of the call whose result this is";
                return Err(ApiError::missing(format!("{place}.tool_call_id"), expected));
            }
            (Role::Tool, id) => id,
            _ => None,
        };
        let place = format!("{place}.content");
        let content = match self.content {
            None if !calls.is_empty() => String::new(),
            None => return Err(ApiError::missing(place, CONTENT)),
            Some(TextOr::Text(text)) => text,
            Some(TextOr::List(parts)) => joined(parts, &place)?,
        };
        Ok(Message { role, content, calls, answers })
    }
}

/// The calls of a turn of the model's.
fn calls(given: Option<WireCalls>, role: Role, place: &str) -> Result<Vec<ToolCall>, ApiError> {
    let calls = given.map_or_else(Vec::new, |List(calls)| calls);
    if !calls.is_empty() && role != Role::Assistant {
        return Err(ApiError::invalid_value(
            format!("{place}.tool_calls"),
            "a list",
            "it only in messages of the role \"assistant\"",
        ));
    }
    let checked = |(index, Object(call)): (usize, Object<WireCall>)| {
        call.checked(&format!("{place}.tool_calls[{index}]"))
    };
    calls.into_iter().enumerate().map(checked).collect()
}

impl WireCall {
    fn checked(self, place: &str) -> Result<ToolCall, ApiError> {
        let missing = |field: &str, what: &str| ApiError::missing(format!("{place}.{field}"), what);
        if let Some(kind) = self.kind.filter(|kind| kind != "function") {
            let kind = format_args!("{kind:?}");
            return Err(ApiError::unsupported(format!("{place}.type"), kind, "\"function\""));
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
