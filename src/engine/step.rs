//! The engine's steps: run the model, sample, and continue, finish or fail each sequence.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::candidate::Candidate;
use super::cost::Work;
use super::draft::{self, DraftSource};
use super::handle::Counters;
use super::masks::{Chooser, Outcome, grace};
use super::message::JobError;
use super::run::Core;
use super::scheduler::Span;
use super::sequence::Sequence;
use phi4d_door::End;
use phi4d_model::{self as model, Rotary, RunError};

/// The most logit rows of a sequence whose prompt tokens are reported. A row has the length of the
/// vocabulary, so with 200,000 tokens this bounds them at 50 MB.
const MOST_ROWS: usize = 64;

/// What a step does for one sequence.
struct Part {
    slot: usize,
    /// The sequence's arrival, by which it is found when others have moved it.
    arrival: u64,
    decodes: bool,
    past: usize,
    tokens: Vec<u32>,
    /// Logit rows that the sequence gets.
    rows: usize,
    /// Whether the rows report prompt tokens.
    reports: bool,
    /// Whether the last row chooses a token. A preempted sequence goes on with output that it has already.
    samples: bool,
    /// Whether its prompt is read with this step.
    completes: bool,
}

impl Core {
    /// Looks again for cached prefixes of the prompts in `plan` of which nothing was read yet: of prompts that
    /// begin alike and came together one is read, and the others copy from it. Returns what is left to run.
    pub(super) fn begin_prompts(&mut self, plan: &[Span], candidates: &[Candidate]) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::with_capacity(plan.len());
        for &span in plan {
            let begins = self.cache.sequence(span.slot).is_some_and(|own| !own.has_begun());
            let span = match begins.then(|| self.reads_the_same(span.slot, candidates)) {
                None => span,
                // Its chunk serves both, so this prompt is not delayed by leaving it the step.
                Some(Some(other)) => {
                    let most = match self.fixed_widths {
                        true => self.limits.max_prefill_tokens,
                        false => span.tokens,
                    };
                    Span { slot: other.slot, tokens: other.pending.min(most), decodes: false }
                }
                Some(None) => Span { tokens: span.tokens.min(self.begin(span.slot)), ..span },
            };
            // It may be in the plan itself, too.
            if !spans.iter().any(|planned| planned.slot == span.slot) {
                spans.push(span);
            }
        }
        spans
    }

    /// Begins the prompt in `slot` from the longest cached prefix; returns how many tokens are to be read.
    fn begin(&mut self, slot: usize) -> usize {
        let Some(sequence) = self.cache.sequence(slot) else { return 0 };
        let shared = sequence.chunked(self.fixed_widths, &self.limits);
        let prompt = sequence.tokens().to_vec();
        let cached = self.cache.reuse(slot, &prompt, shared);
        self.do_actions();
        if let Some(sequence) = self.cache.sequence_mut(slot)
            && sequence.begin(cached)
        {
            Counters::add(&self.shared.counters.cached_prompt_tokens, cached);
        }
        shared - cached
    }

    /// A prompt that is being read and has more in common with the one in `slot` than either slot holds.
    fn reads_the_same<'c>(
        &self,
        slot: usize,
        candidates: &'c [Candidate],
    ) -> Option<&'c Candidate> {
        let usable = |sequence: &Sequence| sequence.chunked(self.fixed_widths, &self.limits);
        let scope =
            |sequence: &Sequence| sequence.cache_scope(self.limits.rotary(sequence.tokens().len()));
        let own = self.cache.sequence(slot)?;
        let held = self.cache.tokens(slot).len();
        let prompt = &own.tokens()[..usable(own)];
        candidates.iter().filter(|other| other.ready && !other.decodes).find(|other| {
            let Some(sequence) = self.cache.sequence(other.slot) else { return false };
            // One that has not run waits itself, maybe for this one.
            sequence.has_begun() && scope(sequence) == scope(own) && {
                let tokens = &sequence.tokens()[..usable(sequence)];
                self.cache.common_prefix(prompt, tokens) > other.past.max(held)
            }
        })
    }

    /// Runs one step over `plan`: a token of each sequence that decodes, and chunks of prompts.
    pub(super) fn run_step(&mut self, plan: &[Span], candidates: &[Candidate]) {
        let live = self.cache.live();
        for span in plan {
            if self.make_room(span.slot, span.tokens).is_none() || self.cache.live() != live {
                // A preemption has moved slots, so the plan no longer fits; the next iteration plans again.
                return;
            }
        }
        let parts: Vec<Part> = plan.iter().filter_map(|span| self.part(*span)).collect();
        let Some(first) = parts.first() else { return };
        // The scheduler plans sequences of one rotary table.
        let sequence = self.cache.sequence(first.slot);
        let length = sequence.map_or(0, |sequence| sequence.tokens().len());
        let rotary = self.limits.rotary(length);
        self.runner.set_rotary(rotary);
        let spans: Vec<model::Span<'_>> = parts
            .iter()
            .map(|part| model::Span {
                slot: part.slot,
                past: part.past,
                tokens: &part.tokens,
                rows: part.rows,
            })
            .collect();
        let began = Instant::now();
        let result = self.runner.step(&spans);
        let counters = &self.shared.counters;
        Counters::add(&counters.steps, 1);
        let mut outcomes: Vec<Outcome> = Vec::with_capacity(parts.len());
        match result {
            Err(error) => outcomes.resize(parts.len(), Err(job_error(error))),
            Ok(logits) => {
                let took = began.elapsed();
                // Prompts wait for no masks: those of the step before were for the sequences that decode.
                let decodes = parts.iter().any(|part| part.decodes);
                let wait = if decodes { grace(took) } else { Duration::ZERO };
                self.grace = if decodes { wait } else { self.grace };
                let mut chooser = Chooser::new(counters, &mut self.scratch, wait);
                let mut row = 0;
                for part in &parts {
                    self.cache.extend(part.slot, &part.tokens);
                    let mut outcome = Ok(None);
                    if let Some(sequence) = self.cache.sequence_mut(part.slot) {
                        if !part.decodes {
                            sequence.report_progress(part.past + part.tokens.len());
                        }
                        if part.reports {
                            let from = row;
                            sequence.report_prompt(part.past, part.rows, |index| {
                                logits.row(from + index)
                            });
                        }
                        row += part.rows;
                        if part.samples {
                            outcome = chooser.sample_or_hold(sequence, logits.row(row - 1));
                        }
                    }
                    if !part.decodes {
                        Counters::add(&counters.prompt_tokens, part.tokens.len());
                    }
                    outcomes.push(outcome);
                }
                // The others wait for its samples and reports, too, which some requests make costly.
                self.note_time(&parts, began.elapsed(), candidates);
            }
        }
        self.finish_parts(&parts, outcomes, rotary);
    }

    /// What a step does for the sequence of `span`.
    fn part(&self, span: Span) -> Option<Part> {
        let past = self.cache.tokens(span.slot).len();
        let sequence = self.cache.sequence(span.slot)?;
        // To report prompt tokens takes a logit row for each; otherwise the last one is enough.
        let reports = !span.decodes && sequence.reports_prompt() && self.limits.many_rows;
        let count = if reports { span.tokens.min(MOST_ROWS) } else { span.tokens };
        let tokens = sequence.tokens()[past..past + count].to_vec();
        let end = past + count;
        let complete = span.decodes || end == sequence.chunked(self.fixed_widths, &self.limits);
        let samples = complete && end == sequence.tokens().len();
        Some(Part {
            slot: span.slot,
            arrival: sequence.arrival(),
            decodes: span.decodes,
            past,
            tokens,
            // A decode step has a row for each of its sequences, needed or not.
            rows: if reports { count } else { usize::from(samples || span.decodes) },
            reports,
            samples,
            completes: complete && !span.decodes,
        })
    }

    /// Lets the pace know how long a step of `parts` took.
    fn note_time(&mut self, parts: &[Part], took: Duration, candidates: &[Candidate]) {
        let waits =
            |decodes| candidates.iter().any(|other| other.ready && other.decodes == decodes);
        match parts {
            [part] if part.reports => self.pace.reported(took, waits(true)),
            [part] if !part.decodes => {
                self.pace.prefilled(part.past, part.tokens.len(), took, waits(true));
            }
            parts => {
                let decoding = parts.iter().filter(|part| part.decodes);
                let past: Vec<usize> = decoding.map(|part| part.past).collect();
                let prompts = parts.iter().filter(|part| !part.decodes);
                let chunks = prompts.fold(Work::default(), |work, part| {
                    work.and(Work::chunk(part.past, part.tokens.len()))
                });
                if chunks == Work::default() {
                    self.pace.decoded(&past, took, waits(false));
                } else if parts.iter().all(|part| !part.reports) {
                    self.pace.mixed(Work::decode(&past).and(chunks), took);
                }
            }
        }
    }

    /// Moves sequences whose prompts are read to those that decode, and ends those that are finished.
    fn finish_parts(&mut self, parts: &[Part], outcomes: Vec<Outcome>, rotary: Rotary) {
        for (part, outcome) in parts.iter().zip(outcomes) {
            // Each of these moves slots.
            let of_part = |slot: &usize| {
                let sequence = self.cache.sequence(*slot);
                sequence.is_some_and(|sequence| sequence.arrival() == part.arrival)
            };
            let Some(slot) = (0..self.cache.live()).find(of_part) else { continue };
            if part.completes && matches!(outcome, Ok(None)) {
                self.cache.promote(slot, rotary);
                self.do_actions();
            } else {
                self.finish_step(slot, outcome);
            }
        }
    }

    /// Decodes the sequence of `span` only. If it is alone in the engine, with speculative decoding:
    /// beside others the time for checking draft tokens would be theirs.
    pub(super) fn decode_one(&mut self, span: Span, candidates: &[Candidate]) {
        let slot = span.slot;
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
            return self.run_step(&[span], candidates);
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
            self.run_step(&[span], candidates);
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
