//! Puts phi4d's own operator in the place of those `MatMulNBits` nodes that it does: int4 in blocks of
//! 32 without zero points, activations rounded to int8 (accuracy level 4), of sizes that fit.

use std::collections::HashSet;

use super::wire::{Damaged, Fields, Value, put_bytes, put_number};
use phi4d_int4 as int4;

/// The operator's domain and name.
pub(super) const DOMAIN: &str = "phi4d";
pub(super) const OPERATOR: &str = "Int4Product";

// Field numbers of onnx.proto's messages.
const MODEL_GRAPH: u64 = 7;
const MODEL_OPSET: u64 = 8;
const GRAPH_NODE: u64 = 1;
const GRAPH_INITIALIZER: u64 = 5;
const TENSOR_TYPE: u64 = 2;
const TENSOR_NAME: u64 = 8;
const NODE_INPUT: u64 = 1;
const NODE_OP_TYPE: u64 = 4;
const NODE_ATTRIBUTE: u64 = 5;
const NODE_DOMAIN: u64 = 7;
const ATTRIBUTE_NAME: u64 = 1;
const ATTRIBUTE_INT: u64 = 3;
/// `TensorProto.DataType.FLOAT`.
const FLOAT: u64 = 1;

/// The model `bytes` with the own operator in it; `None` where no node is one that it does.
pub(super) fn edit(bytes: &[u8]) -> Result<Option<Vec<u8>>, Damaged> {
    let mut edited = Vec::with_capacity(bytes.len() + 64);
    let mut replaced = 0;
    for field in Fields::new(bytes) {
        let field = field?;
        match field.value {
            Value::Bytes(graph) if field.number == MODEL_GRAPH => {
                let (graph, count) = edit_graph(graph)?;
                replaced += count;
                put_bytes(&mut edited, MODEL_GRAPH, &graph);
            }
            _ => edited.extend_from_slice(field.raw),
        }
    }
    let mut opset = Vec::new();
    put_bytes(&mut opset, 1, DOMAIN.as_bytes());
    put_number(&mut opset, 2, 1);
    put_bytes(&mut edited, MODEL_OPSET, &opset);
    Ok((replaced > 0).then_some(edited))
}

/// How many nodes of the model `bytes` [`edit`] replaces.
pub(super) fn count(bytes: &[u8]) -> Result<usize, Damaged> {
    let mut count = 0;
    for field in Fields::new(bytes) {
        let field = field?;
        if let (MODEL_GRAPH, Value::Bytes(graph)) = (field.number, field.value) {
            count += edit_graph(graph)?.1;
        }
    }
    Ok(count)
}

/// The edited graph, and how many nodes were replaced.
fn edit_graph(graph: &[u8]) -> Result<(Vec<u8>, usize), Damaged> {
    let constants = float_constants(graph)?;
    let mut edited = Vec::with_capacity(graph.len());
    let mut replaced = 0;
    for field in Fields::new(graph) {
        let field = field?;
        match field.value {
            Value::Bytes(node) if field.number == GRAPH_NODE && is_product(node, &constants)? => {
                replaced += 1;
                put_bytes(&mut edited, GRAPH_NODE, &renamed(node)?);
            }
            _ => edited.extend_from_slice(field.raw),
        }
    }
    Ok((edited, replaced))
}

/// Names of the graph's constants in single precision.
fn float_constants(graph: &[u8]) -> Result<HashSet<&[u8]>, Damaged> {
    let mut found = HashSet::new();
    for field in Fields::new(graph) {
        let field = field?;
        let Value::Bytes(tensor) = field.value else { continue };
        if field.number != GRAPH_INITIALIZER {
            continue;
        }
        let (mut name, mut float) = (None, false);
        for field in Fields::new(tensor) {
            match field? {
                field if field.number == TENSOR_NAME => name = Some(field.value),
                field if field.number == TENSOR_TYPE => float = field.value == Value::Number(FLOAT),
                _ => {}
            }
        }
        if let (Some(Value::Bytes(name)), true) = (name, float) {
            found.insert(name);
        }
    }
    Ok(found)
}

/// Whether the own operator does what `node` does.
fn is_product(node: &[u8], floats: &HashSet<&[u8]>) -> Result<bool, Damaged> {
    let (mut inputs, mut operator, mut others) = (Vec::new(), false, false);
    let mut numbers = [("K", 0), ("N", 0), ("bits", 0), ("block_size", 0), ("accuracy_level", 0)];
    for field in Fields::new(node) {
        let field = field?;
        let Value::Bytes(bytes) = field.value else { continue };
        match field.number {
            NODE_INPUT => inputs.push(bytes),
            NODE_OP_TYPE => operator = bytes == b"MatMulNBits",
            NODE_ATTRIBUTE => {
                let (name, value) = attribute(bytes)?;
                match numbers.iter_mut().find(|(known, _)| known.as_bytes() == name) {
                    Some(number) => number.1 = value,
                    // What is not known might change the result.
                    None => others = true,
                }
            }
            _ => {}
        }
    }
    let [k, n, bits, block, accuracy] = numbers.map(|(_, value)| usize::try_from(value));
    let sizes = k.is_ok_and(|k| n.is_ok_and(|n| int4::fits(k, n)));
    let levels = (bits, block, accuracy) == (Ok(4), Ok(int4::BLOCK), Ok(4));
    let scales = inputs.get(2).is_some_and(|scales| floats.contains(scales));
    let plain = inputs.iter().skip(3).all(|name| name.is_empty());
    Ok(operator && !others && sizes && levels && scales && plain)
}

/// An attribute's name and, where it is a whole number, value.
fn attribute(message: &[u8]) -> Result<(&[u8], u64), Damaged> {
    let (mut name, mut number): (&[u8], _) = (b"", 0);
    for field in Fields::new(message) {
        let field = field?;
        match field.value {
            Value::Bytes(bytes) if field.number == ATTRIBUTE_NAME => name = bytes,
            Value::Number(value) if field.number == ATTRIBUTE_INT => number = value,
            _ => {}
        }
    }
    Ok((name, number))
}

/// `node` as the own operator, which has three inputs.
fn renamed(node: &[u8]) -> Result<Vec<u8>, Damaged> {
    let mut edited = Vec::with_capacity(node.len());
    for field in Fields::new(node) {
        let field = field?;
        let empty = field.number == NODE_INPUT && field.value == Value::Bytes(b"");
        if ![NODE_OP_TYPE, NODE_DOMAIN].contains(&field.number) && !empty {
            edited.extend_from_slice(field.raw);
        }
    }
    put_bytes(&mut edited, NODE_OP_TYPE, OPERATOR.as_bytes());
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
    fn every_product_of_the_demo_model_becomes_the_own_operator() {
        let model = demo();
        let edited = edit(&model).unwrap().unwrap();
        // Four layers of five products, and the one with the vocabulary.
        assert_eq!(count(&edited, OPERATOR), 21);
        assert_eq!(edit(&edited).unwrap(), None);
    }

    #[test]
    fn other_products_stay_as_they_are() {
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
