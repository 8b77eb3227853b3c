//! Lets the caller choose between the two rotary tables of a graph that has them.
//!
//! Exports of models with `longrope` (Phi-4-mini) turn keys by one table while a sequence is short
//! and by another past `original_max_position_embeddings`. The graph chooses by the length that a
//! step reaches, so a prompt read in chunks would have its first ones turned by the wrong table. An
//! edit in memory puts a graph input in the place of that comparison.
//!
//! The builder writes it in two forms: a `Greater` that decides an `If` with both tables, or, where
//! `If` can't be had, a `GreaterOrEqual` on the highest of `position_ids`, which are then moved to
//! the second of two joined tables.

use std::collections::{HashMap, HashSet};

use super::graph_edit::{GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_NODE, MODEL_GRAPH};
use super::graph_edit::{NODE_INPUT, NODE_NAME, NODE_OP_TYPE, NODE_OUTPUT};
use super::wire::{Damaged, Fields, Value, numbers, put_bytes, put_number};

/// Name of the input that the edit adds: a boolean without dimensions, whether the long table is
/// used.
pub(super) const LONG_INPUT: &str = "phi4d.long_rotary";

const NODE_ATTRIBUTE: u64 = 5;
const ATTRIBUTE_TENSOR: u64 = 5;
const TENSOR_NAME: u64 = 8;
const TENSOR_RAW: u64 = 9;
const TENSOR_INT32: u64 = 5;
const TENSOR_INT64: u64 = 7;
/// `TensorProto.DataType.BOOL`.
const BOOL: u64 = 9;

/// Why a graph can't be edited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    /// The file is damaged.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The graph chooses in a way that is not known here.
    #[error(
        "the graph chooses between two rotary tables, and not by a constant number of tokens; \
         expected an export of the onnxruntime-genai model builder"
    )]
    Unknown,
}

/// An edited graph.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Edited {
    /// The model with the input [`LONG_INPUT`].
    pub(super) model: Vec<u8>,
    /// The most tokens that the graph would have used the short table for.
    pub(super) short_tokens: usize,
}

/// The model `bytes` with the choice as an input; `None` where it has one table only.
pub(super) fn choose_by_input(
    bytes: &[u8],
    position_ids: Option<&str>,
) -> Result<Option<Edited>, Refused> {
    let mut model = Vec::with_capacity(bytes.len() + 256);
    let mut short_tokens = None;
    for field in Fields::new(bytes) {
        let field = field?;
        match field.value {
            Value::Bytes(graph) if field.number == MODEL_GRAPH => {
                let Some(choice) = Choice::find(graph, position_ids.unwrap_or("position_ids"))?
                else {
                    return Ok(None);
                };
                short_tokens = Some(choice.short_tokens);
                put_bytes(&mut model, MODEL_GRAPH, &edit_graph(graph, choice.output)?);
            }
            _ => model.extend_from_slice(field.raw),
        }
    }
    Ok(short_tokens.map(|short_tokens| Edited { model, short_tokens }))
}

/// The most tokens that a graph uses its short table for; `None` where it has one table only.
pub(super) fn short_tokens(
    model: &[u8],
    position_ids: Option<&str>,
) -> Result<Option<usize>, Refused> {
    let Some(graph) = field_of(model, MODEL_GRAPH)? else { return Ok(None) };
    let choice = Choice::find(graph, position_ids.unwrap_or("position_ids"))?;
    Ok(choice.map(|choice| choice.short_tokens))
}

/// The node that decides which table is used.
struct Choice<'a> {
    output: &'a [u8],
    short_tokens: usize,
}

/// What the search needs of a node.
#[derive(Default)]
struct Node<'a> {
    inputs: Vec<&'a [u8]>,
    outputs: Vec<&'a [u8]>,
    operator: &'a [u8],
    tensor: Option<&'a [u8]>,
}

impl<'a> Node<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Damaged> {
        let mut node = Self::default();
        for field in Fields::new(bytes) {
            let field = field?;
            let Value::Bytes(bytes) = field.value else { continue };
            match field.number {
                NODE_INPUT => node.inputs.push(bytes),
                NODE_OUTPUT => node.outputs.push(bytes),
                NODE_OP_TYPE => node.operator = bytes,
                NODE_ATTRIBUTE => {
                    let tensor = field_of(bytes, ATTRIBUTE_TENSOR)?;
                    node.tensor = node.tensor.or(tensor);
                }
                _ => {}
            }
        }
        Ok(node)
    }
}

impl<'a> Choice<'a> {
    fn find(graph: &'a [u8], position_ids: &str) -> Result<Option<Self>, Refused> {
        let mut constants = HashMap::new();
        let mut compared = Vec::new();
        let mut decides = HashSet::new();
        // Tensors that follow from the positions: themselves, as another type, their highest.
        let mut positions = HashSet::from([position_ids.as_bytes()]);
        let mut highest = HashSet::new();
        for field in Fields::new(graph) {
            let field = field?;
            let Value::Bytes(bytes) = field.value else { continue };
            if field.number == GRAPH_INITIALIZER {
                if let Some(name) = field_of(bytes, TENSOR_NAME)? {
                    constants.insert(name, bytes);
                }
            } else if field.number == GRAPH_NODE {
                let node = Node::read(bytes)?;
                let (first, output) = (node.inputs.first(), node.outputs.first());
                match (node.operator, first, output) {
                    (b"Constant", _, Some(&output)) => {
                        constants.extend(node.tensor.map(|tensor| (output, tensor)));
                    }
                    // A choice of tables gives two: of cosines and of sines.
                    (b"If", Some(&first), _) if node.outputs.len() == 2 => {
                        decides.insert(first);
                    }
                    (b"Cast", Some(first), Some(&output)) if positions.contains(first) => {
                        positions.insert(output);
                    }
                    (b"ReduceMax", Some(first), Some(&output)) if positions.contains(first) => {
                        highest.insert(output);
                    }
                    (b"Greater" | b"GreaterOrEqual", ..) => compared.push(node),
                    _ => {}
                }
            }
        }
        let chooses = |node: &&Node<'a>| {
            let by_length = node.outputs.first().is_some_and(|output| decides.contains(output));
            let by_position = node.inputs.first().is_some_and(|input| highest.contains(input));
            by_length || by_position
        };
        let Some(node) = compared.iter().find(chooses) else {
            return if decides.is_empty() { Ok(None) } else { Err(Refused::Unknown) };
        };
        let constant = node.inputs.get(1).and_then(|name| constants.get(name));
        let value = constant.map(|tensor| scalar(tensor)).transpose()?.flatten();
        match (value.and_then(|value| usize::try_from(value).ok()), node.outputs.first()) {
            // The highest position is one less than the length, so both forms mean the same.
            (Some(short_tokens @ 1..), Some(output)) => Ok(Some(Self { output, short_tokens })),
            _ => Err(Refused::Unknown),
        }
    }
}

/// The first field `number` of a message that holds bytes.
fn field_of(message: &[u8], number: u64) -> Result<Option<&[u8]>, Damaged> {
    for field in Fields::new(message) {
        let field = field?;
        if let (Value::Bytes(bytes), true) = (field.value, field.number == number) {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// The value of a `TensorProto` with one whole number.
fn scalar(tensor: &[u8]) -> Result<Option<u64>, Damaged> {
    for field in Fields::new(tensor) {
        let field = field?;
        let value = match (field.number, field.value) {
            (TENSOR_RAW, Value::Bytes(raw)) => {
                let wide = raw.try_into().ok().map(u64::from_le_bytes);
                wide.or_else(|| raw.try_into().ok().map(|raw| u64::from(u32::from_le_bytes(raw))))
            }
            (TENSOR_INT32 | TENSOR_INT64, Value::Number(value)) => Some(value),
            (TENSOR_INT32 | TENSOR_INT64, Value::Bytes(packed)) => numbers(packed).next(),
            _ => continue,
        };
        return Ok(value);
    }
    Ok(None)
}

/// `graph` with the new input in the place of the node that makes `output`.
fn edit_graph(graph: &[u8], output: &[u8]) -> Result<Vec<u8>, Damaged> {
    let mut edited = Vec::with_capacity(graph.len() + 256);
    for field in Fields::new(graph) {
        let field = field?;
        match field.value {
            Value::Bytes(node)
                if field.number == GRAPH_NODE && Node::read(node)?.outputs == [output] =>
            {
                put_bytes(&mut edited, GRAPH_NODE, &identity(output));
            }
            _ => edited.extend_from_slice(field.raw),
        }
    }
    put_bytes(&mut edited, GRAPH_INPUT, &bool_input());
    Ok(edited)
}

/// A node that gives the new input the name of the comparison's result.
fn identity(output: &[u8]) -> Vec<u8> {
    let mut node = Vec::new();
    put_bytes(&mut node, NODE_INPUT, LONG_INPUT.as_bytes());
    put_bytes(&mut node, NODE_OUTPUT, output);
    put_bytes(&mut node, NODE_NAME, LONG_INPUT.as_bytes());
    put_bytes(&mut node, NODE_OP_TYPE, b"Identity");
    node
}

/// A `ValueInfoProto`: a boolean without dimensions.
fn bool_input() -> Vec<u8> {
    let mut tensor = Vec::new();
    put_number(&mut tensor, 1, BOOL);
    put_bytes(&mut tensor, 2, b"");
    let mut kind = Vec::new();
    put_bytes(&mut kind, 1, &tensor);
    let mut info = Vec::new();
    put_bytes(&mut info, 1, LONG_INPUT.as_bytes());
    put_bytes(&mut info, 2, &kind);
    info
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn model(folder: &str) -> Vec<u8> {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models");
        std::fs::read(format!("{root}/{folder}/model.onnx")).unwrap()
    }

    fn message(fields: &[(u64, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        fields.iter().for_each(|(number, content)| put_bytes(&mut bytes, *number, content));
        bytes
    }

    fn node(operator: &[u8], inputs: &[&[u8]], outputs: &[&[u8]]) -> Vec<u8> {
        let mut bytes = message(&[(NODE_OP_TYPE, operator)]);
        inputs.iter().for_each(|input| put_bytes(&mut bytes, NODE_INPUT, input));
        outputs.iter().for_each(|output| put_bytes(&mut bytes, NODE_OUTPUT, output));
        bytes
    }

    /// A model of these nodes and a constant `limit`.
    fn graph(nodes: &[Vec<u8>], limit: &[u8]) -> Vec<u8> {
        let constant = message(&[(TENSOR_NAME, b"limit"), (TENSOR_RAW, limit)]);
        let mut graph = message(&[(GRAPH_INITIALIZER, &constant)]);
        nodes.iter().for_each(|node| put_bytes(&mut graph, GRAPH_NODE, node));
        message(&[(MODEL_GRAPH, &graph)])
    }

    #[test]
    fn a_builder_s_choice_becomes_an_input_and_other_models_stay_as_they_are() {
        let edited = choose_by_input(&model("longrope"), None).unwrap().unwrap();
        assert_eq!(edited.short_tokens, 64);
        let contains =
            |text: &str| edited.model.windows(text.len()).any(|at| at == text.as_bytes());
        assert!(contains(LONG_INPUT));
        // What was edited has no choice of its own any more.
        assert_eq!(choose_by_input(&edited.model, None), Err(Refused::Unknown));
        assert_eq!(choose_by_input(&model("demo"), None).unwrap(), None);
    }

    #[test]
    fn the_form_without_if_is_known_by_its_positions() {
        let nodes = |positions: &[u8]| {
            [
                node(b"Cast", &[positions], &[b"narrow"]),
                node(b"ReduceMax", &[b"narrow", b"axes"], &[b"highest"]),
                node(b"GreaterOrEqual", &[b"highest", b"limit"], &[b"long"]),
            ]
        };
        let limit = 4096u32.to_le_bytes();
        let edited = choose_by_input(&graph(&nodes(b"position_ids"), &limit), None).unwrap();
        assert_eq!(edited.unwrap().short_tokens, 4096);
        let named = graph(&nodes(b"places"), &limit);
        assert_eq!(choose_by_input(&named, None).unwrap(), None);
        assert!(choose_by_input(&named, Some("places")).unwrap().is_some());
    }

    #[test]
    fn a_choice_by_something_unknown_is_refused() {
        let by = |constant: &[u8]| {
            let nodes = [
                node(b"Greater", &[b"length", constant], &[b"long"]),
                node(b"If", &[b"long"], &[b"cos", b"sin"]),
            ];
            choose_by_input(&graph(&nodes, &64u64.to_le_bytes()), None)
        };
        assert_eq!(by(b"limit").unwrap().unwrap().short_tokens, 64);
        assert_eq!(by(b"other"), Err(Refused::Unknown));
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            cut in 0usize..60_000,
        ) {
            let _ = choose_by_input(&bytes, None);
            let model = model("longrope");
            let _ = choose_by_input(&model[..cut.min(model.len())], None);
        }
    }
}
