//! The engine's steps: run the model, sample, and go on with, finish or fail each sequence.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::door::End;
use super::draft::{self, Guess};
use super::handle::Counters;
use super::masks::{Chooser, grace};
use super::message::{FinishReason, JobError};
use super::run::Core;
use phi4d_model::{Rotary, RunError};

/// Rows of logits that a step of a reported prompt gives at most; each is as long as the vocabulary.
const MOST_ROWS: usize = 64;

/// What a step did to a sequence: nothing more, its end, or an error.
pub(super) type Outcome = Result<Option<FinishReason>, JobError>;

impl Core {
    /// Reads the next `count` tokens of the sequence in `row`; if these are the last, samples.
    pub(super) fn prefill(&mut self, row: usize, count: usize) {
        let Some(row) = self.make_room(row, count) else { return };
        let held = self.cache.tokens(row).len();
        let Some(sequence) = self.cache.sequence(row) else { return };
        // A row of logits for each token, where the prompt's tokens are to be reported.
        let reports = sequence.reports_prompt() && self.limits.many_rows;
        let count = if reports { count.min(MOST_ROWS) } else { count };
        let rows = if reports { count } else { 1 };
        let tokens = sequence.tokens()[held..held + count].to_vec();
        let chunked = sequence.chunked(self.options.reproducible, &self.limits);
        let complete = held + count == chunked;
        // What follows was sampled before the sequence was put back.
        let sampled = chunked < sequence.tokens().len();
        let rotary = self.limits.rotary(sequence.tokens().len());
        self.runner.set_rotary(rotary);
        let began = Instant::now();
        let result = self.runner.prefill(row, held, &tokens, rows);
        let counters = &self.shared.counters;
        Counters::add(&counters.steps, 1);
        let outcome = match result {
            Err(error) => Err(job_error(error)),
            Ok(logits) => {
                Counters::add(&counters.prompt_tokens, count);
                self.cache.extend(row, &tokens);
                if let Some(sequence) = self.cache.sequence_mut(row).filter(|_| reports) {
                    sequence.report_prompt(held, &logits);
                }
                // With the report, which takes a while for each token: a share of the time is
                // what the others are promised.
                self.pace.prefilled(count, began.elapsed());
                match self.cache.sequence_mut(row).filter(|_| complete && !sampled) {
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
        let row = if goes_on { self.cache.promote(row, rotary) } else { row };
        self.do_actions();
        self.settle(row, outcome);
    }

    /// One token for each sequence in rows `first..first + rows`.
    pub(super) fn decode(&mut self, first: usize, rows: usize) {
        let rows_before = self.cache.live();
        for row in first..first + rows {
            if self.make_room(row, 1).is_none() || self.cache.live() != rows_before {
                // Rows have moved: the next turn plans anew.
                return;
            }
        }
        let mut rotary = Rotary::Short;
        let mut tokens = Vec::with_capacity(rows);
        let mut past = Vec::with_capacity(rows);
        for row in first..first + rows {
            let held = self.cache.tokens(row).len();
            let Some(sequence) = self.cache.sequence(row) else { return };
            // The plan has rows of one table.
            rotary = self.limits.rotary(sequence.tokens().len());
            tokens.push(sequence.tokens()[held]);
            past.push(held);
        }
        self.runner.set_rotary(rotary);
        let began = Instant::now();
        let result = self.runner.decode(first, &tokens, &past);
        let counters = &self.shared.counters;
        Counters::add(&counters.steps, 1);
        let mut outcomes: Vec<(usize, Outcome)> = Vec::with_capacity(rows);
        match result {
            Err(error) => {
                let error = job_error(error);
                outcomes.extend((first..first + rows).map(|row| (row, Err(error.clone()))));
            }
            Ok(logits) => {
                self.pace.decoded(rows, began.elapsed());
                self.grace = grace(began.elapsed());
                let mut chooser = Chooser::new(counters, &mut self.scratch, self.grace);
                for (index, (token, past)) in tokens.iter().zip(past).enumerate() {
                    let row = first + index;
                    self.cache.extend(row, &[*token]);
                    let Some(sequence) = self.cache.sequence_mut(row) else { continue };
                    if past + 1 < sequence.tokens().len() {
                        // The next token was sampled before the sequence was put back.
                        continue;
                    }
                    let outcome = chooser.sample_or_hold(sequence, logits.row(index));
                    outcomes.push((row, outcome));
                }
            }
        }
        // Downwards, since retiring a row moves rows behind it.
        for (row, outcome) in outcomes.into_iter().rev() {
            self.settle(row, outcome);
        }
    }

    /// The sequence in `row` alone. If nothing else runs, guesses ahead as far as pays.
    pub(super) fn decode_one(&mut self, row: usize, alone: bool) {
        let Some(sequence) = self.cache.sequence_mut(row) else { return };
        // How far a guess goes follows measured times, and a step's width moves the last digits of
        // its logits. Draws by a given seed are to repeat, so they are not guessed ahead.
        let guesses = alone && self.limits.many_rows && !sequence.sampler().is_seeded();
        let most = if guesses { self.options.draft_tokens } else { 0 };
        let most = most.min(sequence.draft_room()).min(self.limits.max_prefill_tokens - 1);
        // Positions past the switch of rotary tables are not this table's to compute.
        let left = self.limits.rotary_switch.and_then(|s| s.checked_sub(sequence.tokens().len()));
        let most = most.min(left.unwrap_or(most));
        if most == 0 {
            return self.decode(row, 1);
        }
        // Nobody else waits for it. What is forced is known with what is allowed.
        sequence.sampler().is_ready(self.grace);
        let forced = sequence.sampler().forced().to_vec();
        let kind = if forced.is_empty() { Guess::Looked } else { Guess::Forced };
        let count = self.pace.best_draft(sequence.acceptance(kind).rate(), most);
        let guess = match kind {
            Guess::Forced => forced,
            Guess::Looked => draft::propose(sequence.tokens(), count.max(1)).to_vec(),
        };
        if count == 0 || guess.is_empty() {
            let generated = sequence.tokens().len();
            self.decode(row, 1);
            return self.note_free_guess(row, generated, guess.first().copied(), kind);
        }
        let guess = &guess[..count.min(guess.len())];
        let Some(row) = self.make_room(row, 1 + guess.len()) else { return };
        self.verify(row, guess, kind);
    }

    /// Learns from a guess that was not put to the model, at no cost. The row's sequence may have
    /// ended or moved, in which case there is nothing to learn.
    fn note_free_guess(&mut self, row: usize, place: usize, guess: Option<u32>, kind: Guess) {
        let (Some(guess), true) = (guess, row < self.cache.decoding()) else { return };
        let Some(sequence) = self.cache.sequence_mut(row) else { return };
        if let Some(&token) = sequence.tokens().get(place) {
            sequence.acceptance(kind).note(token == guess);
        }
    }

    /// Puts `guess` to the model after the newest token of the sequence in `row`, in one step.
    /// Each position is sampled as it would be alone, and the first that differs from the guess
    /// ends it: so the output is that of plain decoding, token for token and draw for draw.
    fn verify(&mut self, row: usize, guess: &[u32], kind: Guess) {
        let held = self.cache.tokens(row).len();
        let Some(sequence) = self.cache.sequence(row) else { return };
        let mut tokens = vec![sequence.tokens()[held]];
        tokens.extend_from_slice(guess);
        self.runner.set_rotary(self.limits.rotary(sequence.tokens().len()));
        let began = Instant::now();
        let result = self.runner.prefill(row, held, &tokens, tokens.len());
        let counters = &self.shared.counters;
        Counters::add(&counters.steps, 1);
        let logits = match result {
            Ok(logits) => logits,
            Err(error) => return self.settle(row, Err(job_error(error))),
        };
        let Some(sequence) = self.cache.sequence_mut(row) else { return };
        self.grace = grace(began.elapsed());
        let mut outcome = Ok(None);
        let mut valid = 0;
        for index in 0..tokens.len() {
            let mut chooser = Chooser::new(counters, &mut self.scratch, self.grace);
            if index == 0 {
                valid = 1;
                outcome = chooser.sample_or_hold(sequence, logits.row(0));
                if sequence.awaits_mask() {
                    break;
                }
            } else {
                // A mask that is not there in time ends the run: what was accepted stays, and the
                // newest token is read again.
                let Some(sampled) = chooser.sample(sequence, logits.row(index)) else { break };
                valid = index + 1;
                outcome = sampled;
            }
            let right = sequence.tokens().last() == guess.get(index) && index < guess.len();
            if index < guess.len() {
                sequence.acceptance(kind).note(right);
                Counters::add(&counters.draft_tokens, 1);
                Counters::add(&counters.accepted_draft_tokens, usize::from(right));
            }
            if !right || !matches!(outcome, Ok(None)) {
                break;
            }
        }
        self.pace.verified(tokens.len(), began.elapsed());
        self.cache.extend(row, &tokens[..valid]);
        self.settle(row, outcome);
    }

    /// Goes on with, finishes or fails the sequence in `row` after a step.
    pub(super) fn settle(&mut self, row: usize, outcome: Outcome) {
        match outcome {
            Ok(None) => {}
            Ok(Some(reason)) => {
                if let Some(sequence) = self.retire(row, true, End::Finished) {
                    sequence.finish(reason);
                }
            }
            Err(error) => {
                if !self.shared.stopping.load(Ordering::Acquire) {
                    log::error!(row; "a sequence failed: {error}");
                }
                self.fail(row, false, error);
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
