//! The order of requests that wait for models.

use std::collections::HashMap;

use phi4d_engine::CallerId;

/// The place in the line of a further request of `caller`: behind as many of each other caller as it has itself,
/// so that nobody waits for all of another's, each of which may take two loads.
pub(super) fn place_of(
    line: impl ExactSizeIterator<Item = CallerId> + Clone,
    caller: CallerId,
) -> usize {
    let own = line.clone().filter(|other| *other == caller).count();
    let end = line.len();
    let mut before = HashMap::<CallerId, usize>::new();
    for (place, other) in line.enumerate() {
        let before = before.entry(other).or_default();
        *before += 1;
        if *before > own + 1 {
            return place;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_take_round_robin_turns_in_the_line() {
        let mut line: Vec<(u64, usize)> = Vec::new();
        for (number, caller) in [1, 1, 1, 1, 2, 3, 2, 1, 3].into_iter().enumerate() {
            let callers: Vec<CallerId> = line.iter().map(|(caller, _)| CallerId(*caller)).collect();
            line.insert(place_of(callers.iter().copied(), CallerId(caller)), (caller, number));
        }
        let expected = [(1, 0), (2, 4), (3, 5), (1, 1), (2, 6), (3, 8), (1, 2), (1, 3), (1, 7)];
        assert_eq!(line, expected);
    }
}
