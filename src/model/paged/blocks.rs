//! Which blocks of the cache hold which positions of a slot. Book-keeping only.
//!
//! Slots may share blocks: what one copies from another is the other's blocks, till one of them
//! writes into a shared one, which then becomes its own.

/// What has to be done with the memory, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Copy a whole block to another.
    Copy {
        /// Whence.
        from: usize,
        /// Whither.
        to: usize,
    },
    /// Nobody holds the block any more.
    Release {
        /// Which.
        block: usize,
    },
}

/// No block was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cache's {blocks} blocks of {tokens} tokens are all taken")]
pub(super) struct Full {
    blocks: usize,
    tokens: usize,
}

/// The blocks of each slot.
#[derive(Debug)]
pub(super) struct Blocks {
    /// Positions in a block.
    tokens: usize,
    /// For each slot, its blocks in order of positions.
    slots: Vec<Vec<usize>>,
    /// For each block, the slots that hold it.
    holders: Vec<usize>,
    /// Blocks that nobody holds; the last was held last, so that its memory is there.
    free: Vec<usize>,
    actions: Vec<Action>,
}

impl Blocks {
    /// `blocks` free blocks of `tokens` positions, for so many slots.
    pub(super) fn new(slots: usize, blocks: usize, tokens: usize) -> Self {
        Self {
            tokens: tokens.max(1),
            slots: vec![Vec::new(); slots],
            holders: vec![0; blocks],
            free: (0..blocks).rev().collect(),
            actions: Vec::new(),
        }
    }

    /// What is to be done with the memory since the last call.
    pub(super) fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// The blocks of `slot`.
    pub(super) fn of(&self, slot: usize) -> &[usize] {
        &self.slots[slot]
    }

    /// Makes positions `past..end` of `slot` its own to write.
    ///
    /// # Errors
    /// If no block is left; those before stay as they are.
    pub(super) fn reach(&mut self, slot: usize, past: usize, end: usize) -> Result<(), Full> {
        let (first, count) = (past / self.tokens, end.div_ceil(self.tokens));
        for index in first..count.min(self.slots[slot].len()) {
            let shared = self.slots[slot][index];
            if self.holders[shared] > 1 {
                let own = self.take()?;
                self.holders[shared] -= 1;
                self.slots[slot][index] = own;
                if index == first && !past.is_multiple_of(self.tokens) {
                    self.actions.push(Action::Copy { from: shared, to: own });
                }
            }
        }
        while self.slots[slot].len() < count {
            let block = self.take()?;
            self.slots[slot].push(block);
        }
        Ok(())
    }

    /// Exchanges the blocks of two slots.
    pub(super) fn swap(&mut self, [a, b]: [usize; 2]) {
        self.slots.swap(a, b);
    }

    /// Gives slot `to` the first `tokens` positions of slot `from`, in place of its own.
    pub(super) fn share(&mut self, from: usize, to: usize, tokens: usize) {
        self.release(to, 0);
        let count = tokens.div_ceil(self.tokens).min(self.slots[from].len());
        let shared = self.slots[from][..count].to_vec();
        for &block in &shared {
            self.holders[block] += 1;
        }
        self.slots[to] = shared;
    }

    /// Gives back the blocks of `slot` that hold nothing before position `keep`.
    pub(super) fn release(&mut self, slot: usize, keep: usize) {
        let count = keep.div_ceil(self.tokens).min(self.slots[slot].len());
        for block in self.slots[slot].split_off(count) {
            self.holders[block] -= 1;
            if self.holders[block] == 0 {
                self.free.push(block);
                self.actions.push(Action::Release { block });
            }
        }
    }

    fn take(&mut self) -> Result<usize, Full> {
        let full = Full { blocks: self.holders.len(), tokens: self.tokens };
        let block = self.free.pop().ok_or(full)?;
        self.holders[block] = 1;
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOKENS: usize = 4;
    const SLOTS: usize = 5;

    /// The memory as the actions leave it, and what each slot should hold.
    struct World {
        blocks: Blocks,
        memory: Vec<[u32; TOKENS]>,
        slots: Vec<Vec<u32>>,
        next: u32,
    }

    impl World {
        fn new(blocks: usize) -> Self {
            Self {
                blocks: Blocks::new(SLOTS, blocks, TOKENS),
                memory: vec![[0; TOKENS]; blocks],
                slots: vec![Vec::new(); SLOTS],
                next: 1,
            }
        }

        fn settle(&mut self) {
            for action in self.blocks.take_actions() {
                match action {
                    Action::Copy { from, to } => self.memory[to] = self.memory[from],
                    // Whoever reads it after this reads nonsense.
                    Action::Release { block } => self.memory[block] = [0; TOKENS],
                }
            }
            let mut holders = vec![0; self.memory.len()];
            for (slot, held) in self.slots.iter().enumerate() {
                let table = self.blocks.of(slot);
                table.iter().for_each(|&block| holders[block] += 1);
                assert_eq!(table.len(), held.len().div_ceil(TOKENS), "slot {slot}");
                let read: Vec<u32> =
                    table.iter().flat_map(|&block| self.memory[block]).take(held.len()).collect();
                assert_eq!(read, *held, "slot {slot}");
            }
            assert_eq!(holders, self.blocks.holders);
            let free = holders.iter().filter(|&&holders| holders == 0).count();
            assert_eq!(free, self.blocks.free.len());
        }

        /// Writes positions `past..past + count`, as a step does.
        fn write(&mut self, slot: usize, past: usize, count: usize) {
            let past = past.min(self.slots[slot].len());
            self.slots[slot].truncate(past);
            self.blocks.release(slot, past);
            if self.blocks.reach(slot, past, past + count).is_err() {
                assert!(self.blocks.free.is_empty());
                self.blocks.release(slot, 0);
                self.slots[slot].clear();
                return self.settle();
            }
            for action in self.blocks.take_actions() {
                match action {
                    Action::Copy { from, to } => self.memory[to] = self.memory[from],
                    Action::Release { block } => self.memory[block] = [0; TOKENS],
                }
            }
            for position in past..past + count {
                let block = self.blocks.of(slot)[position / TOKENS];
                self.memory[block][position % TOKENS] = self.next;
                self.slots[slot].push(self.next);
                self.next += 1;
            }
            self.settle();
        }
    }

    #[derive(Debug, Clone)]
    enum Operation {
        Write(usize, usize, usize),
        Swap(usize, usize),
        Share(usize, usize, usize),
        Release(usize, usize),
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let slot = 0..SLOTS;
        prop_oneof![
            (slot.clone(), 0usize..20, 1usize..9).prop_map(|(a, b, c)| Operation::Write(a, b, c)),
            (slot.clone(), slot.clone()).prop_map(|(a, b)| Operation::Swap(a, b)),
            (slot.clone(), slot.clone(), 0usize..20)
                .prop_map(|(a, b, c)| Operation::Share(a, b, c)),
            (slot, 0usize..20).prop_map(|(a, b)| Operation::Release(a, b)),
        ]
    }

    proptest! {
        #[test]
        fn slots_hold_what_was_written_to_them_whoever_shares_it(
            blocks in 3usize..30,
            operations in prop::collection::vec(operation(), 0..80),
        ) {
            let mut world = World::new(blocks);
            for operation in operations {
                match operation {
                    Operation::Write(slot, past, count) => world.write(slot, past, count),
                    Operation::Swap(a, b) => {
                        world.blocks.swap([a, b]);
                        world.slots.swap(a, b);
                    }
                    Operation::Share(from, to, tokens) if from != to => {
                        let tokens = tokens.min(world.slots[from].len());
                        world.blocks.share(from, to, tokens);
                        world.slots[to] = world.slots[from][..tokens].to_vec();
                    }
                    Operation::Share(..) => {}
                    Operation::Release(slot, keep) => {
                        world.blocks.release(slot, keep);
                        world.slots[slot].truncate(keep);
                    }
                }
                world.settle();
            }
            for slot in 0..SLOTS {
                world.blocks.release(slot, 0);
            }
            prop_assert_eq!(world.blocks.free.len(), blocks);
        }
    }
}
