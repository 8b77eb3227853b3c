//! Sequences whose masks are worked out elsewhere, while the model runs and others decode.
//!
//! A step of a sequence begins as soon as its newest token is chosen, while its mask is still being
//! worked out. If the mask is not there when the step ends, the step's logits are kept and the
//! sequence is left out of further steps until it is; nothing waits for it but itself. So a mask
//! that is never there costs the others at most a [`grace`] for each of its tokens.

use std::time::{Duration, Instant};

use super::handle::Counters;
use super::run::Core;
use super::sampler::Scratch;
use super::sequence::Sequence;
use super::step::Outcome;

/// The longest that a step's other sequences wait for masks. Those of usual forms are there in far
/// less.
const MOST_GRACE: Duration = Duration::from_millis(1);

/// How long a step that took `step` may be followed by waiting for masks.
pub(super) fn grace(step: Duration) -> Duration {
    MOST_GRACE.min(step / 4)
}

/// Chooses the tokens of one step.
pub(super) struct Chooser<'c> {
    counters: &'c Counters,
    scratch: &'c mut Scratch,
    /// Masks that come later are too late.
    until: Instant,
}

impl<'c> Chooser<'c> {
    /// Waits up to `grace` for the masks of all sequences together.
    pub(super) fn new(counters: &'c Counters, scratch: &'c mut Scratch, grace: Duration) -> Self {
        Self { counters, scratch, until: Instant::now() + grace }
    }

    fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// Chooses the next token of `sequence` from `row`; `None` if its mask is not there in time. An
    /// outcome without a choice is the end of a sequence that is complete.
    pub(super) fn sample(&mut self, sequence: &mut Sequence, row: &[f32]) -> Option<Outcome> {
        // In this order: a mask that is ready has said whether the output is complete, but one
        // that has not said so yet may say it while its readiness is waited for.
        let left = self.left();
        let ready = sequence.sampler().is_ready(left);
        if let Some(reason) = sequence.settle(Duration::ZERO) {
            return Some(Ok(Some(reason)));
        }
        ready.then(|| self.choose(sequence, row))
    }

    /// As [`Self::sample`], keeping `row` where the mask is not there in time.
    pub(super) fn sample_or_hold(&mut self, sequence: &mut Sequence, row: &[f32]) -> Outcome {
        self.sample(sequence, row).unwrap_or_else(|| {
            sequence.hold(row);
            Ok(None)
        })
    }

    /// Chooses from `row`; returns why the sequence is over, if it is.
    fn choose(&mut self, sequence: &mut Sequence, row: &[f32]) -> Outcome {
        Counters::add(&self.counters.generated_tokens, 1);
        let choice = sequence.sampler().choose(row, self.scratch)?;
        Ok(sequence.take(choice))
    }
}

impl Core {
    /// Looks for what masks have to say: ends sequences that are complete, and goes on with those
    /// whose step ended before their mask was there.
    pub(super) fn hear_masks(&mut self) {
        let until = Instant::now() + self.grace;
        // Downwards, since retiring a row moves rows behind it.
        for row in (0..self.cache.live()).rev() {
            let Some(sequence) = self.cache.sequence_mut(row) else { continue };
            if !sequence.has_news_to_come() {
                continue;
            }
            let left = until.saturating_duration_since(Instant::now());
            // Before it is settled, as in [`Chooser::sample`].
            let held = sequence.take_held();
            let left = if held.is_some() { Duration::ZERO } else { left };
            let outcome = if let Some(reason) = sequence.settle(left) {
                Ok(Some(reason))
            } else if let Some(logits) = held {
                let counters = &self.shared.counters;
                let mut chooser = Chooser::new(counters, &mut self.scratch, Duration::ZERO);
                chooser.choose(sequence, &logits)
            } else {
                continue;
            };
            self.settle(row, outcome);
        }
    }

    /// Waits up to `limit` for the first mask that has something to say; whether there is one.
    pub(super) fn wait_for_mask(&mut self, limit: Duration) -> bool {
        for row in 0..self.cache.live() {
            if let Some(sequence) = self.cache.sequence_mut(row)
                && sequence.has_news_to_come()
            {
                sequence.wait_for_news(limit);
                return true;
            }
        }
        false
    }
}
