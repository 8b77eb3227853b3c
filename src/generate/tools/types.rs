//! Tools and tool calls, as requests and answers have them.

use serde_json::{Map, Value as Json};

/// The tools of a conversation, and how the model may call them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tools {
    /// The tools, of distinct names; empty if there are none.
    pub definitions: Vec<Tool>,
    /// Whether the model must call one.
    pub choice: ToolChoice,
    /// At most one call in an answer.
    pub single: bool,
}

impl Tools {
    /// Whether the model must call a tool.
    pub(crate) fn is_forced(&self) -> bool {
        match &self.choice {
            ToolChoice::Required => !self.offered().is_empty(),
            ToolChoice::Named(_) => true,
            ToolChoice::Auto | ToolChoice::None => false,
        }
    }
}

/// A function that the model may call (a tool).
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name: 1 to 64 letters, digits, `_` and `-`.
    pub name: String,
    /// What it does and when to call it.
    pub description: Option<String>,
    /// JSON Schema of its arguments, which are an object; empty for any arguments.
    pub parameters: Map<String, Json>,
    /// Hold every call to the schema. If it is given as false, a schema that calls are held to
    /// nevertheless counts by its letter.
    pub strict: Option<bool>,
    /// The schema's field in the request, for error messages.
    pub place: String,
}

/// Whether the model calls a tool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model decides.
    #[default]
    Auto,
    /// It calls none, and none are described to it.
    None,
    /// It calls at least one.
    Required,
    /// It calls this one.
    Named(String),
}

impl ToolChoice {
    /// Whether the answer must have a call.
    #[must_use]
    pub fn wants_call(&self) -> bool {
        matches!(self, Self::Required | Self::Named(_))
    }
}

/// A call that the model has made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// Unique, by which the result refers to it.
    pub id: String,
    /// The function's name.
    pub name: String,
    /// A JSON object as text; incomplete if the answer was cut short.
    pub arguments: String,
}

/// A piece of a tool call in an answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallDelta {
    /// Which of the answer's calls, from 0.
    pub index: usize,
    /// Given in a call's first piece.
    pub begun: Option<CallStart>,
    /// Some more of the arguments' text; empty in the first piece.
    pub arguments: String,
}

/// How a call begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallStart {
    /// Unique, by which the result refers to the call.
    pub id: String,
    /// The function's name.
    pub name: String,
}
