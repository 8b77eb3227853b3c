//! The engine's options.

use std::time::Duration;

use super::persist::Store;
use phi4d_model::ModelLimits;

/// Fixed choices of the engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Sequences that run at once; at most the runner's slots. Further slots keep cached prefixes of
    /// sequences that have ended.
    pub max_running: usize,
    /// Places in the queue of waiting jobs (see [`phi4d_door::Bounds`]).
    pub queue: usize,
    /// The most places that one caller may have.
    pub queue_per_caller: usize,
    /// How long a sequence may be paused because its receiver takes no events; then it fails.
    pub slow_client_timeout: Duration,
    /// Bytes of KV cache in the host's memory that all sequences and prefixes together may take, by the
    /// [`phi4d_model::MemoryPlan`]. A runner on a device has its own limit.
    pub kv_cache_bytes: usize,
    /// Share of the time that prompts get while others decode, in (0, 1).
    pub prefill_share: f64,
    /// How long a prefill chunk may take. It always gets four times the fixed part of a step, and up to twice
    /// this while its prompt is alone.
    pub prefill_chunk: Duration,
    /// The most draft tokens of a step (speculative decoding), for a sequence that decodes alone; 0
    /// turns it off.
    pub draft_tokens: usize,
    /// Whether a request with a seed, or at temperature 0, gets the same answer each time, bit for bit,
    /// whatever is cached, runs beside it or interrupted it. If the runner's results depend on a step's
    /// width ([`ModelLimits::width_invariant`]), prompts are then read in chunks of a fixed grid, without
    /// speculative decoding.
    pub reproducible: bool,
    /// Whether a sequence's logits do not depend on those that decode in the same step. If they do,
    /// reproducible sequences decode one at a time.
    pub batch_invariant: bool,
    /// Seed of jobs that give none, to make runs repeatable; `None` draws one for each.
    pub fallback_seed: Option<u64>,
    /// Where cached prefixes are stored between runs; `None` keeps them in memory only.
    pub store: Option<Store>,
}

impl Options {
    /// Whether the width at which each token is computed has to follow from the request alone.
    pub(super) fn fixes_widths(&self, limits: &ModelLimits) -> bool {
        self.reproducible && !limits.width_invariant
    }

    /// Whether each sequence decodes in a step of its own.
    pub(super) fn decodes_apart(&self, limits: &ModelLimits) -> bool {
        self.fixes_widths(limits) && !self.batch_invariant
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_running: 8,
            queue: 128,
            queue_per_caller: 64,
            slow_client_timeout: Duration::from_secs(60),
            kv_cache_bytes: usize::MAX,
            prefill_share: 0.5,
            prefill_chunk: Duration::from_millis(250),
            draft_tokens: 7,
            reproducible: false,
            batch_invariant: true,
            fallback_seed: None,
            store: None,
        }
    }
}
