//! One job that holds a slot.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::message::{Event, FinishReason, Job, JobError, Token};
use super::sampler::{Choice, Sampler};
use super::scheduler::Candidate;

/// Events that one step may send for one sequence: a token and the end.
const EVENTS_PER_STEP: usize = 2;

/// One job that holds a slot.
#[derive(Debug)]
pub(super) struct Sequence {
    slot: usize,
    arrival: u64,
    /// Prompt, then output.
    tokens: Vec<u32>,
    /// Tokens at the front of `tokens` whose keys and values are in the slot.
    cached: usize,
    /// Length of `tokens` at which the job ends.
    end: usize,
    stop_tokens: Vec<u32>,
    deadline: Option<Instant>,
    /// Since when the receiver has had no room; `None` while it has.
    parked_since: Option<Instant>,
    sampler: Sampler,
    events: mpsc::Sender<Event>,
}

impl Sequence {
    /// Begins `job` in `slot` of a cache that holds `context_tokens`.
    pub(super) fn begin(job: Job, slot: usize, arrival: u64, context_tokens: usize) -> Self {
        let end = job.prompt.len().saturating_add(job.max_tokens).min(context_tokens);
        let sampler = Sampler::new(job.sampling, &job.prompt, rand::random());
        let sequence = Self {
            slot,
            arrival,
            tokens: job.prompt,
            cached: 0,
            end,
            stop_tokens: job.stop_tokens,
            deadline: job.deadline,
            parked_since: None,
            sampler,
            events: job.events,
        };
        sequence.send(Event::Started { cached_tokens: 0 });
        sequence
    }

    pub(super) fn slot(&self) -> usize {
        self.slot
    }

    pub(super) fn cached(&self) -> usize {
        self.cached
    }

    pub(super) fn sampler(&mut self) -> &mut Sampler {
        &mut self.sampler
    }

    /// Whether nobody listens any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }

    /// Why the sequence can't go on at `now`, if it can't.
    pub(super) fn overdue(&self, now: Instant, slow_client: Duration) -> Option<JobError> {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return Some(JobError::DeadlineExceeded);
        }
        let parked = self.parked_since?;
        (now.duration_since(parked) >= slow_client).then_some(JobError::SlowClient)
    }

    /// Notes whether the receiver has room, and says how the scheduler sees the sequence.
    pub(super) fn candidate(&mut self, now: Instant) -> Candidate {
        let ready = self.events.capacity() >= EVENTS_PER_STEP;
        if ready {
            self.parked_since = None;
        } else {
            self.parked_since.get_or_insert(now);
        }
        Candidate {
            slot: self.slot,
            arrival: self.arrival,
            cached: self.cached,
            pending: self.tokens.len() - self.cached,
            ready,
        }
    }

    /// The next `count` tokens for the model to read.
    pub(super) fn pending(&self, count: usize) -> &[u32] {
        &self.tokens[self.cached..self.cached + count]
    }

    /// Notes that the model has read `count` more tokens. Returns whether it has read all, so that
    /// its logits tell the next one.
    pub(super) fn advance(&mut self, count: usize) -> bool {
        self.cached += count;
        self.cached == self.tokens.len()
    }

    /// Takes the sampler's choice: sends it unless it is a stop token. Returns why the sequence is
    /// over, if it is.
    pub(super) fn take(&mut self, choice: Choice) -> Option<FinishReason> {
        if self.stop_tokens.contains(&choice.token) {
            return Some(FinishReason::StopToken(choice.token));
        }
        self.send(Event::Token(Token { id: choice.token, logprobs: choice.logprobs }));
        self.tokens.push(choice.token);
        (self.tokens.len() >= self.end).then_some(FinishReason::Length)
    }

    /// Tells the receiver that the sequence is over.
    pub(super) fn finish(self, reason: FinishReason) {
        self.send(Event::Finished(reason));
    }

    /// Tells the receiver that the sequence can't go on.
    pub(super) fn fail(self, error: JobError) {
        self.send(Event::Failed(error));
    }

    /// Sends an event. There is room: steps are planned only with [`EVENTS_PER_STEP`] places free,
    /// and at most one event follows outside a step. A receiver that has gone is noticed by
    /// [`Self::is_abandoned`] at the next turn.
    fn send(&self, event: Event) {
        let _ = self.events.try_send(event);
    }
}
