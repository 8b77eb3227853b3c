//! The engine: one thread that owns the model's runner, the KV cache and all sequences.

mod error;
mod handle;
mod message;

pub use error::SubmitError;
pub use handle::{Handle, Stats};
pub use message::{CallerId, Event, FinishReason, Job, JobError, Sampling, Token, TokenLogprobs};
