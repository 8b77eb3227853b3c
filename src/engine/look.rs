//! What the engine has in hand, for an administrator to look at: numbers only, never tokens.

use std::time::{Duration, Instant};

use super::kv::Cache;
use super::queue::Queue;
use super::sequence::Sequence;
use phi4d_door::CallerId;

/// Looks that may be on their way to the engine's thread; further ones wait.
pub(super) const LOOKS: usize = 2;

/// One job that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// What is done with it.
    pub state: State,
    /// Who asked.
    pub caller: CallerId,
    /// As in [`super::Job::priority`].
    pub priority: i32,
    /// Since the job came.
    pub age: Duration,
    /// Tokens in the prompt.
    pub prompt_tokens: usize,
    /// Tokens made so far.
    pub output_tokens: usize,
    /// Tokens that may still be made.
    pub remaining_tokens: usize,
    /// Its tokens in the KV cache.
    pub cached_tokens: usize,
}

/// What is done with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It waits for a slot.
    Waiting,
    /// Its prompt is read.
    Prefill,
    /// It is given tokens.
    Decode,
    /// Nothing, until its receiver takes what there is.
    Parked,
}

/// All jobs that have not ended: running ones in the order of their rows, then those that wait.
pub(super) fn look(cache: &Cache<Sequence>, waiting: &Queue<Sequence>, now: Instant) -> Vec<Live> {
    let running = (0..cache.live()).filter_map(|row| {
        let sequence = cache.sequence(row)?;
        let state = match () {
            () if sequence.is_parked() => State::Parked,
            () if row < cache.decoding() => State::Decode,
            () => State::Prefill,
        };
        Some(sequence.live(state, cache.tokens(row).len(), now))
    });
    running.chain(waiting.iter().map(|sequence| sequence.live(State::Waiting, 0, now))).collect()
}
