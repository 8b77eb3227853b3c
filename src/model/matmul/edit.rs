//! Puts phi4d's own operator in the place of those `MatMulNBits` nodes that it does: int4 in blocks of
//! 32 without zero points, activations rounded to int8 (accuracy level 4), of sizes that fit.

use std::collections::HashSet;

use crate::protobuf::{
    Damaged, FLOAT, Fields, GRAPH_INITIALIZER, GRAPH_NODE, MODEL_GRAPH, MODEL_OPSET, NODE_DOMAIN,
    NODE_INPUT, NODE_OPERATOR, Node, Tensor, Value, attribute, contents, edited, message,
    message_of_number, put_bytes,
};
use phi4d_int4 as int4;

/// The operator's domain and name. Both are in the edited graph, and so in the stamps of folders that
/// `phi4d prepare` made: other names would make all of them unusable.
pub(crate) const DOMAIN: &str = "phi4d";
pub(crate) const OPERATOR: &str = "Int4Product";

/// The model `bytes` with the own operator in it; `None` if it does none of the nodes.
pub(crate) fn edit(bytes: &[u8]) -> Result<Option<Vec<u8>>, Damaged> {
    let mut replaced = 0;
    let mut model = edited(bytes, MODEL_GRAPH, |graph| edit_graph(graph, &mut replaced).map(Some))?;
    let opset = [message(1, DOMAIN.as_bytes()), message_of_number(2, 1)].concat();
    put_bytes(&mut model, MODEL_OPSET, &opset);
    Ok((replaced > 0).then_some(model))
}

/// How many nodes of the model `bytes` [`edit`] replaces.
pub(crate) fn count(bytes: &[u8]) -> Result<usize, Damaged> {
    let mut replaced = 0;
    for graph in contents(bytes, MODEL_GRAPH) {
        edit_graph(graph?, &mut replaced)?;
    }
    Ok(replaced)
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

/// The edited graph. Adds to `replaced` how many nodes were replaced.
fn edit_graph(graph: &[u8], replaced: &mut usize) -> Result<Vec<u8>, Damaged> {
    let constants = float_constants(graph)?;
    edited(graph, GRAPH_NODE, |node| {
        if !is_own(node, &constants)? {
            return Ok(None);
        }
        *replaced += 1;
        renamed(node).map(Some)
    })
}

/// Names of the graph's constants in single precision.
fn float_constants(graph: &[u8]) -> Result<HashSet<&[u8]>, Damaged> {
    let mut found = HashSet::new();
    for tensor in contents(graph, GRAPH_INITIALIZER) {
        let tensor = Tensor::read(tensor?)?;
        if tensor.element == FLOAT {
            found.insert(tensor.name);
        }
    }
    Ok(found)
}

/// Whether the own operator does what `node` does.
fn is_own(bytes: &[u8], floats: &HashSet<&[u8]>) -> Result<bool, Damaged> {
    let node = Node::read(bytes)?;
    let mut numbers = [("K", 0), ("N", 0), ("bits", 0), ("block_size", 0), ("accuracy_level", 0)];
    for bytes in &node.attributes {
        let (name, value) = attribute(bytes)?;
        match numbers.iter_mut().find(|(known, _)| known.as_bytes() == name) {
            Some(number) => number.1 = value.unwrap_or(0),
            // An attribute that is not known here might change the result.
            None => return Ok(false),
        }
    }
    let [k, n, bits, block, accuracy] = numbers.map(|(_, value)| usize::try_from(value));
    let sizes = k.is_ok_and(|k| n.is_ok_and(|n| int4::fits(k, n)));
    let levels = (bits, block, accuracy) == (Ok(4), Ok(int4::BLOCK), Ok(4));
    // The kernel wants scales in single precision, laid out before the first step.
    let scales = node.inputs.get(2).is_some_and(|scales| floats.contains(scales));
    // Inputs 3 and on are zero points, a group index and a bias.
    let plain = node.inputs.iter().skip(3).all(|name| name.is_empty());
    Ok(node.operator == b"MatMulNBits" && sizes && levels && scales && plain)
}

/// `node` as the own operator, which has three inputs.
fn renamed(node: &[u8]) -> Result<Vec<u8>, Damaged> {
    let mut edited = Vec::with_capacity(node.len());
    for field in Fields::new(node) {
        let field = field?;
        // Optional inputs that are left out stand there as empty names.
        let empty = field.number == NODE_INPUT && field.value == Value::Bytes(b"");
        if ![NODE_OPERATOR, NODE_DOMAIN].contains(&field.number) && !empty {
            edited.extend_from_slice(field.raw);
        }
    }
    put_bytes(&mut edited, NODE_OPERATOR, OPERATOR.as_bytes());
    put_bytes(&mut edited, NODE_DOMAIN, DOMAIN.as_bytes());
    Ok(edited)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn demo() -> Vec<u8> {
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/demo/model.onnx")).unwrap()
    }

    fn count(model: &[u8], text: &str) -> usize {
        model.windows(text.len()).filter(|at| *at == text.as_bytes()).count()
    }

    #[test]
    fn every_matmul_of_the_demo_model_becomes_the_own_operator() {
        let model = demo();
        let edited = edit(&model).unwrap().unwrap();
        // Four layers of five matmuls, and the one with the vocabulary.
        assert_eq!(count(&edited, OPERATOR), 21);
        assert_eq!(edit(&edited).unwrap(), None);
    }

    #[test]
    fn other_matmuls_stay_as_they_are() {
        let changed = |from: &[u8], to: &[u8]| {
            let model = demo();
            let mut bytes = Vec::new();
            let mut rest = &model[..];
            while let Some(at) = rest.windows(from.len()).position(|part| part == from) {
                bytes.extend_from_slice(&rest[..at]);
                bytes.extend_from_slice(to);
                rest = &rest[at + from.len()..];
            }
            bytes.extend_from_slice(rest);
            edit(&bytes).unwrap()
        };
        assert!(changed(b"nothing there", b"nothing there").is_some());
        // Other accuracy, other operator, an attribute that is not known.
        assert_eq!(changed(b"accuracy_level\x18\x04", b"accuracy_level\x18\x00"), None);
        assert_eq!(changed(b"MatMulNBits", b"MatMulXBits"), None);
        assert_eq!(changed(b"accuracy_level", b"accuracy_lever"), None);
    }

    proptest! {
        #[test]
        fn damaged_bytes_are_an_error_or_no_edit_and_never_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            cut in 0usize..30_000,
        ) {
            let _ = edit(&bytes);
            let model = demo();
            let _ = edit(&model[..cut.min(model.len())]);
        }
    }
}
