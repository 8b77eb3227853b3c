//! phi4d's own grouped-query attention, over a KV cache in blocks.
//!
//! [`edit`] puts the operator in the place of ONNX Runtime's nodes, [`operator`] runs a layer of it, [`pool`]
//! has the memory of keys and values, and [`runner`] runs steps.

pub(super) mod edit;
mod operator;
mod pool;
mod runner;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, RwLock};

use ort::session::Session;
use ort::session::builder::SessionBuilder;
use ort::value::TensorElementType;
use phi4d_attention::{BLOCK, Layout};

pub(super) use self::runner::BlockRunner;

use self::edit::Edited;
use self::pool::Pool;
use self::runner::Shared;
use super::contract::{Check, Dimension, FLOATS, INTS, Side};
use super::error::LoadError;
use super::graph_edit::ROWS_INPUT;
use super::kv_format;
use super::memory::Mapping;
use super::plan::{KvGrowth, LoadOptions, ModelLimits};
use super::rotary_edit::LONG_INPUT;
use super::source::Source;
use super::stop::Terminator;
use super::tensors::Input;

/// Name and version of the form that [`super::Runner::export`] writes.
const FORMAT: &[u8] = b"blocks 1";

/// What the operators of a session and its runner share.
#[derive(Debug)]
struct OwnCache {
    /// Query heads of each layer.
    heads: usize,
    pool: Pool,
    shared: Arc<Shared>,
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

/// A model whose attention is own.
#[derive(Debug)]
pub(super) struct Own {
    /// Its graph.
    pub(super) graph: Vec<u8>,
    limits: ModelLimits,
    cache: OwnCache,
}

/// Sets own attention up for `graph`, which is `source`'s or an edit of it; `None` if it can't be.
///
/// # Errors
/// If there is no address space for the cache.
pub(super) fn own(
    graph: &[u8],
    source: &Source,
    options: &LoadOptions,
) -> Result<Option<Own>, LoadError> {
    let decoder = &source.config.model.decoder;
    let Some(set) = options.own_attention() else { return Ok(None) };
    // A damaged graph is reported by those that load it.
    let Some(Edited { model: graph, heads }) = edit::edit(graph, decoder).ok().flatten() else {
        return Ok(None);
    };
    let layout = Layout {
        layers: decoder.num_hidden_layers,
        kv_heads: decoder.num_key_value_heads,
        head_size: decoder.head_size,
        kind: options.kv_cache_type,
    };
    let model = &source.config.model;
    let limits = ModelLimits {
        kv_bytes_per_token: layout.token_bytes(),
        kv_block_tokens: BLOCK,
        kv_growth: KvGrowth::Shared,
        mixed_steps: true,
        ..options.limits(model.vocab_size, model.context_length, source.rotary_switch)
    };
    // Address space for every slot at full length: it costs nothing until it is written to, and a
    // block then never moves. The engine's budget bounds what is used.
    let pool = Pool::new(layout, limits.slots * limits.context_tokens.div_ceil(BLOCK))?;
    let shared = Shared {
        arena: Arc::clone(&pool.arena),
        step: RwLock::default(),
        terminator: Arc::new(Terminator::new()?),
        parts: Mutex::default(),
        set,
    };
    Ok(Some(Own { graph, limits, cache: OwnCache { heads, pool, shared: Arc::new(shared) } }))
}

impl Own {
    /// Adds the operator to a session.
    pub(super) fn register(&self, builder: SessionBuilder) -> ort::Result<SessionBuilder> {
        Ok(builder.with_operators(operator::domain(&self.cache.shared)?)?)
    }

    /// A model's `fingerprint` for keys and values as they are kept here: others can't read them.
    pub(super) fn fingerprint(&self, fingerprint: [u8; 32]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&fingerprint);
        // A change of the layout changes the fingerprint, so a prefix store of an older release is
        // ignored and not misread.
        hasher.update(FORMAT);
        // A cache of another type has other bytes for the same tokens.
        hasher.update(self.cache.pool.arena.layout.kind.name().as_bytes());
        *hasher.finalize().as_bytes()
    }

    /// The runner of `session`, which is of the graph and has the operator. With `width_invariant`, all else
    /// in the graph gives each token what it gives it alone.
    ///
    /// # Errors
    /// If the session has other inputs or outputs than the edit left, or there is no memory.
    pub(super) fn runner(
        self,
        session: Session,
        source: &Source,
        width_invariant: bool,
    ) -> Result<BlockRunner, LoadError> {
        let limits = ModelLimits { width_invariant, ..self.limits };
        BlockRunner::new(session, source, limits, self.cache)
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

/// Tokens of the widest step: a prompt chunk and a token of every slot.
fn widest(limits: &ModelLimits) -> usize {
    limits.max_prefill_tokens + limits.slots
}

impl Buffers {
    fn new(session: &Arc<Session>, names: &Names, limits: &ModelLimits) -> Result<Self, LoadError> {
        let tokens = widest(limits);
        let input = |name: &str, element, count| Input::new(session, Some(name), element, count);
        let (int, flag) = (TensorElementType::Int64, TensorElementType::Bool);
        let bytes = tokens * limits.vocab_size * kv_format::bytes(names.element);
        let logits =
            Mapping::reserve(bytes).map_err(|source| LoadError::Memory { bytes, source })?;
        Ok(Self {
            ids: input(&names.ids, int, tokens)?,
            rows: input(ROWS_INPUT, int, tokens)?,
            long_rotary: Input::new(session, names.takes_rotary.then_some(LONG_INPUT), flag, 1)?,
            logits: Arc::new(logits),
        })
    }
}
