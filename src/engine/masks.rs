//! Sequences whose masks are computed elsewhere, while the model runs and others decode.
//!
//! A sequence's next step begins as soon as its newest token is chosen, while its mask is still being
//! computed. If the mask is not there when the step ends, the sequence keeps the logits and is left out
//! of further steps until it is. So a late mask delays the others by at most [`grace`] for each of its
//! tokens.

use std::time::{Duration, Instant};

use super::handle::Counters;
use super::message::{FinishReason, JobError};
use super::run::Core;
use super::sampler::Scratch;
use super::sequence::Sequence;

/// What a step did to a sequence: it goes on (`None`), finished, or failed.
pub(super) type Outcome = Result<Option<FinishReason>, JobError>;

/// The longest time that a step's other sequences wait for masks. Masks of usual schemas take far less.
const MOST_GRACE: Duration = Duration::from_millis(1);

/// How long to wait for masks after a step that took `step`: at most a quarter more, so that slow masks
/// can't halve the others' speed.
pub(super) fn grace(step: Duration) -> Duration {
    MOST_GRACE.min(step / 4)
}

/// Chooses the tokens of one step.
pub(super) struct Chooser<'c> {
    counters: &'c Counters,
    scratch: &'c mut Scratch,
    /// The wait for masks ends here.
    until: Instant,
}

impl<'c> Chooser<'c> {
    /// A chooser that waits up to `grace` for the masks of all sequences together.
    pub(super) fn new(counters: &'c Counters, scratch: &'c mut Scratch, grace: Duration) -> Self {
        Self { counters, scratch, until: Instant::now() + grace }
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Chooses the next token of `sequence` from a logit row; `None` if its mask is not there in time. If
    /// the mask turns out to let nothing follow, the sequence finishes without a choice.
    pub(super) fn sample(&mut self, sequence: &mut Sequence, row: &[f32]) -> Option<Outcome> {
        // In this order: completeness is known once the mask is ready, and may become known during the
        // wait for it. Asked first, it might be missed.
        let left = self.left();
        let ready = sequence.sampler().is_ready(left);
        if let Some(reason) = sequence.finish_reason(Duration::ZERO) {
            return Some(Ok(Some(reason)));
        }
        ready.then(|| self.choose(sequence, row))
    }

    /// As [`Self::sample`]; if the mask is not there in time, the sequence keeps the logit row.
    pub(super) fn sample_or_hold(&mut self, sequence: &mut Sequence, row: &[f32]) -> Outcome {
        self.sample(sequence, row).unwrap_or_else(|| {
            sequence.hold(row);
            Ok(None)
        })
    }

    /// Chooses a token from a logit row and sends it.
    fn choose(&mut self, sequence: &mut Sequence, row: &[f32]) -> Outcome {
        Counters::add(&self.counters.generated_tokens, 1);
        let choice = sequence.sampler().choose(row, self.scratch)?;
        Ok(sequence.take(choice))
    }
}

impl Core {
    /// Polls masks that were late: finishes sequences that are complete, and samples those whose step
    /// ended before their mask was there.
    pub(super) fn poll_masks(&mut self) {
        let until = Instant::now() + self.grace;
        // Downwards, since retiring a sequence moves slots behind it.
        for slot in (0..self.cache.live()).rev() {
            let Some(sequence) = self.cache.sequence_mut(slot) else { continue };
            if !sequence.has_pending_mask() {
                continue;
            }
            let left = until.saturating_duration_since(Instant::now());
            // Asked before completeness, as in [`Chooser::sample`].
            let held = sequence.take_held();
            let left = if held.is_some() { Duration::ZERO } else { left };
            let outcome = if let Some(reason) = sequence.finish_reason(left) {
                Ok(Some(reason))
            } else if let Some(logits) = held {
                let counters = &self.shared.counters;
                let mut chooser = Chooser::new(counters, &mut self.scratch, Duration::ZERO);
                chooser.choose(sequence, &logits)
            } else {
                continue;
            };
            self.finish_step(slot, outcome);
        }
    }

    /// Waits up to `limit` for the first pending mask. Returns whether there is one.
    pub(super) fn wait_for_mask(&mut self, limit: Duration) -> bool {
        for slot in 0..self.cache.live() {
            if let Some(sequence) = self.cache.sequence_mut(slot)
                && sequence.has_pending_mask()
            {
                sequence.wait_for_mask(limit);
                return true;
            }
        }
        false
    }
}
