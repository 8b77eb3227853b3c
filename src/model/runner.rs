//! The interface between the engine and the model: one step of work, in token ids and logits.

use std::io::{self, Read, Write};

use super::error::RunError;
use super::plan::{ModelLimits, Rotary};
use ndarray::ArrayView2;

/// Logit rows, `[rows, vocab]`: one for each sequence of a decode step, or for each of the last tokens
/// of a prefill.
///
/// Rows are copied out or sampled before the next step: the memory is the runner's. The view of
/// `ndarray` checks once that the values are whole rows. Other tensors are memory that ONNX Runtime
/// is given by address, where a view would only add a shape to keep in step.
#[derive(Debug, Clone, Copy)]
pub struct Logits<'a>(pub(super) ArrayView2<'a, f32>);

impl<'a> Logits<'a> {
    /// Rows of `vocab_size` values, one after another.
    ///
    /// # Errors
    /// If the number of `values` is no multiple of `vocab_size`.
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

/// Runs steps of the model and owns the KV cache's memory.
///
/// A runner only executes: which sequence holds which slot, and which tokens a slot caches, is the
/// engine's book-keeping. It belongs to the engine's thread alone.
pub trait Runner: Send {
    /// The model's fixed limits.
    fn limits(&self) -> &ModelLimits;

    /// Chooses the rotary table of the steps that follow; [`Rotary::Short`] before the first call.
    /// All slots of a step must have been filled by the same table, and no slot may grow past
    /// [`ModelLimits::rotary_switch`] with the short one.
    fn set_rotary(&mut self, rotary: Rotary);

    /// Runs `tokens` as positions `past..past + tokens.len()` of `slot`, whose first `past`
    /// positions must already be cached, and returns the logit rows of the last `rows` of them.
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
    /// `past[i]` of slot `first + i`. Returns a logit row for each.
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
    /// The sink's error.
    fn export(&mut self, slot: usize, tokens: usize, sink: &mut dyn Write) -> io::Result<()>;

    /// Fills the first `tokens` positions of `slot` with what [`Runner::export`] wrote.
    ///
    /// # Errors
    /// The source's error; the slot's contents are undefined then.
    fn import(&mut self, slot: usize, tokens: usize, source: &mut dyn Read) -> io::Result<()>;

    /// Frees the memory of `slot`'s positions from `keep` on. They must be written again before use.
    fn release(&mut self, slot: usize, keep: usize);
}

/// Cuts a running step short from another thread, for the shutdown deadline.
pub trait Interrupt: Send + Sync {
    /// Makes the step in progress, and every later one, fail with [`RunError::Interrupted`].
    fn interrupt(&self);
}
