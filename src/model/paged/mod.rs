//! Runs exports with a paged cache: slots have blocks of a pool, and what one copies from another
//! they share.
#![expect(unsafe_code, reason = "reads and writes memory that is bound to the session")]

mod blocks;
mod contract;
mod pool;
#[cfg(test)]
pub(super) mod stand_in;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};
use std::iter::once;
use std::sync::Arc;

use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use ort::value::TensorElementType;

pub(super) use contract::is_paged;

use self::blocks::Blocks;
use self::contract::Contract;
use self::pool::{Pool, Sizes};
use super::binding::{Binding, Tensor};
use super::device::DeviceAllocator;
use super::error::{LoadError, RunError};
use super::genai_config::{GenaiConfig, InputNames, layer_name};
use super::load::LoadOptions;
use super::memory::Mapping;
use super::rotary_edit::LONG_INPUT;
use super::runner::{Interrupt, KvGrowth, Logits, ModelLimits, Rotary, Runner};
use super::source::Source;
use super::terminator::Terminator;
use super::{kv_format, logits};

/// A runner over an export with a paged cache.
#[derive(Debug)]
pub(super) struct PagedRunner {
    // Before the session that it belongs to.
    binding: Binding,
    /// What sizes are bound.
    bound: Option<Step>,
    info: MemoryInfo<'static>,
    inputs: InputNames,
    logits_name: String,
    contract: Contract,
    limits: ModelLimits,
    buffers: Buffers,
    blocks: Blocks,
    pool: Pool,
    terminator: Arc<Terminator>,
    rotary: Rotary,
    converted: Vec<f32>,
}

/// Sizes of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    sequences: usize,
    /// Of all sequences together.
    tokens: usize,
    /// Tokens that logits are wanted for.
    rows: usize,
    /// Blocks in a row of the table.
    width: usize,
}

/// What a step reads and writes beside the cache.
#[derive(Debug)]
struct Buffers {
    /// `[tokens]`, i64.
    ids: Arc<Mapping>,
    /// `[sequences, width]`, i32: blocks, and -1 behind a sequence's last.
    table: Arc<Mapping>,
    /// `[sequences + 1]`, i32.
    starts: Arc<Mapping>,
    /// `[sequences]`, i32.
    past: Arc<Mapping>,
    /// `[3]`, i32.
    bounds: Arc<Mapping>,
    /// `[rows]`, i64.
    rows: Arc<Mapping>,
    /// One boolean: whether the long rotary table is used.
    long_rotary: Arc<Mapping>,
    /// `[rows, vocab]`.
    logits: Arc<Mapping>,
}

impl PagedRunner {
    /// A runner of `session`, which is of `source`.
    ///
    /// # Errors
    /// If the session differs from the contract, wants its cache on a device, or has no memory.
    pub(super) fn new(
        session: Session,
        source: &Source,
        options: &LoadOptions,
    ) -> Result<Self, LoadError> {
        let ort = |error: ort::Error| LoadError::Session(error.to_string());
        let config = &source.config;
        let contract = contract::check(&session, config, &source.path)?;
        let session = Arc::new(session);
        let past = layer_name(&config.model.decoder.inputs.past_key_names, 0);
        if DeviceAllocator::for_input(&session, &past).map_err(ort)?.is_some() {
            return Err(LoadError::Invalid {
                path: source.path.clone(),
                reason: "its paged cache would be in a device's memory, which is not supported \
                         yet; use the export without use_paged_attention"
                    .into(),
            });
        }
        let (limits, sizes) = plan(source, contract.kv, options);
        let pool = Pool::reserve(sizes)?;
        let info =
            MemoryInfo::new(AllocationDevice::CPU, 0, AllocatorType::Device, MemoryType::Default)
                .map_err(ort)?;
        let buffers = Buffers::reserve(&limits, sizes, &contract)?;
        let mut binding = bind_cache(&session, config, &pool, &info).map_err(ort)?;
        bind_values(&mut binding, &contract, &buffers, &info).map_err(ort)?;
        Ok(Self {
            binding,
            bound: None,
            info,
            inputs: config.model.decoder.inputs.clone(),
            logits_name: config.model.decoder.outputs.logits.clone(),
            contract,
            buffers,
            blocks: Blocks::new(limits.slots, sizes.blocks, sizes.tokens),
            limits,
            pool,
            terminator: Arc::new(Terminator::new().map_err(ort)?),
            rotary: Rotary::Short,
            converted: Vec::new(),
        })
    }

    pub(super) fn interrupt(&self) -> Arc<dyn Interrupt> {
        Arc::clone(&self.terminator) as _
    }

    /// One step over the slots from `first` on, which have so many positions in `past` and read
    /// `tokens`, as many each. Gives the logits of the last `rows` tokens.
    fn step(
        &mut self,
        first: usize,
        tokens: &[u32],
        past: &[usize],
        rows: usize,
    ) -> Result<Logits<'_>, RunError> {
        let terminator = Arc::clone(&self.terminator);
        let options = terminator.options()?;
        let each = tokens.len() / past.len().max(1);
        for (slot, &past) in (first..).zip(past) {
            let reached = self.blocks.reach(slot, past, past + each);
            self.pool.apply(self.blocks.take_actions());
            reached.map_err(|full| RunError::Runtime(full.to_string()))?;
        }
        let most = (first..first + past.len()).map(|slot| self.blocks.of(slot).len()).max();
        // Widths change seldom, so that the table is bound anew seldom.
        let width = most.unwrap_or(1).next_power_of_two();
        // Where all tokens have logits, those that are wanted are the last.
        let given = if self.contract.rows.is_some() { rows } else { tokens.len() };
        let step = Step { sequences: past.len(), tokens: tokens.len(), rows: given, width };
        self.fill(step, first, tokens, past);
        self.bind(step).map_err(|error| RunError::Runtime(error.to_string()))?;
        // SAFETY: no reference into bound memory outlives a call (results of earlier steps borrow
        // `self`), and one thread runs at a time, since this takes `&mut self`.
        unsafe { self.binding.run(options) }.map_err(|error| terminator.reason(&error))?;
        let place = [given - rows, rows, self.limits.vocab_size];
        let (memory, element) = (&self.buffers.logits, self.contract.logits);
        // SAFETY: the run is over, and the next can't begin while the result borrows `self`.
        unsafe { logits::rows(memory, element, place, &mut self.converted) }
    }

    /// Writes what the step reads.
    fn fill(&self, step: Step, first: usize, tokens: &[u32], past: &[usize]) {
        let Step { sequences, width, rows, .. } = step;
        let each = tokens.len() / sequences;
        let narrow = |value: usize| i32::try_from(value).unwrap_or(i32::MAX);
        let block = |place: usize| {
            let blocks = self.blocks.of(first + place / width);
            blocks.get(place % width).map_or(-1, |&block| narrow(block))
        };
        let long = u8::from(self.rotary == Rotary::Long);
        // What the lengths are at most in a step of these sizes; of the shortest nothing is said.
        let bounds = [narrow(each), narrow(width * self.limits.kv_block_tokens), 0];
        let buffers = &self.buffers;
        // SAFETY: no reference into the buffers outlives a call, and nothing runs.
        unsafe { buffers.ids.write(tokens.iter().map(|&token| i64::from(token))) };
        // SAFETY: as above.
        unsafe { buffers.table.write((0..sequences * width).map(block)) };
        // SAFETY: as above.
        unsafe { buffers.starts.write((0..sequences + 1).map(|index| narrow(index * each))) };
        // SAFETY: as above.
        unsafe { buffers.past.write(past.iter().map(|&past| narrow(past))) };
        // SAFETY: as above.
        unsafe { buffers.bounds.write(bounds.into_iter()) };
        let wanted = tokens.len() - rows;
        // SAFETY: as above.
        unsafe { buffers.rows.write((0..rows).map(|row| (wanted + row) as i64)) };
        // SAFETY: as above.
        unsafe { buffers.long_rotary.write(once(long)) };
    }

    /// Binds what has another size than in the step before.
    fn bind(&mut self, step: Step) -> ort::Result<()> {
        // Forgotten first, so that a binding which fails half-way is not trusted.
        let bound = self.bound.take();
        let differs = |size: fn(&Step) -> usize| bound.as_ref().map(size) != Some(size(&step));
        let (int, narrow) = (TensorElementType::Int64, TensorElementType::Int32);
        let (names, buffers, binding) = (&self.inputs, &self.buffers, &mut self.binding);
        let mut input = |name: &str, memory, dimensions: &[usize], element| {
            binding.input(name, Tensor::new(&self.info, memory, 0, dimensions, element)?)
        };
        let sequences = step.sequences;
        if differs(|step| step.tokens) {
            input(&names.input_ids, &buffers.ids, &[step.tokens], int)?;
        }
        if differs(|step| step.sequences) {
            let paged = &names.paged;
            input(&paged.cumulative_sequence_lengths, &buffers.starts, &[sequences + 1], narrow)?;
            input(&paged.past_sequence_lengths, &buffers.past, &[sequences], narrow)?;
        }
        if differs(|step| step.sequences) || differs(|step| step.width) {
            input(&names.paged.block_table, &buffers.table, &[sequences, step.width], narrow)?;
        }
        if differs(|step| step.rows) {
            if let Some(name) = &self.contract.rows {
                input(name, &buffers.rows, &[step.rows], int)?;
            }
            let dimensions = [step.rows, self.limits.vocab_size];
            let element = self.contract.logits;
            let logits = Tensor::new(&self.info, &buffers.logits, 0, &dimensions, element)?;
            binding.output(&self.logits_name, logits)?;
        }
        self.bound = Some(step);
        Ok(())
    }
}

impl Buffers {
    fn reserve(limits: &ModelLimits, sizes: Sizes, contract: &Contract) -> Result<Self, LoadError> {
        let reserve = |bytes: usize| {
            Mapping::reserve(bytes)
                .map(Arc::new)
                .map_err(|source| LoadError::Memory { bytes, source })
        };
        let tokens = limits.max_prefill_tokens.max(limits.slots);
        let width = limits.context_tokens.div_ceil(sizes.tokens).next_power_of_two();
        Ok(Self {
            ids: reserve(tokens * size_of::<i64>())?,
            table: reserve(limits.slots * width * size_of::<i32>())?,
            starts: reserve((limits.slots + 1) * size_of::<i32>())?,
            past: reserve(limits.slots * size_of::<i32>())?,
            bounds: reserve(3 * size_of::<i32>())?,
            rows: reserve(tokens * size_of::<i64>())?,
            long_rotary: reserve(1)?,
            logits: reserve(tokens * limits.vocab_size * kv_format::bytes(contract.logits))?,
        })
    }
}

/// What a cache of elements `kv` holds, and the sizes of its tensors.
fn plan(source: &Source, kv: TensorElementType, options: &LoadOptions) -> (ModelLimits, Sizes) {
    let config = &source.config;
    let (model, decoder) = (&config.model, &config.model.decoder);
    let context = match options.context_tokens {
        0 => model.context_length,
        tokens => tokens.min(model.context_length),
    };
    let (slots, tokens) = (options.slots.max(1), config.engine.dynamic_batching.block_tokens());
    let sizes = Sizes {
        tensors: 2 * decoder.num_hidden_layers,
        // Address space for all that slots can hold; the engine bounds what they do.
        blocks: slots * context.div_ceil(tokens),
        tokens,
        heads: decoder.num_key_value_heads,
        head_size: kv_format::elements(kv, decoder.head_size),
        element: kv,
        element_bytes: kv_format::bytes(kv),
    };
    let limits = ModelLimits {
        vocab_size: model.vocab_size,
        context_tokens: context,
        slots,
        max_prefill_tokens: options.max_prefill_tokens.clamp(1, context),
        many_rows: true,
        kv_bytes_per_token: sizes.tensors * sizes.position_bytes(),
        kv_block_tokens: tokens,
        rotary_switch: source.rotary_switch,
        kv_growth: KvGrowth::Own,
    };
    (limits, sizes)
}

/// A binding with the cache, past and present in one.
fn bind_cache(
    session: &Arc<Session>,
    config: &GenaiConfig,
    pool: &Pool,
    info: &MemoryInfo<'_>,
) -> ort::Result<Binding> {
    let mut binding = Binding::new(session)?;
    let (inputs, outputs) = (&config.model.decoder.inputs, &config.model.decoder.outputs);
    let names = [
        (&inputs.past_key_names, &outputs.present_key_names),
        (&inputs.past_value_names, &outputs.present_value_names),
    ];
    for layer in 0..config.model.decoder.num_hidden_layers {
        for (part, (past, present)) in names.into_iter().enumerate() {
            let index = 2 * layer + part;
            binding.input(&layer_name(past, layer), pool.tensor(info, index)?)?;
            binding.output(&layer_name(present, layer), pool.tensor(info, index)?)?;
        }
    }
    Ok(binding)
}

/// Binds the single values, which never change their size.
fn bind_values(
    binding: &mut Binding,
    contract: &Contract,
    buffers: &Buffers,
    info: &MemoryInfo<'_>,
) -> ort::Result<()> {
    if let Some((name, count)) = &contract.bounds {
        let narrow = TensorElementType::Int32;
        binding.input(name, Tensor::new(info, &buffers.bounds, 0, &[*count], narrow)?)?;
    }
    if contract.takes_rotary {
        let bool = TensorElementType::Bool;
        binding.input(LONG_INPUT, Tensor::new(info, &buffers.long_rotary, 0, &[], bool)?)?;
    }
    Ok(())
}

impl Runner for PagedRunner {
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
        self.step(slot, tokens, &[past], rows)
    }

    fn decode(
        &mut self,
        first: usize,
        tokens: &[u32],
        past: &[usize],
    ) -> Result<Logits<'_>, RunError> {
        self.step(first, tokens, past, tokens.len())
    }

    fn swap(&mut self, slots: [usize; 2], _tokens: [usize; 2]) {
        self.blocks.swap(slots);
    }

    fn copy(&mut self, from: usize, to: usize, tokens: usize) {
        self.blocks.share(from, to, tokens);
        self.pool.apply(self.blocks.take_actions());
    }

    fn export(&mut self, slot: usize, tokens: usize, sink: &mut dyn Write) -> io::Result<()> {
        self.pool.export(self.blocks.of(slot), tokens, sink)
    }

    fn import(&mut self, slot: usize, tokens: usize, source: &mut dyn Read) -> io::Result<()> {
        self.blocks.release(slot, 0);
        let reached = self.blocks.reach(slot, 0, tokens);
        self.pool.apply(self.blocks.take_actions());
        reached.map_err(io::Error::other)?;
        self.pool.import(self.blocks.of(slot), tokens, source)
    }

    fn release(&mut self, slot: usize, keep: usize) {
        self.blocks.release(slot, keep);
        self.pool.apply(self.blocks.take_actions());
    }
}
