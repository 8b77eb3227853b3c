//! The interface between the engine and the model: one step of work, in token ids and logits.
#![expect(unsafe_code, reason = "reads logits in memory that is bound to the session")]

use std::io::{self, Read, Write};

use super::error::RunError;
use super::memory::Mapping;
use super::plan::{ModelLimits, Rotary};
use half::{bf16, f16};
use ndarray::ArrayView2;
use ort::value::TensorElementType;

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

/// Rows `skip..skip + rows` of the logits in `memory`, `vocab` values of type `element` each.
/// `converted` holds them if they are not in single precision already.
///
/// # Safety
/// Nobody may write to the memory while the result lives.
pub(super) unsafe fn logit_rows<'a>(
    memory: &'a Mapping,
    element: TensorElementType,
    [skip, rows, vocab]: [usize; 3],
    converted: &'a mut Vec<f32>,
) -> Result<Logits<'a>, RunError> {
    let count = (skip + rows) * vocab;
    match element {
        TensorElementType::Float16 => {
            // SAFETY: by the caller's word nobody writes while this copies.
            let values = unsafe { memory.read::<f16>(count) };
            convert(&values[skip * vocab..], converted);
            Logits::from_rows(converted, vocab)
        }
        TensorElementType::Bfloat16 => {
            // SAFETY: as above.
            let values = unsafe { memory.read::<bf16>(count) };
            convert(&values[skip * vocab..], converted);
            Logits::from_rows(converted, vocab)
        }
        _ => {
            // SAFETY: by the caller's word nobody writes while the result lives.
            let values = unsafe { memory.read::<f32>(count) };
            Logits::from_rows(&values[skip * vocab..], vocab)
        }
    }
}

/// Fills `converted` with `values` in single precision.
fn convert<T: Copy + Into<f32>>(values: &[T], converted: &mut Vec<f32>) {
    converted.clear();
    converted.extend(values.iter().map(|&value| value.into()));
}

/// Tokens of one sequence in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span<'a> {
    /// The sequence's slot.
    pub slot: usize,
    /// Positions of the slot that are cached.
    pub past: usize,
    /// The tokens at the positions that follow; at least one.
    pub tokens: &'a [u32],
    /// How many of the last tokens' logits are wanted, at most as many as there are; 0 for the chunks of a
    /// prompt before its last.
    pub rows: usize,
}

/// The spans of a step that does not mix, as tensors have them.
#[derive(Debug)]
pub(super) struct Batch {
    /// The first of the consecutive slots.
    pub(super) first: usize,
    /// The tokens of all slots: one of each, or several of a single one.
    pub(super) tokens: Vec<u32>,
    /// Cached positions of each slot.
    pub(super) past: Vec<usize>,
    /// Logit rows of all slots.
    pub(super) rows: usize,
}

impl Batch {
    pub(super) fn of(spans: &[Span<'_>]) -> Self {
        Self {
            first: spans.first().map_or(0, |span| span.slot),
            tokens: spans.iter().flat_map(|span| span.tokens).copied().collect(),
            past: spans.iter().map(|span| span.past).collect(),
            rows: spans.iter().map(|span| span.rows.max(1)).sum(),
        }
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

    /// Runs `spans`, each of another slot: decoding sequences with their draft tokens, and chunks of prompts.
    /// Returns the wanted logit rows, in the order of the spans. Together they hold at most
    /// `max_prefill_tokens` and one token for each slot. Spans may want several rows where
    /// [`ModelLimits::many_rows`] is set.
    ///
    /// Where [`ModelLimits::mixed_steps`] is not set, a step is one span, or one token for each of several
    /// consecutive slots; each span then has a row, wanted or not.
    ///
    /// # Errors
    /// If ONNX Runtime fails or the step was interrupted; positions before each span's `past` stay valid.
    fn step(&mut self, spans: &[Span<'_>]) -> Result<Logits<'_>, RunError>;

    /// A step of `tokens` as positions `past..past + tokens.len()` of `slot`: the logit rows of the last `rows`.
    ///
    /// # Errors
    /// As [`Runner::step`].
    fn prefill(
        &mut self,
        slot: usize,
        past: usize,
        tokens: &[u32],
        rows: usize,
    ) -> Result<Logits<'_>, RunError> {
        self.step(&[Span { slot, past, tokens, rows }])
    }

    /// A step of one token for each of the slots `first..first + tokens.len()`: `tokens[i]` becomes position
    /// `past[i]` of slot `first + i`.
    ///
    /// # Errors
    /// As [`Runner::step`].
    fn decode(
        &mut self,
        first: usize,
        tokens: &[u32],
        past: &[usize],
    ) -> Result<Logits<'_>, RunError> {
        let spans = (first..).zip(tokens.chunks(1)).zip(past);
        let spans: Vec<_> =
            spans.map(|((slot, tokens), &past)| Span { slot, past, tokens, rows: 1 }).collect();
        self.step(&spans)
    }

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
