//! Which prompt is read next.
//!
//! Callers get equal parts of prefill: the next chunk goes to the caller that has had least, so that a
//! newcomer does not wait for what others have sent. Of a caller that decodes beside, that counts, too. Within a caller the highest priority is next, then
//! the shortest remaining prompt, so that a short one does not wait for a long one; its oldest prompt gets
//! one of [`AGED`] chunks, so that none starves. Pure: it counts tokens.

use phi4d_door::CallerId;

use super::candidate::Candidate;

/// Of a caller's chunks, one in this many goes to the oldest of its prompts. A long prompt so keeps a
/// quarter of its caller's prefill under a flood of short ones.
const AGED: usize = 4;

/// The most callers to remember that have had more than those whose prompts wait. Further ones are
/// forgotten, those that had least first: a newcomer's place is the worst that this costs the others.
const REMEMBERED: usize = 64;

/// What a caller has had since prompts began to wait.
#[derive(Debug, Clone, Copy)]
struct Served {
    caller: CallerId,
    /// In tokens, as [`Turns::read`] counts them.
    tokens: usize,
    /// Tokens for which the oldest prompt was passed over, less what it has had since in the ratio of [`AGED`].
    /// Nothing while it reads alone, so that a newcomer beside it is next.
    passed: usize,
}

/// The turns of callers and prompts.
#[derive(Debug, Default)]
pub struct Turns {
    served: Vec<Served>,
}

impl Turns {
    /// Chooses among `left` the one that gets the next chunk of `chunk` tokens, or of what remains of it: of the
    /// `prompts` that are ready to be read those that have none in this step yet.
    pub fn next<'a>(
        &mut self,
        prompts: &[&Candidate],
        left: &[&'a Candidate],
        chunk: usize,
    ) -> Option<&'a Candidate> {
        // By all of them: a caller whose prompts are all in the step waits as before, and keeps its place.
        self.join(prompts);
        let shortest = |caller: CallerId| {
            let own = left.iter().filter(|prompt| prompt.caller == caller);
            own.min_by_key(|prompt| (-i64::from(prompt.priority), prompt.pending, prompt.arrival))
        };
        // By what it will have had after the chunk. Whoever needs less goes first, but nobody is
        // behind by more than a chunk for it.
        let (_, _, served, first) = self
            .served
            .iter()
            .filter_map(|served| {
                let first = shortest(served.caller)?;
                let after = served.tokens + first.pending.min(chunk);
                Some((after, first.arrival, served, first))
            })
            .min_by_key(|&(after, arrival, ..)| (after, arrival))?;
        let due = served.passed >= chunk.saturating_mul(AGED - 1);
        if due { oldest(left, served.caller) } else { Some(first) }
    }

    /// Counts `tokens` tokens of `read`, one of `prompts`, as read, and no less than `least`: a step takes part
    /// of its time whatever is in it.
    pub fn read(&mut self, prompts: &[&Candidate], read: &Candidate, tokens: usize, least: usize) {
        let of_caller = |served: &&mut Served| served.caller == read.caller;
        let Some(served) = self.served.iter_mut().find(of_caller) else { return };
        let tokens = tokens.max(least);
        served.tokens += tokens;
        let is_oldest =
            oldest(prompts, read.caller).is_some_and(|oldest| oldest.arrival == read.arrival);
        served.passed = match is_oldest {
            true => served.passed.saturating_sub(tokens * (AGED - 1)),
            false => served.passed + tokens,
        };
    }

    /// Counts a step with `tokens` tokens of `prompts` for callers that have sequences `decoding` in it, too: these
    /// are counted as a caller's equal part of the tokens. So a prompt beside a caller that has both gets more than
    /// half of what prompts get, which is half of the step.
    pub fn decode(&mut self, prompts: &[&Candidate], decoding: &[&Candidate], tokens: usize) {
        let waits = |served: &&mut Served| prompts.iter().any(|one| one.caller == served.caller);
        let callers = self.served.iter_mut().filter(waits).count();
        for served in self.served.iter_mut().filter(waits) {
            let own = decoding.iter().filter(|one| one.caller == served.caller).count();
            served.tokens += tokens * own / (decoding.len() * callers).max(1);
        }
    }

    /// Brings the callers of `prompts` in. One that comes, or comes back, begins with what the least
    /// served of those that wait has had: it neither has to be made up for, nor is it ahead.
    fn join(&mut self, prompts: &[&Candidate]) {
        let waits = |caller: CallerId| prompts.iter().any(|prompt| prompt.caller == caller);
        let waiting = self.served.iter().filter(|served| waits(served.caller));
        let Some(least) = waiting.map(|served| served.tokens).min() else {
            // Nobody has waited until now, so there is nothing to be fair about.
            self.served.clear();
            return self.add(prompts, 0);
        };
        // A caller that has had more is remembered, so that it gains nothing by sending its prompts one
        // after another.
        self.served.retain(|served| waits(served.caller) || served.tokens > least);
        while self.served.len() > REMEMBERED {
            let gone = (0..self.served.len())
                .filter(|&index| !waits(self.served[index].caller))
                .min_by_key(|&index| self.served[index].tokens);
            // Those that wait have slots, which bounds them.
            let Some(gone) = gone else { break };
            self.served.swap_remove(gone);
        }
        self.add(prompts, least);
    }

    fn add(&mut self, prompts: &[&Candidate], tokens: usize) {
        for &&Candidate { caller, .. } in prompts {
            if !self.served.iter().any(|served| served.caller == caller) {
                self.served.push(Served { caller, tokens, passed: 0 });
            }
        }
    }
}

/// The oldest of a caller's prompts.
fn oldest<'a>(prompts: &[&'a Candidate], caller: CallerId) -> Option<&'a Candidate> {
    let own = prompts.iter().filter(|prompt| prompt.caller == caller);
    own.min_by_key(|prompt| prompt.arrival).copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use phi4d_model::Rotary;

    fn prompt(caller: u64, arrival: u64, pending: usize) -> Candidate {
        Candidate {
            slot: 0,
            caller: CallerId(caller),
            priority: 0,
            arrival,
            past: 0,
            pending,
            decodes: false,
            rotary: Rotary::Short,
            ready: true,
        }
    }

    /// Reads a chunk of `chunk` tokens of one of `prompts`; returns the arrival of that one.
    fn turn(turns: &mut Turns, prompts: &[Candidate], chunk: usize) -> u64 {
        let prompts: Vec<&Candidate> = prompts.iter().collect();
        let next = turns.next(&prompts, &prompts, chunk).unwrap();
        turns.read(&prompts, next, next.pending.min(chunk), chunk / 4);
        next.arrival
    }

    /// Reads chunks of `chunk` tokens of `prompts` until all are read; returns the arrivals chosen.
    fn read(
        turns: &mut Turns,
        prompts: &mut Vec<Candidate>,
        chunk: usize,
        chunks: usize,
    ) -> Vec<u64> {
        let mut order = Vec::new();
        while order.len() < chunks && !prompts.is_empty() {
            let next = turn(turns, prompts, chunk);
            let place = prompts.iter().position(|prompt| prompt.arrival == next).unwrap();
            prompts[place].pending = prompts[place].pending.saturating_sub(chunk);
            if prompts[place].pending == 0 {
                prompts.swap_remove(place);
            }
            order.push(next);
        }
        order
    }

    #[test]
    fn a_short_prompt_waits_for_no_long_one_of_its_caller_or_of_another() {
        for (caller, before) in (1..3).flat_map(|caller| (1..9).map(move |chunks| (caller, chunks)))
        {
            let mut turns = Turns::default();
            let mut prompts = vec![prompt(1, 0, 4000)];
            read(&mut turns, &mut prompts, 256, before);
            prompts.push(prompt(caller, 1, 10));
            assert_eq!(read(&mut turns, &mut prompts, 256, 1), [1]);
        }
    }

    #[test]
    fn of_one_caller_the_highest_priority_is_next_and_the_oldest_gets_a_quarter() {
        let mut turns = Turns::default();
        let mut prompts = vec![prompt(1, 0, 4000), prompt(1, 1, 3000)];
        prompts[1].priority = 1;
        assert_eq!(read(&mut turns, &mut prompts, 100, 8), [1, 1, 1, 0, 1, 1, 1, 0]);
    }

    #[test]
    fn callers_that_send_much_or_one_after_another_get_no_more_than_their_part() {
        let mut turns = Turns::default();
        // One caller has a long prompt, another always has a new one of 200 tokens, a third many.
        let mut prompts = vec![prompt(1, 0, 100_000)];
        prompts.extend((0..8).map(|i| prompt(3, 1000 + i, 100_000)));
        let mut had = std::collections::BTreeMap::<_, usize>::new();
        for arrival in 1..600 {
            if !prompts.iter().any(|prompt| prompt.caller == CallerId(2)) {
                prompts.push(prompt(2, arrival, 200));
            }
            let next = turn(&mut turns, &prompts, 100);
            let place = prompts.iter().position(|prompt| prompt.arrival == next).unwrap();
            *had.entry(prompts[place].caller.0).or_default() += 1;
            prompts[place].pending -= 100;
            prompts.retain(|prompt| prompt.pending > 0);
        }
        assert!(had.len() == 3 && had.values().all(|part| (195..=205).contains(part)), "{had:?}");
    }

    #[test]
    fn the_callers_that_are_remembered_are_bounded() {
        let mut turns = Turns::default();
        let long = prompt(0, 0, 100_000);
        for caller in 1..1000 {
            let short = prompt(caller, caller, 100);
            turn(&mut turns, &[long, short], 100);
        }
        assert!(turns.served.len() <= REMEMBERED + 2);
    }

    proptest! {
        /// Whoever waits, of whichever callers: a newcomer with one chunk to read waits for one chunk of
        /// each other caller at most, and for one of an older prompt of its own.
        #[test]
        fn a_newcomer_waits_for_a_bounded_number_of_chunks(
            waiting in prop::collection::vec((0u64..5, 1usize..5000), 1..12),
            before in 0usize..60,
            caller in 0u64..6,
            length in 1usize..100,
        ) {
            let mut turns = Turns::default();
            let mut prompts: Vec<Candidate> = (0..)
                .zip(&waiting)
                .map(|(arrival, &(caller, pending))| prompt(caller, arrival, pending))
                .collect();
            read(&mut turns, &mut prompts, 100, before);
            prompts.retain(|prompt| prompt.pending > length);
            let others: std::collections::BTreeSet<u64> = prompts
                .iter()
                .map(|prompt| prompt.caller.0)
                .filter(|&other| other != caller)
                .collect();
            prompts.push(prompt(caller, 1000, length));
            let mut chunks = 0;
            while turn(&mut turns, &prompts, 100) != 1000 {
                chunks += 1;
                prop_assert!(chunks <= 2 * others.len() + 1, "{chunks} with {} others", others.len());
            }
        }

        /// No prompt waits longer than it takes to read a bounded amount of the others.
        #[test]
        fn no_prompt_starves_under_a_flood_of_short_ones(
            flood in prop::collection::vec((0u64..4, 1usize..300), 1..6),
            caller in 0u64..5,
            length in 100usize..2000,
        ) {
            let mut turns = Turns::default();
            let mut prompts = vec![prompt(caller, 0, length)];
            let callers: std::collections::BTreeSet<u64> =
                flood.iter().map(|&(caller, _)| caller).chain([caller]).collect();
            let (mut arrival, mut chunks) = (1, 0);
            let mut next = flood.iter().cycle();
            while prompts.iter().any(|prompt| prompt.arrival == 0) {
                // Each is replaced as soon as it is read.
                while prompts.len() <= flood.len() {
                    let &(caller, length) = next.next().unwrap();
                    prompts.push(prompt(caller, arrival, length));
                    arrival += 1;
                }
                read(&mut turns, &mut prompts, 100, 1);
                chunks += 1;
                // A quarter of its caller's part, whose chunks may count a quarter each.
                let most = (length.div_ceil(100) + 1) * 4 * 4 * callers.len() + 8;
                prop_assert!(chunks <= most, "{chunks} chunks");
            }
        }
    }
}
