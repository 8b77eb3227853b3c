//! Ollama's API.

mod answer;
mod calls;
mod handler;
mod open_calls;
mod request;

pub(crate) use answer::{
    Details, Figures, Kind, Line, LoadedModel, Models, Progress, ShowFacts, Shown, TaggedModel,
    Version, done_reason,
};
pub(crate) use handler::{create, ps, pull, show, tags, version};
pub(crate) use request::{OllamaRequest, ShowRequest};

#[cfg(test)]
pub(crate) use request::field_schemas;
