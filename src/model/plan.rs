//! How a model is loaded, the limits of a runner's slots, which follow from that, and the memory plan: how
//! much memory a model, its KV cache and the requests to it may take.
//!
//! The plan follows from three things: the settings, what the model's slots hold ([`ModelLimits`]), and
//! what the machine has to spare before the model is loaded. The daemon, `check`, `doctor` and
//! `inspect` all print this plan, and the engine runs by it.

use std::path::PathBuf;

use phi4d_attention::KvType;
use phi4d_isa::InstructionSet;
use phi4d_settings::{Int8Activations, WeightsMemory};
use serde::Serialize;

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
    /// The setting `kv_cache_bytes` ([`MemoryPlan::new`] defines 0). It limits the runner's own
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

    /// What follows from these options for a runner of a model of `vocab_size` tokens, a context of
    /// `model_context` and this [`ModelLimits::rotary_switch`]. The sizes of its cache are the runner's to
    /// say: until then each slot has memory of its own, token by token.
    pub(super) fn limits(
        &self,
        vocab_size: usize,
        model_context: usize,
        rotary_switch: Option<usize>,
    ) -> ModelLimits {
        let context_tokens = match self.context_tokens {
            0 => model_context,
            tokens => tokens.min(model_context),
        };
        ModelLimits {
            vocab_size,
            context_tokens,
            slots: self.slots.max(1),
            // A damaged folder may have a context of 0; `inspect` still has to print something.
            max_prefill_tokens: self.max_prefill_tokens.clamp(1, context_tokens.max(1)),
            many_rows: true,
            kv_bytes_per_token: 0,
            kv_block_tokens: 1,
            rotary_switch,
            kv_growth: KvGrowth::Own,
            width_invariant: false,
            mixed_steps: false,
        }
    }
}

/// What a loaded model can do. Fixed for the life of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelLimits {
    /// Logits of one token, a number for each token id.
    pub vocab_size: usize,
    /// Tokens (prompt and output together) that one slot can hold.
    pub context_tokens: usize,
    /// KV-cache slots: sequences that run at once, and cached prefixes.
    pub slots: usize,
    /// The most tokens that one [`super::Runner::prefill`] takes.
    pub max_prefill_tokens: usize,
    /// Whether a step can give logit rows of more than a slot's last token.
    pub many_rows: bool,
    /// Bytes of KV cache that one token takes, over all layers.
    pub kv_bytes_per_token: usize,
    /// Tokens of a slot in the smallest piece of memory that is committed or freed.
    pub kv_block_tokens: usize,
    /// For models with two rotary tables (Phi-4-mini): the most tokens of a sequence whose keys are
    /// rotated by the short one. Keys of one table are useless with the other, so a sequence that
    /// grows past this is prefilled again from its first token.
    pub rotary_switch: Option<usize>,
    /// How much memory the slots take together.
    pub kv_growth: KvGrowth,
    /// Whether a token's logits are the same, bit for bit, whatever the width of its step and whatever
    /// else runs in it.
    pub width_invariant: bool,
    /// Whether one [`super::Runner::step`] runs decoding sequences and prompt chunks together.
    pub mixed_steps: bool,
}

/// The rotary table that rotates a sequence's keys; models with one table have the short one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotary {
    /// Of sequences up to [`ModelLimits::rotary_switch`].
    Short,
    /// Of longer ones, from their first token on.
    Long,
}

impl ModelLimits {
    /// The table for a sequence of `tokens` tokens.
    #[must_use]
    pub fn rotary(&self, tokens: usize) -> Rotary {
        if self.rotary_switch.is_some_and(|most| tokens > most) {
            Rotary::Long
        } else {
            Rotary::Short
        }
    }
}

/// How much memory slots take for the tokens that they hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvGrowth {
    /// Each takes its own, in whole blocks of the host's memory, within the engine's budget.
    Own,
    /// Each takes whole blocks of the host's memory, within the engine's budget; copied tokens stay in the
    /// blocks of their source until one of the two is written.
    Shared,
    /// The same, of a device's memory.
    Blocks {
        /// Bytes for all of them.
        budget_bytes: usize,
    },
    /// All that hold a token take the same, for [`alike_positions`] of the longest, and one more
    /// is kept beside them: a device's memory.
    Alike {
        /// Bytes for all of it.
        budget_bytes: usize,
    },
}

impl KvGrowth {
    /// The runner's own budget, if the cache is in a device's memory; the engine's does not count then.
    #[must_use]
    pub fn device_bytes(&self) -> Option<usize> {
        match *self {
            Self::Own | Self::Shared => None,
            Self::Blocks { budget_bytes } | Self::Alike { budget_bytes } => Some(budget_bytes),
        }
    }
}

/// Positions that each slot has memory for, if all have as many as the longest, which holds `tokens` of
/// at most `context`.
#[must_use]
pub fn alike_positions(tokens: usize, context: usize) -> usize {
    /// Powers of two from here on: a sequence that grows moves each token once on average.
    const LEAST: usize = 256;
    tokens.max(LEAST).next_power_of_two().min(context.max(1))
}

/// Memory that a plan leaves the program itself: ONNX Runtime, the tokenizer, threads and buffers of steps.
pub const PROGRAM_BYTES: usize = 64 << 20;

/// The settings that share memory out, and the memory that there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemorySettings {
    /// `kv_cache_bytes` as set; [`MemoryPlan::new`] defines 0.
    pub kv_cache_bytes: usize,
    /// Requests that are answered at once.
    pub slots: usize,
    /// Slots that keep prompts of answered requests.
    pub prefix_slots: usize,
    /// `request_memory_bytes` as set; [`MemoryPlan::new`] defines 0.
    pub request_memory_bytes: usize,
    /// The largest request body, which bounds the default of `request_memory_bytes` from below.
    pub max_body_bytes: usize,
    /// The most that is written to the prefix store; 0 where there is none.
    pub prefix_store_bytes: u64,
    /// What the embedding model takes, if there is one.
    pub embedding_bytes: u64,
    /// What the machine, or the cgroup of the process, has to spare before the model is loaded.
    pub spare_bytes: usize,
}

/// How the memory is shared out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct MemoryPlan {
    /// Bytes of the weights.
    pub weight_bytes: u64,
    /// Bytes that the embedding model takes: its weights and a run.
    pub embedding_bytes: u64,
    /// Bytes of KV cache for each token, over all layers.
    pub kv_bytes_per_token: usize,
    /// The longest prompt and answer together, by the model and the settings.
    pub context_tokens: usize,
    /// The longest that the KV cache's memory holds for one sequence; at most `context_tokens`.
    pub slot_tokens: usize,
    /// Requests that are answered at once.
    pub slots: usize,
    /// Slots that keep prompts of answered requests.
    pub prefix_slots: usize,
    /// Bytes of KV cache for one full context.
    pub kv_bytes_per_context: usize,
    /// Bytes of KV cache for a full context of each request.
    pub kv_bytes_full: usize,
    /// The most bytes that the KV cache takes: no more than all slots can fill.
    pub kv_budget_bytes: usize,
    /// Tokens that these bytes hold.
    pub kv_budget_tokens: usize,
    /// Bytes for all requests: bodies, parsed bodies, tokens and answers.
    pub request_memory_bytes: usize,
    /// The most bytes that the prefix store takes on disk.
    pub prefix_store_bytes: u64,
    /// What the machine had to spare before the model was loaded.
    pub spare_bytes: usize,
    /// Whether the KV cache is in a device's memory instead of the host's.
    pub kv_on_device: bool,
    /// Set if the KV cache is too small for the engine to start.
    #[serde(skip)]
    pub too_small: Option<KvTooSmall>,
}

impl MemoryPlan {
    /// The plan for a model whose slots hold `limits` and whose weights take `weight_bytes`.
    ///
    /// A setting that is 0 is planned from what is left: the spare memory less the weights, the embedding
    /// model and 64 MiB for the program.
    ///
    /// - `kv_cache_bytes = 0`: in the host's memory, half of what is left, at least a sixteenth of the
    ///   spare memory. In a device's memory, whose size ONNX Runtime does not expose, 4 GiB, or two
    ///   full contexts if that is more. Of these bytes the cache uses no more than its slots can
    ///   fill.
    /// - `request_memory_bytes = 0`: half of what is left beside the KV cache, at most 1 GiB, at
    ///   least 64 MiB and 8 times `max_body_bytes`.
    #[must_use]
    pub fn new(limits: &ModelLimits, weight_bytes: u64, settings: &MemorySettings) -> Self {
        let loaded = weight_bytes.saturating_add(settings.embedding_bytes);
        // Weights count although the kernel may drop mapped ones: to read them from disk in each
        // step is what the plan has to prevent.
        let weights = usize::try_from(loaded).unwrap_or(usize::MAX);
        let left = settings.spare_bytes.saturating_sub(weights).saturating_sub(PROGRAM_BYTES);
        let on_device = limits.kv_growth.device_bytes();
        let spare = settings.spare_bytes;
        let host_bytes = kv_budget(settings.kv_cache_bytes, KvMemory::Host { left, spare });
        // A cache in a device's memory takes nothing from requests.
        let in_host = if on_device.is_some() { 0 } else { host_bytes };
        let (sizes, too_small) = match limits.kv_sizes(host_bytes) {
            Ok(sizes) => (sizes, None),
            Err(fault) => (KvSizes::default(), Some(fault)),
        };
        let per_token = limits.kv_bytes_per_token;
        // Saturating: a damaged folder may name any sizes, and `inspect` must still print a plan.
        let per_context = per_token.saturating_mul(limits.context_tokens);
        Self {
            weight_bytes,
            embedding_bytes: settings.embedding_bytes,
            kv_bytes_per_token: per_token,
            context_tokens: limits.context_tokens,
            slot_tokens: sizes.slot_tokens,
            slots: settings.slots,
            prefix_slots: settings.prefix_slots,
            kv_bytes_per_context: per_context,
            kv_bytes_full: per_context.saturating_mul(settings.slots),
            kv_budget_bytes: sizes.budget_tokens.saturating_mul(per_token),
            kv_budget_tokens: sizes.budget_tokens,
            request_memory_bytes: request_memory(settings, left.saturating_sub(in_host)),
            prefix_store_bytes: settings.prefix_store_bytes,
            spare_bytes: settings.spare_bytes,
            kv_on_device: on_device.is_some(),
            too_small,
        }
    }
}

/// Where a KV cache is, with what the default of its size follows from.
enum KvMemory {
    /// The host's, which has `spare` bytes; `left` of them remain beside weights and program.
    Host { left: usize, spare: usize },
    /// A device's; two full contexts take `two_contexts` bytes.
    Device { two_contexts: usize },
}

/// Bytes for the KV cache by the setting `kv_cache_bytes`, as [`MemoryPlan::new`] defines it.
fn kv_budget(kv_cache_bytes: usize, memory: KvMemory) -> usize {
    /// Of use on any device whose memory holds a model of billions of weights.
    const DEVICE: usize = 4 << 30;
    match (kv_cache_bytes, memory) {
        // The floor lets a daemon start whose weights fit only because the kernel can drop and read
        // again what is mapped.
        (0, KvMemory::Host { left, spare }) => (left / 2).max(spare / 16),
        (0, KvMemory::Device { two_contexts }) => DEVICE.max(two_contexts),
        (bytes, _) => bytes,
    }
}

/// Bytes for requests, where `left` are free beside the KV cache.
fn request_memory(settings: &MemorySettings, left: usize) -> usize {
    const LEAST: usize = 64 << 20;
    const MOST: usize = 1 << 30;
    match settings.request_memory_bytes {
        0 => (left / 2).clamp(LEAST, MOST).max(settings.max_body_bytes.saturating_mul(8)),
        bytes => bytes,
    }
}

/// How many tokens a KV cache holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KvSizes {
    /// Tokens of one slot at most.
    pub slot_tokens: usize,
    /// Tokens of all slots together.
    pub budget_tokens: usize,
}

/// The memory of the KV cache does not hold one short sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "kv_cache_bytes: {bytes} holds {tokens} tokens of this model's KV cache; at least {least} are \
     needed"
)]
pub struct KvTooSmall {
    /// Bytes that there are.
    pub bytes: usize,
    /// Tokens that they hold.
    pub tokens: usize,
    /// Tokens that are needed.
    pub least: usize,
}

impl ModelLimits {
    /// Makes these the limits of a cache of whole slots in a device's memory, by the setting
    /// `kv_cache_bytes`. Returns the bytes of that memory.
    pub(super) fn on_device(&mut self, bytes: usize) -> usize {
        let budget_bytes = self.device_budget(bytes, self.context_tokens);
        self.kv_block_tokens = 1;
        self.kv_growth = KvGrowth::Alike { budget_bytes };
        budget_bytes
    }

    /// As [`Self::on_device`], for a cache of blocks.
    pub(super) fn in_device_blocks(&mut self, bytes: usize) -> usize {
        let block = self.kv_block_tokens.max(1);
        // Whole blocks: the last one of a context takes memory to its end.
        let context = self.context_tokens.div_ceil(block).saturating_mul(block);
        let budget_bytes = self.device_budget(bytes, context);
        self.kv_growth = KvGrowth::Blocks { budget_bytes };
        budget_bytes
    }

    fn device_budget(&self, kv_cache_bytes: usize, context: usize) -> usize {
        let two_contexts = context.saturating_mul(2).saturating_mul(self.kv_bytes_per_token);
        kv_budget(kv_cache_bytes, KvMemory::Device { two_contexts })
    }

    /// The KV cache's sizes within `host_bytes`, or within the device's memory that the runner has.
    ///
    /// # Errors
    /// If that does not hold one short sequence.
    pub fn kv_sizes(&self, host_bytes: usize) -> Result<KvSizes, KvTooSmall> {
        let bytes = self.kv_growth.device_bytes().unwrap_or(host_bytes);
        // A damaged configuration may have 0 heads; `inspect` still has to print something.
        let tokens = bytes / self.kv_bytes_per_token.max(1);
        let (context, block) = (self.context_tokens, self.kv_block_tokens.max(1));
        let alike = matches!(self.kv_growth, KvGrowth::Alike { .. });
        // A cache on a device keeps a spare slot beside the one that is used.
        let least = if alike {
            2 * alike_positions(1, context)
        } else {
            context.checked_next_multiple_of(block).unwrap_or(usize::MAX).min(2 * block)
        };
        if tokens < least {
            return Err(KvTooSmall { bytes, tokens, least });
        }
        Ok(if alike { self.alike_sizes(tokens) } else { self.block_sizes(tokens) })
    }

    /// Each slot takes whole blocks, so one sequence can have what all can have.
    fn block_sizes(&self, tokens: usize) -> KvSizes {
        let block = self.kv_block_tokens.max(1);
        // A block that does not fit as a whole can't be handed out.
        let whole = tokens / block * block;
        let slot_tokens = self.context_tokens.min(whole);
        let full = slot_tokens.div_ceil(block).saturating_mul(block);
        let budget_tokens = whole.min(self.slots.saturating_mul(full));
        KvSizes { slot_tokens, budget_tokens }
    }

    /// All slots are as long as the longest, and a spare one is kept beside them. Lengths are powers
    /// of two, as [`alike_positions`] gives them.
    fn alike_sizes(&self, tokens: usize) -> KvSizes {
        let half = tokens / 2;
        // Half, since a single slot at full length needs its spare beside it.
        let power = half.checked_ilog2().map_or(0, |bits| 1 << bits);
        let slot_tokens = if half < self.context_tokens { power } else { self.context_tokens };
        KvSizes {
            slot_tokens,
            budget_tokens: tokens.min(slot_tokens.saturating_mul(self.slots + 1)),
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
