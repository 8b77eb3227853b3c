//! One file for each endpoint: wire in, `generate`, wire out.

pub(super) mod anthropic;
mod built;
mod calls;
pub(super) mod chat;
pub(super) mod completions;
mod generation;
pub(super) mod health;
pub(super) mod metrics;
pub(super) mod models;
pub(super) mod ollama;
pub(super) mod openapi;
pub(super) mod responses;
pub(super) mod slots;
pub(super) mod tokens;
