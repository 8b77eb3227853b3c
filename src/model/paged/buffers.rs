//! What a step over a paged cache reads and writes beside the cache, and how it is bound.
#![expect(unsafe_code, reason = "writes memory that is bound to the session")]

use std::iter::once;
use std::sync::Arc;

use ort::memory::MemoryInfo;
use ort::session::Session;
use ort::value::TensorElementType;

use super::contract::Contract;
use crate::binding::{Binding, Tensor};
use crate::error::LoadError;
use crate::genai_config::DecoderSection;
use crate::kv_format;
use crate::memory::Mapping;
use crate::plan::ModelLimits;
use crate::rotary_edit::LONG_INPUT;
use crate::tensors::Input;

/// Sizes of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) sequences: usize,
    /// Of all sequences together.
    pub(super) tokens: usize,
    /// Tokens that logits are wanted for.
    pub(super) rows: usize,
    /// Blocks in a row of the table.
    pub(super) width: usize,
}

/// What a step reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Values<'a> {
    /// As many of each sequence.
    pub(super) tokens: &'a [u32],
    /// Cached positions of each sequence.
    pub(super) past: &'a [usize],
    /// Most positions that a sequence has with what it reads now, or may have.
    pub(super) most: usize,
    /// Whether the long rotary table is used.
    pub(super) long: bool,
}

/// The memory.
#[derive(Debug)]
pub(super) struct Buffers {
    /// `[tokens]`, i64.
    ids: Input,
    /// `[sequences, width]`, i32: blocks, and -1 behind a sequence's last.
    table: Input,
    /// `[sequences + 1]`, i32.
    starts: Input,
    /// `[sequences]`, i32.
    past: Input,
    /// `[3]`, i32.
    bounds: Input,
    /// `[rows]`, i64.
    rows: Input,
    /// One boolean: whether the long rotary table is used.
    long_rotary: Input,
    /// `[rows, vocab]`, in the host's memory.
    pub(super) logits: Arc<Mapping>,
    names: Names,
    vocab: usize,
    /// Element type of logits.
    element: TensorElementType,
}

/// The tensors' names in the graph.
#[derive(Debug)]
struct Names {
    ids: String,
    table: String,
    starts: String,
    past: String,
    logits: String,
    bounds: Option<(String, usize)>,
    rows: Option<String>,
    long_rotary: bool,
}

impl Buffers {
    pub(super) fn reserve(
        session: &Arc<Session>,
        limits: &ModelLimits,
        contract: &Contract,
        decoder: &DecoderSection,
    ) -> Result<Self, LoadError> {
        let inputs = &decoder.inputs;
        let names = Names {
            ids: inputs.input_ids.clone(),
            table: inputs.paged.block_table.clone(),
            starts: inputs.paged.cumulative_sequence_lengths.clone(),
            past: inputs.paged.past_sequence_lengths.clone(),
            logits: decoder.outputs.logits.clone(),
            bounds: contract.bounds.clone(),
            rows: contract.rows.clone(),
            long_rotary: contract.takes_rotary,
        };
        let (int, narrow) = (TensorElementType::Int64, TensorElementType::Int32);
        let input = |name: Option<&str>, element, count| Input::new(session, name, element, count);
        let tokens = limits.max_prefill_tokens.max(limits.slots);
        // The widest table a step binds, which is a power of two as well.
        let width = limits.context_tokens.div_ceil(limits.kv_block_tokens).next_power_of_two();
        let bytes = tokens * limits.vocab_size * kv_format::bytes(contract.logits);
        let logits =
            Mapping::reserve(bytes).map_err(|source| LoadError::Memory { bytes, source })?;
        let bounds = names.bounds.as_ref().map(|(name, _)| name.as_str());
        let long_rotary = names.long_rotary.then_some(LONG_INPUT);
        Ok(Self {
            ids: input(Some(&names.ids), int, tokens)?,
            table: input(Some(&names.table), narrow, limits.slots * width)?,
            starts: input(Some(&names.starts), narrow, limits.slots + 1)?,
            past: input(Some(&names.past), narrow, limits.slots)?,
            bounds: input(bounds, narrow, 3)?,
            rows: input(names.rows.as_deref(), int, tokens)?,
            long_rotary: input(long_rotary, TensorElementType::Bool, 1)?,
            logits: Arc::new(logits),
            vocab: limits.vocab_size,
            element: contract.logits,
            names,
        })
    }

    /// Writes what the step reads; `blocks` are those of each of its sequences.
    pub(super) fn fill<'a>(
        &self,
        step: Step,
        values: Values<'_>,
        blocks: impl Fn(usize) -> &'a [usize],
    ) {
        let Step { sequences, width, rows, .. } = step;
        let Values { tokens, past, most, long } = values;
        // A step reads as many tokens of each: a chunk of one sequence or one token of several.
        let each = tokens.len() / sequences;
        let narrow = |value: usize| i32::try_from(value).unwrap_or(i32::MAX);
        let block = |place: usize| {
            blocks(place / width).get(place % width).map_or(-1, |&block| narrow(block))
        };
        // Upper bounds of new tokens and of lengths in a step of these sizes, and 0 for the shortest: a
        // bound that is too wide is allowed, and one that stays the same needs no new binding.
        let bounds = [narrow(each), narrow(most), 0];
        // SAFETY: no reference into the buffers outlives a call, and nothing runs.
        unsafe { self.ids.memory.write(tokens.iter().map(|&token| i64::from(token))) };
        // SAFETY: as above.
        unsafe { self.table.memory.write((0..sequences * width).map(block)) };
        // Cumulative: sequence i has the tokens from its start to that of i + 1.
        let starts = (0..sequences + 1).map(|index| narrow(index * each));
        // SAFETY: as above.
        unsafe { self.starts.memory.write(starts) };
        // SAFETY: as above.
        unsafe { self.past.memory.write(past.iter().map(|&past| narrow(past))) };
        // SAFETY: as above.
        unsafe { self.bounds.memory.write(bounds.into_iter()) };
        // The wanted tokens are the last of all, since a prefill step has one sequence.
        let wanted = tokens.len() - rows;
        // SAFETY: as above.
        unsafe { self.rows.memory.write((0..rows).map(|row| (wanted + row) as i64)) };
        // SAFETY: as above.
        unsafe { self.long_rotary.memory.write(once(u8::from(long))) };
    }

    /// Binds the single values, which never change their size.
    pub(super) fn bind_values(
        &self,
        binding: &mut Binding,
        info: &MemoryInfo<'_>,
    ) -> ort::Result<()> {
        if let Some((name, count)) = &self.names.bounds {
            self.bounds.bind(binding, info, name, &[*count])?;
        }
        if self.names.long_rotary {
            self.long_rotary.bind(binding, info, LONG_INPUT, &[])?;
        }
        Ok(())
    }

    /// Binds what has another size in `step` than in `before`.
    pub(super) fn bind_sizes(
        &self,
        binding: &mut Binding,
        info: &MemoryInfo<'_>,
        before: Option<Step>,
        step: Step,
    ) -> ort::Result<()> {
        let differs = |size: fn(&Step) -> usize| before.as_ref().map(size) != Some(size(&step));
        let (names, sequences) = (&self.names, step.sequences);
        if differs(|step| step.tokens) {
            self.ids.bind(binding, info, &names.ids, &[step.tokens])?;
        }
        if differs(|step| step.sequences) {
            self.starts.bind(binding, info, &names.starts, &[sequences + 1])?;
            self.past.bind(binding, info, &names.past, &[sequences])?;
        }
        // The table's rows are as wide as the longest sequence needs, so two sizes decide.
        if differs(|step| step.sequences) || differs(|step| step.width) {
            self.table.bind(binding, info, &names.table, &[sequences, step.width])?;
        }
        if differs(|step| step.rows) {
            if let Some(name) = &names.rows {
                self.rows.bind(binding, info, name, &[step.rows])?;
            }
            // In host memory: ONNX Runtime copies them there from a device.
            let shape = [step.rows, self.vocab];
            let logits = Tensor::new(info, &self.logits, 0, &shape, self.element)?;
            binding.output(&names.logits, logits)?;
        }
        Ok(())
    }
}
