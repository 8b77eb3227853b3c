//! The memory of a paged cache's blocks, where the session wants it: the host's or a device's.

mod device;
mod host;

use std::io::{self, Read, Write};

use ort::memory::MemoryInfo;
use ort::value::TensorElementType;

pub(super) use device::DevicePool;
pub(super) use host::HostPool;

use super::blocks::{Full, Memory};
use crate::binding::Tensor;
use crate::error::RunError;

/// Sizes of the cache's tensors, `[blocks, tokens, heads, head_size]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) tensors: usize,
    /// Blocks there may be.
    pub(super) most: usize,
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

    /// Bytes of one block in one tensor.
    pub(super) fn block_bytes(&self) -> usize {
        self.tokens * self.position_bytes()
    }

    fn shape(&self, blocks: usize) -> [usize; 4] {
        [blocks, self.tokens, self.heads, self.head_size]
    }

    fn full(&self) -> Full {
        Full { blocks: self.most, tokens: self.tokens }
    }
}

impl From<Full> for RunError {
    fn from(full: Full) -> Self {
        Self::Runtime(full.to_string())
    }
}

/// Keys and values of all layers.
#[derive(Debug)]
pub(super) enum Pool {
    Host(HostPool),
    Device(Box<DevicePool>),
}

impl Pool {
    /// Blocks that there is memory for.
    pub(super) fn blocks(&self) -> usize {
        match self {
            Self::Host(pool) => pool.blocks(),
            Self::Device(pool) => pool.blocks(),
        }
    }

    /// How often memory was allocated on a device; `None` for the host's.
    #[cfg(test)]
    pub(super) fn laid(&self) -> Option<u64> {
        match self {
            Self::Host(_) => None,
            Self::Device(pool) => Some(pool.laid()),
        }
    }

    /// Tensor `index` whole.
    pub(super) fn tensor(&self, info: &MemoryInfo<'_>, index: usize) -> ort::Result<Tensor> {
        match self {
            Self::Host(pool) => pool.tensor(info, index),
            Self::Device(pool) => pool.tensor(index),
        }
    }

    /// Writes the first `tokens` positions that lie in `blocks`, tensor by tensor.
    pub(super) fn export(
        &self,
        blocks: &[usize],
        tokens: usize,
        sink: &mut dyn Write,
    ) -> io::Result<()> {
        match self {
            Self::Host(pool) => pool.export(blocks, tokens, sink),
            Self::Device(pool) => pool.export(blocks, tokens, sink),
        }
    }

    /// Fills the first `tokens` positions that lie in `blocks` with what [`Pool::export`] wrote.
    pub(super) fn import(
        &mut self,
        blocks: &[usize],
        tokens: usize,
        source: &mut dyn Read,
    ) -> io::Result<()> {
        match self {
            Self::Host(pool) => pool.import(blocks, tokens, source),
            Self::Device(pool) => pool.import(blocks, tokens, source),
        }
    }
}

impl Memory for Pool {
    type Error = RunError;

    fn grow(&mut self, blocks: usize) -> Result<usize, RunError> {
        match self {
            // All blocks have address space from the start, and pages come when they are written.
            Self::Host(pool) => Err(pool.full().into()),
            Self::Device(pool) => pool.grow(blocks),
        }
    }

    fn copy(&mut self, from: usize, to: usize) -> Result<(), RunError> {
        match self {
            Self::Host(pool) => {
                pool.copy(from, to);
                Ok(())
            }
            Self::Device(pool) => pool.copy(from, to),
        }
    }

    fn release(&mut self, block: usize) {
        match self {
            Self::Host(pool) => pool.release(block),
            // A device frees no part of an allocation; the block is the next sequence's.
            Self::Device(_) => {}
        }
    }
}
