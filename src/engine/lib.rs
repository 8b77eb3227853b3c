//! The engine: one thread that owns the model's runner, the KV cache and all sequences.
//!
//! [`Handle::submit`] takes a [`Job`]; [`Event`]s come out of the job's channel. Nothing here knows text,
//! JSON or HTTP, or how the model runs a step.
//!
//! # KV cache
//!
//! A sequence runs in a slot of the KV cache. Slots are ordered so that decode steps cover neighbours: those
//! that decode (with the short rotary table, then with the long one), those that prefill, free ones. A slot
//! whose state changes is exchanged with another; the model moves pages, not bytes. A slot is
//!
//! - assigned if the prompt and some growth fit `kv_cache_bytes` beside what runs. Cached prefixes are evicted
//!   for it, least recently used first;
//! - started from the longest cached prefix of its prompt: in place if little is lost by that (the next message
//!   of a conversation), from a copy if the prefix is shared or running. It is looked up again when the first
//!   chunk is planned, since a prompt that begins alike may have been read meanwhile. Prefixes are shared within
//!   one cache scope only;
//! - grown block by block. If nothing is left to evict, the newest sequence of the lowest priority is preempted:
//!   it waits, and recomputes its tokens when it runs again;
//! - kept as a cached prefix when its sequence ends, unless another prefix covers it. At shutdown prefixes are
//!   written to the prefix store with a hash and the model's fingerprint, and loaded at the next start.
//!
//! # Two rotary tables
//!
//! Phi-4-mini rotates keys with one table up to 4,096 tokens and with another beyond, and the two kinds of keys
//! do not mix (`ModelLimits::rotary_switch`). The length of prompt and output together decides which one a
//! sequence uses. A sequence that outgrows the short table is recomputed from its first token in its own slot; a
//! longer prompt uses the long table from its first chunk on. A decode step covers sequences of one table only,
//! speculation stops at the switch, and the table is part of a prefix's scope.
//!
//! # Reproducible answers
//!
//! The result of attention depends on how many tokens a step has, and rounding activations to int8 makes that
//! visible. With `reproducible`, unless the runner's results do not depend on a step's width
//! ([`ModelLimits::width_invariant`]), the request alone decides the width at which each token is computed: prompts are
//! read in whole chunks of `prefill_chunk_tokens` from their first token on, cached prefixes are shared, kept and
//! stored in whole chunks only, a preempted sequence recomputes its prompt in chunks and its output one token at
//! a time, and nothing is speculated. With phi4d's own kernel the sequences of a decode step do not affect each other;
//! ONNX Runtime's matmuls round differently by the number of sequences, so there each one decodes alone
//! ([`Options::batch_invariant`]).
//!
//! # Sampling
//!
//! In this order: the job's [`TokenMask`], bans (allowed tokens, bad words, stop tokens before `min_tokens`),
//! logit bias, penalties, DRY, then greedy, or temperature, min_p and top_n_sigma, top_k, typical_p, top_p, XTC
//! and a draw from the sequence's own seeded generator. Tokens that a mask forces are draft tokens, too. The next
//! mask is computed while the model runs the next step; a late mask holds up only its own sequence.

#![forbid(unsafe_code)]

mod candidate;
mod cost;
mod draft;
#[cfg(all(unix, any(test, feature = "testing")))]
pub mod fuzzing;
mod handle;
mod kv;
mod masks;
mod message;
mod options;
mod pace;
mod persist;
mod queue;
mod run;
mod sampler;
mod scheduler;
mod sequence;
mod shares;
mod start;
mod step;
#[cfg(test)]
mod tests;
mod token_set;
mod turns;

pub use handle::{Handle, Stats};
pub use message::{
    Dry, Event, FinishReason, Job, JobError, Live, MaskError, Progress, PromptLogprobs, Sampling,
    State, Token, TokenLogprobs, TokenMask, Xtc,
};
pub use options::Options;
pub use persist::Store;
pub use phi4d_door::{CallerId, SubmitError};
pub use phi4d_model::{LoadProgress, LoadStage, ModelLimits};
pub use start::{Crashed, Engine, StartError, start};
pub use token_set::TokenSet;
