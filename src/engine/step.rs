//! The engine's steps: run the model, sample, and continue, finish or fail each sequence.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::draft::{self, DraftSource};
use super::handle::Counters;
use super::masks::{Chooser, Outcome, grace};
use super::message::JobError;
use super::run::{Core, prompts_wait};
use super::scheduler::Candidate;
use phi4d_door::End;
use phi4d_model::{Rotary, RunError};

/// The most logit rows of a step whose prompt tokens are reported. A row has the length of the
/// vocabulary, so with 200,000 tokens this bounds them at 50 MB.
const MOST_ROWS: usize = 64;

impl Core {
    /// Prefills the next `count` tokens of the sequence in `slot`; if these are the last, samples.
    pub(super) fn prefill(&mut self, slot: usize, count: usize, others_decode: bool) {
        let Some(slot) = self.make_room(slot, count) else { return };
        let held = self.cache.tokens(slot).len();
        let Some(sequence) = self.cache.sequence(slot) else { return };
        // To report prompt tokens takes a logit row for each; otherwise the last one is enough.
        let reports = sequence.reports_prompt() && self.limits.many_rows;
        let count = if reports { count.min(MOST_ROWS) } else { count };
        let rows = if reports { count } else { 1 };
        let tokens = sequence.tokens()[held..held + count].to_vec();
        let chunked = sequence.chunked(self.fixed_widths, &self.limits);
        let complete = held + count == chunked;
        // A preempted sequence goes on with output that it has already; nothing is sampled then.
        let sampled = chunked < sequence.tokens().len();
        let rotary = self.limits.rotary(sequence.tokens().len());
        self.runner.set_rotary(rotary);
        let began = Instant::now();
        let result = self.runner.prefill(slot, held, &tokens, rows);
        let counters = &self.shared.counters;
        Counters::add(&counters.steps, 1);
        let outcome = match result {
            Err(error) => Err(job_error(error)),
            Ok(logits) => {
                Counters::add(&counters.prompt_tokens, count);
                self.cache.extend(slot, &tokens);
                if let Some(sequence) = self.cache.sequence_mut(slot).filter(|_| reports) {
                    sequence.report_prompt(held, &logits);
                }
                // The report is part of the time, since the other sequences wait for it, too.
                let took = began.elapsed();
                match reports {
                    true => self.pace.reported(took, others_decode),
                    false => self.pace.prefilled(held, count, took, others_decode),
                }
                match self.cache.sequence_mut(slot).filter(|_| complete && !sampled) {
                    None => Ok(None),
                    Some(sequence) => {
                        let scratch = &mut self.scratch;
                        let mut chooser = Chooser::new(counters, scratch, Duration::ZERO);
                        chooser.sample_or_hold(sequence, logits.row(rows - 1))
                    }
                }
            }
        };
        let goes_on = complete && matches!(outcome, Ok(None));
        let slot = if goes_on { self.cache.promote(slot, rotary) } else { slot };
        self.do_actions();
        self.finish_step(slot, outcome);
    }

    /// Decodes one token for each sequence in slots `first..first + slots`.
    pub(super) fn decode(&mut self, first: usize, slots: usize, prompts_wait: bool) {
        let slots_before = self.cache.live();
        for slot in first..first + slots {
            if self.make_room(slot, 1).is_none() || self.cache.live() != slots_before {
                // A preemption has moved slots, so the plan no longer fits; the next iteration plans again.
                return;
            }
        }
        let mut rotary = Rotary::Short;
        let mut tokens = Vec::with_capacity(slots);
        let mut past = Vec::with_capacity(slots);
        for slot in first..first + slots {
            let held = self.cache.tokens(slot).len();
            let Some(sequence) = self.cache.sequence(slot) else { return };
            // The scheduler plans sequences of one rotary table.
            rotary = self.limits.rotary(sequence.tokens().len());
            tokens.push(sequence.tokens()[held]);
            past.push(held);
        }
        self.runner.set_rotary(rotary);
        let began = Instant::now();
        let result = self.runner.decode(first, &tokens, &past);
        let counters = &self.shared.counters;
        Counters::add(&counters.steps, 1);
        let mut outcomes: Vec<(usize, Outcome)> = Vec::with_capacity(slots);
        match result {
            Err(error) => {
                let error = job_error(error);
                outcomes.extend((first..first + slots).map(|slot| (slot, Err(error.clone()))));
            }
            Ok(logits) => {
                self.pace.decoded(&past, began.elapsed(), prompts_wait);
                self.grace = grace(began.elapsed());
                let mut chooser = Chooser::new(counters, &mut self.scratch, self.grace);
                for (index, (token, past)) in tokens.iter().zip(past).enumerate() {
                    let slot = first + index;
                    self.cache.extend(slot, &[*token]);
                    let Some(sequence) = self.cache.sequence_mut(slot) else { continue };
                    if past + 1 < sequence.tokens().len() {
                        // A preempted sequence reads output that it has already.
                        continue;
                    }
                    let outcome = chooser.sample_or_hold(sequence, logits.row(index));
                    outcomes.push((slot, outcome));
                }
            }
        }
        // Downwards, since retiring a sequence moves slots behind it.
        for (slot, outcome) in outcomes.into_iter().rev() {
            self.finish_step(slot, outcome);
        }
    }

    /// Decodes the sequence in `slot` only. If it is alone in the engine, with speculative decoding:
    /// beside others the time for checking draft tokens would be theirs.
    pub(super) fn decode_one(&mut self, slot: usize, candidates: &[Candidate]) {
        let prompts_wait = prompts_wait(candidates);
        let Some(sequence) = self.cache.sequence_mut(slot) else { return };
        // Where a step's width changes low-order digits of the logits, seeded requests skip speculation: the
        // draft's length follows measured times, and their output must be reproducible.
        let repeats = self.limits.width_invariant || !sequence.sampler().is_seeded();
        let speculates = candidates.len() == 1 && self.limits.many_rows && repeats;
        let most = if speculates { self.options.draft_tokens } else { 0 };
        let most = most.min(sequence.draft_room()).min(self.limits.max_prefill_tokens - 1);
        // A step has one rotary table, so a draft ends where the sequence switches to the long one.
        let left = self.limits.rotary_switch.and_then(|s| s.checked_sub(sequence.tokens().len()));
        let most = most.min(left.unwrap_or(most));
        if most == 0 {
            return self.decode(slot, 1, prompts_wait);
        }
        // Forced tokens are known with the mask, and no other sequence is delayed by waiting for it.
        sequence.sampler().is_ready(self.grace);
        let forced = sequence.sampler().forced().to_vec();
        let source = if forced.is_empty() { DraftSource::Lookup } else { DraftSource::Forced };
        let count = self.pace.best_draft(sequence.acceptance(source).rate(), most);
        let draft = match source {
            DraftSource::Forced => forced,
            DraftSource::Lookup => draft::propose(sequence.tokens(), count.max(1)).to_vec(),
        };
        if count == 0 || draft.is_empty() {
            let generated = sequence.tokens().len();
            self.decode(slot, 1, prompts_wait);
            return self.note_unused_draft(slot, generated, draft.first().copied(), source);
        }
        let draft = &draft[..count.min(draft.len())];
        let Some(slot) = self.make_room(slot, 1 + draft.len()) else { return };
        self.verify(slot, draft, source);
    }

    /// Compares the first draft token with the one that a plain step has just sampled at `place`. So the
    /// acceptance rate recovers at no cost while speculation does not pay. If the sequence has ended or
    /// moved since, there is nothing to compare.
    fn note_unused_draft(
        &mut self,
        slot: usize,
        place: usize,
        draft: Option<u32>,
        source: DraftSource,
    ) {
        let (Some(draft), true) = (draft, slot < self.cache.decoding()) else { return };
        let Some(sequence) = self.cache.sequence_mut(slot) else { return };
        if let Some(&token) = sequence.tokens().get(place) {
            sequence.acceptance(source).note(token == draft);
        }
    }

    /// Checks `draft` after the newest token of the sequence in `slot`, in one step. Each position is
    /// sampled as in plain decoding, with the same draws, up to the first token that differs from the
    /// draft. So speculation changes the speed, not the distribution of the output.
    fn verify(&mut self, slot: usize, draft: &[u32], source: DraftSource) {
        let held = self.cache.tokens(slot).len();
        let Some(sequence) = self.cache.sequence(slot) else { return };
        let mut tokens = vec![sequence.tokens()[held]];
        tokens.extend_from_slice(draft);
        self.runner.set_rotary(self.limits.rotary(sequence.tokens().len()));
        let began = Instant::now();
        // A prefill step with all its logits: decode steps have one token for each sequence.
        let result = self.runner.prefill(slot, held, &tokens, tokens.len());
        let counters = &self.shared.counters;
        Counters::add(&counters.steps, 1);
        let logits = match result {
            Ok(logits) => logits,
            Err(error) => return self.finish_step(slot, Err(job_error(error))),
        };
        let Some(sequence) = self.cache.sequence_mut(slot) else { return };
        self.grace = grace(began.elapsed());
        let mut outcome = Ok(None);
        // Tokens that belong to the sequence; keys and values behind them are overwritten later.
        let mut valid = 0;
        for index in 0..tokens.len() {
            let generated = sequence.tokens().len();
            let mut chooser = Chooser::new(counters, &mut self.scratch, self.grace);
            if index == 0 {
                valid = 1;
                outcome = chooser.sample_or_hold(sequence, logits.row(0));
                if sequence.awaits_mask() {
                    break;
                }
            } else {
                // If the mask is not there in time, the accepted tokens stay, and the model reads the
                // newest one again.
                let Some(sampled) = chooser.sample(sequence, logits.row(index)) else { break };
                valid = index + 1;
                outcome = sampled;
            }
            // Behind the last draft token there is one more logit row, and so one more token.
            // A stop token is no token of the output, so the draft's was not accepted even if it is the same.
            let accepted =
                index < draft.len() && sequence.tokens().get(generated) == draft.get(index);
            if index < draft.len() {
                sequence.acceptance(source).note(accepted);
                Counters::add(&counters.draft_tokens, 1);
                Counters::add(&counters.accepted_draft_tokens, usize::from(accepted));
            }
            if !accepted || !matches!(outcome, Ok(None)) {
                break;
            }
        }
        self.pace.verified(tokens.len(), began.elapsed(), false);
        self.cache.extend(slot, &tokens[..valid]);
        self.finish_step(slot, outcome);
    }

    /// Ends the sequence in `slot` if its step finished or failed it.
    pub(super) fn finish_step(&mut self, slot: usize, outcome: Outcome) {
        match outcome {
            Ok(None) => {}
            Ok(Some(reason)) => {
                if let Some(sequence) = self.retire(slot, true, End::Finished) {
                    sequence.finish(reason);
                }
            }
            Err(error) => {
                // A stop interrupts the step, which is no fault worth a line.
                if !self.shared.stopping.load(Ordering::Acquire) {
                    log::error!(slot; "a sequence failed: {error}");
                }
                self.fail(slot, false, error);
            }
        }
    }
}

fn job_error(error: RunError) -> JobError {
    match error {
        RunError::Interrupted => JobError::ShuttingDown,
        RunError::Runtime(reason) => JobError::Model(reason),
    }
}
