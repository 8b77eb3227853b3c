//! Random operations on the cache, checked against a model of the memory.

use proptest::prelude::*;

use super::*;
use phi4d_model::Rotary;
use phi4d_model::blocks::{self, Blocks, Full};

/// The memory as the actions leave it: what each slot holds, and in which blocks.
struct Memory {
    slots: Vec<Slot>,
    blocks: Blocks,
    budget: Budget,
}

/// Blocks that there are, and no more.
struct Budget(usize);

impl blocks::Memory for Budget {
    type Error = Full;

    fn grow(&mut self, blocks: usize) -> Result<usize, Full> {
        if blocks <= self.0 { Ok(blocks) } else { Err(Full { blocks: self.0, tokens: 0 }) }
    }

    fn copy(&mut self, _from: usize, _to: usize) -> Result<(), Full> {
        Ok(())
    }

    fn release(&mut self, _block: usize) {}
}

#[derive(Clone, Default)]
struct Slot {
    tokens: Vec<u32>,
    /// Positions that steps have written to since they were given back.
    written: usize,
}

impl Memory {
    fn new(sizes: &Sizes) -> Self {
        // Where slots are alike, blocks are not what is counted.
        let budget = match sizes.growth {
            Growth::Alike => usize::MAX,
            _ => sizes.budget_tokens.div_ceil(sizes.block_tokens),
        };
        Self {
            slots: vec![Slot::default(); sizes.rows],
            blocks: Blocks::new(sizes.rows, 0, sizes.block_tokens),
            budget: Budget(budget),
        }
    }

    fn apply(&mut self, actions: Vec<Action>, growth: Growth) {
        for action in actions {
            match action {
                Action::Swap { slots: [a, b], tokens } => {
                    assert_eq!([a, b].map(|slot| self.slots[slot].tokens.len()), tokens);
                    self.slots.swap(a, b);
                    self.blocks.swap([a, b]);
                }
                Action::Copy { from, to, tokens } => {
                    assert!(self.slots[to].tokens.is_empty() && from != to);
                    let copied = self.slots[from].tokens[..tokens].to_vec();
                    self.slots[to] = Slot { tokens: copied, written: tokens };
                    if growth == Growth::Shared {
                        self.blocks.share(&mut self.budget, from, to, tokens);
                    } else {
                        self.reach(to, 0, tokens);
                    }
                }
                Action::Release { slot, keep } => {
                    assert!(keep <= self.slots[slot].tokens.len());
                    self.slots[slot].tokens.truncate(keep);
                    self.slots[slot].written = self.slots[slot].written.min(keep);
                    self.blocks.release(&mut self.budget, slot, keep);
                }
            }
        }
    }

    /// Takes the blocks of positions that a step writes. A write never lacks one: a device has no more than the
    /// budget.
    fn reach(&mut self, slot: usize, past: usize, end: usize) {
        self.blocks.reach(&mut self.budget, slot, past, end).unwrap();
        self.slots[slot].written = self.slots[slot].written.max(end);
    }
}

/// One sequence: all its tokens; its scope; whether a step has run it.
type Sequence = (Vec<u32>, u64, bool);

struct World {
    cache: Cache<Sequence>,
    memory: Memory,
    sizes: Sizes,
}

impl World {
    fn new(sizes: Sizes) -> Self {
        Self { cache: Cache::new(sizes), memory: Memory::new(&sizes), sizes }
    }

    fn settle(&mut self) {
        self.memory.apply(self.cache.take_actions(), self.sizes.growth);
        self.cache.check();
        for slot in 0..self.sizes.rows {
            assert_eq!(self.cache.tokens(slot), self.memory.slots[slot].tokens, "slot {slot}");
        }
        if self.sizes.growth != Growth::Alike {
            self.check_blocks();
        }
        for slot in 0..self.cache.live() {
            let (tokens, ..) = self.cache.sequence(slot).unwrap();
            assert!(
                tokens.starts_with(self.cache.tokens(slot)),
                "slot {slot} holds another's tokens"
            );
        }
    }

    /// What is written keeps to the budget as well as what is held, and is what the cache says.
    fn check_blocks(&self) {
        let Memory { slots, blocks, budget } = &self.memory;
        assert!(blocks.held() <= budget.0, "{} of {} blocks", blocks.held(), budget.0);
        let held = |slots: &[Slot]| {
            let tables = slots.iter().enumerate().flat_map(|(slot, held)| {
                let count = held.tokens.len().div_ceil(self.sizes.block_tokens);
                &blocks.of(slot)[..count]
            });
            tables.collect::<std::collections::HashSet<_>>().len() * self.sizes.block_tokens
        };
        let (all, live) = (held(slots), held(&slots[..self.cache.live()]));
        // The cache counts the copy of a shared block before it is made.
        let early = self.cache.live() * self.sizes.block_tokens;
        assert!((all..=all + early).contains(&self.cache.held_tokens()));
        let live_tokens = self.cache.held_tokens() - self.cache.cached_tokens();
        assert!((live..=live + early).contains(&live_tokens));
    }

    fn admit(&mut self, prompt: Vec<u32>, scope: u64) {
        let Some(admission) = self.cache.admit(&prompt, usize::MAX, scope) else {
            // Alone, everything fits that a slot can hold.
            assert!(self.cache.live() > 0, "a prompt of {} was refused", prompt.len());
            return;
        };
        assert!(admission.cached < prompt.len());
        self.cache.place(admission, (prompt, scope, false));
        self.settle();
        assert_eq!(self.cache.tokens(admission.slot).len(), admission.cached);
    }

    /// Looks for a cached prefix again, as a sequence does before its first step.
    fn begin(&mut self, slot: usize) {
        let (tokens, _, ran) = self.cache.sequence(slot).unwrap().clone();
        if !ran {
            let held = self.cache.tokens(slot).len();
            let cached = self.cache.reuse(slot, &tokens, usize::MAX);
            assert!((held..tokens.len()).contains(&cached));
            self.settle();
            assert_eq!(self.cache.tokens(slot).len(), cached);
        }
    }

    /// Reads some of a sequence's tokens, as a step does, then adds one.
    fn step(&mut self, slot: usize, count: usize) {
        let rotary = if count.is_multiple_of(3) { Rotary::Long } else { Rotary::Short };
        let held = self.cache.tokens(slot).len();
        let (tokens, _, ran) = self.cache.sequence_mut(slot).unwrap();
        *ran = true;
        let next = tokens[held..tokens.len().min(held + count)].to_vec();
        // Some of what is written may be draft tokens that are rejected.
        let draft = (count % 4).min(self.sizes.row_tokens - held - next.len());
        if !self.cache.grow(slot, next.len() + draft) {
            assert!(self.cache.live() > 1, "the only sequence was refused room");
            self.retire(self.cache.live() - 1, true);
            return;
        }
        self.settle();
        self.memory.reach(slot, held, held + next.len() + draft);
        self.settle();
        self.cache.extend(slot, &next);
        self.memory.slots[slot].tokens.extend_from_slice(&next);
        let complete = held + next.len() == self.cache.sequence(slot).unwrap().0.len();
        let slot = if complete && slot >= self.cache.decoding() {
            self.cache.promote(slot, rotary)
        } else {
            slot
        };
        if complete && held + next.len() < self.sizes.row_tokens {
            self.cache.sequence_mut(slot).unwrap().0.push(1);
        }
        self.settle();
    }

    /// Restarts the slot's sequence in the other scope.
    fn restart(&mut self, slot: usize) {
        let mut whose = self.cache.sequence(slot).unwrap().clone();
        whose.1 ^= 1;
        let before = self.cache.decoding();
        let at = self.cache.restart(slot, whose.1);
        assert_eq!(self.cache.decoding(), before - usize::from(slot < before));
        assert!(at >= self.cache.decoding() && self.cache.tokens(at).is_empty());
        *self.cache.sequence_mut(at).unwrap() = whose;
        self.settle();
    }

    fn retire(&mut self, slot: usize, keep: bool) {
        let whose = self.cache.sequence(slot).unwrap().clone();
        assert_eq!(self.cache.retire(slot, keep), Some(whose));
        self.settle();
    }
}

#[derive(Debug, Clone)]
enum Operation {
    Admit { prompt: Vec<u32>, scope: u64 },
    Step { which: usize, count: usize },
    Begin { which: usize },
    Restart { which: usize },
    Retire { which: usize, keep: bool },
}

fn operation() -> impl Strategy<Value = Operation> {
    // Two token ids make common prefixes frequent.
    let prompt = prop::collection::vec(0u32..2, 1..100);
    prop_oneof![
        2 => (prompt, 0u64..2).prop_map(|(prompt, scope)| Operation::Admit { prompt, scope }),
        1 => (1usize..90, 0u64..2).prop_map(|(length, scope)| Operation::Admit {
            prompt: (0..length).map(|i| u32::from(i % 17 == 3)).collect(),
            scope,
        }),
        5 => (0usize..8, 1usize..40).prop_map(|(which, count)| Operation::Step { which, count }),
        2 => (0usize..8).prop_map(|which| Operation::Begin { which }),
        1 => (0usize..8).prop_map(|which| Operation::Restart { which }),
        2 => (0usize..8, any::<bool>())
            .prop_map(|(which, keep)| Operation::Retire { which, keep }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn rows_keep_their_tokens_and_the_budget(
        max_live in 1usize..5,
        kept in 0usize..4,
        block_tokens in 1usize..9,
        budget in 100usize..400,
        growth in prop::sample::select(vec![Growth::Own, Growth::Shared, Growth::Alike]),
        on_grid in any::<bool>(),
        operations in prop::collection::vec(operation(), 0..120),
    ) {
        let alike = growth == Growth::Alike;
        let sizes = Sizes {
            rows: max_live + kept,
            max_live,
            row_tokens: 100,
            block_tokens: if alike { 1 } else { block_tokens },
            // All slots are of 100 tokens then, and there is a spare one.
            budget_tokens: if alike { 2 * budget } else { budget },
            grid: on_grid.then_some(4),
            growth,
        };
        let mut world = World::new(sizes);
        for operation in operations {
            let live = world.cache.live();
            match operation {
                Operation::Admit { prompt, scope } => world.admit(prompt, scope),
                Operation::Step { which, count } if live > 0 => world.step(which % live, count),
                Operation::Begin { which } if live > 0 => world.begin(which % live),
                Operation::Restart { which } if live > 0 => world.restart(which % live),
                Operation::Retire { which, keep } if live > 0 => world.retire(which % live, keep),
                _ => {}
            }
        }
    }
}

fn sizes() -> Sizes {
    Sizes {
        rows: 4,
        max_live: 2,
        row_tokens: 100,
        block_tokens: 1,
        budget_tokens: 400,
        grid: None,
        growth: Growth::Own,
    }
}

#[test]
fn a_finished_conversation_is_taken_up_again_without_a_copy() {
    let mut world = World::new(sizes());
    let message: Vec<u32> = (0..50).collect();
    world.admit(message.clone(), 0);
    world.step(0, 50);
    world.retire(0, true);
    let next: Vec<u32> = (0..80).collect();
    let admission = world.cache.admit(&next, usize::MAX, 0).unwrap();
    assert_eq!(admission.cached, 50);
    assert!(!world.cache.take_actions().iter().any(|action| matches!(action, Action::Copy { .. })));
}

#[test]
fn where_rows_are_alike_a_long_one_takes_the_place_of_several_short_ones() {
    let budget =
        Sizes { row_tokens: 1024, budget_tokens: 4 * 512, growth: Growth::Alike, ..sizes() };
    let mut world = World::new(Sizes { max_live: 1, ..budget });
    let prompt = |first: u32, length: u32| (first..first + length).collect::<Vec<u32>>();
    for first in [0, 1000, 2000] {
        world.admit(prompt(first, 100), 0);
        world.step(0, 100);
        world.retire(0, true);
    }
    assert_eq!(world.cache.cached_prefixes().count(), 3);
    // Its 512 positions are each slot's: two slots and the spare one are left beside it.
    world.admit(prompt(3000, 400), 0);
    world.step(0, 400);
    assert_eq!(world.cache.cached_prefixes().count(), 2);
    // With 1,024 it is alone with the spare one, and nothing more fits.
    assert!(world.cache.grow(0, 200));
    assert_eq!(world.cache.cached_prefixes().count(), 0);
    let mut full = World::new(Sizes { budget_tokens: 2 * 1024, ..budget });
    full.admit(prompt(0, 900), 0);
    assert!(full.cache.admit(&prompt(5000, 10), usize::MAX, 0).is_none());
}

#[test]
fn another_scope_sees_nothing_of_it() {
    let mut world = World::new(sizes());
    world.admit((0..50).collect(), 7);
    world.step(0, 50);
    world.retire(0, true);
    let prompt: Vec<u32> = (0..60).collect();
    assert_eq!(world.cache.admit(&prompt, usize::MAX, 8).unwrap().cached, 0);
}

#[test]
fn what_was_not_used_for_longest_goes_first() {
    let mut world = World::new(Sizes { budget_tokens: 200, max_live: 1, ..sizes() });
    for first in [100, 200] {
        world.admit((first..first + 60).collect(), 0);
        world.step(0, 60);
        world.retire(0, true);
    }
    let held = |world: &World| -> Vec<u32> {
        world.cache.cached_prefixes().map(|(_, _, tokens)| tokens[0]).collect()
    };
    assert_eq!(held(&world), [200, 100]);
    // 200 hold 60 + 60 and no 90 more: the older goes.
    world.admit((300..390).collect(), 0);
    assert_eq!(held(&world), [200]);
}

#[test]
fn the_longer_of_two_prefixes_covers_the_shorter() {
    let mut world = World::new(sizes());
    for length in [30, 60] {
        world.admit((0..length).collect(), 0);
        world.admit((500..500 + length).collect(), 0);
        world.step(0, 100);
        world.step(1, 100);
        world.retire(1, true);
        world.retire(0, true);
    }
    assert_eq!(world.cache.cached_prefixes().count(), 2);
}

#[test]
fn what_rejected_draft_tokens_wrote_is_freed_with_the_sequence() {
    let mut world = World::new(sizes());
    world.admit((0..60).collect(), 0);
    // Three more than there are.
    world.step(0, 63);
    let written = |world: &World| world.memory.slots.iter().map(|slot| slot.written).sum::<usize>();
    assert_eq!(written(&world), 63);
    world.retire(0, true);
    assert_eq!(written(&world), 60);
}

#[test]
fn what_sequences_have_in_common_takes_memory_once() {
    let shared = Sizes {
        rows: 9,
        max_live: 8,
        row_tokens: 3000,
        block_tokens: 64,
        // Twice the memory of one.
        budget_tokens: 4096,
        growth: Growth::Shared,
        ..sizes()
    };
    let prompt = |number: u32| -> Vec<u32> {
        (0..2000).chain((0..20).map(|index| 10_000 + 100 * number + index)).collect()
    };
    let mut world = World::new(shared);
    world.admit(prompt(0), 0);
    world.step(0, 2020);
    for number in 1..8 {
        world.admit(prompt(number), 0);
        world.step(number as usize, 2020);
    }
    assert_eq!((world.cache.live(), world.cache.decoding()), (8, 8));
    // 31 whole blocks in common, and one of each.
    assert_eq!(world.cache.held_tokens(), (31 + 8) * 64);
    assert_eq!(world.memory.blocks.held(), 31 + 8);
    // Of other growth only one fits.
    let mut world = World::new(Sizes { growth: Growth::Own, ..shared });
    world.admit(prompt(0), 0);
    world.step(0, 2020);
    assert!(world.cache.admit(&prompt(1), usize::MAX, 0).is_none());
}
