//! The engine: one thread that owns the model's runner, the KV cache and all sequences.
//!
//! [`Handle::submit`] takes a [`Job`]; [`Event`]s come out of the job's channel. Nothing here knows text,
//! JSON or HTTP, or how the model runs a step.

#![forbid(unsafe_code)]

mod draft;
#[cfg(all(unix, any(test, feature = "testing")))]
pub mod fuzzing;
mod handle;
mod kv;
mod masks;
mod message;
mod pace;
mod persist;
mod queue;
mod run;
mod sampler;
mod scheduler;
mod sequence;
mod step;
#[cfg(test)]
mod tests;
mod token_set;

pub use handle::{Handle, Stats};
pub use message::{
    Dry, Event, FinishReason, Job, JobError, Live, MaskError, Progress, PromptLogprobs, Sampling,
    State, Token, TokenLogprobs, TokenMask, Xtc,
};
pub use persist::Store;
pub use phi4d_door::{CallerId, SubmitError};
pub use phi4d_model::ModelLimits;
pub use run::{Crashed, Engine, Options, StartError, start};
pub use token_set::TokenSet;
