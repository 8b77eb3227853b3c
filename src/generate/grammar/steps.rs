//! A bound on work that could grow faster than a schema's size.

use std::cell::Cell;

/// What may still be looked at: schemas, names, pairs of values.
#[derive(Debug)]
pub(super) struct Steps(Cell<usize>);

impl Steps {
    /// Some tenths of a second of work.
    pub(super) const USUAL: usize = 1_000_000;

    pub(super) fn new(most: usize) -> Self {
        Self(Cell::new(most))
    }

    /// Whether `count` more may be looked at. Once that is denied, it is for all that follows.
    pub(super) fn may(&self, count: usize) -> bool {
        let left = self.0.get().checked_sub(count);
        self.0.set(left.unwrap_or(0));
        left.is_some()
    }
}
