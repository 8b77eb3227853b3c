//! The runner over own attention: sequences have blocks of a pool, and a step runs tokens of any of them.
#![expect(unsafe_code, reason = "runs over memory that is bound to the session")]

use std::io::{self, Read, Write};
use std::sync::{Arc, PoisonError};

use ort::memory::MemoryInfo;
use ort::session::Session;
use ort::value::TensorElementType;
use phi4d_attention::BLOCK;

use super::operator::Shared;
use super::pool::Pool;
use super::step::{Placed, Step};
use crate::binding::{Binding, Tensor};
use crate::contract::{Check, Dimension, FLOATS, INTS, Side};
use crate::device::host_memory;
use crate::error::{LoadError, RunError};
use crate::graph_edit::ROWS_INPUT;
use crate::kv_format;
use crate::logits;
use crate::memory::Mapping;
use crate::paged::blocks::Blocks;
use crate::plan::{ModelLimits, Rotary};
use crate::rotary_edit::LONG_INPUT;
use crate::runner::{Interrupt, Logits, Runner, Span};
use crate::source::Source;
use crate::tensors::Input;

/// What the operators of a session and its runner share.
#[derive(Debug)]
pub(super) struct OwnCache {
    /// Query heads of each layer.
    pub(super) heads: usize,
    pub(super) pool: Pool,
    pub(super) shared: Arc<Shared>,
}

/// A runner over own attention.
#[derive(Debug)]
pub(crate) struct BlockRunner {
    // Dropped first: a binding must be released before the session that it belongs to.
    bound: Option<Bound>,
    session: Arc<Session>,
    info: MemoryInfo<'static>,
    names: Names,
    limits: ModelLimits,
    heads: usize,
    buffers: Buffers,
    blocks: Blocks,
    pool: Pool,
    shared: Arc<Shared>,
    rotary: Rotary,
    converted: Vec<f32>,
}

/// Names of the graph's tensors.
#[derive(Debug)]
struct Names {
    ids: String,
    logits: String,
    /// Whether the rotary table is an input.
    takes_rotary: bool,
    /// Element type of logits.
    element: TensorElementType,
}

/// What a step reads and writes, apart from the pool.
#[derive(Debug)]
struct Buffers {
    /// `[1, tokens]`, i64.
    ids: Input,
    /// `[rows]`, i64: the tokens whose logits are wanted.
    rows: Input,
    /// One boolean.
    long_rotary: Input,
    /// `[1, rows, vocab]`.
    logits: Arc<Mapping>,
}

/// A binding, and the sizes that it is for.
#[derive(Debug)]
struct Bound {
    binding: Binding,
    tokens: usize,
    rows: usize,
}

impl BlockRunner {
    /// A runner of `session`, which has own attention over `cache`.
    ///
    /// # Errors
    /// If the session has other inputs or outputs than the edit left, or there is no memory.
    pub(super) fn new(
        session: Session,
        source: &Source,
        limits: ModelLimits,
        cache: OwnCache,
    ) -> Result<Self, LoadError> {
        let OwnCache { heads, pool, shared } = cache;
        let names = Names::check(&session, source)?;
        let session = Arc::new(session);
        // The widest step has a prompt chunk and a token of every slot.
        let tokens = limits.max_prefill_tokens + limits.slots;
        let input = |name: &str, element, count| Input::new(&session, Some(name), element, count);
        let (int, flag) = (TensorElementType::Int64, TensorElementType::Bool);
        let bytes = tokens * limits.vocab_size * kv_format::bytes(names.element);
        let logits =
            Mapping::reserve(bytes).map_err(|source| LoadError::Memory { bytes, source })?;
        let buffers = Buffers {
            ids: input(&names.ids, int, tokens)?,
            rows: input(ROWS_INPUT, int, tokens)?,
            long_rotary: Input::new(&session, names.takes_rotary.then_some(LONG_INPUT), flag, 1)?,
            logits: Arc::new(logits),
        };
        Ok(Self {
            bound: None,
            session,
            info: host_memory()?,
            names,
            heads,
            buffers,
            blocks: Blocks::new(limits.slots, pool.arena.blocks, BLOCK),
            limits,
            pool,
            shared,
            rotary: Rotary::Short,
            converted: Vec::new(),
        })
    }

    pub(crate) fn interrupt(&self) -> Arc<dyn Interrupt> {
        Arc::clone(&self.shared.terminator) as _
    }

    /// Tokens of the widest step: a prompt chunk and a token of every slot.
    fn most_tokens(&self) -> usize {
        self.limits.max_prefill_tokens + self.limits.slots
    }

    fn run(&mut self, spans: &[Span<'_>]) -> Result<Logits<'_>, RunError> {
        // A clone, since the options borrow it while `self` is changed below.
        let terminator = Arc::clone(&self.shared.terminator);
        let options = terminator.options()?;
        let mut placed = Vec::with_capacity(spans.len());
        let (mut tokens, mut wanted) = (0, Vec::new());
        let most = self.most_tokens();
        let all: usize = spans.iter().map(|span| span.tokens.len()).sum();
        if all == 0 || all > most {
            return Err(RunError::Runtime(format!("a step has 1 to {most} tokens, not {all}")));
        }
        for span in spans {
            let end = span.past + span.tokens.len();
            // Before anything is written: this copies a block that other slots share, so that the
            // step changes this slot's tokens only.
            self.blocks.reach(&mut self.pool, span.slot, span.past, end)?;
            let blocks = self.blocks.of(span.slot)[..end.div_ceil(BLOCK)].to_vec();
            // Blocks before the first new token are full and were committed by the step that wrote
            // them.
            self.pool.commit(&blocks[span.past / BLOCK..]);
            let (first, count) = (tokens, span.tokens.len());
            tokens += count;
            // The graph computes logits of these tokens only: the vocabulary's matmul is as costly
            // as several layers.
            wanted.extend(tokens - span.rows..tokens);
            placed.push(Placed { first, count, past: span.past, blocks, narrow: false });
        }
        let rows = wanted.len();
        if rows == 0 {
            // Operators need not take tensors without rows.
            wanted.push(tokens - 1);
        }
        // The operators have no input for the spans: a graph of ONNX Runtime knows one batch of
        // equal lengths. They read the plan from memory that they share with the runner.
        let step = Step::plan(placed, &self.pool.arena.layout, self.heads);
        *self.shared.step.write().unwrap_or_else(PoisonError::into_inner) = step;
        let ids: Vec<i64> =
            spans.iter().flat_map(|span| span.tokens).map(|&token| i64::from(token)).collect();
        // SAFETY: no reference into the buffers outlives a call, and nothing runs.
        unsafe { self.buffers.ids.memory.write(ids.into_iter()) };
        // SAFETY: as above.
        unsafe { self.buffers.rows.memory.write(wanted.iter().map(|&row| row as i64)) };
        let long = u8::from(self.rotary == Rotary::Long);
        // SAFETY: as above.
        unsafe { self.buffers.long_rotary.memory.write(std::iter::once(long)) };
        let binding = self
            .bind(tokens, wanted.len())
            .map_err(|error| RunError::Runtime(error.to_string()))?;
        // SAFETY: as above; one thread runs at a time, since this takes `&mut self`.
        let ran = unsafe { binding.run(options) };
        self.pool.trim(&self.blocks);
        ran.map_err(|error| terminator.reason(&error))?;
        let place = [0, rows, self.limits.vocab_size];
        // SAFETY: the run is over, and the next can't begin while the result borrows `self`.
        unsafe {
            logits::rows(&self.buffers.logits, self.names.element, place, &mut self.converted)
        }
    }

    /// Binds what has another size than in the step before.
    fn bind(&mut self, tokens: usize, rows: usize) -> ort::Result<&mut Binding> {
        // Taken out first: if binding fails half-way, the next step starts with a fresh binding.
        let mut bound = match self.bound.take() {
            Some(bound) => bound,
            None => Bound { binding: self.bind_values()?, tokens: 0, rows: 0 },
        };
        let (binding, info) = (&mut bound.binding, &self.info);
        // Decode steps mostly have the size of the one before, and then bind nothing: each binding
        // is a call into ONNX Runtime and an allocation.
        if bound.tokens != tokens {
            self.buffers.ids.bind(binding, info, &self.names.ids, &[1, tokens])?;
            bound.tokens = tokens;
        }
        if bound.rows != rows {
            self.buffers.rows.bind(binding, info, ROWS_INPUT, &[rows])?;
            let shape = [1, rows, self.limits.vocab_size];
            // The memory is that of the widest step, of which a narrower one uses the front.
            let memory = &self.buffers.logits;
            let logits = Tensor::new(info, memory, 0, &shape, self.names.element)?;
            binding.output(&self.names.logits, logits)?;
            bound.rows = rows;
        }
        Ok(&mut self.bound.insert(bound).binding)
    }

    /// A binding with the inputs that never change their size.
    fn bind_values(&self) -> ort::Result<Binding> {
        let mut binding = Binding::new(&self.session)?;
        if self.names.takes_rotary {
            self.buffers.long_rotary.bind(&mut binding, &self.info, LONG_INPUT, &[])?;
        }
        Ok(binding)
    }
}

impl Names {
    fn check(session: &Session, source: &Source) -> Result<Self, LoadError> {
        use Dimension::{Fixed, Open};
        let config = &source.config;
        let ids = &config.model.decoder.inputs.input_ids;
        let logits = &config.model.decoder.outputs.logits;
        let mut check = Check::default();
        let (ins, outs) = (Side::inputs(session), Side::outputs(session));
        check.tensor(ins, ids, &INTS, &[Open("batch"), Open("sequence")]);
        check.tensor(ins, ROWS_INPUT, &INTS, &[Open("rows")]);
        let takes_rotary = ins.has(LONG_INPUT);
        check.unknown(ins, &[ids.clone(), ROWS_INPUT.into(), LONG_INPUT.into()]);
        let shape = [Open("batch"), Open("sequence"), Fixed("vocab_size", config.model.vocab_size)];
        let element = check.tensor(outs, logits, &FLOATS, &shape);
        let (ids, logits) = (ids.clone(), logits.clone());
        let names = element.map(|element| Self { ids, logits, takes_rotary, element });
        check.end(names, &source.path)
    }
}

impl Runner for BlockRunner {
    fn limits(&self) -> &ModelLimits {
        &self.limits
    }

    fn set_rotary(&mut self, rotary: Rotary) {
        self.rotary = rotary;
    }

    fn prefill(
        &mut self,
        slot: usize,
        past: usize,
        tokens: &[u32],
        rows: usize,
    ) -> Result<Logits<'_>, RunError> {
        self.run(&[Span { slot, past, tokens, rows }])
    }

    fn decode(
        &mut self,
        first: usize,
        tokens: &[u32],
        past: &[usize],
    ) -> Result<Logits<'_>, RunError> {
        let slots = first..first + tokens.len();
        let spans = slots.zip(tokens.chunks(1)).zip(past);
        let spans: Vec<_> =
            spans.map(|((slot, tokens), &past)| Span { slot, past, tokens, rows: 1 }).collect();
        self.run(&spans)
    }

    fn step<'a>(
        &'a mut self,
        spans: &[Span<'_>],
        _buffer: &'a mut Vec<f32>,
    ) -> Result<Logits<'a>, RunError> {
        self.run(spans)
    }

    fn swap(&mut self, slots: [usize; 2], _tokens: [usize; 2]) {
        self.blocks.swap(slots);
    }

    fn copy(&mut self, from: usize, to: usize, tokens: usize) {
        self.blocks.share(&mut self.pool, from, to, tokens);
    }

    fn export(&mut self, slot: usize, tokens: usize, sink: &mut dyn Write) -> io::Result<()> {
        self.pool.export(self.blocks.of(slot), tokens, sink)
    }

    fn import(&mut self, slot: usize, tokens: usize, source: &mut dyn Read) -> io::Result<()> {
        // Whatever the slot held is overwritten, and its blocks may be shared.
        self.blocks.release(&mut self.pool, slot, 0);
        self.blocks.reach(&mut self.pool, slot, 0, tokens).map_err(io::Error::other)?;
        self.pool.import(self.blocks.of(slot), tokens, source)
    }

    fn release(&mut self, slot: usize, keep: usize) {
        self.blocks.release(&mut self.pool, slot, keep);
        self.pool.trim(&self.blocks);
    }
}
