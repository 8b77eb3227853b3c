//! How much of the cache's memory the tokens in the slots take.

use phi4d_model::alike_positions;
use phi4d_model::blocks::{Blocks, Full, Memory};

/// Fixed sizes of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// All slots, at least `max_live`. Those without a sequence keep cached prefixes.
    pub rows: usize,
    /// Sequences that may run at once.
    pub max_live: usize,
    /// The most tokens of one slot.
    pub row_tokens: usize,
    /// Tokens of a block, the unit in which slots get and return memory.
    pub block_tokens: usize,
    /// The most tokens of all slots together, at least `row_tokens`.
    pub budget_tokens: usize,
    /// With reproducible answers the size of the chunks that prompts are read in: only complete chunks are
    /// cached and reused. `None` caches and reuses any number of tokens.
    pub grid: Option<usize>,
    /// How slots take memory.
    pub growth: Growth,
}

#[cfg(any(test, all(unix, feature = "testing")))]
impl Sizes {
    /// Four slots of 64 tokens in blocks of 4, of which one runs at a time.
    pub const SMALL: Self = Self {
        rows: 4,
        max_live: 1,
        row_tokens: 64,
        block_tokens: 4,
        budget_tokens: 256,
        grid: None,
        growth: Growth::Own,
    };
}

/// How slots take memory for their tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growth {
    /// Each takes blocks of its own.
    Own,
    /// Each takes blocks, and a copied prefix is in the same blocks as its source until one of the two
    /// writes to them.
    Shared,
    /// Every slot with tokens takes the memory of the longest, and there is one more of that size
    /// ([`phi4d_model::KvGrowth::Alike`]).
    Alike,
}

/// Tokens to be held in addition to those in the slots.
#[derive(Debug, Clone, Copy)]
pub(super) enum More {
    Nothing,
    /// One more slot with so many tokens, the first of which are copied.
    Slot {
        tokens: usize,
        copied: usize,
    },
    /// Growth of a slot that holds `held` tokens to `tokens`.
    Grown {
        slot: usize,
        held: usize,
        tokens: usize,
    },
}

/// The memory of the slots. For each slot it has a table of blocks as the model will have it when all that is
/// reserved is written: so a copy of a shared block is counted before it is made, and no write lacks a block.
#[derive(Debug)]
pub(super) struct Ledger {
    sizes: Sizes,
    /// For each slot, the tokens that it holds or may grow to.
    room: Vec<usize>,
    /// Empty if slots are alike.
    tables: Blocks,
}

/// Counts blocks and has none. The ledger may be over the budget while a slot is prepared.
struct Uncounted;

impl Memory for Uncounted {
    type Error = Full;

    fn grow(&mut self, blocks: usize) -> Result<usize, Full> {
        Ok(blocks)
    }

    fn copy(&mut self, _from: usize, _to: usize) -> Result<(), Full> {
        Ok(())
    }

    fn release(&mut self, _block: usize) {}
}

impl Ledger {
    /// The ledger of `slots` empty slots.
    pub(super) fn new(sizes: Sizes, slots: usize) -> Self {
        let tables = Blocks::new(slots, 0, sizes.block_tokens);
        Self { sizes, room: vec![0; slots], tables }
    }

    /// The tokens that `slot` holds or may grow to.
    pub(super) fn room(&self, slot: usize) -> usize {
        self.room[slot]
    }

    /// Blocks of `tokens` tokens.
    pub(super) fn blocks(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.sizes.block_tokens)
    }

    /// Reserves memory for the first `end` tokens of `slot`, of which those from `past` on are to be written.
    pub(super) fn reserve(&mut self, slot: usize, past: usize, end: usize) {
        self.room[slot] = end;
        if self.sizes.growth != Growth::Alike {
            let reached = self.tables.reach(&mut Uncounted, slot, past, end);
            debug_assert!(reached.is_ok(), "what is only counted is never full");
        }
    }

    /// Slot `to`, which is empty, gets the first `tokens` of `from`.
    pub(super) fn copy(&mut self, from: usize, to: usize, tokens: usize) {
        if self.sizes.growth == Growth::Shared {
            self.room[to] = tokens;
            self.tables.share(&mut Uncounted, from, to, tokens);
        } else {
            self.reserve(to, 0, tokens);
        }
    }

    /// Drops all but the first `tokens` of `slot`, and what is reserved behind them.
    pub(super) fn keep(&mut self, slot: usize, tokens: usize) {
        self.room[slot] = self.room[slot].min(tokens);
        self.tables.release(&mut Uncounted, slot, tokens);
    }

    pub(super) fn swap(&mut self, slots: [usize; 2]) {
        self.room.swap(slots[0], slots[1]);
        self.tables.swap(slots);
    }

    /// Blocks that slots take for so many first tokens of each, a shared one counted once.
    pub(super) fn blocks_in(&self, slots: impl Iterator<Item = (usize, usize)>) -> usize {
        if self.sizes.growth != Growth::Shared {
            return slots.map(|(_, tokens)| self.blocks(tokens)).sum();
        }
        let mut seen = vec![false; self.tables.count()];
        let blocks = slots.flat_map(|(slot, tokens)| {
            self.tables.of(slot).iter().take(self.blocks(tokens)).copied()
        });
        blocks.filter(|&block| !std::mem::replace(&mut seen[block], true)).count()
    }

    /// Whether the first `live` slots, and no others, leave memory for a prompt with room for `room` tokens. It
    /// gets the first tokens of a slot if `copied` says of which and how many.
    pub(super) fn admits(&self, live: usize, room: usize, copied: Option<(usize, usize)>) -> bool {
        let slots = (0..live).map(|slot| (slot, self.room[slot]));
        let wanted = match (self.sizes.growth, copied) {
            (Growth::Alike, _) => self.alike(self.room[..live].iter().copied().chain([room])),
            (Growth::Shared, Some((from, tokens))) => {
                let whole = self.whole(tokens);
                self.blocks_in(slots.chain([(from, whole)])) + self.blocks(room)
                    - self.blocks(whole)
            }
            _ => self.blocks_in(slots) + self.blocks(room),
        };
        wanted <= self.budget()
    }

    /// Whether all slots and `more` are within the budget.
    pub(super) fn fits(&self, more: More) -> bool {
        self.used_with(more) <= self.budget()
    }

    /// The blocks of memory that all slots and `more` take.
    pub(super) fn used_with(&self, more: More) -> usize {
        if self.sizes.growth == Growth::Alike {
            let (slot, tokens) = match more {
                More::Nothing => (usize::MAX, 0),
                More::Slot { tokens, .. } => (usize::MAX, tokens),
                More::Grown { slot, tokens, .. } => (slot, tokens),
            };
            let others = self.room.iter().enumerate().filter(|&(other, _)| other != slot);
            return self.alike(others.map(|(_, &room)| room).chain([tokens]));
        }
        self.tables.held()
            + match more {
                More::Nothing => 0,
                More::Slot { tokens, copied } if self.sizes.growth == Growth::Shared => {
                    self.blocks(tokens) - self.blocks(self.whole(copied))
                }
                More::Slot { tokens, .. } => self.blocks(tokens),
                More::Grown { slot, held, tokens } => self.tables.wanted(slot, held, tokens),
            }
    }

    /// Blocks that there may be.
    pub(super) fn budget(&self) -> usize {
        self.blocks(self.sizes.budget_tokens)
    }

    /// Of the first `tokens` those in whole blocks: a copy shares them for good, and writes behind them.
    fn whole(&self, tokens: usize) -> usize {
        tokens / self.sizes.block_tokens * self.sizes.block_tokens
    }

    /// The blocks that slots with these numbers of tokens take if each takes as much as the longest.
    fn alike(&self, slots: impl Iterator<Item = usize>) -> usize {
        // The count begins with the spare slot.
        let (mut count, mut longest) = (1, 0);
        for tokens in slots.filter(|&tokens| tokens > 0) {
            count += 1;
            longest = longest.max(tokens);
        }
        self.blocks(count * alike_positions(longest, self.sizes.row_tokens))
    }
}
