//! Edits the model's graph in memory before it is loaded; the file stays as it is.
//!
//! Exports compute logits of every position, and the matmul with the vocabulary's matrix is a quarter
//! of a prefill's work. A `Slice` before that matmul leaves the last positions only, as many as a new
//! graph input says.
//!
//! Exports with a paged cache pack the tokens of all sequences into one row; there a `Gather` takes
//! the tokens that a new graph input names.

use super::protobuf::{
    Damaged, Fields, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_NODE, INT64, MODEL_GRAPH, NODE_INPUT,
    Node, Size, VALUE_NAME, Value, content, contents, edited, int64_constant, node, put_bytes,
    value_info,
};

/// Name of the input that the edit adds: int64 `[1]`, minus the number of last positions wanted.
pub(super) const TAIL_INPUT: &str = "phi4d.logits_tail";

/// Name of the input that the edit adds to an export with a paged cache: int64 `[rows]`, the tokens
/// whose logits are wanted.
pub(super) const ROWS_INPUT: &str = "phi4d.logits_rows";

/// Name of the tensor between the slice and the matmul.
const TAIL_HIDDEN: &str = "phi4d.tail_hidden";
const ENDS: &str = "phi4d.tail_ends";
const AXES: &str = "phi4d.tail_axes";

/// Operators that multiply the last hidden states with the vocabulary's matrix.
const MATMULS: [&[u8]; 2] = [b"MatMulNBits", b"MatMul"];

/// How the caller says which positions it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// By their number, from the end of each row: [`TAIL_INPUT`].
    Last,
    /// By their indices among all tokens: [`ROWS_INPUT`].
    Named,
}

/// Whether the model has a graph input `name`.
pub(super) fn has_input(bytes: &[u8], name: &str) -> Result<bool, Damaged> {
    for graph in contents(bytes, MODEL_GRAPH) {
        for input in contents(graph?, GRAPH_INPUT) {
            if content(input?, VALUE_NAME)? == Some(name.as_bytes()) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The model `bytes` with a choice of positions before the matmul that makes `logits`. `None` if
/// something else makes them: pruned exports slice already, and are best run as they are.
pub(super) fn choose_logits(
    bytes: &[u8],
    logits: &str,
    wanted: Wanted,
) -> Result<Option<Vec<u8>>, Damaged> {
    let mut found = false;
    let model = edited(bytes, MODEL_GRAPH, |graph| {
        let graph = edit_graph(graph, logits, wanted)?;
        found |= graph.is_some();
        Ok::<_, Damaged>(graph)
    })?;
    Ok(found.then_some(model))
}

fn edit_graph(graph: &[u8], logits: &str, wanted: Wanted) -> Result<Option<Vec<u8>>, Damaged> {
    // Two nodes take the place of one, which `protobuf::edited` has no form for.
    let mut edited = Vec::with_capacity(graph.len() + 1024);
    let mut found = false;
    for field in Fields::new(graph) {
        let field = field?;
        let matmul = match field.value {
            Value::Bytes(node) if field.number == GRAPH_NODE => hidden_states(node, logits)?,
            _ => None,
        };
        let (Some(hidden), Value::Bytes(node)) = (matmul, field.value) else {
            edited.extend_from_slice(field.raw);
            continue;
        };
        found = true;
        // ONNX wants nodes in the order in which they run: the choice stands right before its reader.
        put_bytes(&mut edited, GRAPH_NODE, &choosing_node(hidden, wanted));
        put_bytes(&mut edited, GRAPH_NODE, &with_first_input(node, TAIL_HIDDEN)?);
    }
    if !found {
        return Ok(None);
    }
    let input = match wanted {
        Wanted::Last => {
            // A Slice that begins at a negative index takes the last positions, whatever the length.
            put_bytes(&mut edited, GRAPH_INITIALIZER, &int64_constant(ENDS, i64::MAX));
            put_bytes(&mut edited, GRAPH_INITIALIZER, &int64_constant(AXES, 1));
            value_info(TAIL_INPUT, INT64, &[Size::Fixed(1)])
        }
        Wanted::Named => value_info(ROWS_INPUT, INT64, &[Size::Open(ROWS_INPUT)]),
    };
    put_bytes(&mut edited, GRAPH_INPUT, &input);
    Ok(Some(edited))
}

/// The first input of `node`, if it is the matmul that makes `logits`: the hidden states.
fn hidden_states<'a>(node: &'a [u8], logits: &str) -> Result<Option<&'a [u8]>, Damaged> {
    let node = Node::read(node)?;
    let is_wanted = MATMULS.contains(&node.operator) && node.outputs.contains(&logits.as_bytes());
    Ok(node.inputs.first().copied().filter(|_| is_wanted))
}

/// `node` with `name` in place of its first input.
fn with_first_input(node: &[u8], name: &str) -> Result<Vec<u8>, Damaged> {
    // Other inputs, the weights among them, keep their places.
    let mut is_first = true;
    edited(node, NODE_INPUT, |_| Ok(std::mem::take(&mut is_first).then(|| name.into())))
}

fn choosing_node(hidden: &[u8], wanted: Wanted) -> Vec<u8> {
    let (operator, inputs) = match wanted {
        Wanted::Last => {
            ("Slice", vec![hidden, TAIL_INPUT.as_bytes(), ENDS.as_bytes(), AXES.as_bytes()])
        }
        Wanted::Named => ("Gather", vec![hidden, ROWS_INPUT.as_bytes()]),
    };
    node(operator, &inputs, TAIL_HIDDEN.as_bytes(), TAIL_HIDDEN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protobuf::{FLOAT, GRAPH_OUTPUT};
    use crate::{LoadOptions, load};

    fn demo() -> Vec<u8> {
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/demo/model.onnx")).unwrap()
    }

    #[test]
    fn only_the_graph_grows_and_the_slice_is_there() {
        let model = demo();
        let edited = choose_logits(&model, "logits", Wanted::Last).unwrap().unwrap();
        assert!(edited.len() > model.len() && edited.len() < model.len() + 1024);
        let contains = |text: &str| edited.windows(text.len()).any(|at| at == text.as_bytes());
        assert!(contains(TAIL_INPUT) && contains("Slice"));
    }

    /// `model` as the builder's `prune_lm_head` makes it: logits of the last position only.
    fn pruned(model: &[u8]) -> Vec<u8> {
        let prune = |whole: &[u8]| {
            let mut graph = Vec::new();
            for field in Fields::new(whole) {
                let field = field?;
                let Value::Bytes(bytes) = field.value else { continue };
                let is_node = field.number == GRAPH_NODE;
                let hidden = if is_node { hidden_states(bytes, "logits")? } else { None };
                if let Some(hidden) = hidden {
                    let slice = node("Slice", &[hidden, b"last", b"ends", b"axes"], b"pruned", "");
                    put_bytes(&mut graph, GRAPH_NODE, &slice);
                    put_bytes(&mut graph, GRAPH_NODE, &with_first_input(bytes, "pruned")?);
                } else if field.number == GRAPH_OUTPUT
                    && bytes.windows(6).any(|part| part == b"logits")
                {
                    let sizes = [Size::Open("batch_size"), Size::Fixed(1), Size::Fixed(1024)];
                    put_bytes(&mut graph, GRAPH_OUTPUT, &value_info("logits", FLOAT, &sizes));
                } else {
                    graph.extend_from_slice(field.raw);
                }
            }
            for (name, value) in ["last", "ends", "axes"].into_iter().zip([-1, i64::MAX, 1]) {
                put_bytes(&mut graph, GRAPH_INITIALIZER, &int64_constant(name, value));
            }
            Ok::<_, Damaged>(Some(graph))
        };
        edited(model, MODEL_GRAPH, prune).unwrap()
    }

    #[test]
    fn an_export_of_the_last_position_only_loads_and_gives_the_same() {
        let whole = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/demo");
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(whole).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
            }
        }
        std::fs::write(folder.path().join("model.onnx"), pruned(&demo())).unwrap();
        let logits = |folder: &std::path::Path| {
            let options = LoadOptions {
                folder: folder.into(),
                context_tokens: 64,
                max_prefill_tokens: 16,
                // Own attention is for exports that give logits of all positions.
                own_kernels: false,
                ..crate::tests::options(2)
            };
            let mut runner = load(&options).unwrap().runner;
            let mut values = runner.prefill(0, 0, &[1, 2, 3, 4], 1).unwrap().row(0).to_vec();
            values.extend(runner.decode(0, &[5], &[4]).unwrap().row(0));
            values
        };
        assert_eq!(logits(folder.path()), logits(whole.as_ref()));
    }

    #[test]
    fn another_producer_leaves_the_model_alone() {
        assert_eq!(choose_logits(&demo(), "present.0.key", Wanted::Last).unwrap(), None);
        assert_eq!(choose_logits(&[], "logits", Wanted::Named).unwrap(), None);
    }

    proptest! {
        #[test]
        fn damaged_bytes_are_an_error_or_no_edit_and_never_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            cut in 0usize..30_000,
        ) {
            let _ = choose_logits(&bytes, "logits", Wanted::Named);
            let model = demo();
            let _ = choose_logits(&model[..cut.min(model.len())], "logits", Wanted::Last);
        }
    }
}
