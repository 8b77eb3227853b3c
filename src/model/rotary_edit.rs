//! Lets the caller choose between the two rotary tables of a graph that has them.
//!
//! Exports of models with `longrope` (Phi-4-mini) rotate keys by one table while a sequence is short
//! and by another past `original_max_position_embeddings`. The graph chooses by the length that a
//! step reaches, so a prompt read in chunks would have its first ones rotated by the wrong table. An
//! edit in memory puts a graph input in the place of that comparison.
//!
//! The builder writes the comparison in two forms: a `Greater` that decides an `If` with both tables,
//! or, for runtimes without `If`, a `GreaterOrEqual` on the highest of `position_ids`, which are then
//! moved to the second of two joined tables.

use std::collections::{HashMap, HashSet};

use super::protobuf::{
    ATTRIBUTE_TENSOR, BOOL, Damaged, Fields, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_NODE,
    MODEL_GRAPH, Node, TENSOR_INT32, TENSOR_INT64, TENSOR_NAME, TENSOR_RAW, Value, content, edited,
    node, numbers, put_bytes, value_info,
};

/// Name of the input that the edit adds: a boolean without dimensions, whether the long table is
/// used.
pub(super) const LONG_INPUT: &str = "phi4d.long_rotary";

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

/// The model `bytes` with the choice as an input; `None` if it has one table only.
pub(super) fn choose_by_input(
    bytes: &[u8],
    position_ids: Option<&str>,
) -> Result<Option<Edited>, Refused> {
    let mut short_tokens = None;
    let model = edited(bytes, MODEL_GRAPH, |graph| {
        let choice = Choice::find(graph, position_ids.unwrap_or("position_ids"))?;
        let Some(choice) = choice else { return Ok(None) };
        short_tokens = Some(choice.short_tokens);
        Ok::<_, Refused>(Some(edit_graph(graph, choice.output)?))
    })?;
    Ok(short_tokens.map(|short_tokens| Edited { model, short_tokens }))
}

/// The most tokens that a graph uses its short table for; `None` if it has one table only.
pub(super) fn short_tokens(
    model: &[u8],
    position_ids: Option<&str>,
) -> Result<Option<usize>, Refused> {
    let Some(graph) = content(model, MODEL_GRAPH)? else { return Ok(None) };
    let choice = Choice::find(graph, position_ids.unwrap_or("position_ids"))?;
    Ok(choice.map(|choice| choice.short_tokens))
}

/// The node that decides which table is used.
struct Choice<'a> {
    /// The tensor that it makes: whether the long table is used.
    output: &'a [u8],
    short_tokens: usize,
}

impl<'a> Choice<'a> {
    fn find(graph: &'a [u8], position_ids: &str) -> Result<Option<Self>, Refused> {
        // One pass suffices, since ONNX wants nodes in the order in which they run.
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
                if let Some(name) = content(bytes, TENSOR_NAME)? {
                    constants.insert(name, bytes);
                }
            } else if field.number == GRAPH_NODE {
                let node = Node::read(bytes)?;
                let (first, output) = (node.inputs.first(), node.outputs.first());
                match (node.operator, first, output) {
                    // Builders write the threshold as an initializer or as a node of its own.
                    (b"Constant", _, Some(&output)) => {
                        for attribute in &node.attributes {
                            let tensor = content(attribute, ATTRIBUTE_TENSOR)?;
                            constants.extend(tensor.map(|tensor| (output, tensor)));
                        }
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
                    // Whether it decides is known at the end only: its reader comes later.
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
        // Other comparisons are left alone: exports have some that choose no table.
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

/// The value of a `TensorProto` with one whole number.
fn scalar(tensor: &[u8]) -> Result<Option<u64>, Damaged> {
    for field in Fields::new(tensor) {
        let field = field?;
        let value = match (field.number, field.value) {
            // The number is int64 or int32, which raw data show by their length only.
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
    let mut edited = edited(graph, GRAPH_NODE, |bytes| {
        let replaced = Node::read(bytes)?.outputs == [output];
        // An Identity lets the new input keep its own name and the readers of the result theirs.
        let identity = || node("Identity", &[LONG_INPUT.as_bytes()], output, LONG_INPUT);
        Ok::<_, Damaged>(replaced.then(identity))
    })?;
    put_bytes(&mut edited, GRAPH_INPUT, &value_info(LONG_INPUT, BOOL, &[]));
    Ok(edited)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protobuf::{NODE_INPUT, NODE_OPERATOR, NODE_OUTPUT};

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
        let mut bytes = message(&[(NODE_OPERATOR, operator)]);
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
