//! The only HTTP layer: sockets in, OpenAI's shapes out.
//!
//! A connection is one task ([`conn`]); a request is a future inside it, so a client that goes
//! away drops the future, the future drops its [`phi4d_generate::Choices`], and the engine
//! frees the sequence at its next turn. Nothing here outlives the connection that asked for it.
//!
//! Bounds: connections, in all and of each address ([`places`]), request heads and bodies (431,
//! 413), the time to send them (the connection is closed, 408), and the time a client may refuse to
//! read (the connection is closed). Wire types stay inside [`wire`]; faults of all layers become
//! HTTP in [`error`].

#![forbid(unsafe_code)]

mod accept;
mod access;
mod activity;
mod app;
mod auth;
mod body;
mod caller;
mod conn;
mod error;
#[cfg(all(unix, any(test, feature = "testing")))]
pub mod fuzzing;
mod guard;
mod handlers;
mod idle;
mod memory;
mod models;
#[cfg(test)]
mod openapi;
mod page;
mod places;
mod reply;
mod route;
mod served;
mod store;
#[cfg(test)]
#[cfg(unix)]
mod tests;
mod wire;

pub use accept::{DrainOutcome, Ended, serve};
pub use app::{App, Embeddings, ServerOptions};
pub use auth::{
    AccessError, AccessFault, Environment, Key, KeyLine, KeysFile, KeysFileError, Limits, Rules,
    Scope, certificate_fault, rules_of,
};
pub use models::{LoadedModel, ModelEntry, ModelFacts, ModelSource, Models, ModelsOptions};
