//! The runner over own attention: sequences have blocks of a pool, and a step runs tokens of any of them. Its
//! work is cut into tasks, which the operators of all layers do.
#![expect(unsafe_code, reason = "runs over memory that is bound to the session")]

use std::io::{self, Read, Write};
use std::ops::Range;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use ort::memory::MemoryInfo;
use ort::session::Session;
use phi4d_attention::{BLOCK, Band, Layout, NARROW, SPLIT};
use phi4d_isa::InstructionSet;

use super::pool::{Arena, Pool};
use super::{Buffers, Names, OwnCache, widest};
use crate::binding::{Binding, Tensor};
use crate::device::host_memory;
use crate::error::{LoadError, RunError};
use crate::graph_edit::ROWS_INPUT;
use crate::paged::blocks::Blocks;
use crate::plan::{ModelLimits, Rotary};
use crate::rotary_edit::LONG_INPUT;
use crate::runner::{Interrupt, Logits, Runner, Span, logit_rows};
use crate::source::Source;
use crate::stop::Terminator;

/// Query rows of a task, roughly: a block that was converted to single precision serves so many.
const ROWS: usize = 128;

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
        let buffers = Buffers::new(&session, &names, &limits)?;
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

    fn run(&mut self, spans: &[Span<'_>]) -> Result<Logits<'_>, RunError> {
        // A clone, since the options borrow it while `self` is changed below.
        let terminator = Arc::clone(&self.shared.terminator);
        let options = terminator.options()?;
        let mut placed = Vec::with_capacity(spans.len());
        let (mut tokens, mut wanted) = (0, Vec::new());
        let most = widest(&self.limits);
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
        unsafe { logit_rows(&self.buffers.logits, self.names.element, place, &mut self.converted) }
    }

    /// Binds what has another size than in the step before.
    fn bind(&mut self, tokens: usize, rows: usize) -> ort::Result<&mut Binding> {
        // Taken out first: if binding fails half-way, the next step starts with a fresh binding.
        let mut bound = match self.bound.take() {
            Some(bound) => bound,
            None => {
                let mut binding = Binding::new(&self.session)?;
                // It never changes its size, so that no step binds it again.
                if self.names.takes_rotary {
                    self.buffers.long_rotary.bind(&mut binding, &self.info, LONG_INPUT, &[])?;
                }
                Bound { binding, tokens: 0, rows: 0 }
            }
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
}

impl Runner for BlockRunner {
    fn limits(&self) -> &ModelLimits {
        &self.limits
    }

    fn set_rotary(&mut self, rotary: Rotary) {
        self.rotary = rotary;
    }

    fn step(&mut self, spans: &[Span<'_>]) -> Result<Logits<'_>, RunError> {
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

/// What the runner and the operators of all layers share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) arena: Arc<Arena>,
    /// The step that runs: written by the runner before it, read by each layer.
    pub(super) step: RwLock<Step>,
    pub(super) terminator: Arc<Terminator>,
    /// Results of splits. Layers run one after another, so one buffer serves all.
    pub(super) parts: Mutex<Vec<f32>>,
    pub(super) set: InstructionSet,
}

/// Tokens of one sequence that a step reads.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    /// Its first token among all of the step.
    pub(super) first: usize,
    pub(super) count: usize,
    /// Positions that are cached before the first.
    pub(super) past: usize,
    /// The sequence's blocks.
    pub(super) blocks: Vec<usize>,
    /// Whether it has so few rows that its tasks store its keys and values themselves.
    pub(super) narrow: bool,
}

/// Query rows of one KV head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Task {
    /// Which of the step's sequences.
    pub(super) span: usize,
    pub(super) head: usize,
    /// Tokens of the span.
    pub(super) tokens: Range<usize>,
    /// Splits of the context.
    pub(super) splits: Range<usize>,
    /// Where the result of its one split goes if others have the other splits.
    pub(super) share: Option<Share>,
}

/// Some tasks share rows, each with a split of its own. The last to end merges them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// Number of the rows' counter of tasks that ended.
    pub(super) counter: usize,
    /// Where the result of split 0 begins; the others' follow.
    pub(super) start: usize,
    /// Numbers of one result.
    pub(super) len: usize,
    /// How many tasks there are.
    pub(super) count: usize,
}

/// The step that runs.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) spans: Vec<Placed>,
    /// Tokens of all spans.
    pub(super) tokens: usize,
    /// Keys and values to store before tasks run: the span, the head, and tokens of the span that lie in one
    /// block. Narrow spans are not here: their tasks store their own.
    pub(super) stores: Vec<(usize, usize, Range<usize>)>,
    pub(super) tasks: Vec<Task>,
    pub(super) counters: Vec<AtomicUsize>,
    /// Numbers of all shared results.
    pub(super) shared: usize,
}

impl Step {
    /// Plans a step for a model with `heads` query heads.
    pub(super) fn plan(mut spans: Vec<Placed>, layout: &Layout, heads: usize) -> Self {
        let tokens = spans.iter().map(|span| span.count).sum();
        let mut step = Self { tokens, ..Self::default() };
        // Query heads that share a KV head are rows of one task, so that a block's keys are read
        // once for all of them.
        let group = heads / layout.kv_heads;
        for (index, span) in spans.iter_mut().enumerate() {
            // A decode step has too few rows to keep all threads busy by rows alone; a chunk of a
            // prompt has enough. Both ways merge the same splits in the same order, so a result
            // does not depend on which one it is.
            span.narrow = span.count * group <= NARROW;
            if span.narrow {
                step.plan_narrow(index, span, layout, group);
            } else {
                step.plan_wide(index, span, layout, group);
            }
        }
        // The longest first, so that all threads end together.
        step.tasks.sort_by_key(|task| std::cmp::Reverse(task.splits.len() * task.tokens.len()));
        step.spans = spans;
        step
    }

    /// Few rows: each split of the context is a task of its own.
    fn plan_narrow(&mut self, span: usize, placed: &Placed, layout: &Layout, group: usize) {
        // Splits begin at fixed positions of the context, not at a share of it: a token's result
        // must not depend on how long the sequence becomes or how many threads there are.
        let splits = (placed.past + placed.count).div_ceil(SPLIT);
        let len = Band::part_len(layout, placed.count * group);
        for head in 0..layout.kv_heads {
            // One split alone is finished by its own task, without a counter and without a copy of
            // its result.
            let share = (splits > 1).then(|| {
                self.counters.push(AtomicUsize::new(0));
                let counter = self.counters.len() - 1;
                let start = self.shared;
                self.shared += splits * len;
                Share { counter, start, len, count: splits }
            });
            let tokens = 0..placed.count;
            self.tasks.extend((0..splits).map(|split| Task {
                span,
                head,
                tokens: tokens.clone(),
                splits: split..split + 1,
                share,
            }));
        }
    }

    /// Many rows: bands of them, over the whole context each.
    fn plan_wide(&mut self, span: usize, placed: &Placed, layout: &Layout, group: usize) {
        // At least one token: models with more than 128 query heads to a KV head must get on, too.
        let band = (ROWS / group).max(1);
        for head in 0..layout.kv_heads {
            for first in (0..placed.count).step_by(band) {
                let tokens = first..placed.count.min(first + band);
                // Causal attention: a band does not look at positions after its last token.
                let splits = 0..(placed.past + tokens.end).div_ceil(SPLIT);
                self.tasks.push(Task { span, head, tokens, splits, share: None });
            }
            let mut first = 0;
            while first < placed.count {
                // Cut where blocks end, so that no two tasks write to one region at the same time.
                let room = BLOCK - (placed.past + first) % BLOCK;
                let end = placed.count.min(first + room);
                self.stores.push((span, head, first..end));
                first = end;
            }
        }
    }
}
