//! Edits the model's graph in memory before it is loaded; the file stays as it is.
//!
//! Exports compute logits of every position, and the product with the vocabulary's matrix is a
//! quarter of a prefill's work. A `Slice` before that product leaves the last positions only, as
//! many as a new graph input says.
//!
//! Exports with a paged cache have the tokens of all sequences in one row; there a `Gather` takes
//! those that a new graph input names.
//!
//! The graph is protocol-buffer wire format (onnx.proto, ONNX 1.x). Only the fields on the way to
//! the edit are taken apart; all others are copied as they are.

use super::wire::{Damaged, Fields, Value, put_bytes, put_number};

/// Name of the input that the edit adds: int64 `[1]`, minus the number of last positions wanted.
pub(super) const TAIL_INPUT: &str = "phi4d.logits_tail";

/// Name of the input that the edit adds to an export with a paged cache: int64 `[rows]`, the tokens
/// whose logits are wanted.
pub(super) const ROWS_INPUT: &str = "phi4d.logits_rows";

/// Name of the tensor between the slice and the product.
const TAIL_HIDDEN: &str = "phi4d.tail_hidden";
const ENDS: &str = "phi4d.tail_ends";
const AXES: &str = "phi4d.tail_axes";

/// Operators that multiply the last hidden states with the vocabulary's matrix.
const PRODUCTS: [&str; 2] = ["MatMulNBits", "MatMul"];

// Field numbers of onnx.proto's messages.
pub(super) const MODEL_GRAPH: u64 = 7;
pub(super) const GRAPH_NODE: u64 = 1;
pub(super) const GRAPH_INITIALIZER: u64 = 5;
pub(super) const GRAPH_INPUT: u64 = 11;
pub(super) const NODE_INPUT: u64 = 1;
pub(super) const NODE_OUTPUT: u64 = 2;
pub(super) const NODE_NAME: u64 = 3;
pub(super) const NODE_OP_TYPE: u64 = 4;
/// `TensorProto.DataType.INT64`.
const INT64: u64 = 7;

/// How the wanted positions are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// By their number, from the end of each row: [`TAIL_INPUT`].
    Last,
    /// By their places among all tokens: [`ROWS_INPUT`].
    Named,
}

/// Whether the model has a graph input `name`.
pub(super) fn has_input(bytes: &[u8], name: &str) -> Result<bool, Damaged> {
    for graph in fields_of(bytes, MODEL_GRAPH)? {
        for input in fields_of(graph, GRAPH_INPUT)? {
            if fields_of(input, 1)?.first() == Some(&name.as_bytes()) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The contents of a message's fields `number`.
fn fields_of(message: &[u8], number: u64) -> Result<Vec<&[u8]>, Damaged> {
    let mut contents = Vec::new();
    for field in Fields::new(message) {
        let field = field?;
        if let (Value::Bytes(bytes), true) = (field.value, field.number == number) {
            contents.push(bytes);
        }
    }
    Ok(contents)
}

/// The model `bytes` with a choice of positions before the product that makes `logits`; `None` where `logits`
/// comes from something else, in which case the model is best run as it is.
pub(super) fn choose_logits(
    bytes: &[u8],
    logits: &str,
    wanted: Wanted,
) -> Result<Option<Vec<u8>>, Damaged> {
    let mut edited = Vec::with_capacity(bytes.len() + 1024);
    let mut found = false;
    for field in Fields::new(bytes) {
        let field = field?;
        match field.value {
            Value::Bytes(graph) if field.number == MODEL_GRAPH => {
                let Some(graph) = edit_graph(graph, logits, wanted)? else { return Ok(None) };
                found = true;
                put_bytes(&mut edited, MODEL_GRAPH, &graph);
            }
            _ => edited.extend_from_slice(field.raw),
        }
    }
    Ok(found.then_some(edited))
}

fn edit_graph(graph: &[u8], logits: &str, wanted: Wanted) -> Result<Option<Vec<u8>>, Damaged> {
    let mut edited = Vec::with_capacity(graph.len() + 1024);
    let mut found = false;
    for field in Fields::new(graph) {
        let field = field?;
        let product = match field.value {
            Value::Bytes(node) if field.number == GRAPH_NODE => Product::read(node, logits)?,
            _ => None,
        };
        let (Some(product), Value::Bytes(node)) = (product, field.value) else {
            edited.extend_from_slice(field.raw);
            continue;
        };
        found = true;
        put_bytes(&mut edited, GRAPH_NODE, &choosing_node(product.hidden, wanted));
        put_bytes(&mut edited, GRAPH_NODE, &with_first_input(node, TAIL_HIDDEN)?);
    }
    if !found {
        return Ok(None);
    }
    match wanted {
        Wanted::Last => {
            put_bytes(&mut edited, GRAPH_INITIALIZER, &int64_tensor(ENDS, i64::MAX));
            put_bytes(&mut edited, GRAPH_INITIALIZER, &int64_tensor(AXES, 1));
            let mut one = Vec::new();
            put_number(&mut one, 1, 1);
            put_bytes(&mut edited, GRAPH_INPUT, &int64_input(TAIL_INPUT, &one));
        }
        Wanted::Named => {
            let mut any = Vec::new();
            put_bytes(&mut any, 2, ROWS_INPUT.as_bytes());
            put_bytes(&mut edited, GRAPH_INPUT, &int64_input(ROWS_INPUT, &any));
        }
    }
    Ok(Some(edited))
}

/// The product that makes the logits.
struct Product<'a> {
    /// Its first input: the hidden states.
    hidden: &'a [u8],
}

impl<'a> Product<'a> {
    /// Reads `node` if it is the product that makes `logits`.
    fn read(node: &'a [u8], logits: &str) -> Result<Option<Self>, Damaged> {
        let (mut hidden, mut makes_logits, mut is_product) = (None, false, false);
        for field in Fields::new(node) {
            let field = field?;
            let Value::Bytes(bytes) = field.value else { continue };
            match field.number {
                NODE_INPUT if hidden.is_none() => hidden = Some(bytes),
                NODE_OUTPUT => makes_logits |= bytes == logits.as_bytes(),
                NODE_OP_TYPE => is_product = PRODUCTS.iter().any(|name| name.as_bytes() == bytes),
                _ => {}
            }
        }
        let hidden = hidden.filter(|_| makes_logits && is_product);
        Ok(hidden.map(|hidden| Self { hidden }))
    }
}

/// `node` with `name` in place of its first input.
fn with_first_input(node: &[u8], name: &str) -> Result<Vec<u8>, Damaged> {
    let mut edited = Vec::with_capacity(node.len() + name.len());
    let mut replaced = false;
    for field in Fields::new(node) {
        let field = field?;
        if field.number == NODE_INPUT && !replaced {
            put_bytes(&mut edited, NODE_INPUT, name.as_bytes());
            replaced = true;
        } else {
            edited.extend_from_slice(field.raw);
        }
    }
    Ok(edited)
}

fn choosing_node(hidden: &[u8], wanted: Wanted) -> Vec<u8> {
    let mut node = Vec::new();
    let (operator, inputs): (&[u8], &[&str]) = match wanted {
        Wanted::Last => (b"Slice", &[TAIL_INPUT, ENDS, AXES]),
        Wanted::Named => (b"Gather", &[ROWS_INPUT]),
    };
    put_bytes(&mut node, NODE_INPUT, hidden);
    for input in inputs {
        put_bytes(&mut node, NODE_INPUT, input.as_bytes());
    }
    put_bytes(&mut node, NODE_OUTPUT, TAIL_HIDDEN.as_bytes());
    put_bytes(&mut node, NODE_NAME, TAIL_HIDDEN.as_bytes());
    put_bytes(&mut node, NODE_OP_TYPE, operator);
    node
}

/// A `TensorProto`: int64 `[1]`.
fn int64_tensor(name: &str, value: i64) -> Vec<u8> {
    let mut tensor = Vec::new();
    put_number(&mut tensor, 1, 1);
    put_number(&mut tensor, 2, INT64);
    put_bytes(&mut tensor, 8, name.as_bytes());
    put_bytes(&mut tensor, 9, &value.to_le_bytes());
    tensor
}

/// A `ValueInfoProto`: int64 of one dimension.
fn int64_input(name: &str, dimension: &[u8]) -> Vec<u8> {
    let message = |number: u64, content: &[u8]| {
        let mut bytes = Vec::new();
        put_bytes(&mut bytes, number, content);
        bytes
    };
    let mut tensor_type = Vec::new();
    put_number(&mut tensor_type, 1, INT64);
    put_bytes(&mut tensor_type, 2, &message(1, dimension));
    let mut info = Vec::new();
    put_bytes(&mut info, 1, name.as_bytes());
    put_bytes(&mut info, 2, &message(1, &tensor_type));
    info
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{LoadOptions, Provider, load};

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
        let message = |fields: &[(u64, &[u8])]| {
            let mut bytes = Vec::new();
            fields.iter().for_each(|(number, content)| put_bytes(&mut bytes, *number, content));
            bytes
        };
        let names: [&[u8]; 3] = [b"last", b"ends", b"axes"];
        let mut graph = Vec::new();
        for field in Fields::new(model).map(Result::unwrap) {
            let Value::Bytes(whole) = field.value else { continue };
            if field.number != MODEL_GRAPH {
                continue;
            }
            for field in Fields::new(whole).map(Result::unwrap) {
                let Value::Bytes(bytes) = field.value else { continue };
                let product = (field.number == GRAPH_NODE).then(|| Product::read(bytes, "logits"));
                if let Some(product) = product.and_then(|read| read.unwrap()) {
                    let [last, ends, axes] = names.map(|name| (NODE_INPUT, name));
                    put_bytes(
                        &mut graph,
                        GRAPH_NODE,
                        &message(&[
                            (NODE_INPUT, product.hidden),
                            last,
                            ends,
                            axes,
                            (NODE_OUTPUT, b"pruned"),
                            (NODE_OP_TYPE, b"Slice"),
                        ]),
                    );
                    put_bytes(&mut graph, GRAPH_NODE, &with_first_input(bytes, "pruned").unwrap());
                } else if field.number == 12 && bytes.windows(6).any(|part| part == b"logits") {
                    // [batch, 1, 1024] of float.
                    let mut element = Vec::new();
                    put_number(&mut element, 1, 1);
                    let size = |size| {
                        let mut bytes = Vec::new();
                        put_number(&mut bytes, 1, size);
                        bytes
                    };
                    let batch = message(&[(2, b"batch_size")]);
                    let shape = message(&[(1, &batch), (1, &size(1)), (1, &size(1024))]);
                    element.extend(message(&[(2, &shape)]));
                    let info = message(&[(1, b"logits"), (2, &message(&[(1, &element)]))]);
                    put_bytes(&mut graph, 12, &info);
                } else {
                    graph.extend_from_slice(field.raw);
                }
            }
        }
        for (name, value) in ["last", "ends", "axes"].into_iter().zip([-1, i64::MAX, 1]) {
            put_bytes(&mut graph, GRAPH_INITIALIZER, &int64_tensor(name, value));
        }
        let mut edited = Vec::new();
        for field in Fields::new(model).map(Result::unwrap) {
            if field.number == MODEL_GRAPH {
                put_bytes(&mut edited, MODEL_GRAPH, &graph);
            } else {
                edited.extend_from_slice(field.raw);
            }
        }
        edited
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
                provider: Provider::Cpu.into(),
                threads: 1,
                slots: 2,
                context_tokens: 64,
                max_prefill_tokens: 16,
                kv_cache_bytes: 0,
                own_kernels: true,
                runtime_library: None,
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
