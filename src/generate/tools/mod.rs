//! Functions that the model may call: how they are told to it, and how its calls are read.
//!
//! Models differ in how they were taught to do this. The [`Dialect`] is read off
//! the model folder, never off a name.

mod call;
mod dialect;
pub(super) mod parse;
mod scan;

use serde_json::{Map, Value as Json};

pub(super) use self::dialect::Dialect;
#[cfg(all(unix, any(test, feature = "testing")))]
pub(super) use self::scan::value_in as call_json_end;

/// Functions that the model may call in a conversation, and how.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tools {
    /// The functions, of distinct names; empty if there are none.
    pub definitions: Vec<Tool>,
    /// Whether the model calls one.
    pub choice: ToolChoice,
    /// At most one call in an answer.
    pub single: bool,
}

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name: 1 to 64 letters, digits, `_` and `-`.
    pub name: String,
    /// What it does and when to call it.
    pub description: Option<String>,
    /// JSON Schema of its arguments, which are an object; empty for any arguments.
    pub parameters: Map<String, Json>,
    /// Hold every call to the schema.
    pub strict: bool,
    /// Where the schema stands in the request, for messages.
    pub place: String,
}

/// Whether the model calls a function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// As it likes.
    #[default]
    Auto,
    /// It does not, and is not told of any.
    None,
    /// It calls at least one.
    Required,
    /// It calls this one.
    Named(String),
}

/// A call that the model has made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ToolCall {
    /// Unique, by which the result refers to it.
    pub id: String,
    /// The function's name.
    pub name: String,
    /// A JSON object as text; not always whole if the answer was cut short.
    pub arguments: String,
}

/// A piece of a call in an answer.
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
