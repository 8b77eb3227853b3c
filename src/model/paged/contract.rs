//! What an export with a paged cache must be like: the model builder's `use_paged_attention`.
//!
//! Sequences are packed: their tokens stand one after another, and tables say where each sequence begins
//! and which blocks of the cache it has.

use std::path::Path;

use ort::session::Session;
use ort::value::TensorElementType;

use crate::contract::{Check, Dimension, FLOATS, INTS, Side};
use crate::error::LoadError;
use crate::genai_config::GenaiConfig;
use crate::graph_edit::ROWS_INPUT;
use crate::rotary_edit::LONG_INPUT;

/// What a checked session's tensors are like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contract {
    /// Element type of keys and values.
    pub(super) kv: TensorElementType,
    /// Element type of logits.
    pub(super) logits: TensorElementType,
    /// Name of the input with the bounds of the lengths, and how many it takes, where it is there.
    pub(super) bounds: Option<(String, usize)>,
    /// Name of the input that names the tokens whose logits are wanted; all have them where it is
    /// not there.
    pub(super) rows: Option<String>,
    /// Whether there is the input [`LONG_INPUT`].
    pub(super) takes_rotary: bool,
}

/// Whether `session` is of an export with a paged cache.
pub(crate) fn is_paged(session: &Session, config: &GenaiConfig) -> bool {
    Side::inputs(session).has(&config.model.decoder.inputs.paged.block_table)
}

/// Checks `session`, loaded from `path`, with `config`'s names and shape.
///
/// # Errors
/// [`LoadError::Contract`] with every difference.
pub(super) fn check(
    session: &Session,
    config: &GenaiConfig,
    path: &Path,
) -> Result<Contract, LoadError> {
    let mut check = Check::default();
    let contract = all(&mut check, session, config);
    check.end(contract, path)
}

fn all(check: &mut Check, session: &Session, config: &GenaiConfig) -> Option<Contract> {
    use Dimension::{Fixed, Open};
    const NARROW: [TensorElementType; 1] = [TensorElementType::Int32];
    let model = &config.model;
    let inputs = &model.decoder.inputs;
    let names = &inputs.paged;
    let (ins, outs) = (Side::inputs(session), Side::outputs(session));
    check.tensor(ins, &inputs.input_ids, &INTS, &[Open("tokens")]);
    check.tensor(ins, &names.block_table, &NARROW, &[Open("batch"), Open("blocks")]);
    for lengths in [&names.cumulative_sequence_lengths, &names.past_sequence_lengths] {
        check.tensor(ins, lengths, &NARROW, &[Open("sequences")]);
    }
    let mut expected = vec![inputs.input_ids.clone(), LONG_INPUT.into()];
    expected.extend(
        [&names.block_table, &names.cumulative_sequence_lengths, &names.past_sequence_lengths]
            .map(String::clone),
    );
    // Builders of different versions write two or three bounds, or none.
    let bounds = ins.has(&names.attention_metadata).then(|| {
        let declared = ins.shape(&names.attention_metadata);
        let count = if declared == Some(&[2]) { 2 } else { 3 };
        check.tensor(ins, &names.attention_metadata, &NARROW, &[Fixed("bounds", count)]);
        (names.attention_metadata.clone(), count)
    });
    // Some exports take the wanted tokens themselves; the others got our input by the graph edit.
    let rows = [names.logits_indices.as_str(), ROWS_INPUT].into_iter().find(|name| ins.has(name));
    if let Some(name) = rows {
        check.tensor(ins, name, &INTS, &[Open("rows")]);
    }
    expected.extend(bounds.iter().map(|(name, _)| name.clone()));
    expected.extend(rows.map(String::from));
    let block = Fixed("block_size", config.engine.dynamic_batching.block_tokens());
    let heads = Fixed("num_key_value_heads", model.decoder.num_key_value_heads);
    let kv =
        check.cache(session, config, &mut expected, |head| [Open("blocks"), block, heads, head]);
    check.unknown(ins, &expected);
    let shape = [Open("rows"), Fixed("vocab_size", model.vocab_size)];
    let logits = check.tensor(outs, &model.decoder.outputs.logits, &FLOATS, &shape);
    Some(Contract {
        kv: kv?,
        logits: logits?,
        bounds,
        rows: rows.map(String::from),
        takes_rotary: ins.has(LONG_INPUT),
    })
}
