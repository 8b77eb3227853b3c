//! Anthropic's messages API.

mod answer;
mod handler;
mod request;

pub(crate) use answer::{Block, Counted, Delta, Event, Stopped, Whole, stop_reason};
pub(crate) use handler::{count_tokens, create};
pub(crate) use request::{counted, messages};

#[cfg(test)]
pub(crate) use request::field_schemas;
