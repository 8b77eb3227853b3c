//! phi4d: serves Microsoft Phi-4 through ONNX Runtime.
//!
//! Layers, top to bottom; imports point down only (`tests/layers.rs` fails otherwise):
//!
//! | layer | duty |
//! |---|---|
//! | [`cli`] | composition root: subcommands, exit codes |
//! | [`server`] | the only HTTP: listeners, routes, wire types, SSE, error map |
//! | [`generate`] | text to tokens and back: templates, tokenizer, stop strings |
//! | [`engine`] | one thread that owns the KV cache and all sequences: scheduler, sampler |
//! | [`model`] | the export's contract, the ONNX Runtime session, KV memory, tensor binding |
//!
//! Leaves, used by the layers and using none: [`settings`], [`os`], [`telemetry`], [`fetch`].

pub mod cli;
pub mod engine;
pub mod fetch;
#[cfg(all(unix, any(test, fuzzing)))]
#[doc(hidden)]
pub mod fuzzing;
pub mod generate;
pub mod model;
pub mod os;
pub mod server;
pub mod settings;
pub mod telemetry;
