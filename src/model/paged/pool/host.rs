//! Blocks in the host's memory.
#![expect(unsafe_code, reason = "copies within memory that is bound to the session")]

use std::io::{self, Read, Write};
use std::sync::Arc;

use ort::memory::MemoryInfo;

use super::super::blocks::Memory;
use super::{Pool, Sizes};
use crate::binding::Tensor;
use crate::error::{LoadError, RunError};
use crate::memory::Mapping;

/// Keys and values of all layers, in the host's memory: address space for all blocks there may be. A
/// block takes memory when it is first written to and gives it back when nobody holds it.
#[derive(Debug)]
pub(in super::super) struct HostPool {
    tensors: Vec<Arc<Mapping>>,
    sizes: Sizes,
}

impl HostPool {
    pub(in super::super) fn reserve(sizes: Sizes) -> Result<Self, LoadError> {
        let bytes = sizes.most * sizes.block_bytes();
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

    /// Where the first `tokens` positions in `blocks` lie in a tensor: offset and bytes of each part.
    fn parts(&self, blocks: &[usize], tokens: usize) -> Vec<(usize, usize)> {
        let starts = (0..tokens).step_by(self.sizes.tokens);
        let part = |(&block, start): (&usize, usize)| {
            // Of the last block only what is held, so that equal prompts are written as equal
            // bytes.
            let count = (tokens - start).min(self.sizes.tokens);
            (block * self.sizes.block_bytes(), count * self.sizes.position_bytes())
        };
        blocks.iter().zip(starts).map(part).collect()
    }
}

impl Pool for HostPool {
    fn blocks(&self) -> usize {
        self.sizes.most
    }

    fn tensor(&self, info: &MemoryInfo<'_>, index: usize) -> ort::Result<Tensor> {
        let shape = self.sizes.shape(self.sizes.most);
        Tensor::new(info, &self.tensors[index], 0, &shape, self.sizes.element)
    }

    fn export(&self, blocks: &[usize], tokens: usize, sink: &mut dyn Write) -> io::Result<()> {
        for memory in &self.tensors {
            for (start, bytes) in self.parts(blocks, tokens) {
                // SAFETY: nothing runs, and a run can't begin while this borrows `self`.
                sink.write_all(unsafe { memory.bytes(start, bytes) })?;
            }
        }
        Ok(())
    }

    fn import(&mut self, blocks: &[usize], tokens: usize, source: &mut dyn Read) -> io::Result<()> {
        for memory in &self.tensors {
            for (start, bytes) in self.parts(blocks, tokens) {
                // SAFETY: nothing runs, and no other reference into the cache exists.
                source.read_exact(unsafe { memory.bytes_mut(start, bytes) })?;
            }
        }
        Ok(())
    }
}

impl Memory for HostPool {
    type Error = RunError;

    fn grow(&mut self, _blocks: usize) -> Result<usize, RunError> {
        // All blocks have address space from the start, and pages come when they are written.
        Err(self.sizes.full().into())
    }

    fn copy(&mut self, from: usize, to: usize) -> Result<(), RunError> {
        let bytes = self.sizes.block_bytes();
        for memory in &self.tensors {
            // SAFETY: nothing runs, since steps take the runner by `&mut`, and no reference into
            // the cache outlives a call.
            unsafe { memory.copy(from * bytes, to * bytes, bytes) };
        }
        Ok(())
    }

    fn release(&mut self, block: usize) {
        let bytes = self.sizes.block_bytes();
        for memory in &self.tensors {
            // SAFETY: as above.
            unsafe { memory.release(block * bytes..(block + 1) * bytes) };
        }
    }
}
