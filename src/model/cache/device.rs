//! The KV cache in a device's memory.
#![expect(unsafe_code, reason = "reads and writes host memory on its way to and from the device")]

use std::io::{self, Read, Write};
use std::sync::Arc;

use super::layout::{Bounds, Layout, Lost, Mover, Seats};
use super::movers::{Movers, NewSession, Place, Whole};
use crate::binding::{Bindings, Set};
use crate::device::{DeviceAllocator, DeviceBlock};
use crate::error::{LoadError, RunError};
use crate::memory::Mapping;
use crate::plan::{LoadOptions, ModelLimits};
use crate::tensors::Shape;

/// Keys and values of all layers in device memory, arranged by [`Layout`].
///
/// Before memory is allocated again, the [`Bindings`] are cleared: they hold shares of it, and the
/// cache would be in memory twice.
#[derive(Debug)]
pub(crate) struct DeviceCache {
    layout: Layout,
    store: Store,
}

/// Both sets of tensors.
#[derive(Debug)]
struct Store {
    allocator: Arc<DeviceAllocator>,
    movers: Movers,
    /// `[rows, heads, capacity, head_size]` each; none while there are no rows.
    rows: Vec<Arc<DeviceBlock>>,
    /// `[1, heads, capacity, head_size]` each; none before the first use.
    bench: Vec<Arc<DeviceBlock>>,
    count: usize,
    capacity: usize,
    tensors: usize,
    /// Bytes of one position of one row in one tensor.
    position_bytes: usize,
    /// How often memory was allocated.
    laid: u64,
}

/// The store and who holds shares of its memory.
struct Moving<'a> {
    store: &'a mut Store,
    bindings: &'a mut Bindings,
}

impl From<Lost> for RunError {
    fn from(lost: Lost) -> Self {
        Self::Runtime(lost.to_string())
    }
}

fn failed(error: &ort::Error) -> RunError {
    RunError::Runtime(format!("the device's memory: {error}"))
}

impl DeviceCache {
    /// An empty cache, which takes memory when it is used, within `kv_cache_bytes` of `options`; `limits`
    /// become those of such a cache.
    pub(crate) fn new(
        allocator: DeviceAllocator,
        new_session: NewSession<'_>,
        shape: &Shape,
        limits: &mut ModelLimits,
        options: &LoadOptions,
    ) -> Result<Self, LoadError> {
        let budget_bytes = limits.on_device(options.kv_cache_bytes);
        log::info!(
            memory = allocator.name(), kv_cache_bytes = budget_bytes;
            "the KV cache is in device memory"
        );
        // The budget is counted in positions of one row, over all tensors.
        let bounds = Bounds {
            slots: shape.slots,
            context: shape.context,
            budget: budget_bytes / limits.kv_bytes_per_token.max(1),
        };
        let store = Store {
            allocator: Arc::new(allocator),
            movers: Movers::new(new_session, shape.kv_bytes, shape.heads, shape.head_size)?,
            rows: Vec::new(),
            bench: Vec::new(),
            count: 0,
            capacity: 0,
            tensors: shape.cache_tensors(),
            position_bytes: shape.heads * shape.position_bytes(),
            laid: 0,
        };
        Ok(Self { layout: Layout::new(bounds), store })
    }

    /// Other memory of the device, of so many bytes.
    pub(crate) fn allocate(&self, bytes: usize) -> ort::Result<Arc<DeviceBlock>> {
        self.store.allocator.allocate(bytes)
    }

    /// How often memory was allocated for it.
    #[cfg(test)]
    pub(crate) fn laid(&self) -> u64 {
        self.store.laid
    }

    /// The tensors of a set, and their positions.
    pub(crate) fn tensors(&self, set: Set) -> (&[Arc<DeviceBlock>], usize) {
        let blocks = match set {
            Set::Rows => &self.store.rows,
            Set::Bench => &self.store.bench,
        };
        (blocks, self.store.capacity)
    }

    /// Brings `slot` to the bench for a step over its positions `past..end`.
    pub(crate) fn seat_one(
        &mut self,
        slot: usize,
        past: usize,
        end: usize,
        bindings: &mut Bindings,
    ) -> Result<(), RunError> {
        let (layout, mut moving) = self.split(bindings);
        layout.seat_one(&mut moving, slot, past, end)
    }

    /// Finds rows for a step over slots from `first` on, all of which write below `limit`.
    pub(crate) fn seat(
        &mut self,
        first: usize,
        past: &[usize],
        limit: usize,
        bindings: &mut Bindings,
    ) -> Result<Seats, RunError> {
        let (layout, mut moving) = self.split(bindings);
        layout.seat(&mut moving, first, past, limit)
    }

    /// A step has written `slot`'s positions up to `end`.
    pub(crate) fn wrote(&mut self, slot: usize, end: usize) {
        self.layout.wrote(slot, end);
    }

    /// Exchanges two slots.
    pub(crate) fn swap(&mut self, slots: [usize; 2]) {
        self.layout.swap(slots);
    }

    /// Copies the first `tokens` positions of slot `from` to slot `to`. If the device can't, `to`
    /// holds nothing, and a step that counts on it fails.
    pub(crate) fn copy(&mut self, from: usize, to: usize, tokens: usize, bindings: &mut Bindings) {
        // The engine cannot undo a copy, so the error is found by `Layout::check` at the next step.
        let (layout, mut moving) = self.split(bindings);
        if let Err(error) = layout.copy(&mut moving, from, to, tokens) {
            log::error!("a cached prompt could not be copied on the device: {error}");
        }
    }

    /// Writes the first `tokens` positions of `slot`, head by head of each tensor.
    pub(crate) fn export(
        &mut self,
        slot: usize,
        tokens: usize,
        sink: &mut dyn Write,
        bindings: &mut Bindings,
    ) -> io::Result<()> {
        let (layout, mut moving) = self.split(bindings);
        layout.show(&mut moving, slot, tokens).map_err(io::Error::other)?;
        let bytes = tokens * self.store.position_bytes;
        // One buffer of one tensor's size, since the host may have little memory to spare.
        let memory = Arc::new(Mapping::reserve(bytes)?);
        let host = Whole { place: Place::Host(&memory), rows: 1, positions: tokens };
        for block in &self.store.bench {
            let bench = self.store.bench(block);
            self.store.movers.take(bench, &[0], host).map_err(io::Error::other)?;
            // SAFETY: the run is over, and no other begins while this is read.
            sink.write_all(unsafe { memory.bytes(0, bytes) })?;
        }
        Ok(())
    }

    /// Reads what [`DeviceCache::export`] wrote.
    pub(crate) fn import(
        &mut self,
        slot: usize,
        tokens: usize,
        source: &mut dyn Read,
        bindings: &mut Bindings,
    ) -> io::Result<()> {
        let (layout, mut moving) = self.split(bindings);
        layout.take(&mut moving, slot, tokens).map_err(io::Error::other)?;
        let bytes = tokens * self.store.position_bytes;
        let memory = Arc::new(Mapping::reserve(bytes)?);
        let host = Whole { place: Place::Host(&memory), rows: 1, positions: tokens };
        for block in &self.store.bench {
            // SAFETY: the run before is over, and the next has not begun.
            source.read_exact(unsafe { memory.bytes_mut(0, bytes) })?;
            let bench = self.store.bench(block);
            self.store.movers.take(host, &[0], bench).map_err(io::Error::other)?;
        }
        self.layout.wrote(slot, tokens);
        Ok(())
    }

    /// `slot` holds its first `keep` tokens only.
    pub(crate) fn release(&mut self, slot: usize, keep: usize) {
        self.layout.release(slot, keep);
    }

    fn split<'a>(&'a mut self, bindings: &'a mut Bindings) -> (&'a mut Layout, Moving<'a>) {
        (&mut self.layout, Moving { store: &mut self.store, bindings })
    }
}

impl Store {
    fn bench<'a>(&self, block: &'a Arc<DeviceBlock>) -> Whole<'a> {
        Whole { place: Place::Device(block), rows: 1, positions: self.capacity }
    }

    fn rows<'a>(&self, block: &'a Arc<DeviceBlock>) -> Whole<'a> {
        Whole { place: Place::Device(block), rows: self.count, positions: self.capacity }
    }

    /// Allocates one tensor of each set again and copies what stays.
    fn lay_tensor(
        &self,
        index: usize,
        from: &[Option<usize>],
        capacity: usize,
        zeros: &Arc<Mapping>,
    ) -> ort::Result<(Option<Arc<DeviceBlock>>, Arc<DeviceBlock>)> {
        let allocate = |rows: usize| self.allocator.allocate(rows * capacity * self.position_bytes);
        let (rows, bench) = (self.rows.get(index), self.bench.get(index));
        // Fresh device memory holds anything, NaN too, which attention would spread by 0 * NaN even
        // from masked positions. So every byte is written, from one position of zeros if need be.
        let zeros = Whole { place: Place::Host(zeros), rows: 1, positions: 1 };
        let new_bench = match bench {
            Some(bench) if capacity == self.capacity => Arc::clone(bench),
            _ => {
                let block = allocate(1)?;
                let to = Whole { place: Place::Device(&block), rows: 1, positions: capacity };
                self.movers.take(bench.map_or(zeros, |bench| self.bench(bench)), &[0], to)?;
                block
            }
        };
        // One sequence alone lives on the bench, without any row.
        if from.is_empty() {
            return Ok((None, new_bench));
        }
        // Never in place: rows change their order, and one that is overwritten may be the origin of
        // the next.
        let block = allocate(from.len())?;
        let to = Whole { place: Place::Device(&block), rows: from.len(), positions: capacity };
        // A row without an origin gets a copy of row 0, which was written and holds no NaN.
        let origins: Vec<usize> = from.iter().map(|row| row.unwrap_or(0)).collect();
        self.movers.take(rows.map_or(zeros, |rows| self.rows(rows)), &origins, to)?;
        Ok((Some(block), new_bench))
    }

    fn lay_all(&mut self, from: &[Option<usize>], capacity: usize) -> ort::Result<()> {
        let zeros = Arc::new(Mapping::reserve(self.position_bytes).map_err(ort::Error::wrap)?);
        let old = self.count;
        // Tensor by tensor, from the last: the old one is dropped before the next is allocated, so that
        // at most one of them is in memory twice.
        let mut rows = Vec::new();
        let mut bench = Vec::new();
        for index in (0..self.tensors).rev() {
            let (new_rows, new_bench) = self.lay_tensor(index, from, capacity, &zeros)?;
            self.rows.truncate(index);
            self.bench.truncate(index);
            rows.extend(new_rows);
            bench.push(new_bench);
        }
        rows.reverse();
        bench.reverse();
        (self.rows, self.bench) = (rows, bench);
        (self.count, self.capacity) = (from.len(), capacity);
        self.laid += 1;
        log::info!(
            times = self.laid, rows = self.count, positions = capacity, rows_before = old,
            bytes = (self.count + 1) * capacity * self.position_bytes * self.tensors,
            memory = self.allocator.name();
            "laid out the KV cache on the device"
        );
        Ok(())
    }
}

impl Mover for Moving<'_> {
    type Error = RunError;

    fn lay(&mut self, from: &[Option<usize>], capacity: usize) -> Result<(), RunError> {
        // They hold shares of the old memory, which would stay beside the new.
        self.bindings.clear();
        self.store.lay_all(from, capacity).map_err(|error| {
            // Some tensors are of the new layout and some of the old: none can be used together.
            self.store.rows.clear();
            self.store.bench.clear();
            (self.store.count, self.store.capacity) = (0, 0);
            failed(&error)
        })
    }

    fn load(&mut self, row: usize) -> Result<(), RunError> {
        let store = &self.store;
        // All layers, or a sequence would attend to another's keys in some of them.
        for (rows, bench) in store.rows.iter().zip(&store.bench) {
            let taken = store.movers.take(store.rows(rows), &[row], store.bench(bench));
            taken.map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    fn store(&mut self, row: usize) -> Result<(), RunError> {
        let store = &self.store;
        for (rows, bench) in store.rows.iter().zip(&store.bench) {
            let put = store.movers.put(store.bench(bench), store.rows(rows), &[row]);
            put.map_err(|error| failed(&error))?;
        }
        Ok(())
    }
}
