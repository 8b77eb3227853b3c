//! Bindings to the tensors that steps run on, kept for reuse.

use std::collections::HashMap;

use super::binding::Binding;

/// Bindings kept. There is one for each range of slots that a step has covered. With more ranges (only
/// with very many slots) all are dropped, since a binding is cheap against a step.
const MOST: usize = 128;

/// Which tensors a step runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Set {
    /// Those of several rows.
    Rows,
    /// Those of one row.
    Bench,
}

/// Which part of the cache a binding is to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Range {
    pub(super) set: Set,
    pub(super) first: usize,
    pub(super) rows: usize,
    /// Whether its steps are recorded. Others over the same rows have other sizes.
    pub(super) recorded: bool,
}

/// A binding to a range of slots, and the sizes it is bound for.
#[derive(Debug)]
pub(super) struct BoundRange {
    pub(super) binding: Binding,
    /// Tokens of each row.
    pub(super) sequence: usize,
    /// Positions of each row that logits are given for.
    pub(super) positions: usize,
    /// Width of the mask.
    pub(super) total: usize,
    /// The number of the recording of its steps, as long as nothing else is bound.
    pub(super) recording: Option<i32>,
}

impl BoundRange {
    /// `binding` has the cache bound and nothing whose size is a step's.
    pub(super) fn new(binding: Binding) -> Self {
        Self { binding, sequence: 0, positions: 0, total: 0, recording: None }
    }
}

/// All bindings. They hold shares of the memory that is bound.
#[derive(Debug, Default)]
pub(super) struct Bindings {
    kept: HashMap<Range, BoundRange>,
    made: u64,
}

impl Bindings {
    /// Takes the binding to `range` out, or makes one. A binding that fails half-way is not put back,
    /// and so not used again.
    pub(super) fn take(
        &mut self,
        range: Range,
        make: impl FnOnce() -> ort::Result<BoundRange>,
    ) -> ort::Result<BoundRange> {
        if let Some(bound) = self.kept.remove(&range) {
            return Ok(bound);
        }
        if self.kept.len() >= MOST {
            self.kept.clear();
        }
        self.made += 1;
        make()
    }

    /// Keeps `bound` for the next step over `range`.
    pub(super) fn keep(&mut self, range: Range, bound: BoundRange) -> &mut BoundRange {
        self.kept.entry(range).insert_entry(bound).into_mut()
    }

    /// Drops all, as the memory that is bound moves.
    pub(super) fn clear(&mut self) {
        self.kept.clear();
    }

    /// Bindings made so far.
    #[cfg(test)]
    pub(super) fn made(&self) -> u64 {
        self.made
    }
}
