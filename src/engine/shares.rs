//! Which of the sequences that decode have a token in the next step, where a step of all would take too long
//! for a caller that has few: some of each caller's, in turns.
//!
//! All wait for a step's end, which comes later with each sequence in it. So a caller with one sequence would
//! wait for the sixteen of another. [`super::pace`] bounds the step by the callers' number. If steps take a fixed
//! time and a time for each sequence, each of `n` callers has at least an `n`th of its speed alone: one with few
//! sequences by the bound, one with many since it gets all that the others leave. Pure: it counts sequences.

use std::collections::BTreeMap;

use super::candidate::{Candidate, by_caller};
use phi4d_door::CallerId;

/// The turns of each caller's sequences.
#[derive(Debug, Default)]
pub struct Shares {
    /// The arrival of the sequence that had the last turn.
    last: BTreeMap<CallerId, u64>,
}

impl Shares {
    /// Of the sequences that are `decoding`, those that are in the next step, in ascending order of slots: one of
    /// each caller, and further ones in rounds while all that are chosen fit.
    pub fn choose<'a>(
        &mut self,
        decoding: &[&'a Candidate],
        fit: impl Fn(&[&Candidate]) -> bool,
    ) -> Vec<&'a Candidate> {
        let mut callers = by_caller(decoding);
        self.last.retain(|caller, _| callers.contains_key(caller));
        for (caller, own) in &mut callers {
            own.sort_by_key(|one| one.arrival);
            let last = self.last.get(caller);
            let had = own.partition_point(|one| last.is_some_and(|last| one.arrival <= *last));
            own.rotate_left(had);
        }
        let most = callers.values().map(Vec::len).max().unwrap_or(0);
        let mut chosen: Vec<&Candidate> = Vec::new();
        'rounds: for round in 0..most {
            for next in callers.values().filter_map(|own| own.get(round)) {
                chosen.push(next);
                if round > 0 && !fit(&chosen) {
                    chosen.pop();
                    break 'rounds;
                }
                self.last.insert(next.caller, next.arrival);
            }
        }
        chosen.sort_by_key(|one| one.slot);
        chosen
    }
}
