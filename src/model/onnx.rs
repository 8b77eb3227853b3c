//! The runner over ONNX Runtime: binds the KV cache in place and runs steps.
#![expect(unsafe_code, reason = "reads and writes memory that is bound to the session")]

use std::io::{self, Read, Write};
use std::sync::Arc;

use ort::memory::MemoryInfo;
use ort::session::Session;

use super::binding::{Binding, Bindings, BoundRange, Range, Set, Tensor};
use super::cache::{Cache, DeviceCache, HostCache, NewSession};
use super::contract::{self, Contract, Positions};
use super::device::{DeviceAllocator, DeviceBlock, host_memory};
use super::error::{LoadError, RunError};
use super::graph_edit::TAIL_INPUT;
use super::plan::{LoadOptions, ModelLimits, Rotary};
use super::provider::{Graphs, UNRECORDED, name_graph};
use super::rotary_edit::LONG_INPUT;
use super::runner::{Batch, Interrupt, Logits, Runner, Span, logit_rows};
use super::source::Source;
use super::stop::Terminator;
use super::tensors::{Buffers, Names, Shape};

/// Decode masks grow by this many positions at a time, so that the mask is bound again only once in as
/// many steps. Positions past a slot's own length are masked out.
const MASK_STEP: usize = 64;

/// Runs a decoder export by ONNX Runtime, with the KV cache in place: the same memory is past and
/// present.
#[derive(Debug)]
pub(super) struct OnnxRunner {
    // Dropped first: bindings must be released before the session that they belong to.
    bindings: Bindings,
    session: Arc<Session>,
    info: MemoryInfo<'static>,
    names: Names,
    contract: Contract,
    shape: Shape,
    limits: ModelLimits,
    buffers: Buffers,
    cache: Cache,
    terminator: Arc<Terminator>,
    rotary: Rotary,
    recorder: Option<Recorder>,
    /// Logits as single precision, where the model's are not.
    converted: Vec<f32>,
    /// Logits in the order of the slots, where a device's rows have another.
    seated: Vec<f32>,
}

/// Records decode steps as CUDA graphs.
#[derive(Debug)]
struct Recorder {
    graphs: Graphs,
    /// Logits of such steps.
    logits: Arc<DeviceBlock>,
}

/// One step: a range of rows, `sequence` tokens each, `total` attended to at most.
#[derive(Debug, Clone, Copy)]
struct Step {
    range: Range,
    sequence: usize,
    /// Positions at the end of each row that logits are wanted for.
    tail: usize,
    total: usize,
}

impl OnnxRunner {
    /// A runner of `session`, which is of `source`. `new_session` makes other sessions on the same
    /// provider.
    pub(super) fn new(
        session: Session,
        source: &Source,
        options: &LoadOptions,
        new_session: NewSession<'_>,
    ) -> Result<Self, LoadError> {
        let contract = contract::check(&session, &source.config, &source.path)?;
        let (shape, mut limits) = Shape::new(source, &contract, options);
        let session = Arc::new(session);
        let names = Names::new(&source.config, &contract);
        // Keys and values are kept where the session wants them: a copy of a long cache for each step
        // would take longer than the step.
        let (past, _) = &names.cache[0];
        let cache = match DeviceAllocator::for_input(&session, past)? {
            None => Cache::Host(HostCache::reserve(&shape)?),
            Some(allocator) => {
                let cache = DeviceCache::new(allocator, new_session, &shape, &mut limits, options)?;
                Cache::Device(Box::new(cache))
            }
        };
        Ok(Self {
            bindings: Bindings::default(),
            info: host_memory()?,
            buffers: Buffers::new(&shape, &limits, &names, &contract, &session)?,
            session,
            names,
            cache,
            limits,
            terminator: Arc::new(Terminator::new()?),
            rotary: Rotary::Short,
            recorder: None,
            converted: Vec::new(),
            seated: Vec::new(),
            contract,
            shape,
        })
    }

    /// The same, but decode steps are recorded as CUDA graphs if that is `wanted` and the cache is on a
    /// device.
    pub(super) fn recording(mut self, wanted: bool) -> Result<Self, LoadError> {
        if let (true, Cache::Device(cache)) = (wanted, &self.cache) {
            // One row for each slot: only decode steps are recorded.
            let bytes = self.shape.slots * self.shape.vocab * self.shape.logits_bytes;
            let logits = cache.allocate(bytes);
            let logits = logits?;
            self.recorder = Some(Recorder { graphs: Graphs::new(), logits });
        }
        Ok(self)
    }

    /// Bindings made so far, and how often the cache's memory was laid out, by where it is.
    #[cfg(test)]
    pub(super) fn work_done(&self) -> (u64, Option<u64>) {
        let laid = match &self.cache {
            Cache::Host(_) => None,
            Cache::Device(cache) => Some(cache.laid()),
        };
        (self.bindings.made(), laid)
    }

    pub(super) fn interrupt(&self) -> Arc<dyn Interrupt> {
        Arc::clone(&self.terminator) as _
    }

    /// Makes sure that the step's rows are bound with its sizes.
    fn bind(&mut self, step: Step) -> ort::Result<&mut BoundRange> {
        // Taken out, so that the closure may borrow the rest of `self`.
        let mut bindings = std::mem::take(&mut self.bindings);
        let bound =
            bindings.take(step.range, || self.bind_cache(step.range)).and_then(|mut bound| {
                self.bind_sizes(&mut bound, step)?;
                Ok(bound)
            });
        self.bindings = bindings;
        let mut bound = bound?;
        if let Some(recorder) = self.recorder.as_mut().filter(|_| step.range.recorded) {
            bound.recording.get_or_insert_with(|| recorder.graphs.fresh());
        }
        Ok(self.bindings.keep(step.range, bound))
    }

    /// A binding with the cache of a range of rows as past and present: attention then appends to the
    /// cache in place, and nothing is copied between steps.
    fn bind_cache(&self, range: Range) -> ort::Result<BoundRange> {
        let mut binding = Binding::new(&self.session)?;
        let (heads, size, kv) = (self.shape.heads, self.shape.head_size, self.contract.kv);
        for (index, (past, present)) in self.names.cache.iter().enumerate() {
            let tensor = || match &self.cache {
                Cache::Host(cache) => {
                    let dimensions = [range.rows, heads, self.shape.capacity, size];
                    // Slots lie one after another, so a step over neighbours is a view of the cache
                    // and moves nothing.
                    let offset = range.first * self.shape.slot_bytes();
                    Tensor::new(&self.info, &cache.memory()[index], offset, &dimensions, kv)
                }
                Cache::Device(cache) => {
                    let (blocks, capacity) = cache.tensors(range.set);
                    Tensor::on_device(&blocks[index], &[range.rows, heads, capacity, size], kv)
                }
            };
            binding.input(past, tensor()?)?;
            binding.output(present, tensor()?)?;
        }
        // These two never change their size, so that no step binds them again.
        if self.contract.takes_tail {
            self.buffers.tail.bind(&mut binding, &self.info, TAIL_INPUT, &[1])?;
        }
        if self.contract.takes_rotary {
            self.buffers.long_rotary.bind(&mut binding, &self.info, LONG_INPUT, &[])?;
        }
        Ok(BoundRange::new(binding))
    }

    /// Binds ids, positions, mask and logits where their sizes have changed.
    fn bind_sizes(&self, bound: &mut BoundRange, step: Step) -> ort::Result<()> {
        let Step { range: Range { rows, .. }, sequence, total, .. } = step;
        let binding = &mut bound.binding;
        let sizes = (bound.sequence, bound.positions, bound.total);
        // A recorded graph holds sizes and addresses, so it is of no use once anything is bound again.
        if sizes != (sequence, self.logit_positions(step), total) {
            bound.recording = None;
        }
        if bound.sequence != sequence {
            let dimensions = [rows, sequence];
            self.buffers.ids.bind(binding, &self.info, &self.names.input_ids, &dimensions)?;
            if let Some(name) = &self.names.position_ids {
                self.buffers.positions.bind(binding, &self.info, name, &dimensions)?;
            }
            bound.sequence = sequence;
        }
        let positions = self.logit_positions(step);
        if bound.positions != positions {
            // In host memory: ONNX Runtime copies them there from a device.
            let dimensions = [rows, positions, self.shape.vocab];
            let memory = &self.buffers.logits;
            let logits = Tensor::new(&self.info, memory, 0, &dimensions, self.contract.logits)?;
            match self.recorder.as_ref().filter(|_| step.range.recorded) {
                None => binding.output(&self.names.logits, logits)?,
                Some(Recorder { logits: block, .. }) => {
                    let device = Tensor::on_device(block, &dimensions, self.contract.logits)?;
                    binding.download(&self.names.logits, device, logits)?;
                }
            }
            bound.positions = positions;
        }
        if bound.total != total {
            let mask = &self.buffers.mask;
            mask.bind(binding, &self.info, &self.names.attention_mask, &[rows, total])?;
            bound.total = total;
        }
        Ok(())
    }

    /// Positions of each row that the model gives logits for.
    fn logit_positions(&self, step: Step) -> usize {
        match self.contract.positions {
            Positions::All => step.sequence,
            Positions::Last => 1,
            Positions::Tail => step.tail,
        }
    }

    /// Fills the inputs and runs the step. `tokens` holds `sequence` ids for each row, and `past`
    /// the cached positions of each row.
    fn run(&mut self, step: Step, tokens: &[u32], past: &[usize]) -> Result<(), RunError> {
        let terminator = Arc::clone(&self.terminator);
        let options = terminator.options()?;
        let Step { sequence, total, .. } = step;
        // Exports take ids of 64 bits, whatever the vocabulary needs.
        let ids = tokens.iter().map(|&token| i64::from(token));
        // Tokens of one slot stand together, and so do its positions of the mask.
        let position = |index: usize| (past[index / sequence] + index % sequence) as i64;
        let attended = |index: usize| i64::from(index % total < past[index / total] + sequence);
        // SAFETY: no reference into the buffers outlives a call (results of earlier steps borrow
        // `self`), and no run is going on, since running takes `&mut self` on one thread.
        unsafe { self.buffers.ids.memory.write(ids) };
        if self.names.position_ids.is_some() {
            // SAFETY: as above.
            unsafe { self.buffers.positions.memory.write((0..tokens.len()).map(position)) };
        }
        // SAFETY: as above.
        unsafe { self.buffers.tail.memory.write(std::iter::once(-(step.tail as i64))) };
        let long = u8::from(self.rotary == Rotary::Long);
        // SAFETY: as above.
        unsafe { self.buffers.long_rotary.memory.write(std::iter::once(long)) };
        // SAFETY: as above.
        unsafe { self.buffers.mask.memory.write((0..past.len() * total).map(attended)) };
        let runtime = |error: ort::Error| RunError::Runtime(error.to_string());
        let records = self.recorder.is_some();
        let bound = self.bind(step).map_err(runtime)?;
        // Options are kept from step to step, so a step that is not recorded takes the number of
        // the last one back.
        if records {
            let number = bound.recording.unwrap_or(UNRECORDED);
            name_graph(options, number).map_err(runtime)?;
        }
        // SAFETY: as above; `&mut self` is held until the run is over.
        unsafe { bound.binding.run(options) }.map_err(|error| terminator.reason(&error))
    }

    /// The logits of the last `tail` positions of each of the step's rows.
    fn logits(&mut self, step: Step) -> Result<Logits<'_>, RunError> {
        let positions = self.logit_positions(step);
        // A step has one slot, or one token for each slot. Either way the wanted logits lie together at
        // the end.
        let skipped = if step.range.rows == 1 { positions - step.tail } else { 0 };
        let place = [skipped, step.range.rows * positions - skipped, self.shape.vocab];
        let (memory, element) = (&self.buffers.logits, self.contract.logits);
        // SAFETY: the run is over, and the next can't begin while the result borrows `self`.
        unsafe { logit_rows(memory, element, place, &mut self.converted) }
    }
}

/// Steps on a device, whose tensors do not begin at any slot.
impl OnnxRunner {
    /// The rows for a step over one slot's positions `past..end`.
    fn seat_one(&mut self, slot: usize, past: usize, end: usize) -> Result<Range, RunError> {
        match &mut self.cache {
            Cache::Host(_) => Ok(Range { set: Set::Rows, first: slot, rows: 1, recorded: false }),
            Cache::Device(cache) => {
                cache.seat_one(slot, past, end, &mut self.bindings)?;
                Ok(Range { set: Set::Bench, first: 0, rows: 1, recorded: false })
            }
        }
    }

    /// Slots from `first` on hold so many positions.
    fn wrote(&mut self, first: usize, ends: &[usize]) {
        if let Cache::Device(cache) = &mut self.cache {
            for (slot, &end) in (first..).zip(ends) {
                cache.wrote(slot, end);
            }
        }
    }

    /// One token for each of several slots, whose rows are in any order with others between them.
    /// These others write a token behind what they hold, which nothing ever reads.
    fn decode_seated(
        &mut self,
        first: usize,
        tokens: &[u32],
        past: &[usize],
    ) -> Result<Logits<'_>, RunError> {
        let widest = self.widest();
        let Cache::Device(cache) = &mut self.cache else {
            return Err(RunError::Runtime("only a device's rows are seated".into()));
        };
        let seats = cache.seat(first, past, widest, &mut self.bindings)?;
        let range = Range { set: Set::Rows, first: 0, rows: seats.past.len(), recorded: false };
        // Rows of other slots read token 0; what they write is overwritten by their own next token.
        let mut ids = vec![0; seats.past.len()];
        for (&row, &token) in seats.rows.iter().zip(tokens) {
            ids[row] = token;
        }
        let step = self.decode_step(range, &seats.past);
        self.run(step, &ids, &seats.past)?;
        let ends: Vec<usize> = past.iter().map(|past| past + 1).collect();
        self.wrote(first, &ends);
        let vocab = self.shape.vocab;
        let mut values = std::mem::take(&mut self.seated);
        values.clear();
        let logits = self.logits(step)?;
        for &row in &seats.rows {
            values.extend_from_slice(logits.row(row));
        }
        self.seated = values;
        Logits::from_rows(&self.seated, vocab)
    }

    /// A step of one token for each row, of which the longest has so many positions with it.
    fn decode_step(&self, range: Range, past: &[usize]) -> Step {
        let longest = past.iter().max().map_or(0, |past| past + 1);
        let recorded = self.recorder.is_some();
        let total = match &self.cache {
            // A recorded graph has fixed sizes, so the mask is as wide as the cache.
            Cache::Device(cache) if recorded => cache.tensors(range.set).1,
            _ => longest.next_multiple_of(MASK_STEP),
        };
        let total = total.min(self.widest());
        Step { range: Range { recorded, ..range }, sequence: 1, tail: 1, total }
    }

    /// Width of the widest mask. The short rotary table has a row for each token up to the switch, and
    /// the attention kernel refuses a mask that is wider than its table is long.
    fn widest(&self) -> usize {
        let short = self.limits.rotary_switch.filter(|_| self.rotary == Rotary::Short);
        short.unwrap_or(usize::MAX).min(self.shape.context)
    }
}

impl Runner for OnnxRunner {
    fn limits(&self) -> &ModelLimits {
        &self.limits
    }

    fn set_rotary(&mut self, rotary: Rotary) {
        self.rotary = rotary;
    }

    fn step(&mut self, spans: &[Span<'_>]) -> Result<Logits<'_>, RunError> {
        let Batch { first, tokens, past, rows } = Batch::of(spans);
        let step = if tokens.len() > past.len() {
            let end = past[0] + tokens.len();
            let range = self.seat_one(first, past[0], end)?;
            // The attention takes a mask as wide as what is attended to for the start of a prompt.
            Step { range, sequence: tokens.len(), tail: rows, total: end }
        } else if let (Cache::Device(_), 2..) = (&self.cache, past.len()) {
            return self.decode_seated(first, &tokens, &past);
        } else {
            let range = match self.cache {
                Cache::Host(_) => {
                    Range { set: Set::Rows, first, rows: past.len(), recorded: false }
                }
                Cache::Device(_) => self.seat_one(first, past[0], past[0] + 1)?,
            };
            self.decode_step(range, &past)
        };
        self.run(step, &tokens, &past)?;
        self.wrote(first, &[past[0] + step.sequence]);
        self.logits(step)
    }

    fn swap(&mut self, slots: [usize; 2], tokens: [usize; 2]) {
        self.cache.swap(slots, tokens);
    }

    fn copy(&mut self, from: usize, to: usize, tokens: usize) {
        self.cache.copy(from, to, tokens, &mut self.bindings);
    }

    fn export(&mut self, slot: usize, tokens: usize, sink: &mut dyn Write) -> io::Result<()> {
        self.cache.export(slot, tokens, sink, &mut self.bindings)
    }

    fn import(&mut self, slot: usize, tokens: usize, source: &mut dyn Read) -> io::Result<()> {
        self.cache.import(slot, tokens, source, &mut self.bindings)
    }

    fn release(&mut self, slot: usize, keep: usize) {
        self.cache.release(slot, keep);
    }
}
