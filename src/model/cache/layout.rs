//! Which slot's tokens lie where in a device's memory: pure book-keeping over a [`Mover`].
//!
//! A device commits nothing lazily and its memory moves by copies only. With some providers the memory
//! is an object rather than an address, so a step over several slots must begin with the first row of
//! a tensor. So there are two sets of tensors of one capacity (positions of a row):
//!
//! - the *rows*, on which steps over several slots run;
//! - the *bench*, one row, on which steps over one slot run: prompts, draft tokens, and a sequence that
//!   decodes alone.
//!
//! A slot's tokens are in one place: a row or the bench. They move to the bench when a step over that
//! slot alone comes, and to a row when another slot needs the bench or the slot decodes with others.
//! Exchanging two slots moves nothing. When rows or positions run out, both sets are allocated again:
//! as many rows as hold something, and as many positions as the next power of two of the longest
//! slot. Rows and positions beyond that are kept while they fit the budget.

use crate::plan::alike_positions;

/// Moves the memory as the layout decides.
pub(super) trait Mover {
    /// Why something could not be done.
    type Error: From<Lost>;

    /// Allocates both sets again, with `capacity` positions: new row `i` gets what old row `from[i]`
    /// holds, as much as fits; its contents do not matter where that is `None`. The bench keeps what
    /// it holds. After an error no memory is left.
    fn lay(&mut self, from: &[Option<usize>], capacity: usize) -> Result<(), Self::Error>;

    /// Copies a row to the bench.
    fn load(&mut self, row: usize) -> Result<(), Self::Error>;

    /// Copies the bench to a row.
    fn store(&mut self, row: usize) -> Result<(), Self::Error>;
}

/// A slot holds fewer tokens than its sequence counts on, since an earlier copy failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("slot {slot} holds {held} tokens and not {wanted}")]
pub(super) struct Lost {
    slot: usize,
    held: usize,
    wanted: usize,
}

/// Rows up to which a step takes hardly longer than over one: the weights' reads dominate.
const FEW: usize = 8;

/// Sizes that stay.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) slots: usize,
    /// Positions that a row has at most.
    pub(super) context: usize,
    /// Positions of all rows and the bench together, above which capacity is taken back.
    pub(super) budget: usize,
}

/// A step over several slots.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seats {
    /// The row of each of the step's slots.
    pub(crate) rows: Vec<usize>,
    /// The position that each of the step's rows writes. The step runs over the first rows of the
    /// tensors, as many as are here; the ones that are not in `rows` write a token that nobody reads.
    pub(crate) past: Vec<usize>,
}

/// Where each slot's tokens are.
#[derive(Debug)]
pub(super) struct Layout {
    bounds: Bounds,
    capacity: usize,
    /// The slot that each row holds.
    rows: Vec<Option<usize>>,
    /// The slot that the bench holds.
    bench: Option<usize>,
    /// Tokens that each slot holds.
    held: Vec<usize>,
}

impl Layout {
    /// Nothing is held yet, and there is no memory.
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, capacity: 0, rows: Vec::new(), bench: None, held: vec![0; bounds.slots] }
    }

    /// Brings `slot` to the bench, with its first `past` tokens and room for `end`. They count as
    /// all that it holds until [`Layout::wrote`].
    pub(super) fn seat_one<M: Mover>(
        &mut self,
        mover: &mut M,
        slot: usize,
        past: usize,
        end: usize,
    ) -> Result<(), M::Error> {
        self.check(slot, past)?;
        if self.bench != Some(slot) {
            // The bench's tokens are its only copy, so they are saved before others overwrite them.
            self.vacate(mover)?;
            if let Some(row) = self.row_of(slot) {
                if past > 0 {
                    mover.load(row)?;
                }
                self.rows[row] = None;
            }
            self.bench = Some(slot);
        }
        // Only what the step keeps counts: growing the memory then copies no more than that.
        self.held[slot] = past;
        self.reach(mover, end)
    }

    /// Finds rows for the slots from `first` on, each of which writes its position `past`. No row of the
    /// step may write at `limit` or above.
    pub(super) fn seat<M: Mover>(
        &mut self,
        mover: &mut M,
        first: usize,
        past: &[usize],
        limit: usize,
    ) -> Result<Seats, M::Error> {
        let slots = first..first + past.len();
        for (slot, &past) in slots.clone().zip(past) {
            self.check(slot, past)?;
            self.held[slot] = past;
        }
        // A step runs on one set of tensors: a slot on the bench must come to a row first.
        if self.bench.is_some_and(|slot| slots.contains(&slot)) {
            self.vacate(mover)?;
        }
        let end = past.iter().max().map_or(0, |past| past + 1);
        self.reach(mover, end)?;
        let mut rows = self.rows_of(slots.clone())?;
        // Sorting rows costs a copy of the cache, which pays when the step would otherwise run over
        // many rows in vain for as long as these sequences decode together.
        if self.is_scattered(&rows, limit) {
            let others = (0..self.rows.len()).filter(|row| !rows.contains(row));
            let others = others.filter(|&row| self.rows[row].is_some());
            let order: Vec<usize> = rows.iter().copied().chain(others).collect();
            self.lay(mover, &order, 0, end)?;
            rows = self.rows_of(slots)?;
        }
        let width = rows.iter().max().map_or(0, |row| row + 1);
        // Rows between those of the step write behind what they hold, where their own next token
        // overwrites it.
        let mut written: Vec<usize> =
            (0..width).map(|row| self.rows[row].map_or(0, |slot| self.held[slot])).collect();
        for (&row, &past) in rows.iter().zip(past) {
            written[row] = past;
        }
        Ok(Seats { rows, past: written })
    }

    /// A step has written `slot`'s positions up to `end`.
    pub(super) fn wrote(&mut self, slot: usize, end: usize) {
        self.held[slot] = end;
    }

    /// Exchanges two slots.
    pub(super) fn swap(&mut self, [a, b]: [usize; 2]) {
        // Only names change: moving two slots' memory on a device would be three copies.
        let other = |slot| match slot {
            slot if slot == a => b,
            slot if slot == b => a,
            slot => slot,
        };
        for slot in self.rows.iter_mut().chain([&mut self.bench]).flatten() {
            *slot = other(*slot);
        }
        self.held.swap(a, b);
    }

    /// Copies the first `tokens` positions of slot `from` to slot `to`, whose own are gone. A step
    /// over `to` is likely next, so the copy is made on the bench.
    pub(super) fn copy<M: Mover>(
        &mut self,
        mover: &mut M,
        from: usize,
        to: usize,
        tokens: usize,
    ) -> Result<(), M::Error> {
        self.release(to, 0);
        self.check(from, tokens)?;
        // This also brings `from` to a row, if it was on the bench.
        self.vacate(mover)?;
        if let Some(row) = self.row_of(from) {
            mover.load(row)?;
            self.bench = Some(to);
            self.held[to] = tokens;
        }
        Ok(())
    }

    /// Makes the bench hold what `slot` holds, to be read there.
    pub(super) fn show<M: Mover>(
        &mut self,
        mover: &mut M,
        slot: usize,
        tokens: usize,
    ) -> Result<(), M::Error> {
        self.check(slot, tokens)?;
        if self.bench != Some(slot) {
            self.vacate(mover)?;
            // A copy: the row stays the slot's, so that reading it changes no layout.
            if let Some(row) = self.row_of(slot) {
                mover.load(row)?;
            }
        }
        Ok(())
    }

    /// Empties the bench for `tokens` positions of `slot`, which the caller writes there.
    pub(super) fn take<M: Mover>(
        &mut self,
        mover: &mut M,
        slot: usize,
        tokens: usize,
    ) -> Result<(), M::Error> {
        self.release(slot, 0);
        self.seat_one(mover, slot, 0, tokens)
    }

    /// `slot` holds its first `keep` tokens only.
    pub(super) fn release(&mut self, slot: usize, keep: usize) {
        self.held[slot] = self.held[slot].min(keep);
        if keep == 0 {
            if let Some(row) = self.row_of(slot) {
                self.rows[row] = None;
            }
            self.bench = self.bench.filter(|&held| held != slot);
        }
    }

    fn check(&self, slot: usize, wanted: usize) -> Result<(), Lost> {
        let held = self.held[slot];
        if wanted > held { Err(Lost { slot, held, wanted }) } else { Ok(()) }
    }

    fn row_of(&self, slot: usize) -> Option<usize> {
        self.rows.iter().position(|&held| held == Some(slot))
    }

    fn rows_of(&self, slots: std::ops::Range<usize>) -> Result<Vec<usize>, Lost> {
        let lost = |slot| Lost { slot, held: 0, wanted: self.held[slot] };
        slots.map(|slot| self.row_of(slot).ok_or_else(|| lost(slot))).collect()
    }

    /// Whether a step over `rows` would run over more other rows than its own, or over a full row,
    /// which has no position that the step could write in vain.
    fn is_scattered(&self, rows: &[usize], limit: usize) -> bool {
        let width = rows.iter().max().map_or(0, |row| row + 1);
        let full = |row: usize| {
            self.rows[row].is_some_and(|slot| self.held[slot] >= limit.min(self.capacity))
                && !rows.contains(&row)
        };
        width > FEW.max(2 * rows.len()) || (0..width).any(full)
    }

    /// Moves what the bench holds to a row.
    fn vacate<M: Mover>(&mut self, mover: &mut M) -> Result<(), M::Error> {
        let Some(slot) = self.bench else { return Ok(()) };
        if self.held[slot] > 0 {
            let row = self.free_row(mover)?;
            mover.store(row)?;
            self.rows[row] = Some(slot);
        }
        self.bench = None;
        Ok(())
    }

    fn free_row<M: Mover>(&mut self, mover: &mut M) -> Result<usize, M::Error> {
        if let Some(row) = self.rows.iter().position(Option::is_none) {
            return Ok(row);
        }
        let order: Vec<usize> = (0..self.rows.len()).collect();
        // Rows keep their order, so the new one is the last.
        self.lay(mover, &order, 1, 0)?;
        Ok(order.len())
    }

    /// Makes sure that rows have `end` positions.
    fn reach<M: Mover>(&mut self, mover: &mut M, end: usize) -> Result<(), M::Error> {
        if end <= self.capacity {
            return Ok(());
        }
        let order: Vec<usize> =
            (0..self.rows.len()).filter(|&row| self.rows[row].is_some()).collect();
        self.lay(mover, &order, 0, end)
    }

    /// Allocates everything again: the old rows in `order`, which are all that hold something, and at
    /// least `more` empty ones, with at least `end` positions.
    fn lay<M: Mover>(
        &mut self,
        mover: &mut M,
        order: &[usize],
        more: usize,
        end: usize,
    ) -> Result<(), M::Error> {
        let longest = self.held.iter().copied().max().unwrap_or(0).max(end);
        let needed = alike_positions(longest, self.bounds.context);
        let fits = |count: usize, capacity: usize| (count + 1) * capacity <= self.bounds.budget;
        let mut count = order.len() + more;
        // Shrinking costs a copy too, so a larger capacity stays until the budget forbids it.
        let stays = self.capacity >= needed && fits(count, self.capacity);
        let capacity = if stays { self.capacity } else { needed };
        // Rows that are there stay as well: the next sequence then allocates nothing.
        if fits(self.rows.len(), capacity) {
            count = count.max(self.rows.len());
        }
        let mut from: Vec<Option<usize>> =
            order.iter().map(|&row| self.rows[row].map(|_| row)).collect();
        from.resize(count, None);
        if let Err(error) = mover.lay(&from, capacity) {
            // No memory is left. `Lost` then makes the sequences that need it fail, and later ones
            // start again.
            *self = Self::new(self.bounds);
            return Err(error);
        }
        self.rows = from.iter().map(|row| row.and_then(|row| self.rows[row])).collect();
        self.capacity = capacity;
        Ok(())
    }
}
