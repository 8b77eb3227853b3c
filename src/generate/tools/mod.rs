//! Tools: how they are described to the model, and how its tool calls are read.
//!
//! Models were trained for this in different ways. The [`Dialect`] follows from the model folder's
//! template and tokens, never from a model's name.

mod call;
mod dialect;
pub(super) mod parse;
mod scan;
pub(super) mod types;

pub(super) use self::dialect::Dialect;
#[cfg(all(unix, any(test, feature = "testing")))]
pub(super) use self::scan::value_in as call_json_end;
pub use self::types::{CallDelta, CallStart, Tool, ToolCall, ToolChoice, Tools};
