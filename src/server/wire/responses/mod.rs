//! OpenAI's responses API, with responses that are kept.

mod answer;
mod handler;
mod input;
mod renderer;
mod request;
mod tools;

pub(crate) use answer::{
    Deleted, Event, Failure, InputItems, InputTokens, Item, Part, Response, Status,
};
pub(crate) use handler::{cancel, create, delete, input_items, input_tokens, retrieve};
#[cfg(any(test, feature = "testing"))]
pub(crate) use request::ResponsesRequest;

#[cfg(test)]
pub(crate) use request::field_schemas;
