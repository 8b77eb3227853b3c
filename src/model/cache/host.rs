//! The KV cache in the host's memory: reserved whole, committed as tokens are written, and exchanged
//! by moving pages.
#![expect(unsafe_code, reason = "reads and writes memory that is bound to the session")]

use std::io::{self, Read, Write};
use std::sync::Arc;

use crate::error::LoadError;
use crate::memory::Mapping;
use crate::tensors::Shape;

/// Keys and values of all layers in host memory.
#[derive(Debug)]
pub(crate) struct HostCache {
    /// Each `[slots, heads, capacity, head_size]`, and room for one slot more, by way of which
    /// slots are exchanged.
    memory: Vec<Arc<Mapping>>,
    shape: Shape,
}

impl HostCache {
    /// Reserves address space for all slots.
    pub(crate) fn reserve(shape: &Shape) -> Result<Self, LoadError> {
        // Address space only: a page takes memory when a token is first written there.
        let bytes = (shape.slots + 1) * shape.slot_bytes();
        let reserve = |_| {
            Mapping::reserve(bytes)
                .map(Arc::new)
                .map_err(|source| LoadError::Memory { bytes, source })
        };
        let memory = (0..shape.cache_tensors()).map(reserve).collect::<Result<_, _>>()?;
        Ok(Self { memory, shape: shape.clone() })
    }

    /// The memory of each tensor, in the order of the names.
    pub(crate) fn memory(&self) -> &[Arc<Mapping>] {
        &self.memory
    }

    /// Exchanges two slots, which hold `tokens` positions each.
    pub(crate) fn swap(&mut self, slots: [usize; 2], tokens: [usize; 2]) {
        let bytes = self.shape.slot_bytes();
        let places = slots.map(|slot| slot * bytes);
        let spare = self.shape.slots * bytes;
        for memory in &self.memory {
            // SAFETY: nothing runs, and no reference into the cache is ever made.
            if unsafe { memory.exchange(places, spare, bytes) }.is_ok() {
                continue;
            }
            // Systems that can't move pages: exchange the bytes that are in use.
            let used = tokens[0].max(tokens[1]) * self.shape.position_bytes();
            for head in 0..self.shape.heads {
                let [a, b] = places.map(|place| place + head * self.shape.head_bytes());
                // SAFETY: as above.
                unsafe { memory.exchange_bytes(a, b, used) };
            }
        }
    }

    /// Copies the first `tokens` positions of slot `from` to slot `to`.
    pub(crate) fn copy(&mut self, from: usize, to: usize, tokens: usize) {
        // What `to` held behind these positions stays there: no step attends past its own length.
        let target = to * self.shape.slot_bytes();
        for (memory, head, used) in self.heads(tokens) {
            let source = from * self.shape.slot_bytes();
            // SAFETY: nothing runs, and no reference into the cache is ever made.
            unsafe { memory.copy(source + head, target + head, used) };
        }
    }

    /// Writes the first `tokens` positions of `slot`, head by head of each tensor.
    pub(crate) fn export(
        &self,
        slot: usize,
        tokens: usize,
        sink: &mut dyn Write,
    ) -> io::Result<()> {
        let start = slot * self.shape.slot_bytes();
        self.heads(tokens).try_for_each(|(memory, head, used)| {
            // SAFETY: nothing runs, and a run can't begin while this borrows `self`.
            sink.write_all(unsafe { memory.bytes(start + head, used) })
        })
    }

    /// Reads what [`HostCache::export`] wrote.
    pub(crate) fn import(
        &mut self,
        slot: usize,
        tokens: usize,
        source: &mut dyn Read,
    ) -> io::Result<()> {
        let start = slot * self.shape.slot_bytes();
        self.heads(tokens).try_for_each(|(memory, head, used)| {
            // SAFETY: nothing runs, and no other reference into the cache exists.
            source.read_exact(unsafe { memory.bytes_mut(start + head, used) })
        })
    }

    /// Each head of each tensor: the tensor's memory, the head's offset in a slot, and the bytes of its
    /// first `tokens` positions. Heads are apart by the whole context, so a prefix is many pieces.
    fn heads(&self, tokens: usize) -> impl Iterator<Item = (&Mapping, usize, usize)> {
        let used = tokens * self.shape.position_bytes();
        let heads = 0..self.shape.heads;
        self.memory.iter().flat_map(move |memory| {
            let head_bytes = self.shape.head_bytes();
            heads.clone().map(move |head| (&**memory, head * head_bytes, used))
        })
    }

    /// Gives the memory of `slot`'s positions from `keep` on back to the system.
    pub(crate) fn release(&mut self, slot: usize, keep: usize) {
        let head_bytes = self.shape.head_bytes();
        let start = slot * self.shape.slot_bytes();
        // Each head has its own pages, so what is behind `keep` is a range in each of them.
        let kept = keep * self.shape.position_bytes();
        for memory in &self.memory {
            // A slot's heads lie together, so that one call gives all of them back.
            if kept == 0 {
                // SAFETY: nothing runs, and no reference into the cache is ever made.
                unsafe { memory.release(start..start + self.shape.slot_bytes()) };
                continue;
            }
            for head in 0..self.shape.heads {
                let head_start = start + head * head_bytes;
                // SAFETY: as above.
                unsafe { memory.release(head_start + kept..head_start + head_bytes) };
            }
        }
    }
}
