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
pub(super) trait Pool: Memory<Error = RunError> + std::fmt::Debug + Send {
    /// Blocks that there is memory for.
    fn blocks(&self) -> usize;

    /// How often memory was allocated on a device; `None` for the host's.
    #[cfg(test)]
    fn laid(&self) -> Option<u64> {
        None
    }

    /// Tensor `index` whole; `info` is the host's memory.
    fn tensor(&self, info: &MemoryInfo<'_>, index: usize) -> ort::Result<Tensor>;

    /// Writes the first `tokens` positions that lie in `blocks`, tensor by tensor.
    fn export(&self, blocks: &[usize], tokens: usize, sink: &mut dyn Write) -> io::Result<()>;

    /// Fills the first `tokens` positions that lie in `blocks` with what [`Pool::export`] wrote.
    fn import(&mut self, blocks: &[usize], tokens: usize, source: &mut dyn Read) -> io::Result<()>;
}
