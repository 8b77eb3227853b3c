//! The runner's tensors: their sizes, their names, and the memory they lie in.

use std::sync::Arc;

use ort::memory::MemoryInfo;
use ort::session::Session;
use ort::value::TensorElementType;

use super::binding::{Binding, Tensor};
use super::contract::{Contract, Positions};
use super::device::{DeviceAllocator, DeviceBlock};
use super::error::LoadError;
use super::genai_config::GenaiConfig;
use super::graph_edit::TAIL_INPUT;
use super::kv_format;
use super::memory::{Mapping, page_bytes};
use super::plan::{LoadOptions, ModelLimits};
use super::rotary_edit::LONG_INPUT;
use super::source::Source;

/// Sizes of the tensors.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) slots: usize,
    /// Tokens that a slot may hold.
    pub(super) context: usize,
    /// Tokens that a slot has address space for: whole pages in each head.
    pub(super) capacity: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    /// Elements that a head's key or value is stored in.
    pub(super) head_size: usize,
    pub(super) vocab: usize,
    pub(super) kv_bytes: usize,
    pub(super) logits_bytes: usize,
}

impl Shape {
    /// The sizes for `contract`, and the limits of a runner whose cache is in the host's memory.
    pub(super) fn new(
        source: &Source,
        contract: &Contract,
        options: &LoadOptions,
    ) -> (Self, ModelLimits) {
        let model = &source.config.model;
        let limits = options.limits(model.vocab_size, model.context_length, source.rotary_switch);
        let head_size = kv_format::elements(contract.kv, model.decoder.head_size);
        let kv_bytes = kv_format::bytes(contract.kv);
        // Pages are committed and freed whole, so a head's positions begin at a page.
        let block = page_bytes().div_ceil(head_size * kv_bytes);
        let shape = Self {
            slots: limits.slots,
            context: limits.context_tokens,
            capacity: limits.context_tokens.next_multiple_of(block),
            layers: model.decoder.num_hidden_layers,
            heads: model.decoder.num_key_value_heads,
            head_size,
            vocab: model.vocab_size,
            kv_bytes,
            logits_bytes: kv_format::bytes(contract.logits),
        };
        let limits = ModelLimits {
            many_rows: contract.positions != Positions::Last,
            kv_bytes_per_token: shape.cache_tensors() * shape.heads * shape.position_bytes(),
            kv_block_tokens: block,
            ..limits
        };
        (shape, limits)
    }

    /// Tensors that the cache consists of.
    pub(super) fn cache_tensors(&self) -> usize {
        2 * self.layers
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
        Self {
            input_ids: decoder.inputs.input_ids.clone(),
            attention_mask: decoder.inputs.attention_mask.clone(),
            position_ids: contract.position_ids.clone(),
            logits: decoder.outputs.logits.clone(),
            cache: decoder.cache_names(),
        }
    }
}

/// Small values that a step reads.
#[derive(Debug)]
pub(super) struct Input {
    pub(super) element: TensorElementType,
    /// Where they are written.
    pub(super) memory: Arc<Mapping>,
    /// Where the session reads them, if that is not there.
    pub(super) device: Option<Arc<DeviceBlock>>,
}

impl Input {
    /// Room for `count` values of at most eight bytes, for the session's input `name`, if it has one.
    pub(super) fn new(
        session: &Arc<Session>,
        name: Option<&str>,
        element: TensorElementType,
        count: usize,
    ) -> Result<Self, LoadError> {
        // The widest type, so that one size serves all inputs.
        let bytes = count * size_of::<i64>();
        let memory = reserve(bytes)?;
        let Some(name) = name else { return Ok(Self { element, memory, device: None }) };
        // A provider may want one input on the device and another in the host's memory.
        let allocator = DeviceAllocator::for_input(session, name);
        // Once for the largest step: an allocation in each would wait for the device.
        let device = allocator.and_then(|allocator| {
            allocator.map(|allocator| Arc::new(allocator).allocate(bytes)).transpose()
        });
        let device = device?;
        Ok(Self { element, memory, device })
    }

    /// Binds it to the input `name` where the session wants it; `info` is the host's memory.
    pub(super) fn bind(
        &self,
        binding: &mut Binding,
        info: &MemoryInfo<'_>,
        name: &str,
        dimensions: &[usize],
    ) -> ort::Result<()> {
        // The front of the memory, which is as large as the largest step wants it.
        let host = Tensor::new(info, &self.memory, 0, dimensions, self.element)?;
        match &self.device {
            None => binding.input(name, host),
            Some(block) => {
                binding.upload(name, host, Tensor::on_device(block, dimensions, self.element)?)
            }
        }
    }
}

fn reserve(bytes: usize) -> Result<Arc<Mapping>, LoadError> {
    Mapping::reserve(bytes).map(Arc::new).map_err(|source| LoadError::Memory { bytes, source })
}

/// Memory that a step reads and writes, apart from the cache.
#[derive(Debug)]
pub(super) struct Buffers {
    /// `[rows, sequence]`.
    pub(super) ids: Input,
    /// `[rows, sequence]`.
    pub(super) positions: Input,
    /// `[rows, total]`.
    pub(super) mask: Input,
    /// `[1]`: minus the positions that logits are wanted for.
    pub(super) tail: Input,
    /// One boolean: whether the long rotary table is used.
    pub(super) long_rotary: Input,
    /// `[rows, positions, vocab]`, in the host's memory.
    pub(super) logits: Arc<Mapping>,
}

impl Buffers {
    pub(super) fn new(
        shape: &Shape,
        limits: &ModelLimits,
        names: &Names,
        contract: &Contract,
        session: &Arc<Session>,
    ) -> Result<Self, LoadError> {
        // The largest step is a full prefill chunk or one token of every slot.
        let tokens = limits.max_prefill_tokens.max(shape.slots);
        let input = |name, count| Input::new(session, name, TensorElementType::Int64, count);
        let long_rotary = contract.takes_rotary.then_some(LONG_INPUT);
        Ok(Self {
            ids: input(Some(&names.input_ids), tokens)?,
            positions: input(names.position_ids.as_deref(), tokens)?,
            // A decode step may attend to the whole context of every slot.
            mask: input(Some(&names.attention_mask), shape.slots * shape.context)?,
            tail: input(contract.takes_tail.then_some(TAIL_INPUT), 1)?,
            long_rotary: Input::new(session, long_rotary, TensorElementType::Bool, 1)?,
            logits: reserve(tokens * shape.vocab * shape.logits_bytes)?,
        })
    }
}
