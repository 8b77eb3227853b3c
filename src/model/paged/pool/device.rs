//! Blocks in a device's memory.
//!
//! A device commits nothing lazily, so the pool begins small and doubles when its blocks run out,
//! up to what the budget allows; what is there is copied over, tensor by tensor. It never shrinks:
//! blocks that nobody holds are the next sequence's.
#![expect(unsafe_code, reason = "reads and writes host memory on its way to and from the device")]

use std::io::{self, Read, Write};
use std::sync::Arc;

use ort::memory::MemoryInfo;

use super::super::blocks::Memory;
use super::{Pool, Sizes};
use crate::binding::Tensor;
use crate::cache::{Movers, NewSession, Place, Whole};
use crate::device::{DeviceAllocator, DeviceBlock};
use crate::error::{LoadError, RunError};
use crate::memory::Mapping;

/// Keys and values of all layers, in a device's memory.
#[derive(Debug)]
pub(in super::super) struct DevicePool {
    allocator: Arc<DeviceAllocator>,
    movers: Movers,
    /// Each has room for `blocks` blocks at least; none before the first use.
    tensors: Vec<Arc<DeviceBlock>>,
    /// One block, which copies pass through.
    spare: Option<Arc<DeviceBlock>>,
    blocks: usize,
    sizes: Sizes,
    /// How often memory was allocated.
    laid: u64,
}

/// Positions that the smallest pool has blocks for.
const LEAST: usize = 256;

fn failed(error: &ort::Error) -> RunError {
    RunError::Runtime(format!("the device's memory: {error}"))
}

impl DevicePool {
    /// An empty pool, which takes memory when it is used, at most `budget_bytes`.
    pub(in super::super) fn new(
        allocator: DeviceAllocator,
        new_session: NewSession<'_>,
        mut sizes: Sizes,
        budget_bytes: usize,
    ) -> Result<Self, LoadError> {
        let bytes = sizes.tensors * sizes.block_bytes();
        sizes.most = sizes.most.min(budget_bytes / bytes.max(1));
        log::info!(
            memory = allocator.name(), kv_cache_bytes = budget_bytes, blocks = sizes.most;
            "the KV cache is in device memory"
        );
        Ok(Self {
            allocator: Arc::new(allocator),
            // A block is moved whole, so what its axes mean does not matter.
            movers: Movers::new(new_session, sizes.element_bytes, sizes.tokens, sizes.head_size)?,
            tensors: Vec::new(),
            spare: None,
            blocks: 0,
            sizes,
            laid: 0,
        })
    }

    /// Tensor `index` with room for `blocks` blocks: what it holds, then anything that was written.
    fn laid_out(&self, index: usize, blocks: usize) -> ort::Result<Arc<DeviceBlock>> {
        let bytes = self.sizes.block_bytes();
        // Left over from a growth that failed half-way.
        if let Some(tensor) = self.tensors.get(index)
            && tensor.bytes() >= blocks * bytes
        {
            return Ok(Arc::clone(tensor));
        }
        let tensor = self.allocator.allocate(blocks * bytes)?;
        // New blocks get a copy of block 0: uninitialised memory may hold NaN, which attention spreads.
        let origins: Vec<usize> =
            (0..blocks).map(|block| if block < self.blocks { block } else { 0 }).collect();
        let to = self.whole(Place::Device(&tensor), blocks);
        match self.tensors.get(index) {
            Some(old) if self.blocks > 0 => {
                self.movers.take(self.whole(Place::Device(old), self.blocks), &origins, to)?;
            }
            _ => {
                let zeros = Arc::new(Mapping::reserve(bytes).map_err(ort::Error::wrap)?);
                self.movers.take(self.whole(Place::Host(&zeros), 1), &origins, to)?;
            }
        }
        Ok(tensor)
    }

    fn pass(&mut self, from: usize, to: usize) -> ort::Result<()> {
        // A copying graph must not read the tensor that it writes in place: a block goes by a spare.
        let spare = match self.spare.take() {
            Some(spare) => spare,
            None => self.allocator.allocate(self.sizes.block_bytes())?,
        };
        let one = self.whole(Place::Device(&spare), 1);
        for tensor in &self.tensors {
            let all = self.whole(Place::Device(tensor), self.blocks);
            self.movers.take(all, &[from], one)?;
            self.movers.put(one, all, &[to])?;
        }
        self.spare = Some(spare);
        Ok(())
    }

    /// Those of a slot's `blocks` that hold its first `tokens` positions, if there are any.
    fn holding<'a>(&self, blocks: &'a [usize], tokens: usize) -> Option<&'a [usize]> {
        // Blocks behind the wanted positions may be of draft tokens, and are neither written out
        // nor read back.
        let count = tokens.div_ceil(self.sizes.tokens).min(blocks.len());
        (count > 0).then(|| &blocks[..count])
    }

    fn whole<'a>(&self, place: Place<'a>, blocks: usize) -> Whole<'a> {
        Whole { place, rows: blocks, positions: self.sizes.heads }
    }
}

impl Pool for DevicePool {
    fn blocks(&self) -> usize {
        self.blocks
    }

    #[cfg(test)]
    fn laid(&self) -> Option<u64> {
        Some(self.laid)
    }

    fn tensor(&self, _info: &MemoryInfo<'_>, index: usize) -> ort::Result<Tensor> {
        let shape = self.sizes.shape(self.blocks);
        Tensor::on_device(&self.tensors[index], &shape, self.sizes.element)
    }

    fn export(&self, blocks: &[usize], tokens: usize, sink: &mut dyn Write) -> io::Result<()> {
        let Some(blocks) = self.holding(blocks, tokens) else { return Ok(()) };
        let memory = Arc::new(Mapping::reserve(blocks.len() * self.sizes.block_bytes())?);
        let host = self.whole(Place::Host(&memory), blocks.len());
        for tensor in &self.tensors {
            let all = self.whole(Place::Device(tensor), self.blocks);
            self.movers.take(all, blocks, host).map_err(io::Error::other)?;
            // SAFETY: the run is over, and no other begins while this is read.
            sink.write_all(unsafe { memory.bytes(0, tokens * self.sizes.position_bytes()) })?;
        }
        Ok(())
    }

    fn import(&mut self, blocks: &[usize], tokens: usize, source: &mut dyn Read) -> io::Result<()> {
        let Some(blocks) = self.holding(blocks, tokens) else { return Ok(()) };
        let memory = Arc::new(Mapping::reserve(blocks.len() * self.sizes.block_bytes())?);
        let host = self.whole(Place::Host(&memory), blocks.len());
        for tensor in &self.tensors {
            let bytes = tokens * self.sizes.position_bytes();
            // SAFETY: the run before is over, and the next has not begun.
            source.read_exact(unsafe { memory.bytes_mut(0, bytes) })?;
            let all = self.whole(Place::Device(tensor), self.blocks);
            self.movers.put(host, all, blocks).map_err(io::Error::other)?;
        }
        Ok(())
    }
}

impl Memory for DevicePool {
    type Error = RunError;

    /// Nobody else may hold a share of the tensors, or their memory is there twice meanwhile.
    fn grow(&mut self, wanted: usize) -> Result<usize, RunError> {
        if wanted > self.sizes.most {
            return Err(self.sizes.full().into());
        }
        // Doubling: growth copies each block once on average, however long sequences get.
        let least = LEAST.div_ceil(self.sizes.tokens);
        let blocks = wanted.next_power_of_two().max(least).min(self.sizes.most);
        // If one allocation fails, the tensors before it are larger than needed and hold the same, so
        // the pool works on with its old number of blocks.
        for index in 0..self.sizes.tensors {
            let larger = self.laid_out(index, blocks).map_err(|error| failed(&error))?;
            match self.tensors.get_mut(index) {
                Some(tensor) => *tensor = larger,
                None => self.tensors.push(larger),
            }
        }
        self.blocks = blocks;
        self.laid += 1;
        log::info!(
            times = self.laid, blocks, tokens = blocks * self.sizes.tokens,
            bytes = blocks * self.sizes.block_bytes() * self.sizes.tensors,
            memory = self.allocator.name();
            "laid out the KV cache on the device"
        );
        Ok(blocks)
    }

    fn copy(&mut self, from: usize, to: usize) -> Result<(), RunError> {
        self.pass(from, to).map_err(|error| failed(&error))
    }

    /// A device frees no part of an allocation; the block is the next sequence's.
    fn release(&mut self, _block: usize) {}
}
