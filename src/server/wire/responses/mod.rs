//! OpenAI's responses API, without its stored state.

mod answer;
mod handler;
mod request;

pub(crate) use answer::{Event, Failure, Item, Part, Response, Status};
pub(crate) use handler::create;
pub(crate) use request::ResponsesRequest;

#[cfg(test)]
pub(crate) use request::field_schemas;
