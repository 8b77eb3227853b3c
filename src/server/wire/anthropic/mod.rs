//! Anthropic's messages API.

mod answer;
mod request;

pub(crate) use answer::{Block, Counted, Delta, Event, Stopped, Whole, stop_reason};
pub(crate) use request::{CountRequest, MessagesRequest};

#[cfg(test)]
pub(crate) use request::field_schemas;
