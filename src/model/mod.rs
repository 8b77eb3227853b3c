//! The model: the export's contract, the ONNX Runtime session, KV memory and tensor binding.

mod error;
#[cfg(test)]
pub(crate) mod fake;
mod runner;

pub use error::{LoadError, RunError};
pub use runner::{Interrupt, Logits, ModelLimits, Runner};
