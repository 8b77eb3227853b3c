//! llama.cpp's own endpoints: `/completion`, `/infill` and `/props`.

mod answer;
mod handler;
mod request;

pub(crate) use answer::{Props, PropsFacts, Text};
pub(crate) use handler::{create, props};
pub(crate) use request::LlamaRequest;

#[cfg(test)]
pub(crate) use request::field_schemas;
