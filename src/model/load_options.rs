//! What to load and how.

use std::path::PathBuf;

use phi4d_attention::KvType;
use phi4d_isa::InstructionSet;

use super::provider::ProviderSettings;

/// A model folder and how its model is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOptions {
    /// The model folder.
    pub folder: PathBuf,
    /// Where to run it.
    pub provider: ProviderSettings,
    /// Threads of a step; 0 takes as many as the process may use.
    pub threads: usize,
    /// Sequences that can be live at once.
    pub slots: usize,
    /// Tokens that a slot holds; 0 takes the model's context, which is also the most.
    pub context_tokens: usize,
    /// The most tokens of one prefill step.
    pub max_prefill_tokens: usize,
    /// The setting `kv_cache_bytes` ([`super::MemoryPlan::new`] defines 0). It limits the runner's own
    /// memory on a device only; in the host's memory the engine keeps to the plan.
    pub kv_cache_bytes: usize,
    /// Whether phi4d's own kernels may run matmuls and attention, where model and processor fit them.
    pub own_kernels: bool,
    /// Which exports may have their activations rounded to int8, which the own kernel for matmuls does.
    pub int8_activations: Int8Activations,
    /// How keys and values are stored where phi4d's own attention runs; other exports say it themselves.
    pub kv_cache_type: KvType,
    /// Where weights that were prepared for the own kernel are.
    pub weights_memory: WeightsMemory,
    /// ONNX Runtime's shared library; `None` looks for it (see [`super::library_search_path`]).
    pub runtime_library: Option<PathBuf>,
}

impl LoadOptions {
    /// The instruction set that own attention is to use on the CPU; `None` if it is not to run.
    pub(super) fn own_attention(&self) -> Option<InstructionSet> {
        phi4d_attention::chosen().filter(|_| self.own_kernels)
    }

    /// Tokens that a slot holds, for a model with a context of `model_context`.
    pub(super) fn context(&self, model_context: usize) -> usize {
        match self.context_tokens {
            0 => model_context,
            tokens => tokens.min(model_context),
        }
    }
}

/// Which exports may have their activations rounded to int8.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Int8Activations {
    /// Those that allow it: `MatMulNBits` of accuracy level 4, and `DequantizeLinear` before a `MatMul`.
    #[default]
    Export,
    /// All: the accuracy level is not looked at.
    Always,
}

/// Where weights that were prepared for the own kernel are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WeightsMemory {
    /// Copied if the system has huge pages and enough memory, else mapped.
    #[default]
    Auto,
    /// Mapped from the file, in small pages that processes share.
    Mapped,
    /// Copied into this process's own memory, in huge pages if the system has them.
    Copied,
}
