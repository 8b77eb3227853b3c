//! What to run next. Pure: it sees counts, not tensors, and no clock.
//!
//! Policy: prefill and decode take turns. A prefill turn runs one chunk of the sequence that came
//! first, since the model's attention takes a prompt with cached tokens one sequence at a time. A
//! decode turn advances every ready sequence by one token, in one step for each run of neighbouring
//! rows; the cache keeps decoding rows together, so that is one step unless a reader is slow. How
//! large the chunk is beside decoding sequences is [`super::pace`]'s to say.

use phi4d_model::Rotary;

/// A live sequence as the scheduler sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its row of the KV cache.
    pub row: usize,
    /// When it came; lower came first.
    pub arrival: u64,
    /// Tokens that the model has not read yet: at least 1.
    pub pending: usize,
    /// Whether it has read its prompt and adds a token a step.
    pub decodes: bool,
    /// The rotary table of its keys, which all sequences of a step have in common.
    pub rotary: Rotary,
    /// Whether there is room for the events of a step.
    pub ready: bool,
}

/// One step of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepPlan {
    /// Nothing can run.
    Idle,
    /// The next `tokens` pending tokens of the sequence in `row`.
    Prefill {
        /// Whose.
        row: usize,
        /// How many.
        tokens: usize,
    },
    /// One token for each sequence in rows `first..first + rows`.
    Decode {
        /// The first row.
        first: usize,
        /// How many.
        rows: usize,
    },
}

/// The scheduler's state between steps.
#[derive(Debug, Default)]
pub struct Scheduler {
    /// Row from which the decode turn in progress goes on; `None` between decode turns.
    decode_from: Option<usize>,
}

impl Scheduler {
    /// Plans one step over `live`, which is in row order. A prefill takes up to `chunk` tokens; if it
    /// `waits`, decoding sequences that are ready have its turn.
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
            // The decode turn is over; a prefill, if any, has the next.
            return prefill().or_else(|| self.decode(live, 0)).unwrap_or(StepPlan::Idle);
        }
        self.decode(live, 0).or_else(prefill).unwrap_or(StepPlan::Idle)
    }

    fn prefill(live: &[Candidate], chunk: usize) -> Option<StepPlan> {
        let next = live
            .iter()
            .filter(|candidate| candidate.ready && !candidate.decodes)
            .min_by_key(|candidate| candidate.arrival)?;
        Some(StepPlan::Prefill { row: next.row, tokens: next.pending.min(chunk.max(1)) })
    }

    /// The first run of neighbouring ready rows of one rotary table at or after `from`.
    fn decode(&mut self, live: &[Candidate], from: usize) -> Option<StepPlan> {
        let mut run = live
            .iter()
            .filter(|candidate| candidate.row >= from && candidate.ready && candidate.decodes);
        let first = run.next()?;
        let mut end = first.row + 1;
        for next in run {
            if next.row != end || next.rotary != first.rotary {
                break;
            }
            end += 1;
        }
        self.decode_from = Some(end);
        Some(StepPlan::Decode { first: first.row, rows: end - first.row })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoding(row: usize) -> Candidate {
        let rotary = Rotary::Short;
        Candidate { row, arrival: row as u64, pending: 1, decodes: true, rotary, ready: true }
    }

    fn prefilling(row: usize, pending: usize) -> Candidate {
        Candidate { pending, decodes: false, ..decoding(row) }
    }

    #[test]
    fn prefill_and_decode_take_turns() {
        let mut scheduler = Scheduler::default();
        let mut parked = decoding(1);
        parked.ready = false;
        let live = [decoding(0), parked, decoding(2), prefilling(3, 10)];
        let steps: Vec<StepPlan> = (0..6).map(|_| scheduler.plan(&live, 4, false)).collect();
        let turn = [
            StepPlan::Decode { first: 0, rows: 1 },
            StepPlan::Decode { first: 2, rows: 1 },
            StepPlan::Prefill { row: 3, tokens: 4 },
        ];
        assert_eq!(steps, [turn, turn].concat());
    }

    #[test]
    fn a_prefill_that_waits_lets_decoding_go_on_but_not_idle() {
        let mut scheduler = Scheduler::default();
        let mut live = [decoding(0), prefilling(1, 10)];
        for _ in 0..5 {
            assert_eq!(scheduler.plan(&live, 4, true), StepPlan::Decode { first: 0, rows: 1 });
        }
        live[0].ready = false;
        assert_eq!(scheduler.plan(&live, 4, true), StepPlan::Prefill { row: 1, tokens: 4 });
    }

    #[test]
    fn neighbours_decode_together() {
        let live = [decoding(0), decoding(1), decoding(2)];
        let mut scheduler = Scheduler::default();
        for _ in 0..3 {
            assert_eq!(scheduler.plan(&live, 4, false), StepPlan::Decode { first: 0, rows: 3 });
        }
    }

    #[test]
    fn rows_of_two_rotary_tables_decode_apart_in_one_turn() {
        let mut live = [decoding(0), decoding(1), decoding(2), prefilling(3, 10)];
        live[2].rotary = Rotary::Long;
        let mut scheduler = Scheduler::default();
        let steps: Vec<StepPlan> = (0..3).map(|_| scheduler.plan(&live, 4, false)).collect();
        let turn = [
            StepPlan::Decode { first: 0, rows: 2 },
            StepPlan::Decode { first: 2, rows: 1 },
            StepPlan::Prefill { row: 3, tokens: 4 },
        ];
        assert_eq!(steps, turn);
    }

    #[test]
    fn nothing_ready_is_idle() {
        let parked = Candidate { ready: false, ..decoding(0) };
        assert_eq!(Scheduler::default().plan(&[parked], 4, false), StepPlan::Idle);
        assert_eq!(Scheduler::default().plan(&[], 4, false), StepPlan::Idle);
    }

    /// Applies a step to the live sequences, and checks that it was allowed.
    fn apply(live: &mut [Candidate], step: StepPlan, chunk: usize) -> Vec<usize> {
        match step {
            StepPlan::Idle => Vec::new(),
            StepPlan::Prefill { row, tokens } => {
                let candidate = live.iter_mut().find(|c| c.row == row).unwrap();
                assert!(candidate.ready && !candidate.decodes);
                assert!((1..=chunk.min(candidate.pending)).contains(&tokens));
                candidate.decodes = tokens == candidate.pending;
                // The last chunk yields a token, which is pending in its turn.
                candidate.pending = (candidate.pending - tokens).max(1);
                vec![row]
            }
            StepPlan::Decode { first, rows } => (first..first + rows)
                .inspect(|&row| {
                    let candidate = live.iter().find(|c| c.row == row).unwrap();
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
                .map(|(row, &(decodes, pending, ready))| Candidate {
                    row,
                    arrival: (row * 7 % 5) as u64,
                    pending: if decodes { 1 } else { pending },
                    decodes,
                    rotary: Rotary::Short,
                    ready,
                })
                .collect();
            let mut scheduler = Scheduler::default();
            let work: usize = live.iter().map(|candidate| candidate.pending).sum();
            let mut advanced = std::collections::BTreeSet::new();
            // Each turn of decode steps (at most one a row) lets one prefill chunk through.
            for _ in 0..(work + 1) * (live.len() + 1) {
                let step = scheduler.plan(&live, chunk, false);
                let any_ready = live.iter().any(|candidate| candidate.ready);
                prop_assert_eq!(step == StepPlan::Idle, !any_ready);
                advanced.extend(apply(&mut live, step, chunk));
            }
            for candidate in live.iter().filter(|candidate| candidate.ready) {
                prop_assert!(advanced.contains(&candidate.row), "row {} starved", candidate.row);
            }
        }
    }
}
