//! Runs exports with a paged cache: slots have blocks of a pool, and what one copies from another
//! they share.
#![expect(unsafe_code, reason = "runs over memory that is bound to the session")]

pub(super) mod blocks;
mod buffers;
mod contract;
#[cfg(test)]
mod device_tests;
mod pool;
#[cfg(any(test, feature = "testing"))]
pub(super) mod stand_in;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};
use std::sync::Arc;

use ort::memory::MemoryInfo;
use ort::session::Session;
use ort::value::TensorElementType;

pub(super) use contract::is_paged;

use self::blocks::Blocks;
use self::buffers::{Buffers, Step, Values};
use self::contract::Contract;
use self::pool::{DevicePool, HostPool, Pool, Sizes};
use super::binding::Binding;
use super::cache::NewSession;
use super::device::{DeviceAllocator, host_memory};
use super::error::{LoadError, RunError};
use super::genai_config::{DecoderSection, layer_name};
use super::kv_format;
use super::plan::{KvGrowth, LoadOptions, ModelLimits, Rotary};
use super::runner::{Batch, Interrupt, Logits, Runner, Span, logit_rows};
use super::source::Source;
use super::stop::Terminator;

/// A runner over an export with a paged cache.
#[derive(Debug)]
pub(super) struct PagedRunner {
    // Dropped first: a binding must be released before the session that it belongs to.
    bound: Option<Bound>,
    session: Arc<Session>,
    info: MemoryInfo<'static>,
    decoder: DecoderSection,
    contract: Contract,
    limits: ModelLimits,
    buffers: Buffers,
    blocks: Blocks,
    pool: Box<dyn Pool>,
    terminator: Arc<Terminator>,
    rotary: Rotary,
    converted: Vec<f32>,
    /// Bindings made so far, and changes of them.
    binds: u64,
}

/// A binding with the cache as it is laid out, past and present in one.
#[derive(Debug)]
struct Bound {
    binding: Binding,
    /// What sizes are bound; none if that failed half-way.
    step: Option<Step>,
}

impl PagedRunner {
    /// A runner of `session`, which is of `source`. `new_session` is how others are made on the same
    /// provider.
    ///
    /// # Errors
    /// If the session differs from the contract or has no memory.
    pub(super) fn new(
        session: Session,
        source: &Source,
        options: &LoadOptions,
        new_session: NewSession<'_>,
    ) -> Result<Self, LoadError> {
        let decoder = &source.config.model.decoder;
        let contract = contract::check(&session, &source.config, &source.path)?;
        let session = Arc::new(session);
        let (mut limits, sizes) = plan(source, contract.kv, options);
        // Keys and values are kept where the session wants them: a copy of a long cache for each step
        // would take longer than the step.
        let past = layer_name(&decoder.inputs.past_key_names, 0);
        let pool: Box<dyn Pool> = match DeviceAllocator::for_input(&session, &past)? {
            None => Box::new(HostPool::reserve(sizes)?),
            Some(allocator) => {
                let budget = limits.in_device_blocks(options.kv_cache_bytes);
                Box::new(DevicePool::new(allocator, new_session, sizes, budget)?)
            }
        };
        Ok(Self {
            bound: None,
            info: host_memory()?,
            decoder: decoder.clone(),
            buffers: Buffers::reserve(&session, &limits, &contract, decoder)?,
            session,
            contract,
            blocks: Blocks::new(limits.slots, pool.blocks(), sizes.tokens),
            limits,
            pool,
            terminator: Arc::new(Terminator::new()?),
            rotary: Rotary::Short,
            converted: Vec::new(),
            binds: 0,
        })
    }

    pub(super) fn interrupt(&self) -> Arc<dyn Interrupt> {
        Arc::clone(&self.terminator) as _
    }

    /// How often something was bound, and how often the device's memory was laid out, by where the
    /// cache is.
    #[cfg(test)]
    pub(super) fn work_done(&self) -> (u64, Option<u64>) {
        (self.binds, self.pool.laid())
    }

    /// Blocks that there is memory for, and those of them that no slot holds.
    #[cfg(test)]
    pub(super) fn blocks(&self) -> [usize; 2] {
        [self.pool.blocks(), self.blocks.free()]
    }

    /// As [`Blocks::reach`].
    fn reach(&mut self, slot: usize, past: usize, end: usize) -> Result<(), RunError> {
        let mut memory = Unbinding { pool: &mut *self.pool, bound: &mut self.bound };
        self.blocks.reach(&mut memory, slot, past, end)
    }

    fn run(&mut self, batch: &Batch) -> Result<Logits<'_>, RunError> {
        let Batch { first, tokens, past, rows } = batch;
        let (first, rows) = (*first, *rows);
        let terminator = Arc::clone(&self.terminator);
        let options = terminator.options()?;
        // A prefill reads many tokens of one sequence, a decode step one token of each.
        let each = tokens.len() / past.len().max(1);
        for (slot, &past) in (first..).zip(past) {
            self.reach(slot, past, past + each)?;
        }
        let most = (first..first + past.len()).map(|slot| self.blocks.of(slot).len()).max();
        // Powers of two, so that the table's width, and with it the binding, changes seldom.
        let width = most.unwrap_or(1).next_power_of_two();
        // Graphs without the input for it give logits of all tokens; the wanted ones are the last.
        let given = if self.contract.rows.is_some() { rows } else { tokens.len() };
        // All of it decides what is bound, so equal steps bind nothing.
        let step = Step { sequences: past.len(), tokens: tokens.len(), rows: given, width };
        let long = self.rotary == Rotary::Long;
        let most = self.most_positions(width);
        let values = Values { tokens, past, most, long };
        self.buffers.fill(step, values, |sequence| self.blocks.of(first + sequence));
        let binding = self.bind(step).map_err(|error| RunError::Runtime(error.to_string()))?;
        // SAFETY: no reference into bound memory outlives a call (results of earlier steps borrow
        // `self`), and one thread runs at a time, since this takes `&mut self`.
        unsafe { binding.run(options) }.map_err(|error| terminator.reason(&error))?;
        let place = [given - rows, rows, self.limits.vocab_size];
        let (memory, element) = (&self.buffers.logits, self.contract.logits);
        // SAFETY: the run is over, and the next can't begin while the result borrows `self`.
        unsafe { logit_rows(memory, element, place, &mut self.converted) }
    }

    /// Positions that a sequence with `blocks` blocks has at most, by its blocks, the context and the
    /// rows of the rotary table.
    fn most_positions(&self, blocks: usize) -> usize {
        // The kernel reads a row of the table for each position that it gets, so the bound
        // must not exceed them.
        let short = self.limits.rotary_switch.filter(|_| self.rotary == Rotary::Short);
        let table = short.unwrap_or(usize::MAX).min(self.limits.context_tokens);
        (blocks * self.limits.kv_block_tokens).min(table)
    }

    /// Binds the cache if it is not, and what has another size than in the step before.
    fn bind(&mut self, step: Step) -> ort::Result<&mut Binding> {
        // Taken out first: if binding fails half-way, the next step starts with a fresh binding.
        let mut bound = match self.bound.take() {
            Some(bound) => bound,
            None => Bound { binding: self.bind_cache()?, step: None },
        };
        if bound.step != Some(step) {
            self.binds += 1;
            // Nothing is said to be bound until all is: an error half-way then drops the binding.
            let before = bound.step.take();
            self.buffers.bind_sizes(&mut bound.binding, &self.info, before, step)?;
            bound.step = Some(step);
        }
        Ok(&mut self.bound.insert(bound).binding)
    }

    /// A binding with the cache, past and present in one.
    fn bind_cache(&self) -> ort::Result<Binding> {
        let mut binding = Binding::new(&self.session)?;
        for (index, (past, present)) in self.decoder.cache_names().iter().enumerate() {
            // Past and present are one memory, so that a step appends in place.
            binding.input(past, self.pool.tensor(&self.info, index)?)?;
            binding.output(present, self.pool.tensor(&self.info, index)?)?;
        }
        self.buffers.bind_values(&mut binding, &self.info)?;
        Ok(binding)
    }
}

/// The pool, and the binding that holds shares of its memory. Growing drops the binding first, or the
/// old and the new pool would be in memory together.
struct Unbinding<'a> {
    pool: &'a mut dyn Pool,
    bound: &'a mut Option<Bound>,
}

impl blocks::Memory for Unbinding<'_> {
    type Error = RunError;

    fn grow(&mut self, blocks: usize) -> Result<usize, RunError> {
        *self.bound = None;
        self.pool.grow(blocks)
    }

    fn copy(&mut self, from: usize, to: usize) -> Result<(), RunError> {
        self.pool.copy(from, to)
    }

    fn release(&mut self, block: usize) {
        self.pool.release(block);
    }
}

/// What a cache of elements `kv` holds, and the sizes of its tensors.
fn plan(source: &Source, kv: TensorElementType, options: &LoadOptions) -> (ModelLimits, Sizes) {
    let config = &source.config;
    let (model, decoder) = (&config.model, &config.model.decoder);
    let tokens = config.engine.dynamic_batching.block_tokens();
    let limits = options.limits(model.vocab_size, model.context_length, source.rotary_switch);
    let sizes = Sizes {
        tensors: 2 * decoder.num_hidden_layers,
        // Address space for all that slots can hold; the engine bounds what they do.
        most: limits.slots * limits.context_tokens.div_ceil(tokens),
        tokens,
        heads: decoder.num_key_value_heads,
        head_size: kv_format::elements(kv, decoder.head_size),
        element: kv,
        element_bytes: kv_format::bytes(kv),
    };
    let limits = ModelLimits {
        kv_bytes_per_token: sizes.tensors * sizes.position_bytes(),
        kv_block_tokens: tokens,
        kv_growth: KvGrowth::Shared,
        ..limits
    };
    (limits, sizes)
}

impl Runner for PagedRunner {
    fn limits(&self) -> &ModelLimits {
        &self.limits
    }

    fn set_rotary(&mut self, rotary: Rotary) {
        self.rotary = rotary;
    }

    fn step(&mut self, spans: &[Span<'_>]) -> Result<Logits<'_>, RunError> {
        self.run(&Batch::of(spans))
    }

    fn swap(&mut self, slots: [usize; 2], _tokens: [usize; 2]) {
        self.blocks.swap(slots);
    }

    fn copy(&mut self, from: usize, to: usize, tokens: usize) {
        self.blocks.share(&mut *self.pool, from, to, tokens);
    }

    fn export(&mut self, slot: usize, tokens: usize, sink: &mut dyn Write) -> io::Result<()> {
        self.pool.export(self.blocks.of(slot), tokens, sink)
    }

    fn import(&mut self, slot: usize, tokens: usize, source: &mut dyn Read) -> io::Result<()> {
        // Whatever the slot held is overwritten, and its blocks may be shared.
        self.blocks.release(&mut *self.pool, slot, 0);
        self.reach(slot, 0, tokens).map_err(io::Error::other)?;
        self.pool.import(self.blocks.of(slot), tokens, source)
    }

    fn release(&mut self, slot: usize, keep: usize) {
        self.blocks.release(&mut *self.pool, slot, keep);
    }
}
