//! The API's JSON, as serde shapes, and its conversion from and to `generate`'s types. Nothing
//! outside the server sees these.

pub(super) mod anthropic;
mod bounds;
pub(super) mod chat;
pub(super) mod common;
pub(super) mod completions;
pub(super) mod error;
mod form;
mod known;
pub(super) mod logprobs;
mod messages;
pub(super) mod models;
pub(super) mod names;
pub(super) mod ollama;
mod reasoning;
pub(super) mod responses;
pub(super) mod sampling;
#[cfg(test)]
mod schemas;
pub(super) mod slots;
mod steering;
#[cfg(test)]
mod tests;
pub(super) mod timings;
pub(super) mod tokens;
mod tools;
mod unsupported;
