//! Which sequences have slots and memory: admission, preemption, and prefixes that become cached while a
//! sequence waits for its first chunk.

use std::time::Instant;

use super::candidate::Candidate;
use super::handle::Counters;
use super::run::Core;
use super::scheduler::Span;
use super::sequence::Sequence;

impl Core {
    /// Gives slots to waiting sequences, in the queue's order, as long as any fits.
    pub(super) fn admit(&mut self, now: Instant) {
        while self.cache.has_free_slot() {
            let Self { cache, waiting, limits, fixed_widths, .. } = self;
            let mut admission = None;
            let next = waiting.take(now, |next| {
                let scope = next.cache_scope(limits.rotary(next.tokens().len()));
                let shared = next.chunked(*fixed_widths, limits);
                admission = cache.admit(next.tokens(), shared, scope);
                admission.is_some()
            });
            let (Some(mut sequence), Some(admission)) = (next, admission) else { return };
            self.do_actions();
            self.shared.door.start(sequence.waiting());
            sequence.admit();
            self.cache.place(admission, sequence);
        }
    }

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

    /// Makes room for `count` more tokens in `slot`, and preempts others if needed: those of the lowest
    /// priority first, of these the newest. Returns the sequence's slot afterwards, or `None` if it was
    /// preempted itself.
    pub(super) fn make_room(&mut self, slot: usize, count: usize) -> Option<usize> {
        // Preempting moves slots, so the sequence is found again by its arrival, which is unique.
        let arrival = self.cache.sequence(slot)?.arrival();
        loop {
            let ranks = self.ranks();
            let slot = ranks.iter().position(|&(_, other)| other.0 == arrival)?;
            if self.cache.grow(slot, count) {
                self.do_actions();
                return Some(slot);
            }
            // The oldest of the highest priority is never preempted, so it gets on, and preemption ends.
            let last = (0..ranks.len()).min_by_key(|&slot| ranks[slot])?;
            self.preempt(last);
        }
    }

    /// Priority and arrival of the sequences in live slots, by slot. The newer of two is the lower.
    fn ranks(&self) -> Vec<(i32, std::cmp::Reverse<u64>)> {
        let sequences = (0..self.cache.live()).filter_map(|slot| self.cache.sequence(slot));
        let rank = |sequence: &Sequence| {
            (sequence.ticket().priority, std::cmp::Reverse(sequence.arrival()))
        };
        sequences.map(rank).collect()
    }
    /// Puts the sequence in `slot` back into the queue. Its tokens stay cached while there is room, so
    /// that it may continue from them.
    fn preempt(&mut self, slot: usize) {
        let Some(mut sequence) = self.cache.retire(slot, true) else { return };
        self.do_actions();
        sequence.drop_held();
        self.shared.door.put_back();
        Counters::add(&self.shared.counters.preempted, 1);
        self.waiting.put_back(sequence.ticket(), sequence);
    }
}
