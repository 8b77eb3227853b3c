//! The handlers of all routes: wire types in, `generate`, wire types out.

pub(super) mod anthropic;
mod built;
mod calls;
pub(super) mod chat;
pub(super) mod completions;
mod generation;
pub(super) mod metrics;
pub(super) mod ollama;
pub(super) mod responses;
pub(super) mod status;
pub(super) mod tokens;
