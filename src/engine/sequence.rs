//! The state of one job in the engine: waiting, running, or preempted and waiting again.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::candidate::Candidate;
use super::draft::{Acceptance, DraftSource};
use super::message::{Event, FinishReason, Job, JobError, Live, Progress, State, Token};
use super::queue::Ticket;
use super::sampler::{self, Choice, Sampler};
use super::token_set::TokenSet;
use phi4d_door::Waiting;
use phi4d_model::{ModelLimits, Rotary};

/// Events that a step without draft tokens may send for one sequence, besides [`Event::Started`] and
/// [`Event::Prefill`], which is left out if there is no room: a part of the prompt, a token and the end.
const EVENTS_PER_STEP: usize = 3;

/// Distinguishes the cache scope of keys rotated by the long table from that of the short one.
const LONG_SCOPE: u64 = 0x6c6f_6e67_2072_6f70;

/// One job and all that the engine knows of it.
#[derive(Debug)]
pub(super) struct Sequence {
    arrival: u64,
    ticket: Ticket,
    cache_scope: u64,
    /// Prompt, then output.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    /// Alternatives to report with each prompt token; `None` reports no prompt tokens.
    prompt_logprobs: Option<usize>,
    /// Prompt tokens before this one have been reported; the first has nothing to report.
    reported: usize,
    /// The fewest prompt tokens in the KV cache that the next [`Event::Prefill`] may report; `None` if the job
    /// asks for none.
    next_progress: Option<usize>,
    /// Length of `tokens` at which the job ends.
    end: usize,
    stop_tokens: TokenSet,
    deadline: Option<Instant>,
    /// Whether it had a slot before, which is how the door knows a preempted sequence from a queued one.
    admitted: bool,
    /// Whether others were asked to give up slots for it.
    asked: bool,
    /// Whether [`Event::Started`] was sent.
    started: bool,
    /// Whether it has run since it got its slot.
    begun: bool,
    /// Since when the receiver has had no room for a step's events; `None` while it has.
    paused_since: Option<Instant>,
    sampler: Sampler,
    /// The logit row from which to choose the next token once the mask is known. The model has read all
    /// tokens then.
    held_logits: Option<Vec<f32>>,
    /// Whether the mask has not said yet if anything may follow the newest token.
    awaits_progress: bool,
    /// For [`DraftSource::Lookup`] and [`DraftSource::Forced`].
    acceptance: [Acceptance; 2],
    events: mpsc::Sender<Event>,
}

impl Sequence {
    /// The sequence of `job`, which was job number `arrival`, for slots of `row_tokens`. `seed` is used
    /// if the job gives none.
    pub(super) fn new(job: Job, arrival: u64, now: Instant, row_tokens: usize, seed: u64) -> Self {
        // A client may ask for any number of tokens; the slot ends the output at the latest.
        let end = job.prompt.len().saturating_add(job.max_tokens).min(row_tokens);
        let ticket = Ticket { caller: job.caller, priority: job.priority, arrived: now };
        Self {
            arrival,
            ticket,
            // Cached tokens are not read again and so have no logits to report: with a scope of its
            // own such a job finds none.
            cache_scope: job.prompt_logprobs.map_or(job.cache_scope, |_| rand::random()),
            sampler: Sampler::new(job.sampling, &job.prompt, seed).masked(job.mask),
            prompt_tokens: job.prompt.len(),
            prompt_logprobs: job.prompt_logprobs,
            // The first token follows nothing, so it has no log-probability.
            reported: 1,
            next_progress: job.progress.then_some(0),
            tokens: job.prompt,
            end,
            stop_tokens: job.stop_tokens,
            deadline: job.deadline,
            admitted: false,
            asked: false,
            started: false,
            begun: false,
            paused_since: None,
            held_logits: None,
            awaits_progress: false,
            acceptance: [DraftSource::Lookup, DraftSource::Forced].map(Acceptance::new),
            events: job.events,
        }
    }

    /// The number of its job, in order of arrival.
    pub(super) fn arrival(&self) -> u64 {
        self.arrival
    }

    /// What the waiting queue orders it by.
    pub(super) fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Whether others were asked to give up slots for it.
    pub(super) fn has_asked(&self) -> bool {
        self.asked
    }

    /// Others have been asked to give up slots for it.
    pub(super) fn ask(&mut self) {
        self.asked = true;
    }

    /// How the door counts the sequence while it has no slot.
    pub(super) fn waiting(&self) -> Waiting {
        if self.admitted { Waiting::PutBack } else { Waiting::Queued(self.ticket.caller) }
    }

    /// Only slots of this scope may share tokens with the sequence while its keys are rotated by the
    /// table `rotary`.
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

    /// How many of its tokens are read in chunks. With reproducible answers the rest is read one by one:
    /// a preempted sequence must read its output as it was generated, since a step's width changes
    /// low-order digits of keys and values. If the output passed the switch of rotary tables, everything
    /// up to there was read in chunks when it restarted, and is again.
    pub(super) fn chunked(&self, reproducible: bool, limits: &ModelLimits) -> usize {
        let length = self.tokens.len();
        // The output passes the switch with its token number `switch + 1`, at which it restarts.
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

    /// Whether its receiver had no room when the last step was planned.
    pub(super) fn is_paused(&self) -> bool {
        self.paused_since.is_some()
    }

    /// Its numbers for a snapshot at `now`, with `cached` of its tokens in the KV cache.
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

    /// Its sampler and, behind it, its mask.
    pub(super) fn sampler(&mut self) -> &mut Sampler {
        &mut self.sampler
    }

    /// The acceptance of its draft tokens from `source`.
    pub(super) fn acceptance(&mut self, source: DraftSource) -> &mut Acceptance {
        let [lookup, forced] = &mut self.acceptance;
        match source {
            DraftSource::Lookup => lookup,
            DraftSource::Forced => forced,
        }
    }

    /// Whether its receiver is gone.
    pub(super) fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }

    /// The error that the sequence fails with if it is past a limit of time at `now`.
    pub(super) fn overdue(&self, now: Instant, slow_client: Duration) -> Option<JobError> {
        if self.deadline.is_some_and(|deadline| now >= deadline) {
            return Some(JobError::DeadlineExceeded);
        }
        let paused = self.paused_since?;
        (now.duration_since(paused) >= slow_client).then_some(JobError::SlowClient)
    }

    /// Notes that the sequence got a slot.
    pub(super) fn admit(&mut self) {
        self.admitted = true;
        self.begun = false;
    }

    /// Whether it has run since it got its slot.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Notes that the sequence runs in its slot, which holds `cached_tokens` of its tokens. Sends
    /// [`Event::Started`] the first time, and returns whether it was that.
    pub(super) fn begin(&mut self, cached_tokens: usize) -> bool {
        self.begun = true;
        if self.started {
            return false;
        }
        self.started = true;
        self.send(Event::Started { cached_tokens });
        self.report_progress(cached_tokens);
        true
    }

    /// Reports that the KV cache holds the first `tokens` of the sequence, unless as many prompt tokens were
    /// reported before: a preempted sequence reads its prompt again.
    pub(super) fn report_progress(&mut self, tokens: usize) {
        let processed_tokens = tokens.min(self.prompt_tokens);
        if self.next_progress.is_none_or(|next| processed_tokens < next) {
            return;
        }
        self.next_progress = Some(processed_tokens + 1);
        // The other half is the output's, so that progress that nobody reads does not pause the sequence.
        let kept = (self.events.max_capacity() / 2).max(EVENTS_PER_STEP);
        if self.events.capacity() > kept {
            self.send(Event::Prefill { processed_tokens });
        }
    }

    /// Whether the job asks for its prompt tokens' log-probabilities.
    pub(super) fn reports_prompt(&self) -> bool {
        self.prompt_logprobs.is_some()
    }

    /// Reports the prompt tokens that follow positions `from..from + rows`, whose logits are `row(0..rows)`,
    /// except those that were reported before the sequence was preempted.
    pub(super) fn report_prompt<'l>(
        &mut self,
        from: usize,
        rows: usize,
        row: impl Fn(usize) -> &'l [f32],
    ) {
        let Some(count) = self.prompt_logprobs else { return };
        // The logits at a position are about the token behind it; those of the last one are for sampling.
        let end = (from + rows + 1).min(self.prompt_tokens);
        let fresh: Vec<_> = (self.reported.max(from + 1)..end)
            .map(|place| sampler::prompt_logprobs(row(place - 1 - from), self.tokens[place], count))
            .collect();
        if !fresh.is_empty() {
            self.reported = end;
            self.send(Event::Prompt(fresh));
        }
    }

    /// How the scheduler sees the sequence in `slot`, which holds `cached` of its tokens and decodes
    /// or not. Pauses the sequence if its receiver has no room for a step's events.
    pub(super) fn candidate(
        &mut self,
        slot: usize,
        (cached, decodes): (usize, bool),
        (limits, reproducible): (&ModelLimits, bool),
        now: Instant,
    ) -> Candidate {
        // Without room a step would generate a token that has nowhere to go.
        let room = self.events.capacity() >= EVENTS_PER_STEP + usize::from(!self.started);
        if room {
            self.paused_since = None;
        } else {
            self.paused_since.get_or_insert(now);
        }
        Candidate {
            slot,
            caller: self.ticket.caller,
            priority: self.ticket.priority,
            arrival: self.arrival,
            past: cached,
            pending: self.chunked(reproducible && !decodes, limits) - cached,
            decodes,
            rotary: limits.rotary(self.tokens.len()),
            ready: room && !self.awaits_mask(),
        }
    }

    /// Whether it can't run before its mask is known. At its last token the mask decides between
    /// [`FinishReason::Complete`] and [`FinishReason::Length`].
    pub(super) fn awaits_mask(&self) -> bool {
        self.held_logits.is_some() || (self.awaits_progress && self.tokens.len() >= self.end)
    }

    /// Whether the engine should poll its mask.
    pub(super) fn has_pending_mask(&self) -> bool {
        self.held_logits.is_some() || self.awaits_progress
    }

    /// Keeps a logit row until the mask is known.
    pub(super) fn hold(&mut self, row: &[f32]) {
        self.held_logits = Some(row.to_vec());
    }

    /// The logit row that was kept, if the mask is known by now.
    pub(super) fn take_held(&mut self) -> Option<Vec<f32>> {
        // Polled without waiting: other sequences are ready to run.
        if self.held_logits.is_none() || !self.sampler.is_ready(Duration::ZERO) {
            return None;
        }
        self.held_logits.take()
    }

    /// Waits up to `limit` for its pending mask.
    pub(super) fn wait_for_mask(&mut self, limit: Duration) {
        // What the wait returns is asked again by the next iteration, so it is not used here.
        if self.awaits_progress {
            self.sampler.progress(limit);
        } else {
            self.sampler.is_ready(limit);
        }
    }

    /// Drops the logit row that was kept: a preempted sequence reads its last token again.
    pub(super) fn drop_held(&mut self) {
        self.held_logits = None;
    }

    /// Why the sequence is finished, if its mask lets nothing follow or its length is reached. Waits up to
    /// `limit` for the mask; as long as it is not known, the sequence is not finished.
    pub(super) fn finish_reason(&mut self, limit: Duration) -> Option<FinishReason> {
        if !self.awaits_progress {
            return None;
        }
        let progress = self.sampler.progress(limit)?;
        self.awaits_progress = false;
        match progress {
            Progress::Complete => Some(FinishReason::Complete),
            Progress::Open => (self.tokens.len() >= self.end).then_some(FinishReason::Length),
        }
    }

    /// The most draft tokens of a step, by the room for their events and by the tokens that may still
    /// be generated.
    pub(super) fn draft_room(&self) -> usize {
        self.events
            .capacity()
            .saturating_sub(EVENTS_PER_STEP)
            .min(self.remaining().saturating_sub(1))
    }

    /// Appends and sends the sampler's choice, unless it is a stop token. Returns why the sequence is
    /// finished, if it is.
    pub(super) fn take(&mut self, choice: Choice) -> Option<FinishReason> {
        if self.stop_tokens.contains(choice.token) {
            if choice.logprobs.is_some() {
                self.send(Event::Stop(Token { id: choice.token, logprobs: choice.logprobs }));
            }
            return Some(FinishReason::StopToken(choice.token));
        }
        self.send(Event::Token(Token { id: choice.token, logprobs: choice.logprobs }));
        self.tokens.push(choice.token);
        // Some masks know at once that the output is complete; others say so by `progress` later.
        if choice.progress == Progress::Complete {
            return Some(FinishReason::Complete);
        }
        self.awaits_progress = true;
        self.finish_reason(Duration::ZERO)
    }

    /// Sends the last event of a sequence that finished.
    pub(super) fn finish(self, reason: FinishReason) {
        self.send(Event::Finished(reason));
    }

    /// Sends the last event of a sequence that failed.
    pub(super) fn fail(self, error: JobError) {
        self.send(Event::Failed(error));
    }

    /// Sends an event. There is room: steps are planned only with [`EVENTS_PER_STEP`] places free, and
    /// one more for each draft token. A step that is not the last leaves one of them for an end outside
    /// a step, such as a deadline. A receiver that is gone is noticed by [`Self::is_abandoned`] in the
    /// next iteration.
    fn send(&self, event: Event) {
        let _ = self.events.try_send(event);
    }
}
