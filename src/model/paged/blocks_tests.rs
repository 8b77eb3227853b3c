//! Random operations on the blocks, over a fake of a device's memory.

use proptest::prelude::*;

use super::*;

const TOKENS: usize = 4;
const SLOTS: usize = 5;

/// Memory as a device has it: it grows by a new allocation, up to `most` blocks, and growth and
/// copies fail on request.
struct Fake {
    blocks: Vec<[u32; TOKENS]>,
    most: usize,
    fails: bool,
    moves: Vec<Move>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    Grow(usize),
    Copy(usize, usize),
    Release(usize),
}

#[derive(Debug, PartialEq, Eq)]
enum Refused {
    Full,
    Broken,
}

impl From<Full> for Refused {
    fn from(_: Full) -> Self {
        Self::Full
    }
}

impl Memory for Fake {
    type Error = Refused;

    fn grow(&mut self, blocks: usize) -> Result<usize, Refused> {
        assert!(blocks > self.blocks.len(), "nothing to grow");
        if blocks > self.most {
            return Err(Refused::Full);
        }
        if self.fails {
            return Err(Refused::Broken);
        }
        let blocks = blocks.next_power_of_two().min(self.most);
        self.blocks.resize(blocks, [0; TOKENS]);
        self.moves.push(Move::Grow(blocks));
        Ok(blocks)
    }

    fn copy(&mut self, from: usize, to: usize) -> Result<(), Refused> {
        if self.fails {
            return Err(Refused::Broken);
        }
        self.blocks[to] = self.blocks[from];
        self.moves.push(Move::Copy(from, to));
        Ok(())
    }

    fn release(&mut self, block: usize) {
        // Whoever reads it after this reads nonsense.
        self.blocks[block] = [0; TOKENS];
        self.moves.push(Move::Release(block));
    }
}

/// The memory, and what each slot should hold.
struct World {
    blocks: Blocks,
    memory: Fake,
    slots: Vec<Vec<u32>>,
    next: u32,
}

impl World {
    fn new(there: usize, most: usize) -> Self {
        let memory =
            Fake { blocks: vec![[0; TOKENS]; there], most, fails: false, moves: Vec::new() };
        Self {
            blocks: Blocks::new(SLOTS, there, TOKENS),
            memory,
            slots: vec![Vec::new(); SLOTS],
            next: 1,
        }
    }

    fn check(&self) {
        let mut holders = vec![0; self.memory.blocks.len()];
        for (slot, held) in self.slots.iter().enumerate() {
            let table = self.blocks.of(slot);
            table.iter().for_each(|&block| holders[block] += 1);
            assert!(table.len() >= held.len().div_ceil(TOKENS), "slot {slot}");
            let read: Vec<u32> = table
                .iter()
                .flat_map(|&block| self.memory.blocks[block])
                .take(held.len())
                .collect();
            assert_eq!(read, *held, "slot {slot}");
        }
        assert_eq!(holders, self.blocks.holders);
        let free = holders.iter().filter(|&&holders| holders == 0).count();
        assert_eq!(free, self.blocks.free());
        assert!(self.memory.blocks.len() <= self.memory.most);
    }

    /// Blocks that all slots' tokens take if none were shared: how the engine counts them.
    fn counted(&self) -> usize {
        self.slots.iter().map(|held| held.len().div_ceil(TOKENS)).sum()
    }

    /// Writes positions `past..past + count`, as a step does.
    fn write(&mut self, slot: usize, past: usize, count: usize) {
        let past = past.min(self.slots[slot].len());
        let before = self.blocks.of(slot).len();
        if let Err(refused) = self.blocks.reach(&mut self.memory, slot, past, past + count) {
            // Nothing was changed, and what is before `past` is there to be tried again.
            assert_eq!(self.blocks.of(slot).len(), before);
            if refused == Refused::Full {
                let held = self.slots[slot].len().div_ceil(TOKENS);
                let wanted = (past + count).div_ceil(TOKENS).max(held);
                assert!(self.counted() - held + wanted > self.memory.most, "it would have fit");
            }
            self.slots[slot].truncate(past);
            self.blocks.release(&mut self.memory, slot, past);
            return self.check();
        }
        self.slots[slot].truncate(past);
        for position in past..past + count {
            let block = self.blocks.of(slot)[position / TOKENS];
            self.memory.blocks[block][position % TOKENS] = self.next;
            self.slots[slot].push(self.next);
            self.next += 1;
        }
        // Those of a longer end that was written before.
        self.blocks.release(&mut self.memory, slot, past + count);
        self.check();
    }

    fn share(&mut self, from: usize, to: usize, tokens: usize) {
        let tokens = tokens.min(self.slots[from].len());
        self.blocks.share(&mut self.memory, from, to, tokens);
        self.slots[to] = self.slots[from][..tokens].to_vec();
        self.check();
    }

    fn release(&mut self, slot: usize, keep: usize) {
        self.blocks.release(&mut self.memory, slot, keep);
        self.slots[slot].truncate(keep);
        self.check();
    }
}

#[derive(Debug, Clone)]
enum Operation {
    Write(usize, usize, usize),
    Swap(usize, usize),
    Share(usize, usize, usize),
    Release(usize, usize),
    Fail(bool),
}

fn operation() -> impl Strategy<Value = Operation> {
    let slot = 0..SLOTS;
    prop_oneof![
        4 => (slot.clone(), 0usize..20, 1usize..9).prop_map(|(a, b, c)| Operation::Write(a, b, c)),
        2 => (slot.clone(), slot.clone()).prop_map(|(a, b)| Operation::Swap(a, b)),
        2 => (slot.clone(), slot.clone(), 0usize..20)
            .prop_map(|(a, b, c)| Operation::Share(a, b, c)),
        2 => (slot, 0usize..20).prop_map(|(a, b)| Operation::Release(a, b)),
        1 => (0u8..4).prop_map(|fails| Operation::Fail(fails == 0)),
    ]
}

proptest! {
    #[test]
    fn slots_hold_what_was_written_to_them_whoever_shares_it_and_whatever_fails(
        there in 0usize..4,
        most in 4usize..30,
        operations in prop::collection::vec(operation(), 0..80),
    ) {
        let mut world = World::new(there, most);
        for operation in operations {
            match operation {
                Operation::Write(slot, past, count) => world.write(slot, past, count),
                Operation::Swap(a, b) => {
                    world.blocks.swap([a, b]);
                    world.slots.swap(a, b);
                }
                Operation::Share(from, to, tokens) if from != to => world.share(from, to, tokens),
                Operation::Share(..) => {}
                Operation::Release(slot, keep) => world.release(slot, keep),
                Operation::Fail(fails) => world.memory.fails = fails,
            }
            world.check();
        }
        for slot in 0..SLOTS {
            world.release(slot, 0);
        }
        prop_assert_eq!(world.blocks.free(), world.memory.blocks.len());
    }
}

#[test]
fn memory_grows_once_for_a_step_and_moves_a_block_only_where_a_shared_one_is_written_into() {
    let mut world = World::new(0, 8);
    world.write(0, 0, 10);
    assert_eq!(world.memory.moves, [Move::Grow(4)]);
    world.share(0, 1, 10);
    world.share(0, 2, 8);
    // At a block's end nothing is copied; within one, it is.
    world.write(2, 8, 1);
    world.write(1, 10, 1);
    assert_eq!(world.memory.moves[1..], [Move::Grow(8), Move::Copy(2, 4)]);
    // Whoever is left with it writes in place.
    world.write(0, 10, 1);
    assert_eq!(world.memory.moves.len(), 3);
    world.release(0, 0);
    assert_eq!(world.memory.moves[3..], [Move::Release(2)]);
}
