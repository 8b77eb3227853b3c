//! Checks a session's inputs and outputs against what this program runs.
//!
//! The contract is that of the onnxruntime-genai model builder's decoder exports with
//! `GroupQueryAttention` and one buffer for past and present. All differences are reported at once;
//! ONNX Runtime would report the first one, when a step runs.

use std::path::Path;

use ort::session::Session;
use ort::value::{Outlet, TensorElementType, ValueType};

use super::error::LoadError;
use super::genai_config::{GenaiConfig, layer_name};
use super::graph_edit::TAIL_INPUT;
use super::kv_format;
use super::rotary_edit::LONG_INPUT;

/// What a checked session's tensors are like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contract {
    /// Element type of keys and values.
    pub(super) kv: TensorElementType,
    /// Element type of logits.
    pub(super) logits: TensorElementType,
    /// Which positions logits are given for.
    pub(super) positions: Positions,
    /// Whether there is the input [`TAIL_INPUT`]. Exports that give the last position only get it too,
    /// though it makes no difference there.
    pub(super) takes_tail: bool,
    /// Whether there is the input [`LONG_INPUT`].
    pub(super) takes_rotary: bool,
    /// Name of the position input, if there is one.
    pub(super) position_ids: Option<String>,
}

/// Which positions of a step have logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Positions {
    /// Every one: `[batch, sequence, vocab]`.
    All,
    /// The last: `[batch, 1, vocab]`.
    Last,
    /// As many of the last as the input [`TAIL_INPUT`] says.
    Tail,
}

pub(super) const FLOATS: [TensorElementType; 3] =
    [TensorElementType::Float32, TensorElementType::Float16, TensorElementType::Bfloat16];
pub(super) const INTS: [TensorElementType; 1] = [TensorElementType::Int64];

/// Checks `session`, loaded from `path`, against the contract with `config`'s names and shape.
///
/// # Errors
/// [`LoadError::Contract`] with every difference.
pub(super) fn check(
    session: &Session,
    config: &GenaiConfig,
    path: &Path,
) -> Result<Contract, LoadError> {
    let mut check = Check::default();
    let contract = check.all(session, config);
    check.end(contract, path)
}

/// Collects the differences.
#[derive(Debug, Default)]
pub(super) struct Check {
    differences: Vec<String>,
}

/// One side of the session.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side<'a> {
    name: &'static str,
    outlets: &'a [Outlet],
}

impl<'a> Side<'a> {
    pub(super) fn inputs(session: &'a Session) -> Self {
        Self { name: "input", outlets: session.inputs() }
    }

    pub(super) fn outputs(session: &'a Session) -> Self {
        Self { name: "output", outlets: session.outputs() }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.outlets.iter().any(|outlet| outlet.name() == name)
    }

    /// The declared shape of the tensor `name`, where there is one.
    pub(super) fn shape(&self, name: &str) -> Option<&'a [i64]> {
        let outlet = self.outlets.iter().find(|outlet| outlet.name() == name)?;
        outlet.dtype().tensor_shape().map(|shape| &shape[..])
    }

    /// The element type of the tensor `name`, where there is one.
    fn element(&self, name: &str) -> Option<TensorElementType> {
        let outlet = self.outlets.iter().find(|outlet| outlet.name() == name)?;
        outlet.dtype().tensor_type()
    }
}

/// What one dimension must be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Dimension {
    /// Left open by the model: it takes any size.
    Open(&'static str),
    /// Exactly this, for the reason named.
    Fixed(&'static str, usize),
}

impl Check {
    fn all(&mut self, session: &Session, config: &GenaiConfig) -> Option<Contract> {
        use Dimension::{Fixed, Open};
        let model = &config.model;
        let (inputs, outputs) = (&model.decoder.inputs, &model.decoder.outputs);
        let (ins, outs) = (Side::inputs(session), Side::outputs(session));
        let ids = [Open("batch"), Open("sequence")];
        let mut expected = vec![inputs.input_ids.clone(), inputs.attention_mask.clone()];
        // Inputs that this program's own edits have added.
        expected.extend([TAIL_INPUT, LONG_INPUT].map(String::from));
        self.tensor(ins, &inputs.input_ids, &INTS, &ids);
        let mask = [Open("batch"), Open("total")];
        self.tensor(ins, &inputs.attention_mask, &INTS, &mask);

        // Most exports compute positions in the attention operator and have no such input.
        let position_ids = inputs.position_ids.clone().unwrap_or_else(|| "position_ids".into());
        let has = |name: &str| ins.has(name);
        let has_positions = has(&position_ids);
        if has_positions {
            self.tensor(ins, &position_ids, &INTS, &ids);
            expected.push(position_ids.clone());
        }

        // Open positions let past and present have the whole capacity of a slot.
        let heads = Fixed("num_key_value_heads", model.decoder.num_key_value_heads);
        let kv = self.cache(session, config, &mut expected, |head| {
            [Open("batch"), heads, Open("positions"), head]
        });
        self.unknown(ins, &expected);

        let shape = [Open("batch"), Open("sequence"), Fixed("vocab_size", model.vocab_size)];
        let logits = self.tensor(outs, &outputs.logits, &FLOATS, &shape)?;
        // Pruned exports declare one position; all others leave the number open.
        let positions = match outs.shape(&outputs.logits).and_then(|shape| shape.get(1)) {
            Some(1) => Positions::Last,
            _ if has(TAIL_INPUT) => Positions::Tail,
            _ => Positions::All,
        };
        Some(Contract {
            kv: kv?,
            logits,
            positions,
            takes_tail: has(TAIL_INPUT),
            takes_rotary: has(LONG_INPUT),
            position_ids: has_positions.then_some(position_ids),
        })
    }

    /// Checks keys and values, whose dimensions are `dimensions` of a head's stored elements, adds
    /// the inputs to `expected`, and returns their element type.
    pub(super) fn cache(
        &mut self,
        session: &Session,
        config: &GenaiConfig,
        expected: &mut Vec<String>,
        dimensions: impl Fn(Dimension) -> [Dimension; 4],
    ) -> Option<TensorElementType> {
        let decoder = &config.model.decoder;
        let (inputs, outputs) = (&decoder.inputs, &decoder.outputs);
        let (ins, outs) = (Side::inputs(session), Side::outputs(session));
        let mut kv = None;
        for layer in 0..decoder.num_hidden_layers {
            for (side, pattern) in [
                (ins, &inputs.past_key_names),
                (ins, &inputs.past_value_names),
                (outs, &outputs.present_key_names),
                (outs, &outputs.present_value_names),
            ] {
                let name = layer_name(pattern, layer);
                // A 4-bit cache has two values in a byte, so its last dimension is half a head.
                let stored = side.element(&name).unwrap_or(TensorElementType::Float32);
                let head = kv_format::elements(stored, decoder.head_size);
                let dimensions = dimensions(Dimension::Fixed("head_size", head));
                let element = self.tensor(side, &name, &kv_format::STORED, &dimensions);
                if let (Some(first), Some(this)) = (kv, element)
                    && first != this
                {
                    self.differences.push(format!(
                        "{} {name} is {this}, other keys and values are {first}",
                        side.name
                    ));
                }
                kv = kv.or(element);
                // Outputs need not be read, so only unknown inputs are a difference.
                if side.name == ins.name {
                    expected.push(name);
                }
            }
        }
        kv
    }

    /// Notes inputs that are not `expected`.
    pub(super) fn unknown(&mut self, inputs: Side<'_>, expected: &[String]) {
        for input in inputs.outlets {
            if !expected.iter().any(|name| name == input.name()) {
                self.differences.push(format!(
                    "input {} is not one that this program knows how to fill",
                    input.name()
                ));
            }
        }
    }

    /// The contract found, if nothing differs.
    pub(super) fn end<T>(self, contract: Option<T>, path: &Path) -> Result<T, LoadError> {
        match contract {
            Some(contract) if self.differences.is_empty() => Ok(contract),
            _ => Err(LoadError::Contract { path: path.into(), differences: self.differences }),
        }
    }

    /// Checks one tensor and returns its element type.
    pub(super) fn tensor(
        &mut self,
        side: Side<'_>,
        name: &str,
        elements: &[TensorElementType],
        dimensions: &[Dimension],
    ) -> Option<TensorElementType> {
        let Side { name: side, outlets } = side;
        let Some(outlet) = outlets.iter().find(|outlet| outlet.name() == name) else {
            let there: Vec<&str> = outlets.iter().map(Outlet::name).take(4).collect();
            self.differences.push(format!(
                "{side} {name} is missing (there are {} {side}s: {}, ...)",
                outlets.len(),
                there.join(", ")
            ));
            return None;
        };
        let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
            self.differences.push(format!("{side} {name} is {}, not a tensor", outlet.dtype()));
            return None;
        };
        if !elements.contains(ty) {
            let accepted: Vec<String> = elements.iter().map(ToString::to_string).collect();
            self.differences
                .push(format!("{side} {name} holds {ty}; expected {}", accepted.join(" or ")));
        }
        if shape.len() != dimensions.len() {
            self.differences.push(format!(
                "{side} {name} has {} dimensions; expected {}",
                shape.len(),
                dimensions.len()
            ));
            return Some(*ty);
        }
        for (axis, (&size, dimension)) in shape.iter().zip(dimensions).enumerate() {
            self.dimension(&format!("{side} {name}: dimension {axis}"), size, *dimension);
        }
        Some(*ty)
    }

    fn dimension(&mut self, place: &str, size: i64, dimension: Dimension) {
        match dimension {
            // A fixed sequence of 1 in the logits is the pruned form; a fixed 1 elsewhere would
            // fail at the first run with a longer one, so only larger fixed sizes are refused.
            Dimension::Open(what) if size > 1 => self
                .differences
                .push(format!("{place} ({what}) is fixed at {size}; expected it to be left open")),
            Dimension::Fixed(key, expected) if size >= 0 && size != expected as i64 => {
                self.differences.push(format!(
                    "{place} is {size}; expected {expected} ({key} of genai_config.json)"
                ));
            }
            Dimension::Open(_) | Dimension::Fixed(..) => {}
        }
    }
}
