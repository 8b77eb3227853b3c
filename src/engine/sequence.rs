//! One job: waiting, running, or put back to wait again.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::draft::{Acceptance, Guess};
use super::look::{Live, State};
use super::message::{Event, FinishReason, Job, JobError, Progress, Token};
use super::queue::Ticket;
use super::sampler::{self, Choice, Sampler};
use super::scheduler::Candidate;
use super::token_set::TokenSet;
use phi4d_door::Waiting;
use phi4d_model::{Logits, ModelLimits, Rotary};

/// Events that a plain step may send for one sequence: a part of the prompt, a token and the end.
const EVENTS_PER_STEP: usize = 3;

/// Keeps what the long rotary table turned apart from what the short one did, within one scope.
const LONG_SCOPE: u64 = 0x6c6f_6e67_2072_6f70;

/// One job.
#[derive(Debug)]
pub(super) struct Sequence {
    arrival: u64,
    ticket: Ticket,
    cache_scope: u64,
    /// Prompt, then output.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    /// Alternatives to report with the prompt's tokens, if they are to be reported.
    prompt_logprobs: Option<usize>,
    /// The prompt's tokens before this one have been reported, or need not be.
    reported: usize,
    /// Length of `tokens` at which the job ends.
    end: usize,
    stop_tokens: TokenSet,
    deadline: Option<Instant>,
    started: bool,
    /// Since when the receiver has had no room; `None` while it has.
    parked_since: Option<Instant>,
    sampler: Sampler,
    /// The row of logits from which the next token is to be chosen once the mask is known; the
    /// model has read all tokens then.
    held: Option<Vec<f32>>,
    /// Whether it is open if anything may follow the newest token.
    unsettled: bool,
    /// Of what was looked up, and of what was forced.
    acceptance: [Acceptance; 2],
    events: mpsc::Sender<Event>,
}

impl Sequence {
    /// The sequence of `job`, which came as number `arrival`, for rows of `row_tokens`. `seed` is
    /// for jobs that give none.
    pub(super) fn new(job: Job, arrival: u64, now: Instant, row_tokens: usize, seed: u64) -> Self {
        let end = job.prompt.len().saturating_add(job.max_tokens).min(row_tokens);
        let ticket = Ticket { caller: job.caller, priority: job.priority, arrived: now };
        Self {
            arrival,
            ticket,
            // Cached tokens are not read again, so nothing would be known of them.
            cache_scope: job.prompt_logprobs.map_or(job.cache_scope, |_| rand::random()),
            sampler: Sampler::new(job.sampling, &job.prompt, seed).masked(job.mask),
            prompt_tokens: job.prompt.len(),
            prompt_logprobs: job.prompt_logprobs,
            reported: 1,
            tokens: job.prompt,
            end,
            stop_tokens: job.stop_tokens,
            deadline: job.deadline,
            started: false,
            parked_since: None,
            held: None,
            unsettled: false,
            acceptance: [Guess::Looked, Guess::Forced].map(Acceptance::new),
            events: job.events,
        }
    }

    pub(super) fn arrival(&self) -> u64 {
        self.arrival
    }

    pub(super) fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// How the door counts the sequence while it has no slot.
    pub(super) fn waiting(&self) -> Waiting {
        if self.started { Waiting::PutBack } else { Waiting::Queued(self.ticket.caller) }
    }

    /// Rows of this scope alone may share tokens with the sequence while its keys are turned by
    /// `rotary`.
    pub(super) fn cache_scope(&self, rotary: Rotary) -> u64 {
        match rotary {
            Rotary::Short => self.cache_scope,
            Rotary::Long => self.cache_scope ^ LONG_SCOPE,
        }
    }

    /// Prompt and output so far.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// How many of its tokens are read in chunks; those behind are read one by one, as they were
    /// when they were sampled. All of them, unless answers are to be reproducible: then the prompt,
    /// and where an answer passed the switch of rotary tables, all up to that.
    pub(super) fn chunked(&self, reproducible: bool, limits: &ModelLimits) -> usize {
        let length = self.tokens.len();
        match limits.rotary_switch {
            _ if !reproducible => length,
            Some(switch) if length > switch => self.prompt_tokens.max(switch + 1),
            _ => self.prompt_tokens,
        }
    }

    /// Tokens that may still be generated.
    pub(super) fn remaining(&self) -> usize {
        self.end - self.tokens.len()
    }

    /// Whether it waited for its receiver when that was last looked at.
    pub(super) fn is_parked(&self) -> bool {
        self.parked_since.is_some()
    }

    /// How an administrator sees it at `now`, with `cached` of its tokens in the KV cache.
    pub(super) fn live(&self, state: State, cached: usize, now: Instant) -> Live {
        Live {
            state,
            caller: self.ticket.caller,
            priority: self.ticket.priority,
            age: now.saturating_duration_since(self.ticket.arrived),
            prompt_tokens: self.prompt_tokens,
            output_tokens: self.tokens.len() - self.prompt_tokens,
            remaining_tokens: self.remaining(),
            cached_tokens: cached,
        }
    }

    pub(super) fn sampler(&mut self) -> &mut Sampler {
        &mut self.sampler
    }

    pub(super) fn acceptance(&mut self, kind: Guess) -> &mut Acceptance {
        let [looked, forced] = &mut self.acceptance;
        match kind {
            Guess::Looked => looked,
            Guess::Forced => forced,
        }
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

    /// Tells the receiver that the prompt is being read, the first time.
    pub(super) fn start(&mut self, cached_tokens: usize) {
        if !self.started {
            self.started = true;
            self.send(Event::Started { cached_tokens });
        }
    }

    /// Whether the prompt's tokens are to be reported.
    pub(super) fn reports_prompt(&self) -> bool {
        self.prompt_logprobs.is_some()
    }

    /// Reports the prompt's tokens that follow positions `from..from + logits.rows()`, whose logits
    /// these are, but for those that were reported before the sequence was put back.
    pub(super) fn report_prompt(&mut self, from: usize, logits: &Logits<'_>) {
        let Some(count) = self.prompt_logprobs else { return };
        let end = (from + logits.rows() + 1).min(self.prompt_tokens);
        let fresh: Vec<_> = (self.reported.max(from + 1)..end)
            .map(|place| {
                let row = logits.row(place - 1 - from);
                sampler::prompt_logprobs(row, self.tokens[place], count)
            })
            .collect();
        if !fresh.is_empty() {
            self.reported = end;
            self.send(Event::Prompt(fresh));
        }
    }

    /// How the scheduler sees the sequence in `row`, which holds `cached` of its tokens and decodes
    /// or not. Notes whether the receiver has room.
    pub(super) fn candidate(
        &mut self,
        row: usize,
        (cached, decodes): (usize, bool),
        (limits, reproducible): (&ModelLimits, bool),
        now: Instant,
    ) -> Candidate {
        let room = self.events.capacity() >= EVENTS_PER_STEP;
        if room {
            self.parked_since = None;
        } else {
            self.parked_since.get_or_insert(now);
        }
        Candidate {
            row,
            arrival: self.arrival,
            pending: self.chunked(reproducible && !decodes, limits) - cached,
            decodes,
            rotary: limits.rotary(self.tokens.len()),
            ready: room && !self.awaits_mask(),
        }
    }

    /// Whether it can't run before its mask says more.
    pub(super) fn awaits_mask(&self) -> bool {
        self.held.is_some() || (self.unsettled && self.tokens.len() >= self.end)
    }

    /// Whether its mask has something to say that the engine should look for.
    pub(super) fn has_news_to_come(&self) -> bool {
        self.held.is_some() || self.unsettled
    }

    /// Keeps a row of logits until the mask is known.
    pub(super) fn hold(&mut self, row: &[f32]) {
        self.held = Some(row.to_vec());
    }

    /// The row that was kept, if the mask is known by now.
    pub(super) fn take_held(&mut self) -> Option<Vec<f32>> {
        if self.held.is_none() || !self.sampler.is_ready(Duration::ZERO) {
            return None;
        }
        self.held.take()
    }

    /// Waits up to `limit` until its mask has said more.
    pub(super) fn wait_for_news(&mut self, limit: Duration) {
        if self.unsettled {
            self.sampler.progress(limit);
        } else {
            self.sampler.is_ready(limit);
        }
    }

    /// Forgets the row that was kept: the model reads its token again.
    pub(super) fn drop_held(&mut self) {
        self.held = None;
    }

    /// Why the sequence is over by what its mask knows within `limit` of the newest token.
    pub(super) fn settle(&mut self, limit: Duration) -> Option<FinishReason> {
        if !self.unsettled {
            return None;
        }
        let progress = self.sampler.progress(limit)?;
        self.unsettled = false;
        match progress {
            Progress::Complete => Some(FinishReason::Complete),
            Progress::Open => (self.tokens.len() >= self.end).then_some(FinishReason::Length),
        }
    }

    /// The most draft tokens for which a step's events have room.
    pub(super) fn draft_room(&self) -> usize {
        self.events
            .capacity()
            .saturating_sub(EVENTS_PER_STEP)
            .min(self.remaining().saturating_sub(1))
    }

    /// Takes the sampler's choice: sends it unless it is a stop token. Returns why the sequence is
    /// over, if it is.
    pub(super) fn take(&mut self, choice: Choice) -> Option<FinishReason> {
        if self.stop_tokens.contains(choice.token) {
            return Some(FinishReason::StopToken(choice.token));
        }
        self.send(Event::Token(Token { id: choice.token, logprobs: choice.logprobs }));
        self.tokens.push(choice.token);
        if choice.progress == Progress::Complete {
            return Some(FinishReason::Complete);
        }
        self.unsettled = true;
        self.settle(Duration::ZERO)
    }

    /// Tells the receiver that the sequence is over.
    pub(super) fn finish(self, reason: FinishReason) {
        self.send(Event::Finished(reason));
    }

    /// Tells the receiver that the sequence can't go on.
    pub(super) fn fail(self, error: JobError) {
        self.send(Event::Failed(error));
    }

    /// Sends an event. There is room: steps are planned only with [`EVENTS_PER_STEP`] places free
    /// (and one more for each draft token), and at most one event follows outside a step. A
    /// receiver that has gone is noticed by [`Self::is_abandoned`] at the next turn.
    fn send(&self, event: Event) {
        let _ = self.events.try_send(event);
    }
}
