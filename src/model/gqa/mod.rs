//! phi4d's own grouped-query attention, over a KV cache in blocks.
//!
//! [`edit`] puts the operator in the place of ONNX Runtime's nodes, [`operator`] runs a layer of it, [`pool`]
//! has the memory of keys and values, and [`runner`] runs steps.

pub(super) mod edit;
mod operator;
mod pool;
mod runner;
mod step;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use ort::session::Session;
use ort::session::builder::SessionBuilder;
use phi4d_attention::{BLOCK, Layout};

pub(super) use self::runner::BlockRunner;

use self::edit::Edited;
use self::operator::Shared;
use self::pool::Pool;
use self::runner::OwnCache;
use super::error::LoadError;
use super::load_options::LoadOptions;
use super::plan::{KvGrowth, ModelLimits};
use super::source::Source;
use super::stop::Terminator;

/// Name and version of the form that [`super::Runner::export`] writes.
const FORMAT: &[u8] = b"blocks 1";

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
    let limits = limits(source, &layout, options);
    // Address space for every slot at full length: it costs nothing until it is written to, and a
    // block then never moves. The engine's budget bounds what is used.
    let blocks = limits.slots * limits.context_tokens.div_ceil(BLOCK);
    let pool = Pool::new(layout, blocks)?;
    let shared = Shared::new(Arc::clone(&pool.arena), Arc::new(Terminator::new()?), set);
    Ok(Some(Own { graph, limits, cache: OwnCache { heads, pool, shared: Arc::new(shared) } }))
}

fn limits(source: &Source, layout: &Layout, options: &LoadOptions) -> ModelLimits {
    let model = &source.config.model;
    let context = options.context(model.context_length);
    ModelLimits {
        vocab_size: model.vocab_size,
        context_tokens: context,
        slots: options.slots.max(1),
        max_prefill_tokens: options.max_prefill_tokens.clamp(1, context),
        many_rows: true,
        kv_bytes_per_token: layout.token_bytes(),
        kv_block_tokens: BLOCK,
        rotary_switch: source.rotary_switch,
        kv_growth: KvGrowth::Shared,
        width_invariant: false,
        mixed_steps: true,
    }
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
