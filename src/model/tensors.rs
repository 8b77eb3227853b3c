//! The runner's tensors: their sizes, their names, and the memory they lie in.

use std::sync::Arc;

use super::contract::{Contract, Positions};
use super::error::LoadError;
use super::genai_config::{GenaiConfig, layer_name};
use super::kv_format;
use super::load::LoadOptions;
use super::memory::{Mapping, page_bytes};
use super::runner::ModelLimits;

/// Sizes of the tensors.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) slots: usize,
    /// Tokens that a slot may hold.
    pub(super) context: usize,
    /// Tokens that a slot has address space for: whole pages in each head.
    pub(super) capacity: usize,
    pub(super) prefill: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    /// Elements that a head's key or value is stored in.
    pub(super) head_size: usize,
    pub(super) vocab: usize,
    pub(super) kv_bytes: usize,
    pub(super) logits_bytes: usize,
    pub(super) positions: Positions,
    /// As [`ModelLimits::rotary_switch`].
    pub(super) rotary_switch: Option<usize>,
}

impl Shape {
    pub(super) fn new(config: &GenaiConfig, contract: &Contract, options: &LoadOptions) -> Self {
        let model = &config.model;
        let context = match options.context_tokens {
            0 => model.context_length,
            tokens => tokens.min(model.context_length),
        };
        let head_size = kv_format::elements(contract.kv, model.decoder.head_size);
        let kv_bytes = kv_format::bytes(contract.kv);
        let block = page_bytes().div_ceil(head_size * kv_bytes);
        Self {
            slots: options.slots.max(1),
            context,
            capacity: context.next_multiple_of(block),
            prefill: options.max_prefill_tokens.clamp(1, context),
            layers: model.decoder.num_hidden_layers,
            heads: model.decoder.num_key_value_heads,
            head_size,
            vocab: model.vocab_size,
            kv_bytes,
            logits_bytes: kv_format::bytes(contract.logits),
            positions: contract.positions,
            rotary_switch: None,
        }
    }

    /// Bytes of one slot's keys (or values) in one layer.
    pub(super) fn slot_bytes(&self) -> usize {
        self.heads * self.head_bytes()
    }

    /// Bytes of one head's positions in one slot.
    pub(super) fn head_bytes(&self) -> usize {
        self.capacity * self.position_bytes()
    }

    /// Bytes of one position in one head.
    pub(super) fn position_bytes(&self) -> usize {
        self.head_size * self.kv_bytes
    }

    pub(super) fn limits(&self) -> ModelLimits {
        ModelLimits {
            vocab_size: self.vocab,
            context_tokens: self.context,
            slots: self.slots,
            max_prefill_tokens: self.prefill,
            many_rows: self.positions != Positions::Last,
            kv_bytes_per_token: 2 * self.layers * self.heads * self.position_bytes(),
            kv_block_tokens: page_bytes().div_ceil(self.position_bytes()),
            rotary_switch: self.rotary_switch,
        }
    }
}

/// The tensors' names in the graph.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) input_ids: String,
    pub(super) attention_mask: String,
    pub(super) position_ids: Option<String>,
    pub(super) logits: String,
    /// Past and present names of each cache tensor, in the order of the KV memory.
    pub(super) cache: Vec<(String, String)>,
}

impl Names {
    pub(super) fn new(config: &GenaiConfig, contract: &Contract) -> Self {
        let decoder = &config.model.decoder;
        let (inputs, outputs) = (&decoder.inputs, &decoder.outputs);
        let cache = (0..decoder.num_hidden_layers).flat_map(|layer| {
            [
                (&inputs.past_key_names, &outputs.present_key_names),
                (&inputs.past_value_names, &outputs.present_value_names),
            ]
            .map(|(past, present)| (layer_name(past, layer), layer_name(present, layer)))
        });
        Self {
            input_ids: inputs.input_ids.clone(),
            attention_mask: inputs.attention_mask.clone(),
            position_ids: contract.position_ids.clone(),
            logits: outputs.logits.clone(),
            cache: cache.collect(),
        }
    }
}

/// Memory that a step reads and writes beside the cache.
#[derive(Debug)]
pub(super) struct Buffers {
    /// `[rows, sequence]`, i64.
    pub(super) ids: Arc<Mapping>,
    /// `[rows, sequence]`, i64.
    pub(super) positions: Arc<Mapping>,
    /// `[rows, total]`, i64.
    pub(super) mask: Arc<Mapping>,
    /// `[1]`, i64: minus the positions that logits are wanted for.
    pub(super) tail: Arc<Mapping>,
    /// One boolean: whether the long rotary table is used.
    pub(super) long_rotary: Arc<Mapping>,
    /// `[rows, positions, vocab]`.
    pub(super) logits: Arc<Mapping>,
    /// Each `[slots, heads, capacity, head_size]`, and room for one slot more, by way of which
    /// slots are exchanged.
    pub(super) cache: Vec<Arc<Mapping>>,
}

impl Buffers {
    pub(super) fn reserve(shape: &Shape) -> Result<Self, LoadError> {
        let reserve = |bytes| {
            Mapping::reserve(bytes)
                .map(Arc::new)
                .map_err(|source| LoadError::Memory { bytes, source })
        };
        let tokens = shape.prefill.max(shape.slots);
        Ok(Self {
            ids: reserve(tokens * size_of::<i64>())?,
            positions: reserve(tokens * size_of::<i64>())?,
            mask: reserve(shape.slots * shape.context * size_of::<i64>())?,
            tail: reserve(size_of::<i64>())?,
            long_rotary: reserve(1)?,
            logits: reserve(tokens * shape.vocab * shape.logits_bytes)?,
            cache: (0..2 * shape.layers)
                .map(|_| reserve((shape.slots + 1) * shape.slot_bytes()))
                .collect::<Result<_, _>>()?,
        })
    }
}
