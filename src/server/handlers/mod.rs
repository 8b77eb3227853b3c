//! What handles requests: the generating endpoints share [`generation`]; those of an API are with its
//! JSON in [`super::wire`].

pub(super) mod embeddings;
pub(super) mod generation;
pub(super) mod metrics;
pub(super) mod status;
pub(super) mod tokens;

pub(super) use super::wire::{anthropic, chat, completions, llama, ollama, responses};
