//! Plans the next step. Pure: it sees counts, but no tensors and no clock.
//!
//! A step is a list of [`Span`]s. Runners that mix take any of them: ready sequences advance by a token, all or
//! as many of each caller as [`super::shares`] says, and prompts share the rest of the step
//! ([`Scheduler::mixed`]). Others take the chunk of one prompt, or one
//! token for each of neighbouring slots, so a plan is one of these. Decode rounds, which advance every ready sequence by one
//! token, and prefill chunks take turns: a chunk runs between two rounds when [`super::pace`] does not
//! let it wait. The cache keeps decoding sequences in neighbouring slots, so a round is one step unless
//! sequences are paused or their rotary tables differ. [`super::turns`] chooses the prompt.

use std::collections::BTreeSet;

use super::candidate::{Candidate, by_caller};
use super::cost::Work;
use super::pace::{Company, Crowd, Pace};
use super::shares::Shares;
use super::turns::Turns;
use phi4d_door::CallerId;
use phi4d_model::Rotary;

/// The part of a step that one sequence has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The slot of the sequence.
    pub slot: usize,
    /// How many of its pending tokens are read.
    pub tokens: usize,
    /// Whether it decodes.
    pub decodes: bool,
}

/// One step of the model; empty if nothing can run.
pub type StepPlan = Vec<Span>;

/// What [`super::pace`] allows the next step.
pub struct Budget<'a> {
    /// Whether sequences that decode go first.
    pub prefill_waits: bool,
    /// The size of a chunk behind a number of cached tokens.
    pub chunk: &'a dyn Fn(usize) -> usize,
    /// For runners that mix: says what a step may hold.
    pub mixes: Option<&'a Pace>,
}

/// The scheduler's state between steps.
#[derive(Debug, Default)]
pub struct Scheduler {
    /// The slot from which the current decode round continues; `None` between rounds.
    decode_from: Option<usize>,
    /// Whether each sequence decodes in a step of its own.
    apart: bool,
    /// The rotary table of the last mixed step.
    rotary: Option<Rotary>,
    turns: Turns,
    shares: Shares,
}

impl Scheduler {
    /// A scheduler whose sequences decode together or, if `apart`, each in a step of its own.
    pub fn new(apart: bool) -> Self {
        Self { apart, ..Self::default() }
    }

    /// Plans the next step over `live` sequences, in ascending order of slots.
    pub fn plan(&mut self, live: &[Candidate], budget: &Budget<'_>) -> StepPlan {
        if let Some(pace) = budget.mixes {
            return self.mixed(live, pace);
        }
        // The rest of a round that has begun goes first, so that all decode equally often.
        if let Some(from) = self.decode_from.take()
            && let Some(plan) = self.decode(live, from)
        {
            return plan;
        }
        if !budget.prefill_waits
            && let Some(plan) = self.prefill(live, budget)
        {
            return plan;
        }
        let plan = self.decode(live, 0).or_else(|| self.prefill(live, budget));
        plan.unwrap_or_default()
    }

    /// Plans one token for each of the sequences that are ready to decode and have a turn, and chunks of prompts
    /// in what they leave of the step. All have one rotary table; where there are two, they take turns.
    fn mixed(&mut self, live: &[Candidate], pace: &Pace) -> StepPlan {
        let ready = || live.iter().filter(|candidate| candidate.ready);
        let other = ready().find(|candidate| Some(candidate.rotary) != self.rotary);
        let Some(first) = other.or_else(|| ready().next()) else { return Vec::new() };
        let rotary = first.rotary;
        self.rotary = Some(rotary);
        let of_table = ready().filter(|candidate| candidate.rotary == rotary);
        let (decoding, prompts): (Vec<_>, Vec<_>) = of_table.partition(|one| one.decodes);
        // Also one that is not ready now, as by the next step it may be.
        let company = if live.len() == 1 { Company::Nobody } else { Company::Others };
        let crowd = crowd(&decoding, &prompts);
        let chosen = match pace.fits(work(&decoding), &crowd) {
            true => decoding,
            false => self.shares.choose(&decoding, |chosen| pace.fits(work(chosen), &crowd)),
        };
        let mut plan: StepPlan = chosen
            .iter()
            .map(|candidate| Span { slot: candidate.slot, tokens: 1, decodes: true })
            .collect();
        plan.extend(self.join_prompts(&chosen, &prompts, company, pace));
        plan
    }

    /// The chunks of `prompts` that join a step of the sequences that are `decoding`.
    fn join_prompts(
        &mut self,
        decoding: &[&Candidate],
        prompts: &[&Candidate],
        company: Company,
        pace: &Pace,
    ) -> Vec<Span> {
        let mut work = work(decoding);
        let mut left = prompts.to_vec();
        let mut chunks = Vec::new();
        let usual = pace.joins(work, 0, company);
        let mut ends = false;
        while let Some(next) = self.turns.next(prompts, &left, usual) {
            let none_yet = work.prefill_tokens == 0;
            let mut tokens = pace.joins(work, next.past, company).max(usize::from(none_yet));
            // A prompt that ends here waits for others that end, too, but not for parts of longer ones.
            if ends && tokens < next.pending {
                tokens = pace.joins(work, next.past, Company::Ending).min(tokens);
            }
            let tokens = tokens.min(next.pending);
            if tokens == 0 {
                break;
            }
            ends |= tokens == next.pending;
            self.turns.read(&left, next, tokens, if none_yet { usual / 4 } else { 0 });
            work = work.and(Work::chunk(next.past, tokens));
            chunks.push(Span { slot: next.slot, tokens, decodes: false });
            left.retain(|prompt| prompt.slot != next.slot);
        }
        self.turns.decode(prompts, decoding, work.prefill_tokens);
        chunks
    }

    fn prefill(&mut self, live: &[Candidate], budget: &Budget<'_>) -> Option<StepPlan> {
        let prompts: Vec<&Candidate> =
            live.iter().filter(|candidate| candidate.ready && !candidate.decodes).collect();
        let usual = (budget.chunk)(0);
        let next = self.turns.next(&prompts, &prompts, usual)?;
        let tokens = next.pending.min((budget.chunk)(next.past).max(1));
        self.turns.read(&prompts, next, tokens, usual / 4);
        Some(vec![Span { slot: next.slot, tokens, decodes: false }])
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
        let spans = (first.slot..end).map(|slot| Span { slot, tokens: 1, decodes: true });
        Some(spans.collect())
    }
}

/// A token of each of the sequences that are `decoding`.
fn work(decoding: &[&Candidate]) -> Work {
    let past: Vec<usize> = decoding.iter().map(|one| one.past).collect();
    Work::decode(&past)
}

/// The callers of the sequences that are `decoding`, and of `prompts`.
fn crowd(decoding: &[&Candidate], prompts: &[&Candidate]) -> Crowd {
    let decoding = by_caller(decoding);
    let own = decoding.values().map(|own| work(own)).collect();
    let mut callers: BTreeSet<CallerId> = decoding.into_keys().collect();
    callers.extend(prompts.iter().map(|one| one.caller));
    Crowd { callers: callers.len(), own, prompts: !prompts.is_empty() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::time::Duration;

    use super::*;
    use crate::pace::Aims;

    const MS: Duration = Duration::from_millis(1);

    fn decoding(slot: usize) -> Candidate {
        Candidate {
            slot,
            caller: CallerId(0),
            priority: 0,
            arrival: slot as u64,
            past: 10,
            pending: 1,
            decodes: true,
            rotary: Rotary::Short,
            ready: true,
        }
    }

    fn prefilling(slot: usize, pending: usize) -> Candidate {
        Candidate { past: 0, pending, decodes: false, ..decoding(slot) }
    }

    /// Chunks of four tokens that wait or not.
    fn budget(prefill_waits: bool) -> Budget<'static> {
        Budget { prefill_waits, chunk: &|_| 4, mixes: None }
    }

    fn decode(slots: std::ops::Range<usize>) -> StepPlan {
        slots.map(|slot| Span { slot, tokens: 1, decodes: true }).collect()
    }

    fn chunk(slot: usize, tokens: usize) -> StepPlan {
        vec![Span { slot, tokens, decodes: false }]
    }

    #[test]
    fn a_chunk_runs_between_rounds_unless_it_waits() {
        let mut scheduler = Scheduler::default();
        let mut paused = decoding(1);
        paused.ready = false;
        let live = [decoding(0), paused, decoding(2), prefilling(3, 10)];
        assert_eq!(scheduler.plan(&live, &budget(false)), chunk(3, 4));
        // The pause leaves a gap, so the round has two steps, and no chunk is between them.
        assert_eq!(scheduler.plan(&live, &budget(true)), decode(0..1));
        assert_eq!(scheduler.plan(&live, &budget(false)), decode(2..3));
        assert_eq!(scheduler.plan(&live, &budget(true)), decode(0..1));
        assert_eq!(scheduler.plan(&live, &budget(false)), decode(2..3));
        assert_eq!(scheduler.plan(&live, &budget(false)), chunk(3, 4));
    }

    #[test]
    fn a_prefill_that_waits_lets_decoding_go_on_but_not_idle() {
        let mut scheduler = Scheduler::default();
        let mut live = [decoding(0), prefilling(1, 10)];
        for _ in 0..5 {
            assert_eq!(scheduler.plan(&live, &budget(true)), decode(0..1));
        }
        live[0].ready = false;
        assert_eq!(scheduler.plan(&live, &budget(true)), chunk(1, 4));
    }

    #[test]
    fn neighbours_decode_together() {
        let live = [decoding(0), decoding(1), decoding(2)];
        let mut scheduler = Scheduler::default();
        for _ in 0..3 {
            assert_eq!(scheduler.plan(&live, &budget(false)), decode(0..3));
        }
    }

    #[test]
    fn where_steps_of_several_round_differently_each_decodes_apart() {
        let mut scheduler = Scheduler::new(true);
        let live = [decoding(0), decoding(1), prefilling(2, 10)];
        let steps: Vec<StepPlan> =
            [true, false, false, true].map(|waits| scheduler.plan(&live, &budget(waits))).into();
        assert_eq!(steps, [decode(0..1), decode(1..2), chunk(2, 4), decode(0..1)]);
    }

    #[test]
    fn slots_of_two_rotary_tables_decode_apart_in_one_round() {
        let mut live = [decoding(0), decoding(1), decoding(2), prefilling(3, 10)];
        live[2].rotary = Rotary::Long;
        let mut scheduler = Scheduler::default();
        let steps: Vec<StepPlan> =
            [true, false, false].map(|waits| scheduler.plan(&live, &budget(waits))).into();
        assert_eq!(steps, [decode(0..2), decode(2..3), chunk(3, 4)]);
    }

    #[test]
    fn nothing_ready_is_idle() {
        let paused = Candidate { ready: false, ..decoding(0) };
        assert!(Scheduler::default().plan(&[paused], &budget(false)).is_empty());
        assert!(Scheduler::default().plan(&[], &budget(false)).is_empty());
    }

    #[test]
    fn callers_get_equal_parts_of_steps_that_have_chunks_of_both() {
        let mut scheduler = Scheduler::default();
        let aims = Aims { share: 0.5, chunk: MS, most_tokens: 256, draft_tokens: 0 };
        let mut pace = Pace::new(aims);
        for tokens in (2..20).cycle().take(100) {
            pace.prefilled(0, tokens, (3 + u32::try_from(tokens).unwrap()) * MS, false);
        }
        let budget = Budget { prefill_waits: false, chunk: &|_| 9, mixes: Some(&pace) };
        let long = prefilling(0, 1000);
        let (mut had, mut others, mut both) = (0, 0, 0);
        for arrival in 1..100 {
            // Another caller always has a new prompt, which leaves some of the step.
            let short = Candidate { caller: CallerId(1), arrival, ..prefilling(1, 4) };
            let plan = scheduler.plan(&[long, short], &budget);
            let of =
                |slot| plan.iter().find(|span| span.slot == slot).map_or(0, |span| span.tokens);
            had += of(0);
            others += of(1);
            both += usize::from(plan.len() == 2);
        }
        assert!(had.abs_diff(others) * 8 < had && both > 20, "{had}, {others}, {both} of 99");
    }

    /// Applies a step to the live sequences, and checks that it was allowed.
    fn apply(live: &mut [Candidate], step: &StepPlan, chunk: usize) {
        assert!(step.iter().all(|span| span.decodes) || step.len() == 1);
        assert!(step.windows(2).all(|pair| pair[0].slot + 1 == pair[1].slot));
        for span in step {
            let candidate = live.iter_mut().find(|c| c.slot == span.slot).unwrap();
            assert!(candidate.ready && candidate.decodes == span.decodes);
            assert!((1..=chunk.min(candidate.pending)).contains(&span.tokens));
            candidate.decodes |= span.tokens == candidate.pending;
            // The last chunk yields a token, which is pending then.
            candidate.pending = (candidate.pending - span.tokens).max(1);
        }
    }

    proptest! {
        #[test]
        fn every_ready_sequence_advances_soon(
            shapes in prop::collection::vec((any::<bool>(), 1usize..20, any::<bool>(), 0u64..3), 1..9),
            chunk in 1usize..8,
        ) {
            let mut live: Vec<Candidate> = shapes
                .iter()
                .enumerate()
                .map(|(slot, &(decodes, pending, ready, caller))| Candidate {
                    arrival: (slot * 7 % 5) as u64,
                    caller: CallerId(caller),
                    pending: if decodes { 1 } else { pending },
                    decodes,
                    ready,
                    ..decoding(slot)
                })
                .collect();
            let mut scheduler = Scheduler::default();
            let work: usize = live.iter().map(|candidate| candidate.pending).sum();
            let mut advanced = std::collections::BTreeSet::new();
            let mut waits = false;
            for _ in 0..2 * (work + 1) * (live.len() + 1) {
                let budget = Budget { prefill_waits: waits, chunk: &|_| chunk, mixes: None };
                let step = scheduler.plan(&live, &budget);
                prop_assert_eq!(step.is_empty(), !live.iter().any(|candidate| candidate.ready));
                // As the pace does it: decoding is owed a step after each chunk.
                waits = step.iter().any(|span| !span.decodes);
                advanced.extend(step.iter().map(|span| span.slot));
                apply(&mut live, &step, chunk);
            }
            for candidate in live.iter().filter(|candidate| candidate.ready) {
                prop_assert!(advanced.contains(&candidate.slot), "slot {} starved", candidate.slot);
            }
        }
    }
}
