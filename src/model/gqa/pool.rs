//! The memory of the blocks that own attention caches keys and values in.
#![expect(unsafe_code, reason = "reads and writes the memory of blocks")]

use std::io::{self, Read, Write};
use std::ops::Range;

use phi4d_attention::{BLOCK, Layout};

use crate::error::{LoadError, RunError};
use crate::memory::Mapping;
use crate::paged::blocks::{Blocks, Full, Memory};

/// Memory is given back in pieces of this size, which are huge pages where the system has them.
const PIECE: usize = 2 << 20;

/// Free memory that is kept for the blocks that are taken next.
const RESERVE: usize = 64 << 20;

/// Pieces that one call looks at, and gives back at most: some 5 ms.
const PIECES_AT_ONCE: usize = 4096;
const GIVEN_AT_ONCE: usize = 32;

/// All blocks: address space that is committed when a block is first written.
#[derive(Debug)]
pub(super) struct Arena {
    memory: Mapping,
    pub(super) layout: Layout,
    /// Blocks that there is address space for.
    pub(super) blocks: usize,
}

impl Arena {
    /// Reserves address space for `blocks` blocks.
    pub(super) fn reserve(layout: Layout, blocks: usize) -> Result<Self, LoadError> {
        let bytes = blocks.saturating_mul(layout.block_bytes());
        // Attention streams a whole cache in each step, which reads up to 1.5 times as fast from
        // huge pages.
        let memory = Mapping::reserve_huge(bytes);
        let memory = memory.map_err(|source| LoadError::Memory { bytes, source })?;
        Ok(Self { memory, layout, blocks })
    }

    /// Where a region lies: its offset and size.
    fn place(&self, block: usize, layer: usize, head: usize) -> (usize, usize) {
        let offset = block * self.layout.block_bytes() + self.layout.region_offset(layer, head);
        (offset, self.layout.region_bytes())
    }

    /// The keys and values of a head in a layer of a block.
    ///
    /// # Safety
    /// Nobody may write to this region while the result lives.
    pub(super) unsafe fn region(&self, block: usize, layer: usize, head: usize) -> &[u8] {
        let (offset, bytes) = self.place(block, layer, head);
        // SAFETY: the caller's promise.
        unsafe { self.memory.bytes(offset, bytes) }
    }

    /// The same, to be written.
    ///
    /// # Safety
    /// Nobody else may use this region while the result lives.
    #[expect(clippy::mut_from_ref, reason = "threads write regions of their own")]
    pub(super) unsafe fn region_mut(&self, block: usize, layer: usize, head: usize) -> &mut [u8] {
        let (offset, bytes) = self.place(block, layer, head);
        // SAFETY: the caller's promise.
        unsafe { self.memory.bytes_mut(offset, bytes) }
    }
}

/// What the runner knows of the arena's memory. The arena is shared with the operator, which uses it only
/// while a step runs.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) arena: std::sync::Arc<Arena>,
    /// Whether each piece may have memory.
    committed: Vec<bool>,
    committed_count: usize,
    /// The piece that the next search for free ones begins at.
    next: usize,
}

impl Pool {
    pub(super) fn new(layout: Layout, blocks: usize) -> Result<Self, LoadError> {
        let arena = Arena::reserve(layout, blocks)?;
        // By piece and not by block: a block may be smaller than a huge page, and giving back a
        // part of a page would split it.
        let pieces = (blocks * layout.block_bytes()).div_ceil(PIECE);
        Ok(Self {
            arena: arena.into(),
            committed: vec![false; pieces],
            committed_count: 0,
            next: 0,
        })
    }

    /// Notes that `blocks` are written.
    pub(super) fn commit(&mut self, blocks: &[usize]) {
        let bytes = self.arena.layout.block_bytes();
        for block in blocks {
            let start = block * bytes;
            // A block may begin in one piece and end in the next.
            for piece in &mut self.committed[start / PIECE..(start + bytes).div_ceil(PIECE)] {
                self.committed_count += usize::from(!*piece);
                *piece = true;
            }
        }
    }

    /// Gives memory of free blocks back to the system, if there is much of it: a little in each call, since
    /// this runs between steps.
    pub(super) fn trim(&mut self, blocks: &Blocks) {
        let bytes = self.arena.layout.block_bytes();
        let mut given = 0;
        for _ in 0..PIECES_AT_ONCE.min(self.committed.len()) {
            let used = (self.arena.blocks - blocks.free()) * bytes;
            // Counted again in each round, since what was given back is no longer spare.
            let spare = (self.committed_count * PIECE).saturating_sub(used + RESERVE);
            if spare < PIECE || given == GIVEN_AT_ONCE {
                return;
            }
            // Goes on where the last call stopped, so that every piece has its turn however few a
            // call looks at.
            let piece = self.next;
            self.next = (piece + 1) % self.committed.len();
            let place = piece * PIECE..((piece + 1) * PIECE).min(self.arena.blocks * bytes);
            // Neighbours in a piece may belong to sequences that run: it is given back only if all
            // of its blocks are free.
            if self.committed[piece] && self.is_free(blocks, &place) {
                // SAFETY: nothing runs between steps, and these blocks hold nothing.
                unsafe { self.arena.memory.release(place) };
                self.committed[piece] = false;
                self.committed_count -= 1;
                given += 1;
            }
        }
    }

    /// Bytes that may have memory.
    #[cfg(test)]
    pub(super) fn committed_bytes(&self) -> usize {
        self.committed_count * PIECE
    }

    fn is_free(&self, blocks: &Blocks, place: &Range<usize>) -> bool {
        let bytes = self.arena.layout.block_bytes();
        (place.start / bytes..place.end.div_ceil(bytes)).all(|block| blocks.is_free(block))
    }

    /// Writes the first `tokens` positions that lie in `blocks`, block by block.
    pub(super) fn export(
        &self,
        blocks: &[usize],
        tokens: usize,
        sink: &mut dyn Write,
    ) -> io::Result<()> {
        self.parts(blocks, tokens, |arena, [block, layer, head], count| {
            // SAFETY: nothing runs between steps.
            let region = unsafe { arena.region(block, layer, head) };
            arena.layout.pack(region, count, sink)
        })
    }

    /// Fills the first `tokens` positions that lie in `blocks` with what [`Pool::export`] wrote.
    pub(super) fn import(
        &mut self,
        blocks: &[usize],
        tokens: usize,
        source: &mut dyn Read,
    ) -> io::Result<()> {
        // Before writing: the pages get memory by being written to, and `trim` must know of them
        // even if reading fails half-way.
        self.commit(blocks);
        self.parts(blocks, tokens, |arena, [block, layer, head], count| {
            // SAFETY: nothing runs between steps, and no other reference is held.
            let region = unsafe { arena.region_mut(block, layer, head) };
            arena.layout.unpack(region, count, source)
        })
    }

    /// Calls `part` for each region of `blocks`, with how many of its positions are among the first `tokens`.
    fn parts(
        &self,
        blocks: &[usize],
        tokens: usize,
        mut part: impl FnMut(&Arena, [usize; 3], usize) -> io::Result<()>,
    ) -> io::Result<()> {
        for (&block, start) in blocks.iter().zip((0..tokens).step_by(BLOCK)) {
            let count = (tokens - start).min(BLOCK);
            for layer in 0..self.arena.layout.layers {
                for head in 0..self.arena.layout.kv_heads {
                    part(&self.arena, [block, layer, head], count)?;
                }
            }
        }
        Ok(())
    }
}

impl Memory for Pool {
    type Error = RunError;

    fn grow(&mut self, _blocks: usize) -> Result<usize, RunError> {
        // All blocks have address space from the start.
        Err(Full { blocks: self.arena.blocks, tokens: BLOCK }.into())
    }

    fn copy(&mut self, from: usize, to: usize) -> Result<(), RunError> {
        self.commit(&[to]);
        let bytes = self.arena.layout.block_bytes();
        // SAFETY: nothing runs between steps, and no reference into the arena outlives a call.
        unsafe { self.arena.memory.copy(from * bytes, to * bytes, bytes) };
        Ok(())
    }

    /// The memory stays for the next holder; [`Pool::trim`] gives back what is too much.
    fn release(&mut self, _block: usize) {}
}
