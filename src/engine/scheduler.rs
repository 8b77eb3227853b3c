//! What to run next. Pure: it sees counts, not tensors, and no clock.
//!
//! Policy: prefill and decode take turns. A prefill turn runs one chunk of the sequence that came
//! first, since the model's attention takes a prompt with cached tokens one sequence at a time. A
//! decode turn advances every ready sequence by one token, one step for each run of neighbouring
//! slots. So a long prompt delays the others by one chunk a token, and they delay it by one step a
//! chunk.

/// A live sequence as the scheduler sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its KV-cache slot.
    pub slot: usize,
    /// When it was admitted; lower came first.
    pub arrival: u64,
    /// Tokens that its slot holds.
    pub cached: usize,
    /// Tokens that the model has not read yet: at least 1.
    pub pending: usize,
    /// Whether there is room for the events of a step.
    pub ready: bool,
}

impl Candidate {
    /// A sequence decodes once all but its newest token are cached; till then it prefills.
    fn decodes(&self) -> bool {
        self.pending == 1 && self.cached > 0
    }
}

/// One step of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepPlan {
    /// Nothing can run.
    Idle,
    /// The next `tokens` pending tokens of the sequence in `slot`.
    Prefill {
        /// Whose.
        slot: usize,
        /// How many.
        tokens: usize,
    },
    /// One token for each sequence in `slots first..first + rows`.
    Decode {
        /// The first slot.
        first: usize,
        /// How many.
        rows: usize,
    },
}

/// The scheduler's state between steps.
#[derive(Debug)]
pub struct Scheduler {
    chunk: usize,
    /// Slot from which the decode turn in progress goes on; `None` between decode turns.
    decode_from: Option<usize>,
}

impl Scheduler {
    /// A scheduler that prefills at most `chunk` tokens in a step.
    #[must_use]
    pub fn new(chunk: usize) -> Self {
        Self { chunk: chunk.max(1), decode_from: None }
    }

    /// Plans one step over `live`, which is in slot order.
    pub fn plan(&mut self, live: &[Candidate]) -> StepPlan {
        if let Some(from) = self.decode_from {
            if let Some(step) = self.decode(live, from) {
                return step;
            }
            self.decode_from = None;
            // The decode turn is over; a prefill, if any, has the next.
            return self.prefill(live).or_else(|| self.decode(live, 0)).unwrap_or(StepPlan::Idle);
        }
        self.decode(live, 0).or_else(|| self.prefill(live)).unwrap_or(StepPlan::Idle)
    }

    fn prefill(&self, live: &[Candidate]) -> Option<StepPlan> {
        let next = live
            .iter()
            .filter(|candidate| candidate.ready && !candidate.decodes())
            .min_by_key(|candidate| candidate.arrival)?;
        Some(StepPlan::Prefill { slot: next.slot, tokens: next.pending.min(self.chunk) })
    }

    /// The first run of neighbouring ready slots at or after slot `from`.
    fn decode(&mut self, live: &[Candidate], from: usize) -> Option<StepPlan> {
        let mut run = live
            .iter()
            .filter(|candidate| candidate.slot >= from && candidate.ready && candidate.decodes())
            .map(|candidate| candidate.slot);
        let first = run.next()?;
        let mut end = first + 1;
        for slot in run {
            if slot != end {
                break;
            }
            end += 1;
        }
        self.decode_from = Some(end);
        Some(StepPlan::Decode { first, rows: end - first })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoding(slot: usize) -> Candidate {
        Candidate { slot, arrival: slot as u64, cached: 5, pending: 1, ready: true }
    }

    fn prefilling(slot: usize, pending: usize) -> Candidate {
        Candidate { slot, arrival: slot as u64, cached: 0, pending, ready: true }
    }

    #[test]
    fn prefill_and_decode_take_turns() {
        let mut scheduler = Scheduler::new(4);
        let live = [decoding(0), prefilling(1, 10), decoding(2)];
        let steps: Vec<StepPlan> = (0..6).map(|_| scheduler.plan(&live)).collect();
        let turn = [
            StepPlan::Decode { first: 0, rows: 1 },
            StepPlan::Decode { first: 2, rows: 1 },
            StepPlan::Prefill { slot: 1, tokens: 4 },
        ];
        assert_eq!(steps, [turn, turn].concat());
    }

    #[test]
    fn neighbours_decode_together_and_a_parked_one_splits_them() {
        let mut scheduler = Scheduler::new(4);
        let mut live = [decoding(0), decoding(1), decoding(2)];
        assert_eq!(scheduler.plan(&live), StepPlan::Decode { first: 0, rows: 3 });
        live[1].ready = false;
        assert_eq!(scheduler.plan(&live), StepPlan::Decode { first: 0, rows: 1 });
        assert_eq!(scheduler.plan(&live), StepPlan::Decode { first: 2, rows: 1 });
    }

    #[test]
    fn a_prompt_of_one_token_is_prefilled() {
        let mut scheduler = Scheduler::new(4);
        assert_eq!(scheduler.plan(&[prefilling(3, 1)]), StepPlan::Prefill { slot: 3, tokens: 1 });
    }

    #[test]
    fn nothing_ready_is_idle() {
        let parked = Candidate { ready: false, ..decoding(0) };
        assert_eq!(Scheduler::new(4).plan(&[parked]), StepPlan::Idle);
        assert_eq!(Scheduler::new(4).plan(&[]), StepPlan::Idle);
    }

    /// Applies a step to the model of the live sequences and checks that it was allowed.
    fn apply(live: &mut [Candidate], step: StepPlan, chunk: usize) -> Vec<usize> {
        match step {
            StepPlan::Idle => Vec::new(),
            StepPlan::Prefill { slot, tokens } => {
                let candidate = live.iter_mut().find(|c| c.slot == slot).unwrap();
                assert!(candidate.ready && (1..=chunk).contains(&tokens));
                assert!(tokens <= candidate.pending && !candidate.decodes());
                candidate.cached += tokens;
                // The last chunk yields a token, which is pending in its turn.
                candidate.pending = (candidate.pending - tokens).max(1);
                vec![slot]
            }
            StepPlan::Decode { first, rows } => (first..first + rows)
                .inspect(|&slot| {
                    let candidate = live.iter_mut().find(|c| c.slot == slot).unwrap();
                    assert!(candidate.ready && candidate.decodes());
                    candidate.cached += 1;
                })
                .collect(),
        }
    }

    proptest! {
        #[test]
        fn every_ready_sequence_advances_soon(
            shapes in prop::collection::vec((any::<bool>(), 0usize..3, 1usize..20, any::<bool>()), 1..9),
            chunk in 1usize..8,
        ) {
            let mut live: Vec<Candidate> = shapes
                .iter()
                .enumerate()
                .filter(|(_, shape)| shape.0)
                .map(|(slot, &(_, cached, pending, ready))| Candidate {
                    slot,
                    arrival: (slot * 7 % 5) as u64,
                    cached,
                    pending,
                    ready,
                })
                .collect();
            let mut scheduler = Scheduler::new(chunk);
            let work: usize = live.iter().map(|candidate| candidate.pending).sum();
            let mut advanced = std::collections::BTreeSet::new();
            // Each turn of decode steps (at most one a slot) lets one prefill chunk through.
            for _ in 0..(work + 1) * (live.len() + 1) {
                let step = scheduler.plan(&live);
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
