//! The model: the export's contract, the ONNX Runtime session, KV memory and tensor binding.
//!
//! Its door is [`load()`], which gives a [`Runner`]. Nothing here knows sequences or requests.

mod binding;
mod cache;
mod contract;
mod device;
#[cfg(test)]
mod device_tests;
mod error;
mod external;
mod facts;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
#[cfg(all(unix, any(test, feature = "testing")))]
pub mod fuzzing;
mod genai_config;
mod graph_edit;
mod inspect;
mod kv_format;
mod load;
mod load_options;
mod logits;
mod lost_file;
#[cfg(target_arch = "x86_64")]
mod matmul;
#[cfg_attr(
    not(target_arch = "x86_64"),
    allow(dead_code, reason = "files are mapped for the kernel of x86-64 only")
)]
mod memory;
mod onnx;
mod paged;
mod plan;
mod prepare;
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

pub use error::{LoadError, RunError};
pub use facts::{
    DeviceFacts, ProviderFacts, RuntimeFacts, has_own_kernel, processor_features, provider_facts,
    runtime_facts,
};
pub use genai_config::{
    DecoderSection, GenaiConfig, InputNames, ModelSection, OneOrMany, OutputNames,
};
pub use inspect::{
    Attention, Blocks, Export, Quantised, RotaryChoice, RotaryTable, RotaryTables,
    Shape as ExportShape, TensorInfo, WeightFile, inspect,
};
pub use load::{Loaded, load, load_cancellable};
pub use load_options::LoadOptions;
pub use lost_file::{end_on_lost_file, is_file_lost};
pub use plan::{
    KvGrowth, KvSizes, KvTooSmall, MemoryPlan, MemorySettings, ModelLimits, Rotary, alike_positions,
};
pub use prepare::{PREPARED_FOLDER, prepare};
pub use provider::{OptionFault, Placement, Provider, ProviderSettings, UnknownProvider};
pub use runner::{Interrupt, Logits, Runner};
pub use runtime::{LIBRARY_NAME, disable_telemetry, search_path as library_search_path};
pub use stop::LoadCancel;
