//! The model: the export's contract, the ONNX Runtime session, KV memory and tensor binding.
//!
//! Its door is [`load()`], which gives a [`Runner`]. Nothing here knows sequences or requests.
//!
//! # KV memory in a device
//!
//! A device commits no memory lazily, moves memory by copies, and with some providers a tensor's pointer is an
//! object and not an address, so a tensor can't begin inside another one. So there are two sets of tensors of one
//! capacity: `[slots, kv_heads, capacity, head_size]` for decode steps over several slots, and a single-slot
//! set (the bench) for prefill, speculation and a sequence that decodes alone. A slot's tokens are in one of the
//! two. The capacity is a power of two (at least 256, at most the context); growing it, or adding slots, copies
//! both sets tensor by tensor. The engine therefore counts every slot at the length of the longest
//! (`KvGrowth::Alike`). ONNX Runtime does not expose the device's memory size, so the default budget is fixed.
//! ONNX Runtime's API copies whole tensors only, so partial copies are small graphs that run on the device
//! (`cache::movers`). If the device's memory runs out, cached tokens are lost, sequences that need them fail, and
//! later ones start from the beginning.
//!
//! # Paged exports
//!
//! Exports with `PagedAttention` are recognised by their inputs (`block_table` and related ones). They have a
//! pool of blocks (256 positions, or what the export says), a block table per slot, and packed tokens in a step.
//! Slots are exchanged by exchanging tables, and copies share blocks until one of them writes. In host memory the
//! pool is address space, committed block by block. In device memory it starts with 256 positions and doubles up
//! to `kv_cache_bytes`; it never shrinks. The engine counts whole blocks (`KvGrowth::Blocks`) in tables of its own,
//! a shared one once, and the copy that a write will make when it is planned. ONNX Runtime has this
//! operator for CUDA and WebGPU only; with other providers the load fails and names operator and provider. The
//! CPU tests use an operator of their own, written from the documented contract.
//!
//! # Graph edits
//!
//! A `Slice` before the matmul with the vocabulary leaves only the positions whose logits a step wants. Where the
//! graph selects one of two rotary tables by the length that a step reaches, the selection becomes an input, so
//! that the first chunks of a long prompt use the long table. Where the kernel itself selects, from two joined
//! tables, the context ends with the first one. On processors with an instruction set that its kernel uses, phi4d's
//! operator replaces each `MatMulNBits` that it supports (int4 and int8, accuracy level 4); other nodes stay. The
//! exported weights leave memory once they are laid out. A token's result is the same at any batch width.
//!
//! # Providers
//!
//! `auto` tries cuda, directml and webgpu, in this order, with a trial session each, if `genai_config.json` names
//! a provider; otherwise the model runs on the CPU. DirectML is part of ONNX Runtime's build, the others are
//! libraries that it loads. A CUDA library of another version than ONNX Runtime is not loaded, since it may crash.
//! The log names the provider, the reason, and how many nodes each provider runs, and warns if matmuls or attention
//! are left to the CPU.

mod binding;
mod cache;
mod contract;
mod device;
#[cfg(test)]
mod device_tests;
mod embedding;
mod error;
mod external;
mod facts;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
#[cfg(all(unix, any(test, feature = "testing")))]
pub mod fuzzing;
mod genai_config;
mod gqa;
mod graph_edit;
mod inspect;
mod kv_format;
mod load;
mod lost_file;
mod matmul;
mod memory;
mod onnx;
mod operator;
mod paged;
mod plan;
mod prepare;
mod progress;
mod protobuf;
mod provider;
mod rotary_edit;
mod rotary_joined;
mod runner;
mod runtime;
mod session;
mod source;
mod stop;
mod tensors;
#[cfg(test)]
mod tests;

/// Which blocks of a cache hold which positions of a slot.
pub mod blocks {
    pub use super::paged::blocks::{Blocks, Full, Memory};
}

pub use embedding::{
    EmbeddingFolder, EmbeddingModel, EmbeddingOptions, Pooling, Shorter, embedding_bytes, normalise,
};
pub use error::{LoadError, RunError};
pub use facts::{
    DeviceFacts, RuntimeFacts, own_kernel, processor_features, provider_facts, runtime_facts,
};
pub use genai_config::{
    DecoderSection, GenaiConfig, InputNames, ModelSection, OneOrMany, OutputNames, SearchSection,
};
pub use inspect::{
    Attention, Blocks, Export, Quantised, RotaryChoice, RotaryTable, RotaryTables,
    Shape as ExportShape, TensorInfo, WeightFile, inspect,
};
pub use load::{Loaded, load, load_cancellable};
pub use lost_file::{end_on_lost_file, is_file_lost};
pub use memory::has_huge_pages;
pub use phi4d_attention::KvType;
pub use phi4d_settings::{Int8Activations, Provider, WeightsMemory};
pub use plan::{
    KvGrowth, KvSizes, KvTooSmall, LoadOptions, MemoryPlan, MemorySettings, ModelLimits,
    PROGRAM_BYTES, Rotary, alike_positions,
};
pub use prepare::{PREPARED_FOLDER, prepare};
pub use progress::{LoadProgress, LoadStage};
pub use provider::{OptionFault, Placement, ProviderSettings};
pub use runner::{Interrupt, Logits, Runner, Span};
pub use runtime::{LIBRARY_NAME, disable_telemetry, search_path as library_search_path};
pub use stop::LoadCancel;
