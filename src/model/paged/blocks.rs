//! Which blocks of the cache hold which positions of a slot: pure book-keeping over a [`Memory`].
//!
//! Slots share blocks: copying a prefix only adds a holder to its blocks. A slot that writes into a
//! shared block gets a copy of its own first (copy on write). Runners keep their blocks by it, and the engine
//! counts by it what they will hold.

/// The memory of the blocks.
pub trait Memory {
    /// Why something could not be done.
    type Error: From<Full>;

    /// Makes memory for `blocks` blocks at least; those that are there keep what they hold.
    /// Returns for how many there is memory now. If that fails, all stays as it is.
    ///
    /// # Errors
    /// If there is no memory for so many.
    fn grow(&mut self, blocks: usize) -> Result<usize, Self::Error>;

    /// Copies a whole block to another.
    ///
    /// # Errors
    /// If the memory can't be copied.
    fn copy(&mut self, from: usize, to: usize) -> Result<(), Self::Error>;

    /// Nobody holds the block any more.
    fn release(&mut self, block: usize);
}

/// All blocks are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cache's {blocks} blocks of {tokens} tokens are all taken")]
pub struct Full {
    /// Blocks there are.
    pub blocks: usize,
    /// Positions in each.
    pub tokens: usize,
}

/// The blocks of each slot.
#[derive(Debug)]
pub struct Blocks {
    /// Positions in a block.
    tokens: usize,
    /// For each slot, its blocks in order of positions.
    slots: Vec<Vec<usize>>,
    /// For each block, the slots that hold it.
    holders: Vec<usize>,
    /// Blocks that nobody holds; the last was held last, so that its memory is there.
    free: Vec<usize>,
}

impl Blocks {
    /// `blocks` free blocks of `tokens` positions, for so many slots.
    #[must_use]
    pub fn new(slots: usize, blocks: usize, tokens: usize) -> Self {
        Self {
            tokens: tokens.max(1),
            slots: vec![Vec::new(); slots],
            // A count and not a list: who holds a block is never asked, only whether it is shared.
            holders: vec![0; blocks],
            free: (0..blocks).rev().collect(),
        }
    }

    /// The blocks of `slot`.
    #[must_use]
    pub fn of(&self, slot: usize) -> &[usize] {
        &self.slots[slot]
    }

    /// How many blocks there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.holders.len()
    }

    /// How many blocks nobody holds.
    #[must_use]
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// How many blocks any slot holds.
    #[must_use]
    pub fn held(&self) -> usize {
        self.count() - self.free()
    }

    /// Whether nobody holds `block`.
    #[must_use]
    pub fn is_free(&self, block: usize) -> bool {
        self.holders[block] == 0
    }

    /// Gives `slot` blocks of its own for positions `past..end`, which the next step writes.
    ///
    /// # Errors
    /// If no block is left and there is no memory for more, or a shared block can't be copied. What
    /// slots hold before `past` stays as it is.
    pub fn reach<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        slot: usize,
        past: usize,
        end: usize,
    ) -> Result<(), M::Error> {
        let (first, count) = (past / self.tokens, end.div_ceil(self.tokens));
        // All memory is asked for first: if it is missing, no block has changed hands.
        self.provide(memory, self.wanted(slot, past, end))?;
        for index in first..count.min(self.slots[slot].len()) {
            let shared = self.slots[slot][index];
            if self.holders[shared] == 1 {
                continue;
            }
            let own = self.take()?;
            // The step overwrites later blocks whole, so only the first has contents to keep.
            if index == first && !past.is_multiple_of(self.tokens) {
                memory.copy(shared, own).inspect_err(|_| self.give_back(own))?;
            }
            self.holders[shared] -= 1;
            self.slots[slot][index] = own;
        }
        while self.slots[slot].len() < count {
            let block = self.take()?;
            self.slots[slot].push(block);
        }
        Ok(())
    }

    /// Free blocks that [`Blocks::reach`] takes for the same positions.
    #[must_use]
    pub fn wanted(&self, slot: usize, past: usize, end: usize) -> usize {
        let (first, count) = (past / self.tokens, end.div_ceil(self.tokens));
        let held = &self.slots[slot];
        let there = held.iter().take(count).skip(first);
        let shared = there.filter(|&&block| self.holders[block] > 1).count();
        // A shared block is replaced by one of its own, and what is missing is added.
        shared + count.saturating_sub(held.len())
    }

    /// Exchanges the blocks of two slots.
    pub fn swap(&mut self, [a, b]: [usize; 2]) {
        self.slots.swap(a, b);
    }

    /// Gives slot `to` the first `tokens` positions of slot `from`, in place of its own.
    pub fn share<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        from: usize,
        to: usize,
        tokens: usize,
    ) {
        self.release(memory, to, 0);
        let count = tokens.div_ceil(self.tokens).min(self.slots[from].len());
        // The last block may hold tokens past `tokens`; they are copied or overwritten on the first
        // write, and no step reads past its own length.
        let shared = self.slots[from][..count].to_vec();
        for &block in &shared {
            self.holders[block] += 1;
        }
        self.slots[to] = shared;
    }

    /// Gives back the blocks of `slot` that hold nothing before position `keep`.
    pub fn release<M: Memory + ?Sized>(&mut self, memory: &mut M, slot: usize, keep: usize) {
        let count = keep.div_ceil(self.tokens).min(self.slots[slot].len());
        for block in self.slots[slot].split_off(count) {
            self.holders[block] -= 1;
            if self.holders[block] == 0 {
                self.free.push(block);
                memory.release(block);
            }
        }
    }

    /// Makes sure that `wanted` blocks are free.
    fn provide<M: Memory + ?Sized>(
        &mut self,
        memory: &mut M,
        wanted: usize,
    ) -> Result<(), M::Error> {
        let there = self.holders.len();
        if let Some(missing @ 1..) = wanted.checked_sub(self.free.len()) {
            let blocks = memory.grow(there + missing)?;
            self.holders.resize(blocks, 0);
            // New blocks are used last: those that were held before have memory already.
            self.free.splice(0..0, (there..blocks).rev());
        }
        Ok(())
    }

    fn take(&mut self) -> Result<usize, Full> {
        let full = Full { blocks: self.holders.len(), tokens: self.tokens };
        let block = self.free.pop().ok_or(full)?;
        self.holders[block] = 1;
        Ok(block)
    }

    fn give_back(&mut self, block: usize) {
        self.holders[block] = 0;
        self.free.push(block);
    }
}

#[cfg(test)]
#[path = "blocks_tests.rs"]
mod tests;
