//! The runner over ONNX Runtime: binds the KV cache in place and runs steps.
#![expect(unsafe_code, reason = "reads and writes memory that is bound to the session")]

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use half::{bf16, f16};
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{NoSelectedOutputs, RunOptions, Session};
use ort::value::TensorElementType;

use super::binding::{Binding, Tensor};
use super::contract::{Contract, Positions};
use super::error::{LoadError, RunError};
use super::genai_config::GenaiConfig;
use super::graph_edit::TAIL_INPUT;
use super::rotary_edit::LONG_INPUT;
use super::runner::{Interrupt, Logits, ModelLimits, Rotary, Runner};
use super::tensors::{Buffers, Names, Shape};

/// Decode masks grow by this many positions at a time, so that the mask is bound anew once in as
/// many steps. Positions past a row's own length are masked out.
const MASK_STEP: usize = 64;

/// Bindings kept for reuse. There is one for each range of slots that a step has covered; beyond
/// this many (only with very many slots) they are made anew.
const MAX_BINDINGS: usize = 128;

/// A binding to a range of slots, and the sizes it is bound for.
#[derive(Debug)]
struct BoundRange {
    binding: Binding,
    /// Tokens of each row.
    sequence: usize,
    /// Positions of each row that logits are given for.
    positions: usize,
    /// Width of the mask.
    total: usize,
}

/// Cuts steps short.
struct Terminator {
    options: RunOptions<NoSelectedOutputs>,
    interrupted: AtomicBool,
}

impl std::fmt::Debug for Terminator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Terminator").field(&self.interrupted).finish()
    }
}

impl Interrupt for Terminator {
    fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Release);
        if let Err(error) = self.options.terminate() {
            log::warn!("the running step could not be cut short: {error}");
        }
    }
}

/// Runs a decoder export by ONNX Runtime, with the KV cache in place: the same memory is past and
/// present, one row of it for each slot.
#[derive(Debug)]
pub(super) struct OnnxRunner {
    // Bindings before the session they belong to.
    bindings: HashMap<(usize, usize), BoundRange>,
    session: Arc<Session>,
    info: MemoryInfo<'static>,
    names: Names,
    contract: Contract,
    shape: Shape,
    limits: ModelLimits,
    buffers: Buffers,
    terminator: Arc<Terminator>,
    rotary: Rotary,
    /// Logits as single precision, where the model's are not.
    converted: Vec<f32>,
}

/// One step: `rows` slots from `first`, `sequence` tokens each, `total` attended to at most.
#[derive(Debug, Clone, Copy)]
struct Step {
    first: usize,
    rows: usize,
    sequence: usize,
    /// Positions at the end of each row that logits are wanted for.
    tail: usize,
    total: usize,
}

impl OnnxRunner {
    pub(super) fn new(
        session: Session,
        config: &GenaiConfig,
        contract: Contract,
        shape: Shape,
    ) -> Result<Self, LoadError> {
        let ort = |error: ort::Error| LoadError::Session(error.to_string());
        Ok(Self {
            bindings: HashMap::new(),
            session: Arc::new(session),
            info: MemoryInfo::new(
                AllocationDevice::CPU,
                0,
                AllocatorType::Device,
                MemoryType::Default,
            )
            .map_err(ort)?,
            names: Names::new(config, &contract),
            buffers: Buffers::reserve(&shape)?,
            limits: shape.limits(),
            terminator: Arc::new(Terminator {
                options: RunOptions::new().map_err(ort)?,
                interrupted: AtomicBool::new(false),
            }),
            rotary: Rotary::Short,
            converted: Vec::new(),
            contract,
            shape,
        })
    }

    pub(super) fn interrupt(&self) -> Arc<dyn Interrupt> {
        Arc::clone(&self.terminator) as _
    }

    /// Makes sure that the step's slots are bound with its sizes.
    fn bind(&mut self, step: Step) -> ort::Result<&mut BoundRange> {
        let key = (step.first, step.rows);
        if self.bindings.len() >= MAX_BINDINGS && !self.bindings.contains_key(&key) {
            self.bindings.clear();
        }
        if !self.bindings.contains_key(&key) {
            let range = self.bind_cache(step.first, step.rows)?;
            self.bindings.insert(key, range);
        }
        // Taken out and put back, so that a binding which fails half-way is not used again.
        let missing = || ort::Error::new("a binding that was just made is gone");
        let mut range = self.bindings.remove(&key).ok_or_else(missing)?;
        self.bind_sizes(&mut range, step)?;
        Ok(self.bindings.entry(key).insert_entry(range).into_mut())
    }

    /// A binding with the cache of `rows` slots from `first` as past and present.
    fn bind_cache(&self, first: usize, rows: usize) -> ort::Result<BoundRange> {
        let mut binding = Binding::new(&self.session)?;
        let dimensions = [rows, self.shape.heads, self.shape.capacity, self.shape.head_size];
        let offset = first * self.shape.slot_bytes();
        for ((past, present), memory) in self.names.cache.iter().zip(&self.buffers.cache) {
            let tensor = || Tensor::new(&self.info, memory, offset, &dimensions, self.contract.kv);
            binding.input(past, tensor()?)?;
            binding.output(present, tensor()?)?;
        }
        if self.contract.takes_tail {
            let int = TensorElementType::Int64;
            let tail = Tensor::new(&self.info, &self.buffers.tail, 0, &[1], int)?;
            binding.input(TAIL_INPUT, tail)?;
        }
        if self.contract.takes_rotary {
            let bool = TensorElementType::Bool;
            let long = Tensor::new(&self.info, &self.buffers.long_rotary, 0, &[], bool)?;
            binding.input(LONG_INPUT, long)?;
        }
        Ok(BoundRange { binding, sequence: 0, positions: 0, total: 0 })
    }

    /// Binds ids, positions, mask and logits where their sizes have changed.
    fn bind_sizes(&self, range: &mut BoundRange, step: Step) -> ort::Result<()> {
        let Step { rows, sequence, total, .. } = step;
        let int = TensorElementType::Int64;
        let tensor = |memory, dimensions: &[usize], element| {
            Tensor::new(&self.info, memory, 0, dimensions, element)
        };
        if range.sequence != sequence {
            let ids = tensor(&self.buffers.ids, &[rows, sequence], int)?;
            range.binding.input(&self.names.input_ids, ids)?;
            if let Some(name) = &self.names.position_ids {
                let positions = tensor(&self.buffers.positions, &[rows, sequence], int)?;
                range.binding.input(name, positions)?;
            }
            range.sequence = sequence;
        }
        let positions = self.logit_positions(step);
        if range.positions != positions {
            let dimensions = [rows, positions, self.shape.vocab];
            let logits = tensor(&self.buffers.logits, &dimensions, self.contract.logits)?;
            range.binding.output(&self.names.logits, logits)?;
            range.positions = positions;
        }
        if range.total != total {
            let mask = tensor(&self.buffers.mask, &[rows, total], int)?;
            range.binding.input(&self.names.attention_mask, mask)?;
            range.total = total;
        }
        Ok(())
    }

    /// Positions of each row that the model gives logits for.
    fn logit_positions(&self, step: Step) -> usize {
        match self.shape.positions {
            Positions::All => step.sequence,
            Positions::Last => 1,
            Positions::Tail => step.tail,
        }
    }

    /// Fills the inputs and runs the step. `tokens` holds `sequence` ids for each row, and `past`
    /// the cached positions of each row.
    fn run(&mut self, step: Step, tokens: &[u32], past: &[usize]) -> Result<(), RunError> {
        if self.terminator.interrupted.load(Ordering::Acquire) {
            return Err(RunError::Interrupted);
        }
        let Step { sequence, total, .. } = step;
        let terminator = Arc::clone(&self.terminator);
        let ids = tokens.iter().map(|&token| i64::from(token));
        let position = |index: usize| (past[index / sequence] + index % sequence) as i64;
        let attended = |index: usize| i64::from(index % total < past[index / total] + sequence);
        // SAFETY: no reference into the buffers outlives a call (results of earlier steps borrow
        // `self`), and no run is going on, since running takes `&mut self` on one thread.
        unsafe { self.buffers.ids.write(ids) };
        if self.names.position_ids.is_some() {
            // SAFETY: as above.
            unsafe { self.buffers.positions.write((0..tokens.len()).map(position)) };
        }
        // SAFETY: as above.
        unsafe { self.buffers.tail.write(std::iter::once(-(step.tail as i64))) };
        let long = u8::from(self.rotary == Rotary::Long);
        // SAFETY: as above.
        unsafe { self.buffers.long_rotary.write(std::iter::once(long)) };
        // SAFETY: as above.
        unsafe { self.buffers.mask.write((0..past.len() * total).map(attended)) };
        let range = self.bind(step).map_err(|error| RunError::Runtime(error.to_string()))?;
        // SAFETY: as above; `&mut self` is held until the run is over.
        unsafe { range.binding.run(&terminator.options) }.map_err(|error| {
            if terminator.interrupted.load(Ordering::Acquire) {
                RunError::Interrupted
            } else {
                RunError::Runtime(error.to_string())
            }
        })
    }

    /// The logits of the last `tail` positions of each of the step's rows.
    fn logits(&mut self, step: Step) -> Result<Logits<'_>, RunError> {
        let positions = self.logit_positions(step);
        let vocab = self.shape.vocab;
        let count = step.rows * positions * vocab;
        // A step has one row or one token a row, so what is wanted lies at the end, together.
        let skipped = if step.rows == 1 { positions - step.tail } else { 0 };
        match self.contract.logits {
            TensorElementType::Float16 => {
                // SAFETY: the run is over and nothing writes while this copies.
                let values = unsafe { self.buffers.logits.read::<f16>(count) };
                convert(&values[skipped * vocab..], &mut self.converted);
                Logits::from_rows(&self.converted, vocab)
            }
            TensorElementType::Bfloat16 => {
                // SAFETY: as above.
                let values = unsafe { self.buffers.logits.read::<bf16>(count) };
                convert(&values[skipped * vocab..], &mut self.converted);
                Logits::from_rows(&self.converted, vocab)
            }
            _ => {
                // SAFETY: the run is over, and the next can't begin while the result borrows
                // `self`.
                let values = unsafe { self.buffers.logits.read::<f32>(count) };
                Logits::from_rows(&values[skipped * vocab..], vocab)
            }
        }
    }
}

/// Fills `converted` with `values` in single precision.
fn convert<T: Copy + Into<f32>>(values: &[T], converted: &mut Vec<f32>) {
    converted.clear();
    converted.extend(values.iter().map(|&value| value.into()));
}

impl Runner for OnnxRunner {
    fn limits(&self) -> &ModelLimits {
        &self.limits
    }

    fn turn_by(&mut self, rotary: Rotary) {
        self.rotary = rotary;
    }

    fn prefill(
        &mut self,
        slot: usize,
        past: usize,
        tokens: &[u32],
        rows: usize,
    ) -> Result<Logits<'_>, RunError> {
        // The attention takes a mask as wide as what is attended to for the start of a prompt.
        let total = past + tokens.len();
        let step = Step { first: slot, rows: 1, sequence: tokens.len(), tail: rows, total };
        self.run(step, tokens, &[past])?;
        self.logits(step)
    }

    fn decode(
        &mut self,
        first: usize,
        tokens: &[u32],
        past: &[usize],
    ) -> Result<Logits<'_>, RunError> {
        let longest = past.iter().max().map_or(0, |past| past + 1);
        // The short rotary table has a row for each token up to the switch, and a mask may not be
        // wider than the table is long.
        let short = self.shape.rotary_switch.filter(|_| self.rotary == Rotary::Short);
        let widest = short.unwrap_or(usize::MAX).min(self.shape.context);
        let total = longest.next_multiple_of(MASK_STEP).min(widest);
        let step = Step { first, rows: tokens.len(), sequence: 1, tail: 1, total };
        self.run(step, tokens, past)?;
        self.logits(step)
    }

    fn swap(&mut self, slots: [usize; 2], tokens: [usize; 2]) {
        let bytes = self.shape.slot_bytes();
        let places = slots.map(|slot| slot * bytes);
        let spare = self.shape.slots * bytes;
        for memory in &self.buffers.cache {
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

    fn copy(&mut self, from: usize, to: usize, tokens: usize) {
        let [from, to] = [from, to].map(|slot| slot * self.shape.slot_bytes());
        let used = tokens * self.shape.position_bytes();
        for memory in &self.buffers.cache {
            for head in 0..self.shape.heads {
                let start = head * self.shape.head_bytes();
                // SAFETY: nothing runs, and no reference into the cache is ever made.
                unsafe { memory.copy(from + start, to + start, used) };
            }
        }
    }

    fn export(&self, slot: usize, tokens: usize, sink: &mut dyn Write) -> io::Result<()> {
        let used = tokens * self.shape.position_bytes();
        for memory in &self.buffers.cache {
            for head in 0..self.shape.heads {
                let start = slot * self.shape.slot_bytes() + head * self.shape.head_bytes();
                // SAFETY: nothing runs, and a run can't begin while this borrows `self`.
                sink.write_all(unsafe { memory.bytes(start, used) })?;
            }
        }
        Ok(())
    }

    fn import(&mut self, slot: usize, tokens: usize, source: &mut dyn Read) -> io::Result<()> {
        let used = tokens * self.shape.position_bytes();
        for memory in &self.buffers.cache {
            for head in 0..self.shape.heads {
                let start = slot * self.shape.slot_bytes() + head * self.shape.head_bytes();
                // SAFETY: nothing runs, and no other reference into the cache exists.
                source.read_exact(unsafe { memory.bytes_mut(start, used) })?;
            }
        }
        Ok(())
    }

    fn release(&mut self, slot: usize, keep: usize) {
        let head_bytes = self.shape.head_bytes();
        let start = slot * self.shape.slot_bytes();
        let kept = keep * self.shape.position_bytes();
        for memory in &self.buffers.cache {
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
