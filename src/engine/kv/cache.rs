//! The slots of the KV cache and the sequences that run in them.

use super::ledger::{Ledger, More, Sizes};
use super::prefix::{self, Reuse, Seen};
use phi4d_model::Rotary;

/// Tokens of output that admission reserves at most, so that a sequence is not preempted right after it
/// was admitted.
const GROWTH: usize = 64;

/// What to do with the slots' memory. Actions have to be applied in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Exchange the contents of two slots.
    Swap {
        /// The slots.
        slots: [usize; 2],
        /// The tokens that each holds.
        tokens: [usize; 2],
    },
    /// Copy the first tokens of a slot to the front of another.
    Copy {
        /// The slot to read.
        from: usize,
        /// The slot to write.
        to: usize,
        /// The number of tokens.
        tokens: usize,
    },
    /// Free the memory behind the first tokens of a slot.
    Release {
        /// The slot.
        slot: usize,
        /// Tokens to keep.
        keep: usize,
    },
}

/// A slot that was prepared for a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// The slot, to be filled by [`Cache::place`].
    pub slot: usize,
    /// Tokens of the prompt that the slot holds already.
    pub cached: usize,
}

#[derive(Debug)]
struct Slot<S> {
    /// Tokens whose keys and values the slot holds.
    tokens: Vec<u32>,
    /// The first tokens that were read in complete chunks of the grid. A step's width changes low-order
    /// digits of keys and values, so only these are the same for every prompt that begins with them.
    on_grid: usize,
    /// Only prompts of the same scope may reuse the tokens.
    scope: u64,
    /// The cache's clock when the slot was last used.
    used: u64,
    sequence: Option<S>,
}

impl<S> Slot<S> {
    /// The tokens that another prompt may reuse.
    fn reusable(&self, grid: Option<usize>) -> &[u32] {
        &self.tokens[..grid.map_or(self.tokens.len(), |_| self.on_grid)]
    }
}

/// The slots, in this order: those that decode by the short rotary table, those that decode by the long
/// one, those that prefill, and those without a sequence (cached prefixes and empty ones). A decode step
/// runs over neighbouring slots, so this order lets one step cover all of a table. A sequence that changes
/// its state is exchanged with the one at the border, so each change costs one or two swaps.
///
/// Invariants: slots `..live` and no others have a sequence; the tokens of all slots, and what is reserved
/// for live ones, stay within the budget in complete blocks, of which a shared one counts once.
#[derive(Debug)]
pub struct Cache<S> {
    sizes: Sizes,
    slots: Vec<Slot<S>>,
    /// Live slots have room to grow to; the others for what they hold.
    ledger: Ledger,
    decoding_short: usize,
    decoding: usize,
    live: usize,
    clock: u64,
    actions: Vec<Action>,
}

impl<S> Cache<S> {
    /// A cache of empty slots.
    #[must_use]
    pub fn new(sizes: Sizes) -> Self {
        let slot = |_| Slot { tokens: Vec::new(), on_grid: 0, scope: 0, used: 0, sequence: None };
        let slots: Vec<_> = (0..sizes.rows.max(sizes.max_live)).map(slot).collect();
        Self {
            ledger: Ledger::new(sizes, slots.len()),
            slots,
            sizes,
            decoding_short: 0,
            decoding: 0,
            live: 0,
            clock: 0,
            actions: Vec::new(),
        }
    }

    /// The actions since the last call.
    pub fn take_actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Slots `0..decoding_short()` decode by the short rotary table.
    #[must_use]
    pub fn decoding_short(&self) -> usize {
        self.decoding_short
    }

    /// Slots `0..decoding()` decode.
    #[must_use]
    pub fn decoding(&self) -> usize {
        self.decoding
    }

    /// Slots `0..live()` have a sequence.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live
    }

    /// The tokens in `slot`.
    #[must_use]
    pub fn tokens(&self, slot: usize) -> &[u32] {
        &self.slots[slot].tokens
    }

    /// The sequence in `slot`, to be changed.
    pub fn sequence_mut(&mut self, slot: usize) -> Option<&mut S> {
        self.slots[slot].sequence.as_mut()
    }

    /// The sequence in `slot`.
    #[must_use]
    pub fn sequence(&self, slot: usize) -> Option<&S> {
        self.slots[slot].sequence.as_ref()
    }

    /// Tokens in all slots, in complete blocks, a shared one counted once.
    #[must_use]
    pub fn held_tokens(&self) -> usize {
        self.tokens_in(self.slots.len())
    }

    /// Of these, the tokens in blocks that only cached prefixes hold.
    #[must_use]
    pub fn cached_tokens(&self) -> usize {
        self.held_tokens() - self.tokens_in(self.live)
    }

    /// Prepares a slot for a sequence that begins with `prompt`, with as many of its first `shared` tokens
    /// as are cached under `scope`. `None` if `max_live` sequences run, or the prompt does not fit beside
    /// them; then it has to wait.
    pub fn admit(&mut self, prompt: &[u32], shared: usize, scope: u64) -> Option<Admission> {
        if !self.has_free_slot() {
            return None;
        }
        let growth = GROWTH.min(self.sizes.row_tokens / 8);
        let room = (prompt.len() + growth).min(self.sizes.row_tokens.max(prompt.len()));
        let reuse = self.find_prefix(&prompt[..shared.min(prompt.len())], scope, None);
        let copied = match reuse {
            Reuse::Take { slot, tokens } | Reuse::Copy { slot, tokens } => Some((slot, tokens)),
            Reuse::Nothing => None,
        };
        // Decided by running sequences only, since cached prefixes can be evicted.
        if !self.ledger.admits(self.live, room, copied) {
            return None;
        }
        let whole = |copied| More::Slot { tokens: room, copied };
        let (slot, cached) = match reuse {
            Reuse::Take { slot, tokens } => self.shorten(slot, tokens),
            Reuse::Nothing => (self.empty_slot(whole(0), None)?, 0),
            // The slot that is copied must not be evicted for its own copy.
            Reuse::Copy { slot: from, tokens } => {
                match self.empty_slot(whole(tokens), Some(from)) {
                    Some(to) => {
                        self.copy(from, to, tokens);
                        (to, tokens)
                    }
                    // There is no room for a copy. A cached prefix is shortened and used itself; one that
                    // runs can't be, so the prompt starts from nothing.
                    None if from >= self.live => self.shorten(from, tokens),
                    None => (self.empty_slot(whole(0), None)?, 0),
                }
            }
        };
        self.ledger.reserve(slot, cached, room);
        self.slots[slot].scope = scope;
        // A slot that was taken over has room to grow now, for which other prefixes may have to go.
        self.evict_for(More::Nothing, Some(slot));
        self.swap(slot, self.live);
        Some(Admission { slot: self.live, cached })
    }

    /// Whether another sequence may run. There may be more slots than that for prefixes, but the batch is not
    /// to grow.
    #[must_use]
    pub fn has_free_slot(&self) -> bool {
        self.live < self.sizes.max_live
    }

    /// The slot other than `except` from which `prompt` reuses most under `scope`.
    fn find_prefix(&self, prompt: &[u32], scope: u64, except: Option<usize>) -> Reuse {
        let slots = self.slots.iter().enumerate();
        let slots = slots.filter(|&(index, slot)| slot.scope == scope && Some(index) != except);
        prefix::choose(
            prompt,
            slots.map(|(index, slot)| {
                (index, Seen { tokens: slot.reusable(self.sizes.grid), live: index < self.live })
            }),
            self.sizes.grid.unwrap_or(1),
        )
    }

    /// Copies the first `tokens` of `from` to the empty slot `to`.
    fn copy(&mut self, from: usize, to: usize, tokens: usize) {
        self.clock += 1;
        self.slots[from].used = self.clock;
        self.slots[to].tokens = self.slots[from].tokens[..tokens].to_vec();
        self.slots[to].on_grid = self.slots[from].on_grid.min(tokens);
        self.ledger.copy(from, to, tokens);
        self.actions.push(Action::Copy { from, to, tokens });
    }

    /// Puts `sequence` into the slot that [`Cache::admit`] has just prepared.
    pub fn place(&mut self, admission: Admission, sequence: S) {
        debug_assert_eq!(admission.slot, self.live);
        self.slots[admission.slot].sequence = Some(sequence);
        self.live += 1;
    }

    /// Looks again for a cached prefix of `prompt` for the live `slot`, whose sequence has not run yet: a
    /// prompt that begins alike may have been read since it was admitted. Returns the tokens that the slot
    /// holds now, which were among the first `shared` of the prompt.
    pub fn reuse(&mut self, slot: usize, prompt: &[u32], shared: usize) -> usize {
        let held = self.slots[slot].tokens.len();
        let shared = shared.min(prompt.len());
        match self.find_prefix(&prompt[..shared], self.slots[slot].scope, Some(slot)) {
            // Copied even from a slot that could be taken: this one has its place among the live ones.
            Reuse::Take { slot: from, tokens } | Reuse::Copy { slot: from, tokens }
                if tokens >= held + prefix::MIN_MATCH =>
            {
                // A sequence that was restarted has given its room back.
                let room = self.ledger.room(slot).max(tokens);
                let grown = More::Slot { tokens, copied: tokens };
                if room > self.ledger.room(slot) && !self.evict_for(grown, Some(from)) {
                    return held;
                }
                self.clear(slot);
                self.copy(from, slot, tokens);
                self.ledger.reserve(slot, tokens, room);
                tokens
            }
            _ => held,
        }
    }

    /// How many of the first tokens of `prompt` may be reused of those that a slot is going to hold, which
    /// are `tokens`; 0 if too few.
    #[must_use]
    pub fn common_prefix(&self, prompt: &[u32], tokens: &[u32]) -> usize {
        let seen = Seen { tokens, live: true };
        match prefix::choose(prompt, std::iter::once((0, seen)), self.sizes.grid.unwrap_or(1)) {
            Reuse::Take { tokens, .. } | Reuse::Copy { tokens, .. } => tokens,
            Reuse::Nothing => 0,
        }
    }

    /// Makes room for `count` more tokens in the live `slot`, and evicts cached prefixes for it. Returns
    /// whether there is room; if not, a live sequence has to be preempted first.
    pub fn grow(&mut self, slot: usize, count: usize) -> bool {
        let held = self.slots[slot].tokens.len();
        let tokens = held + count;
        if tokens <= self.ledger.room(slot) {
            return true;
        }
        // Token by token: more room might evict prefixes that are never in the way.
        if !self.evict_for(More::Grown { slot, held, tokens }, None) {
            return false;
        }
        self.ledger.reserve(slot, held, tokens);
        true
    }

    /// Appends `tokens` that the model has read in the live `slot`. [`Cache::grow`] has made room for them.
    pub fn extend(&mut self, slot: usize, tokens: &[u32]) {
        let (grid, room) = (self.sizes.grid, self.ledger.room(slot));
        let slot = &mut self.slots[slot];
        // A shorter chunk ends the grid: what follows it begins off the grid.
        if grid == Some(tokens.len()) && slot.on_grid == slot.tokens.len() {
            slot.on_grid += tokens.len();
        }
        slot.tokens.extend_from_slice(tokens);
        debug_assert!(slot.tokens.len() <= room, "grow was not asked");
    }

    /// Moves the sequence in the live `slot`, whose prompt is read, to those that decode by the same rotary
    /// table. Returns its new slot.
    pub fn promote(&mut self, slot: usize, rotary: Rotary) -> usize {
        debug_assert!((self.decoding..self.live).contains(&slot));
        let long = self.decoding;
        self.swap(slot, long);
        self.decoding += 1;
        if rotary == Rotary::Long {
            return long;
        }
        // From the end of the long ones to the end of the short ones.
        self.swap(long, self.decoding_short);
        self.decoding_short += 1;
        self.decoding_short - 1
    }

    /// Drops the tokens of the live `slot`, so that its sequence is read again under `scope`. Slots behind
    /// it may move; those before it stay. Returns its new slot.
    pub fn restart(&mut self, slot: usize, scope: u64) -> usize {
        let slot = self.leave_decoding(slot);
        self.clear(slot);
        self.slots[slot].scope = scope;
        slot
    }

    /// Moves the sequence in the live `slot`, if it decodes, to those that prefill. Returns its new slot.
    fn leave_decoding(&mut self, slot: usize) -> usize {
        // Over one border after the other, so that both groups stay without a gap.
        let mut slot = slot;
        if slot < self.decoding_short {
            self.decoding_short -= 1;
            self.swap(slot, self.decoding_short);
            slot = self.decoding_short;
        }
        if slot < self.decoding {
            self.decoding -= 1;
            self.swap(slot, self.decoding);
            slot = self.decoding;
        }
        slot
    }

    /// Takes the sequence out of the live `slot`, and keeps the slot's tokens as a cached prefix if
    /// `keep` is set. Slots behind it may move; those before it stay.
    pub fn retire(&mut self, slot: usize, keep: bool) -> Option<S> {
        let slot = self.leave_decoding(slot);
        self.live -= 1;
        self.swap(slot, self.live);
        let slot = self.live;
        let sequence = self.slots[slot].sequence.take();
        let held = self.slots[slot].tokens.len();
        if self.ledger.blocks(self.ledger.room(slot)) > self.ledger.blocks(held) {
            // Rejected draft tokens or a failed step may have written there.
            self.actions.push(Action::Release { slot, keep: held });
        }
        // The room to grow goes with the sequence; a prefix takes what it holds.
        self.ledger.keep(slot, held);
        self.clock += 1;
        self.slots[slot].used = self.clock;
        // Without slots beyond the running ones a prefix would be overwritten by the next sequence.
        if keep && self.slots.len() > self.sizes.max_live {
            let reusable = self.slots[slot].reusable(self.sizes.grid).len();
            self.shorten(slot, reusable);
            self.drop_covered(slot);
        } else {
            self.clear(slot);
        }
        sequence
    }

    /// The cached prefixes, the most recently used first: slot, scope and tokens of each.
    pub fn cached_prefixes(&self) -> impl Iterator<Item = (usize, u64, &[u32])> {
        let mut slots: Vec<usize> = (self.live..self.slots.len())
            .filter(|&slot| !self.slots[slot].tokens.is_empty())
            .collect();
        slots.sort_by_key(|&slot| std::cmp::Reverse(self.slots[slot].used));
        slots
            .into_iter()
            .map(|slot| (slot, self.slots[slot].scope, self.slots[slot].tokens.as_slice()))
    }

    /// Prepares a slot for a prefix from a file; the caller fills its memory. `None` if there is no room
    /// without evicting another prefix, or no slot is kept for prefixes.
    pub fn adopt(&mut self, tokens: &[u32], scope: u64) -> Option<usize> {
        let slot =
            (self.live..self.slots.len()).find(|&slot| self.slots[slot].tokens.is_empty())?;
        let more = More::Slot { tokens: tokens.len(), copied: 0 };
        let fits = tokens.len() <= self.sizes.row_tokens && self.ledger.fits(more);
        if !fits || self.slots.len() == self.sizes.max_live {
            return None;
        }
        self.clock += 1;
        self.slots[slot].used = self.clock;
        self.slots[slot].scope = scope;
        self.slots[slot].tokens = tokens.to_vec();
        self.slots[slot].on_grid = self.sizes.grid.map_or(0, |grid| tokens.len() / grid * grid);
        self.ledger.reserve(slot, 0, tokens.len());
        Some(slot)
    }

    /// Empties a slot from [`Cache::adopt`] that could not be filled.
    pub fn abandon(&mut self, slot: usize) {
        if slot >= self.live {
            self.clear(slot);
        }
    }

    /// Tokens in the first `count` slots, in complete blocks, a shared one counted once.
    fn tokens_in(&self, count: usize) -> usize {
        let slots = self.slots[..count].iter().enumerate();
        let blocks = self.ledger.blocks_in(slots.map(|(index, slot)| (index, slot.tokens.len())));
        blocks * self.sizes.block_tokens
    }

    /// Drops all but the first `tokens` of the cached `slot`. Returns both.
    fn shorten(&mut self, slot: usize, tokens: usize) -> (usize, usize) {
        if self.slots[slot].tokens.len() > tokens {
            self.slots[slot].tokens.truncate(tokens);
            self.slots[slot].on_grid = self.slots[slot].on_grid.min(tokens);
            self.ledger.keep(slot, tokens);
            self.actions.push(Action::Release { slot, keep: tokens });
        }
        (slot, tokens)
    }

    /// An empty slot with memory for `more`. The least recently used prefixes except `spared` are evicted
    /// for it.
    fn empty_slot(&mut self, more: More, spared: Option<usize>) -> Option<usize> {
        if !self.evict_for(more, spared) {
            return None;
        }
        let empty = |cache: &Self| {
            (cache.live..cache.slots.len()).find(|&slot| cache.slots[slot].tokens.is_empty())
        };
        empty(self).or_else(|| {
            let slot = self.least_used(spared)?;
            self.clear(slot);
            Some(slot)
        })
    }

    /// Evicts cached prefixes except `spared` until `more` fits. Returns whether it does.
    fn evict_for(&mut self, more: More, spared: Option<usize>) -> bool {
        // One at a time: the longest may be enough where all take as much as it, and one that shares its
        // blocks frees none.
        while !self.ledger.fits(more) {
            let Some(slot) = self.least_used(spared) else { return false };
            self.clear(slot);
        }
        true
    }

    /// The least recently used prefix, except `spared`.
    fn least_used(&self, spared: Option<usize>) -> Option<usize> {
        (self.live..self.slots.len())
            .filter(|&slot| !self.slots[slot].tokens.is_empty() && Some(slot) != spared)
            .min_by_key(|&slot| self.slots[slot].used)
    }

    /// Drops cached prefixes that the prefix in `slot` begins with, or that prefix if another begins with
    /// it: the longer one serves every prompt that the shorter one would.
    fn drop_covered(&mut self, slot: usize) {
        for other in self.live..self.slots.len() {
            let (this, that) = (&self.slots[slot], &self.slots[other]);
            if other == slot || this.scope != that.scope {
                continue;
            }
            let common = prefix::common(&this.tokens, &that.tokens);
            if common == this.tokens.len() {
                self.slots[other].used = self.clock;
                self.clear(slot);
                return;
            }
            if common == that.tokens.len() {
                self.clear(other);
            }
        }
    }

    fn clear(&mut self, slot: usize) {
        if !self.slots[slot].tokens.is_empty() {
            self.slots[slot].tokens = Vec::new();
            self.slots[slot].on_grid = 0;
            self.actions.push(Action::Release { slot, keep: 0 });
        }
        self.ledger.keep(slot, 0);
    }

    fn swap(&mut self, a: usize, b: usize) {
        // Two empty slots have no memory to exchange.
        let tokens = [self.slots[a].tokens.len(), self.slots[b].tokens.len()];
        if a != b {
            self.slots.swap(a, b);
            self.ledger.swap([a, b]);
            if tokens != [0, 0] {
                self.actions.push(Action::Swap { slots: [a, b], tokens });
            }
        }
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        for (index, slot) in self.slots.iter().enumerate() {
            assert_eq!(slot.sequence.is_some(), index < self.live, "slot {index}");
            let room = self.ledger.room(index);
            assert!(index < self.live || room == slot.tokens.len(), "slot {index} keeps room");
            assert!(slot.tokens.len() <= self.sizes.row_tokens, "slot {index} overflows");
            assert!(slot.on_grid <= slot.tokens.len(), "slot {index} reuses what it has not");
            assert!(slot.on_grid.is_multiple_of(self.sizes.grid.unwrap_or(1)), "slot {index}");
        }
        assert!(self.decoding_short <= self.decoding);
        assert!(self.decoding <= self.live && self.live <= self.sizes.max_live);
        let (used, budget) = (self.ledger.used_with(More::Nothing), self.ledger.budget());
        assert!(used <= budget, "{used} of {budget} blocks");
    }
}
