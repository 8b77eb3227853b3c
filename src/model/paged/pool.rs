//! The memory of a paged cache's blocks.
#![expect(unsafe_code, reason = "copies within memory that is bound to the session")]

use std::io::{self, Read, Write};
use std::sync::Arc;

use ort::memory::MemoryInfo;
use ort::value::TensorElementType;

use super::blocks::Action;
use crate::model::binding::Tensor;
use crate::model::error::LoadError;
use crate::model::memory::Mapping;

/// Sizes of the cache's tensors, `[blocks, tokens, heads, head_size]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) tensors: usize,
    pub(super) blocks: usize,
    pub(super) tokens: usize,
    pub(super) heads: usize,
    /// Elements that a head's key or value is stored in.
    pub(super) head_size: usize,
    pub(super) element: TensorElementType,
    pub(super) element_bytes: usize,
}

impl Sizes {
    /// Bytes of one position in one tensor.
    pub(super) fn position_bytes(&self) -> usize {
        self.heads * self.head_size * self.element_bytes
    }

    fn block_bytes(&self) -> usize {
        self.tokens * self.position_bytes()
    }
}

/// Keys and values of all layers, in the host's memory. A block takes memory when it is first
/// written to and gives it back when nobody holds it.
#[derive(Debug)]
pub(super) struct Pool {
    tensors: Vec<Arc<Mapping>>,
    sizes: Sizes,
}

impl Pool {
    pub(super) fn reserve(sizes: Sizes) -> Result<Self, LoadError> {
        let bytes = sizes.blocks * sizes.block_bytes();
        let reserve = || {
            Mapping::reserve(bytes)
                .map(Arc::new)
                .map_err(|source| LoadError::Memory { bytes, source })
        };
        Ok(Self {
            tensors: (0..sizes.tensors).map(|_| reserve()).collect::<Result<_, _>>()?,
            sizes,
        })
    }

    /// Tensor `index` whole.
    pub(super) fn tensor(&self, info: &MemoryInfo<'_>, index: usize) -> ort::Result<Tensor> {
        let Sizes { blocks, tokens, heads, head_size, element, .. } = self.sizes;
        Tensor::new(info, &self.tensors[index], 0, &[blocks, tokens, heads, head_size], element)
    }

    /// Does what the book-keeping says, between two steps.
    pub(super) fn apply(&mut self, actions: Vec<Action>) {
        let bytes = self.sizes.block_bytes();
        for action in actions {
            for memory in &self.tensors {
                match action {
                    // SAFETY: nothing runs, since steps take the runner by `&mut`, and no reference
                    // into the cache outlives a call.
                    Action::Copy { from, to } => unsafe {
                        memory.copy(from * bytes, to * bytes, bytes);
                    },
                    // SAFETY: as above.
                    Action::Release { block } => unsafe {
                        memory.release(block * bytes..(block + 1) * bytes);
                    },
                }
            }
        }
    }

    /// Writes the first `tokens` positions that lie in `blocks`.
    pub(super) fn export(
        &self,
        blocks: &[usize],
        tokens: usize,
        sink: &mut dyn Write,
    ) -> io::Result<()> {
        for memory in &self.tensors {
            for (start, bytes) in self.parts(blocks, tokens) {
                // SAFETY: nothing runs, and a run can't begin while this borrows `self`.
                sink.write_all(unsafe { memory.bytes(start, bytes) })?;
            }
        }
        Ok(())
    }

    /// Fills the first `tokens` positions that lie in `blocks`.
    pub(super) fn import(
        &mut self,
        blocks: &[usize],
        tokens: usize,
        source: &mut dyn Read,
    ) -> io::Result<()> {
        for memory in &self.tensors {
            for (start, bytes) in self.parts(blocks, tokens) {
                // SAFETY: nothing runs, and no other reference into the cache exists.
                source.read_exact(unsafe { memory.bytes_mut(start, bytes) })?;
            }
        }
        Ok(())
    }

    /// Where the first `tokens` positions in `blocks` lie in a tensor: offset and bytes of each part.
    fn parts(&self, blocks: &[usize], tokens: usize) -> Vec<(usize, usize)> {
        let starts = (0..tokens).step_by(self.sizes.tokens);
        let part = |(&block, start): (&usize, usize)| {
            let count = (tokens - start).min(self.sizes.tokens);
            (block * self.sizes.block_bytes(), count * self.sizes.position_bytes())
        };
        blocks.iter().zip(starts).map(part).collect()
    }
}
