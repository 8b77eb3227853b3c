//! The seam between the engine and the model: one step of work, in token ids and logits.

use std::io::{self, Read, Write};

use super::error::RunError;
use ndarray::ArrayView2;

/// What a loaded model can do. Fixed for the life of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelLimits {
    /// Number of logits in a row; every token id is below it.
    pub vocab_size: usize,
    /// Tokens (prompt and output together) that one slot can hold.
    pub context_tokens: usize,
    /// KV-cache slots, and so sequences that can be live at once.
    pub slots: usize,
    /// The most tokens that one [`Runner::prefill`] takes.
    pub max_prefill_tokens: usize,
    /// Whether [`Runner::prefill`] can give the logits of more than the last token.
    pub many_rows: bool,
    /// Bytes of KV cache that one token takes, over all layers.
    pub kv_bytes_per_token: usize,
    /// Tokens of a slot in the smallest piece of memory that is committed or given back.
    pub kv_block_tokens: usize,
    /// The most tokens of a sequence whose keys are turned by the short rotary table, where the
    /// model has two (Phi-4-mini). Keys and values of one table mean nothing to the other, so a
    /// sequence that grows past this is read anew.
    pub rotary_switch: Option<usize>,
    /// How much memory the slots take together.
    pub kv_growth: KvGrowth,
}

/// Which of a model's rotary tables turns a sequence's keys; models with one have the short one.
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

    /// Makes these the limits of a cache of rows in a device's memory of `bytes`, or of a default
    /// where they are 0. Returns how many bytes those are.
    pub(super) fn on_device(&mut self, bytes: usize) -> usize {
        let budget_bytes = self.device_budget(bytes, 2 * self.context_tokens);
        self.kv_block_tokens = 1;
        self.kv_growth = KvGrowth::Alike { budget_bytes };
        budget_bytes
    }

    /// Makes these the limits of a cache of blocks in a device's memory, as [`Self::on_device`].
    pub(super) fn in_device_blocks(&mut self, bytes: usize) -> usize {
        let two = 2 * self.context_tokens.next_multiple_of(self.kv_block_tokens);
        let budget_bytes = self.device_budget(bytes, two);
        self.kv_growth = KvGrowth::Blocks { budget_bytes };
        budget_bytes
    }

    /// `bytes`, or where they are 0 a default that holds `tokens` at least.
    fn device_budget(&self, bytes: usize, tokens: usize) -> usize {
        /// How much memory a device has is not to be had from ONNX Runtime. This much is of use on
        /// any device that a model of billions of weights fits.
        const DEFAULT: usize = 4 << 30;
        if bytes == 0 { DEFAULT.max(tokens * self.kv_bytes_per_token) } else { bytes }
    }
}

/// How much memory slots take for the tokens that they hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvGrowth {
    /// Each takes its own, in whole blocks: the host's memory, of which the engine's setting says
    /// how much.
    Own,
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
    /// The budget where it is of a device's memory and not the engine's to say.
    #[must_use]
    pub fn device_bytes(&self) -> Option<usize> {
        match *self {
            Self::Own => None,
            Self::Blocks { budget_bytes } | Self::Alike { budget_bytes } => Some(budget_bytes),
        }
    }
}

/// Positions that each slot has memory for where all have the same, if the longest holds `tokens`
/// of at most `context`.
#[must_use]
pub fn alike_positions(tokens: usize, context: usize) -> usize {
    /// A power of two, so that what is moved on growth is never more than what was written.
    const LEAST: usize = 256;
    tokens.max(LEAST).next_power_of_two().min(context.max(1))
}

/// Rows of logits, `[rows, vocab]`: one for each sequence of a decode step, or for each of the last
/// tokens of a prefill.
///
/// Rows are copied out or sampled before the next step: the memory is the runner's.
#[derive(Debug, Clone, Copy)]
pub struct Logits<'a>(pub(super) ArrayView2<'a, f32>);

impl<'a> Logits<'a> {
    /// Rows of `vocab_size` values that lie one after the other.
    ///
    /// # Errors
    /// If `values` are not whole rows.
    pub fn from_rows(values: &'a [f32], vocab_size: usize) -> Result<Self, RunError> {
        let rows = values.len() / vocab_size.max(1);
        ArrayView2::from_shape((rows, vocab_size), values)
            .map(Self)
            .map_err(|error| RunError::Runtime(error.to_string()))
    }

    /// Rows in this step's result.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.0.nrows()
    }

    /// The logits of row `row`, `vocab_size` long.
    ///
    /// # Panics
    /// If `row` is not below [`Logits::rows`].
    #[must_use]
    #[expect(clippy::expect_used, reason = "a row of a standard-layout view is contiguous")]
    pub fn row(&self, row: usize) -> &'a [f32] {
        self.0
            .index_axis_move(ndarray::Axis(0), row)
            .to_slice()
            .expect("runners build logits in standard layout")
    }
}

/// Runs steps of the model and keeps the KV cache's memory.
///
/// A runner does what it is told: which sequence holds which slot, and which tokens a slot
/// caches, is the engine's book-keeping. It belongs to the engine's thread alone.
pub trait Runner: Send {
    /// The model's fixed limits.
    fn limits(&self) -> &ModelLimits;

    /// Chooses the rotary table of the steps that follow; [`Rotary::Short`] before the first call.
    /// All slots of a step must have been filled by the same, and no slot grows past
    /// [`ModelLimits::rotary_switch`] by the short one.
    fn turn_by(&mut self, rotary: Rotary);

    /// Runs `tokens` as positions `past..past + tokens.len()` of `slot`, whose first `past`
    /// positions must already be cached, and returns the logits of the last `rows` of them, a row
    /// for each token.
    ///
    /// `tokens` holds 1 to `max_prefill_tokens` ids, and the sum stays within `context_tokens`.
    /// `rows` is 1, or up to `tokens.len()` where [`ModelLimits::many_rows`] is set.
    ///
    /// # Errors
    /// If ONNX Runtime fails or the step was interrupted; positions before `past` stay valid.
    fn prefill(
        &mut self,
        slot: usize,
        past: usize,
        tokens: &[u32],
        rows: usize,
    ) -> Result<Logits<'_>, RunError>;

    /// One token for each of the slots `first..first + tokens.len()`: `tokens[i]` becomes position
    /// `past[i]` of slot `first + i`. Returns a row for each.
    ///
    /// # Errors
    /// If ONNX Runtime fails or the step was interrupted; earlier positions stay valid.
    fn decode(
        &mut self,
        first: usize,
        tokens: &[u32],
        past: &[usize],
    ) -> Result<Logits<'_>, RunError>;

    /// Exchanges the contents of two slots, which hold `tokens` positions each.
    fn swap(&mut self, slots: [usize; 2], tokens: [usize; 2]);

    /// Copies the first `tokens` positions of slot `from` to slot `to`.
    fn copy(&mut self, from: usize, to: usize, tokens: usize);

    /// Writes the first `tokens` positions of `slot`, `kv_bytes_per_token` bytes each, in a form
    /// that [`Runner::import`] of a runner over the same model reads.
    ///
    /// # Errors
    /// What the sink says.
    fn export(&mut self, slot: usize, tokens: usize, sink: &mut dyn Write) -> io::Result<()>;

    /// Fills the first `tokens` positions of `slot` with what [`Runner::export`] wrote.
    ///
    /// # Errors
    /// What the source says; the slot holds nothing of use then.
    fn import(&mut self, slot: usize, tokens: usize, source: &mut dyn Read) -> io::Result<()>;

    /// Gives the memory of `slot`'s positions from `keep` on back to the system. They read as
    /// nothing afterwards and must be written again before use.
    fn release(&mut self, slot: usize, keep: usize);
}

/// Cuts a running step short from another thread, for the shutdown deadline.
pub trait Interrupt: Send + Sync {
    /// Makes the step in progress, and every later one, fail with [`RunError::Interrupted`].
    fn interrupt(&self);
}
