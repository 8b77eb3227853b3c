//! Plans the next step. Pure: it sees counts, but no tensors and no clock.
//!
//! Prefill and decode alternate. A prefill step runs one chunk of the sequence that arrived first, since
//! the model's attention takes a prompt with cached tokens one sequence at a time. A decode round
//! advances every ready sequence by one token, in one step for each run of neighbouring slots. The cache
//! keeps decoding sequences in neighbouring slots, so a round is one step unless sequences are paused or
//! their rotary tables differ. [`super::pace`] chooses the size of chunks beside decoding sequences.

use phi4d_model::Rotary;

/// A live sequence as the scheduler sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its slot in the KV cache.
    pub slot: usize,
    /// Its number in order of arrival.
    pub arrival: u64,
    /// Tokens that the model has not read yet, at least 1.
    pub pending: usize,
    /// Whether its prompt is read, so that it decodes.
    pub decodes: bool,
    /// The rotary table of its keys. A step has one table.
    pub rotary: Rotary,
    /// Whether it can run: its channel has room for a step's events, and it awaits no mask.
    pub ready: bool,
}

/// One step of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepPlan {
    /// Nothing can run.
    Idle,
    /// The next `tokens` pending tokens of the sequence in `slot`.
    Prefill {
        /// The slot of the sequence.
        slot: usize,
        /// The size of the chunk.
        tokens: usize,
    },
    /// One token for each sequence in slots `first..first + slots`.
    Decode {
        /// The first slot.
        first: usize,
        /// The number of slots.
        slots: usize,
    },
}

/// The scheduler's state between steps.
#[derive(Debug, Default)]
pub struct Scheduler {
    /// The slot from which the current decode round continues; `None` between rounds.
    decode_from: Option<usize>,
    /// Whether each sequence decodes in a step of its own.
    apart: bool,
}

impl Scheduler {
    /// A scheduler whose sequences decode together or, if `apart`, each in a step of its own.
    pub fn new(apart: bool) -> Self {
        Self { decode_from: None, apart }
    }

    /// Plans one step over `live`, in the order of slots. A prefill step has up to `chunk` tokens. If
    /// prefill `waits`, it gets no step while a decoding sequence is ready.
    pub fn plan(&mut self, live: &[Candidate], chunk: usize, waits: bool) -> StepPlan {
        let prefill = || Self::prefill(live, chunk);
        if let Some(from) = self.decode_from {
            if let Some(step) = self.decode(live, from) {
                return step;
            }
            self.decode_from = None;
            if waits && let Some(step) = self.decode(live, 0) {
                return step;
            }
            // The decode round is over: prefill is next, if there is any.
            return prefill().or_else(|| self.decode(live, 0)).unwrap_or(StepPlan::Idle);
        }
        self.decode(live, 0).or_else(prefill).unwrap_or(StepPlan::Idle)
    }

    fn prefill(live: &[Candidate], chunk: usize) -> Option<StepPlan> {
        // The first to arrive, until it is read: sharing chunks among prompts would delay all first tokens.
        let next = live
            .iter()
            .filter(|candidate| candidate.ready && !candidate.decodes)
            .min_by_key(|candidate| candidate.arrival)?;
        Some(StepPlan::Prefill { slot: next.slot, tokens: next.pending.min(chunk.max(1)) })
    }

    /// Plans the first run of neighbouring slots at or after `from` that are ready and have one rotary
    /// table.
    fn decode(&mut self, live: &[Candidate], from: usize) -> Option<StepPlan> {
        let mut run = live
            .iter()
            .filter(|candidate| candidate.slot >= from && candidate.ready && candidate.decodes);
        let first = run.next()?;
        // A sequence that is not ready leaves a gap, and the round continues behind it with another step.
        let mut end = first.slot + 1;
        for next in run {
            if self.apart || next.slot != end || next.rotary != first.rotary {
                break;
            }
            end += 1;
        }
        self.decode_from = Some(end);
        Some(StepPlan::Decode { first: first.slot, slots: end - first.slot })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoding(slot: usize) -> Candidate {
        let rotary = Rotary::Short;
        Candidate { slot, arrival: slot as u64, pending: 1, decodes: true, rotary, ready: true }
    }

    fn prefilling(slot: usize, pending: usize) -> Candidate {
        Candidate { pending, decodes: false, ..decoding(slot) }
    }

    #[test]
    fn prefill_and_decode_alternate() {
        let mut scheduler = Scheduler::default();
        let mut paused = decoding(1);
        paused.ready = false;
        let live = [decoding(0), paused, decoding(2), prefilling(3, 10)];
        let steps: Vec<StepPlan> = (0..6).map(|_| scheduler.plan(&live, 4, false)).collect();
        let round = [
            StepPlan::Decode { first: 0, slots: 1 },
            StepPlan::Decode { first: 2, slots: 1 },
            StepPlan::Prefill { slot: 3, tokens: 4 },
        ];
        assert_eq!(steps, [round, round].concat());
    }

    #[test]
    fn a_prefill_that_waits_lets_decoding_go_on_but_not_idle() {
        let mut scheduler = Scheduler::default();
        let mut live = [decoding(0), prefilling(1, 10)];
        for _ in 0..5 {
            assert_eq!(scheduler.plan(&live, 4, true), StepPlan::Decode { first: 0, slots: 1 });
        }
        live[0].ready = false;
        assert_eq!(scheduler.plan(&live, 4, true), StepPlan::Prefill { slot: 1, tokens: 4 });
    }

    #[test]
    fn neighbours_decode_together() {
        let live = [decoding(0), decoding(1), decoding(2)];
        let mut scheduler = Scheduler::default();
        for _ in 0..3 {
            assert_eq!(scheduler.plan(&live, 4, false), StepPlan::Decode { first: 0, slots: 3 });
        }
    }

    #[test]
    fn where_steps_of_several_round_differently_each_decodes_apart() {
        let mut scheduler = Scheduler::new(true);
        let live = [decoding(0), decoding(1), prefilling(2, 10)];
        let steps: Vec<StepPlan> = (0..4).map(|_| scheduler.plan(&live, 4, false)).collect();
        let expected = [
            StepPlan::Decode { first: 0, slots: 1 },
            StepPlan::Decode { first: 1, slots: 1 },
            StepPlan::Prefill { slot: 2, tokens: 4 },
            StepPlan::Decode { first: 0, slots: 1 },
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn slots_of_two_rotary_tables_decode_apart_in_one_round() {
        let mut live = [decoding(0), decoding(1), decoding(2), prefilling(3, 10)];
        live[2].rotary = Rotary::Long;
        let mut scheduler = Scheduler::default();
        let steps: Vec<StepPlan> = (0..3).map(|_| scheduler.plan(&live, 4, false)).collect();
        let round = [
            StepPlan::Decode { first: 0, slots: 2 },
            StepPlan::Decode { first: 2, slots: 1 },
            StepPlan::Prefill { slot: 3, tokens: 4 },
        ];
        assert_eq!(steps, round);
    }

    #[test]
    fn nothing_ready_is_idle() {
        let paused = Candidate { ready: false, ..decoding(0) };
        assert_eq!(Scheduler::default().plan(&[paused], 4, false), StepPlan::Idle);
        assert_eq!(Scheduler::default().plan(&[], 4, false), StepPlan::Idle);
    }

    /// Applies a step to the live sequences, and checks that it was allowed.
    fn apply(live: &mut [Candidate], step: StepPlan, chunk: usize) -> Vec<usize> {
        match step {
            StepPlan::Idle => Vec::new(),
            StepPlan::Prefill { slot, tokens } => {
                let candidate = live.iter_mut().find(|c| c.slot == slot).unwrap();
                assert!(candidate.ready && !candidate.decodes);
                assert!((1..=chunk.min(candidate.pending)).contains(&tokens));
                candidate.decodes = tokens == candidate.pending;
                // The last chunk yields a token, which is pending then.
                candidate.pending = (candidate.pending - tokens).max(1);
                vec![slot]
            }
            StepPlan::Decode { first, slots } => (first..first + slots)
                .inspect(|&slot| {
                    let candidate = live.iter().find(|c| c.slot == slot).unwrap();
                    assert!(candidate.ready && candidate.decodes);
                })
                .collect(),
        }
    }

    proptest! {
        #[test]
        fn every_ready_sequence_advances_soon(
            shapes in prop::collection::vec((any::<bool>(), 1usize..20, any::<bool>()), 1..9),
            chunk in 1usize..8,
        ) {
            let mut live: Vec<Candidate> = shapes
                .iter()
                .enumerate()
                .map(|(slot, &(decodes, pending, ready))| Candidate {
                    slot,
                    arrival: (slot * 7 % 5) as u64,
                    pending: if decodes { 1 } else { pending },
                    decodes,
                    rotary: Rotary::Short,
                    ready,
                })
                .collect();
            let mut scheduler = Scheduler::default();
            let work: usize = live.iter().map(|candidate| candidate.pending).sum();
            let mut advanced = std::collections::BTreeSet::new();
            // Each decode round (at most one step a slot) lets one prefill chunk through.
            for _ in 0..(work + 1) * (live.len() + 1) {
                let step = scheduler.plan(&live, chunk, false);
                let any_ready = live.iter().any(|candidate| candidate.ready);
                prop_assert_eq!(step == StepPlan::Idle, !any_ready);
                advanced.extend(apply(&mut live, step, chunk));
            }
            for candidate in live.iter().filter(|candidate| candidate.ready) {
                prop_assert!(advanced.contains(&candidate.slot), "slot {} starved", candidate.slot);
            }
        }
    }
}
