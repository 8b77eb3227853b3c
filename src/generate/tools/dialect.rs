//! How tools, tool calls and their results are written for a model.
//!
//! Phi-4-mini was trained for tools: its template puts their JSON into the system message, calls
//! are between tokens of their own, and results are messages of the role `tool`. Phi-4 was not: its
//! tools are described in words in the system message, calls are between tags of plain text, and
//! results are a user's message. Rendering probes with the folder's template shows which it is.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde::de::IgnoredAny;
use serde_json::{Value as Json, json};

use super::super::added::AddedTokens;
use super::super::jinja::python_json;
use super::super::reasoning;
use super::super::request::{Chat, Message, Role};
use super::super::template::{ChatTemplate, TemplateMessage};
use super::types::{Tool, ToolCall, ToolChoice, Tools};

const PROBE: &str = "probe1357";

/// The system message of a conversation without one, if the template places tools.
const SYSTEM: &str = "You are a helpful assistant with some tools.";

/// What the model folder supports of tools.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Dialect {
    /// The template places a system message's `tools`.
    tools_placed: bool,
    /// The template writes messages of the role `tool`.
    tool_messages: bool,
    /// The template drops system messages (Phi-4-reasoning's replaces them by its own).
    no_system: bool,
    /// The tokenizer has tokens that mark calls.
    call_tokens: bool,
    /// The template asks for reasoning.
    thinks: bool,
}

impl Tools {
    /// The tools that the model may call.
    pub(crate) fn offered(&self) -> &[Tool] {
        if self.choice == ToolChoice::None { &[] } else { &self.definitions }
    }
}

impl Dialect {
    pub(super) const TOKENS: [&'static str; 2] = ["<|tool_call|>", "<|/tool_call|>"];
    pub(super) const TAGS: [&'static str; 2] = ["<tool_call>", "</tool_call>"];

    /// The dialect of a folder with this template and these tokens.
    pub(crate) fn of(template: Option<&ChatTemplate>, added: &AddedTokens) -> Self {
        let has = |name: &str| added.iter().any(|token| token.content == name);
        let shows = |message: TemplateMessage| {
            let user = TemplateMessage::text("user", "x");
            let chat = Chat::default();
            let text = template.and_then(|template| template.render(&[message, user], &chat).ok());
            text.is_some_and(|text| text.contains(PROBE))
        };
        let tools = Some(PROBE.to_owned());
        Self {
            tools_placed: shows(TemplateMessage { tools, ..TemplateMessage::text("system", "x") }),
            tool_messages: shows(TemplateMessage::text("tool", PROBE)),
            no_system: !shows(TemplateMessage::text("system", PROBE)),
            call_tokens: Self::TOKENS.iter().all(|name| has(name)),
            thinks: template.is_some_and(|template| template.source().contains(reasoning::OPENER)),
        }
    }

    #[cfg(test)]
    pub(crate) fn that_thinks() -> Self {
        Self { thinks: true, ..Self::default() }
    }

    #[cfg(test)]
    pub(crate) fn with_call_tokens() -> Self {
        Self { call_tokens: true, ..Self::default() }
    }

    /// What is before and after calls.
    pub(crate) fn marks(self) -> [&'static str; 2] {
        if self.call_tokens { Self::TOKENS } else { Self::TAGS }
    }

    /// Whether [`Self::marks`] are tokens, which no text spells.
    pub(crate) fn has_call_tokens(self) -> bool {
        self.call_tokens
    }

    /// Whether the template places tools.
    pub(crate) fn places_tools(self) -> bool {
        self.tools_placed
    }

    /// Whether the template drops system messages.
    pub(crate) fn drops_system(self) -> bool {
        self.no_system
    }

    /// Whether the model is asked to think before it answers.
    pub(crate) fn thinks(self) -> bool {
        self.thinks
    }

    /// A conversation as the template takes it. Every text of the request goes through `change`
    /// before the server's own text is added: that is where special tokens in user text are
    /// neutralised.
    pub(crate) fn messages(
        self,
        chat: &Chat,
        change: &mut dyn FnMut(&str) -> String,
    ) -> Vec<TemplateMessage> {
        let mut messages: Vec<TemplateMessage> = Vec::with_capacity(chat.messages.len() + 1);
        let mut results = false;
        let mut called = HashMap::new();
        for message in &chat.messages {
            called.extend(message.calls.iter().map(|call| (call.id.as_str(), call.name.as_str())));
            let content = match message.role {
                Role::Assistant => self.said(message, change),
                Role::Tool if !self.tool_messages => result(message, &called, change),
                _ => change(&message.content),
            };
            let is_result = message.role == Role::Tool && !self.tool_messages;
            match messages.last_mut() {
                // Consecutive results are one message.
                Some(message) if is_result && results => {
                    message.content.push('\n');
                    message.content.push_str(&content);
                }
                _ => {
                    let role = if is_result { Role::User } else { message.role }.as_str();
                    messages.push(TemplateMessage::text(role, content));
                }
            }
            results = is_result;
        }
        let offered = chat.tools.offered();
        if !offered.is_empty() {
            let list = change(&definitions(offered));
            self.describe(&mut messages, list, chat.tools.single);
        }
        messages
    }

    /// A message of the model: its text, then its calls as it writes them.
    fn said(self, message: &Message, change: &mut dyn FnMut(&str) -> String) -> String {
        let mut text = change(&message.content);
        if !message.calls.is_empty() {
            let [open, close] = self.marks();
            let calls = change(&calls(&message.calls));
            // Writing to a string can't fail.
            let _ = write!(text, "{open}{calls}{close}");
        }
        text
    }

    /// Describes the tools in `list` to the model.
    fn describe(self, messages: &mut Vec<TemplateMessage>, list: String, single: bool) {
        let first = messages.iter().position(|message| message.role == "system");
        if self.tools_placed {
            match first {
                Some(index) => messages[index].tools = Some(list),
                None => {
                    let system = TemplateMessage::text("system", SYSTEM);
                    messages.insert(0, TemplateMessage { tools: Some(list), ..system });
                }
            }
            return;
        }
        let words = self.words(&list, single);
        if self.no_system {
            match messages.iter_mut().find(|message| message.role == "user") {
                Some(message) => message.content = format!("{words}\n\n{}", message.content),
                None => messages.insert(0, TemplateMessage::text("user", words)),
            }
            return;
        }
        match first {
            Some(index) => {
                let content = &mut messages[index].content;
                if !content.is_empty() {
                    content.push_str("\n\n");
                }
                content.push_str(&words);
            }
            None => messages.insert(0, TemplateMessage::text("system", words)),
        }
    }

    fn words(self, list: &str, single: bool) -> String {
        let [open, close] = self.marks();
        let how_many = if single { "exactly one call" } else { "one or more calls" };
        format!(
            "# Functions\n\
             You can call these functions, given as a JSON list with the JSON Schema of their \
             parameters:\n\
             <tools>\n{list}\n</tools>\n\
             To call functions, reply with nothing but a JSON list of {how_many} in this form:\n\
             {open}[{{\"name\": \"the function's name\", \"arguments\": {{\"parameter\": \
             \"value\"}}}}]{close}\n\
             Use only the functions above, and arguments that fit their schema. The results come \
             back as JSON between <tool_response> and </tool_response>. Call functions where they \
             are needed to answer; otherwise answer in plain text."
        )
    }
}

/// The tools as the model sees them.
fn definitions(tools: &[Tool]) -> String {
    let list: Vec<Json> = tools
        .iter()
        .map(|tool| {
            let description = tool.description.as_deref().unwrap_or("");
            let parameters = if tool.parameters.is_empty() {
                json!({"type": "object", "properties": {}})
            } else {
                Json::Object(tool.parameters.clone())
            };
            json!({"name": tool.name, "description": description, "parameters": parameters})
        })
        .collect();
    python_json(&list)
}

/// Calls as the model writes them.
fn calls(calls: &[ToolCall]) -> String {
    let list: Vec<String> = calls
        .iter()
        .map(|call| {
            let (name, arguments) = (python_json(&call.name), as_json(&call.arguments));
            format!("{{\"name\": {name}, \"arguments\": {arguments}}}")
        })
        .collect();
    format!("[{}]", list.join(", "))
}

/// JSON as it is; other text, such as truncated JSON, as a JSON string.
fn as_json(text: &str) -> String {
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => text.to_owned(),
        Err(_) => python_json(text),
    }
}

/// A result in a user's message, with the name of its tool; `called` has the tools' names by the
/// ids of the calls so far.
fn result(
    message: &Message,
    called: &HashMap<&str, &str>,
    change: &mut dyn FnMut(&str) -> String,
) -> String {
    let name = message.answers.as_deref().and_then(|id| called.get(id));
    let name = python_json(name.unwrap_or(&""));
    let content = as_json(&message.content);
    let json = change(&format!("{{\"name\": {name}, \"content\": {content}}}"));
    format!("<tool_response>\n{json}\n</tool_response>")
}

#[cfg(test)]
#[path = "dialect_tests.rs"]
mod tests;
