//! Puts phi4d's own operator in the place of those matmuls that it does: int4 and int8 weights in blocks of
//! 16 to 256, with zero points or without, activations rounded to int8. An export has them as `MatMulNBits`
//! of accuracy level 4, or as `DequantizeLinear` and `MatMul` ([`super::qdq`]).

use super::qdq::{Fold, Folded, SIGNED};
use super::quantised::{DOMAIN, OPERATOR, Quantised};
use super::tensors::Tensors;
use super::tied::Tied;
use crate::protobuf::{
    Damaged, Fields, GRAPH_INITIALIZER, GRAPH_NODE, GRAPH_VALUE, MODEL_GRAPH, MODEL_OPSET,
    NODE_DOMAIN, NODE_INPUT, NODE_OPERATOR, Node, Value, attribute, contents, edited, kept,
    message, message_of_number, put_bytes,
};
use phi4d_matmul::{Form, Line};
use phi4d_settings::Int8Activations;

/// The model `bytes` with the own operator in it, where activations may be rounded to int8 by `rule`;
/// `None` if it does none of the nodes.
pub(crate) fn edit(bytes: &[u8], rule: Int8Activations) -> Result<Option<Vec<u8>>, Damaged> {
    let mut replaced = 0;
    let mut model =
        edited(bytes, MODEL_GRAPH, |graph| edit_graph(graph, rule, &mut replaced).map(Some))?;
    let opset = [message(1, DOMAIN.as_bytes()), message_of_number(2, 1)].concat();
    put_bytes(&mut model, MODEL_OPSET, &opset);
    Ok((replaced > 0).then_some(model))
}

/// How many nodes of the model `bytes` [`edit`] replaces.
#[cfg(test)]
pub(crate) fn count(bytes: &[u8], rule: Int8Activations) -> Result<usize, Damaged> {
    let mut replaced = 0;
    for graph in contents(bytes, MODEL_GRAPH) {
        edit_graph(graph?, rule, &mut replaced)?;
    }
    Ok(replaced)
}

/// Bytes of laid-out weights that the own operator's nodes of the model `bytes` have together; those that several
/// share count for each.
pub(super) fn packed_bytes(bytes: &[u8]) -> Result<u64, Damaged> {
    let mut lines = 0;
    for graph in contents(bytes, MODEL_GRAPH) {
        for node in contents(graph?, GRAPH_NODE) {
            let node = Node::read(node?)?;
            if node.operator == OPERATOR.as_bytes() {
                lines += form(&node)?.map_or(0, |form| form.lines());
            }
        }
    }
    Ok((lines * size_of::<Line>()) as u64)
}

/// The form of the weights that a node of the own operator has.
fn form(node: &Node<'_>) -> Result<Option<Form>, Damaged> {
    let mut numbers = [("K", 0), ("N", 0), ("bits", 0), ("block_size", 0), (SIGNED, 1)];
    for bytes in &node.attributes {
        let (name, value) = attribute(bytes)?;
        if let Some(number) = numbers.iter_mut().find(|(known, _)| known.as_bytes() == name) {
            number.1 = value.and_then(|value| usize::try_from(value).ok()).unwrap_or(0);
        }
    }
    let [k, n, bits, block, signed] = numbers.map(|(_, value)| value);
    let form = Form { k, n, bits, block, zero_points: node.inputs.len() > 3 || signed == 0 };
    Ok(form.fits().then_some(form))
}

/// Whether the model `bytes` has no matmul of weights but the own operator's, which computes each row
/// of activations as if it were alone. ONNX Runtime's kernels round differently by the number of rows.
pub(crate) fn is_whole(bytes: &[u8]) -> Result<bool, Damaged> {
    const OTHERS: [&[u8]; 6] =
        [b"MatMulNBits", b"MatMul", b"Gemm", b"FusedMatMul", b"MatMulInteger", b"QMoE"];
    for graph in contents(bytes, MODEL_GRAPH) {
        for node in contents(graph?, GRAPH_NODE) {
            if OTHERS.contains(&Node::read(node?)?.operator) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// The edited graph. Adds to `replaced` how many matmuls were replaced.
fn edit_graph(
    graph: &[u8],
    rule: Int8Activations,
    replaced: &mut usize,
) -> Result<Vec<u8>, Damaged> {
    let tensors = Tensors::of(graph)?;
    // Found before anything is written: whether a node goes depends on all that read its result.
    let folded = Folded::of(graph, &tensors, rule)?;
    let tied = Tied::of(graph, &tensors, rule)?;
    let mut edited = Vec::with_capacity(graph.len() + 1024);
    for field in Fields::new(graph) {
        let field = field?;
        match (field.number, field.value) {
            (GRAPH_NODE, Value::Bytes(bytes)) => {
                let node = Node::read(bytes)?;
                if folded.removes(&node) || tied.removes(&node) {
                    continue;
                }
                if let Some(lookup) = tied.lookup(&node, bytes)? {
                    put_bytes(&mut edited, GRAPH_NODE, &lookup);
                    continue;
                }
                let new = match folded.matmul(&node) {
                    Some(fold) => Some(fold.node()),
                    None if node.operator != b"MatMulNBits" => None,
                    None if Quantised::of(&node, &tensors)?.form(rule).is_err() => None,
                    None => Some(renamed(bytes)?),
                };
                match new {
                    Some(new) => {
                        *replaced += 1;
                        put_bytes(&mut edited, GRAPH_NODE, &new);
                    }
                    None => edited.extend_from_slice(field.raw),
                }
            }
            (GRAPH_INITIALIZER, Value::Bytes(bytes)) => {
                // No tensor is both: one form of weights is of `DequantizeLinear`, the other of
                // `MatMulNBits`.
                match folded.tensor(bytes)?.or(tied.tensor(bytes)?) {
                    Some(new) => put_bytes(&mut edited, GRAPH_INITIALIZER, &new),
                    None => edited.extend_from_slice(field.raw),
                }
            }
            // Types of tensors that are no longer there, or of another type now.
            (GRAPH_VALUE, Value::Bytes(bytes))
                if folded.changes(bytes)? || tied.changes(bytes)? => {}
            _ => edited.extend_from_slice(field.raw),
        }
    }
    Ok(edited)
}

/// The matmuls with quantised weights of a graph, in order.
pub(crate) fn matmuls(graph: &[u8]) -> Result<Vec<Quantised>, Damaged> {
    let tensors = Tensors::of(graph)?;
    let mut found = Vec::new();
    for node in contents(graph, GRAPH_NODE) {
        let node = Node::read(node?)?;
        if node.operator == b"MatMulNBits" {
            found.push(Quantised::of(&node, &tensors)?);
        } else if let Some(fold) = Fold::of(&node, &tensors)? {
            found.push(fold.quantised);
        }
    }
    Ok(found)
}

/// `node` as the own operator, whose last input is zero points, if there are some.
fn renamed(node: &[u8]) -> Result<Vec<u8>, Damaged> {
    let mut edited = kept(node, |field| match (field.number, field.value) {
        // Optional inputs that are left out stand there as empty names.
        (NODE_INPUT, Value::Bytes(name)) => !name.is_empty(),
        (number, _) => ![NODE_OPERATOR, NODE_DOMAIN].contains(&number),
    })?;
    put_bytes(&mut edited, NODE_OPERATOR, OPERATOR.as_bytes());
    put_bytes(&mut edited, NODE_DOMAIN, DOMAIN.as_bytes());
    Ok(edited)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use Int8Activations::{Always, Export};

    fn demo() -> Vec<u8> {
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/demo/model.onnx")).unwrap()
    }

    fn count(model: &[u8], text: &str) -> usize {
        model.windows(text.len()).filter(|at| *at == text.as_bytes()).count()
    }

    #[test]
    fn every_matmul_of_the_demo_model_becomes_the_own_operator() {
        let model = demo();
        let edited = edit(&model, Export).unwrap().unwrap();
        // Four layers of five matmuls, and the one with the vocabulary.
        assert_eq!(super::count(&model, Export).unwrap(), 21);
        assert_eq!(count(&edited, OPERATOR), 21);
        assert_eq!(edit(&edited, Export).unwrap(), None);
    }

    #[test]
    fn other_matmuls_stay_as_they_are() {
        let changed_by = |rule, from: &[u8], to: &[u8]| {
            let model = demo();
            let mut bytes = Vec::new();
            let mut rest = &model[..];
            while let Some(at) = rest.windows(from.len()).position(|part| part == from) {
                bytes.extend_from_slice(&rest[..at]);
                bytes.extend_from_slice(to);
                rest = &rest[at + from.len()..];
            }
            bytes.extend_from_slice(rest);
            edit(&bytes, rule).unwrap()
        };
        let changed = |from: &[u8], to: &[u8]| changed_by(Export, from, to);
        assert!(changed(b"nothing there", b"nothing there").is_some());
        // Other accuracy, other operator, an attribute that is not known.
        assert_eq!(changed(b"accuracy_level\x18\x04", b"accuracy_level\x18\x00"), None);
        assert_eq!(changed(b"MatMulNBits", b"MatMulXBits"), None);
        // Another accuracy level is run only where a setting says so.
        let level = (&b"accuracy_level\x18\x04"[..], &b"accuracy_level\x18\x01"[..]);
        assert_eq!(changed(level.0, level.1), None);
        assert!(changed_by(Always, level.0, level.1).is_some());
        assert_eq!(changed(b"accuracy_level", b"accuracy_lever"), None);
    }

    proptest! {
        #[test]
        fn damaged_bytes_are_an_error_or_no_edit_and_never_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            cut in 0usize..30_000,
        ) {
            let _ = edit(&bytes, Export);
            let model = demo();
            let _ = edit(&model[..cut.min(model.len())], Export);
        }
    }
}
