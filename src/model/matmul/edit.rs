//! Puts phi4d's own operator in the place of those `MatMulNBits` nodes that it does: int4 and int8 weights
//! in blocks of 16 to 256, with zero points or without, activations rounded to int8 (accuracy level 4).

use std::collections::HashMap;

use crate::protobuf::{
    Damaged, FLOAT, Fields, GRAPH_INITIALIZER, GRAPH_NODE, MODEL_GRAPH, MODEL_OPSET, NODE_DOMAIN,
    NODE_INPUT, NODE_OPERATOR, Node, Tensor, UINT8, Value, attribute, contents, edited, message,
    message_of_number, put_bytes,
};
use phi4d_matmul::Form;

/// The operator's domain and name. Both are in the edited graph, and so in the stamps of folders that
/// `phi4d prepare` made: other names would make all of them unusable.
pub(crate) const DOMAIN: &str = "phi4d";
pub(crate) const OPERATOR: &str = "PackedMatMul";

/// The model `bytes` with the own operator in it; `None` if it does none of the nodes.
pub(crate) fn edit(bytes: &[u8]) -> Result<Option<Vec<u8>>, Damaged> {
    let mut replaced = 0;
    let mut model = edited(bytes, MODEL_GRAPH, |graph| edit_graph(graph, &mut replaced).map(Some))?;
    let opset = [message(1, DOMAIN.as_bytes()), message_of_number(2, 1)].concat();
    put_bytes(&mut model, MODEL_OPSET, &opset);
    Ok((replaced > 0).then_some(model))
}

/// How many nodes of the model `bytes` [`edit`] replaces.
#[cfg(test)]
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
    let constants = constants(graph)?;
    edited(graph, GRAPH_NODE, |bytes| {
        let node = Node::read(bytes)?;
        if node.operator != b"MatMulNBits" || Quantised::of(&node, &constants)?.form().is_err() {
            return Ok(None);
        }
        *replaced += 1;
        renamed(bytes).map(Some)
    })
}

/// Element types of the graph's constants, by their names.
pub(crate) fn constants(graph: &[u8]) -> Result<HashMap<&[u8], u64>, Damaged> {
    let mut found = HashMap::new();
    for tensor in contents(graph, GRAPH_INITIALIZER) {
        let tensor = Tensor::read(tensor?)?;
        found.insert(tensor.name, tensor.element);
    }
    Ok(found)
}

/// What a `MatMulNBits` node says of its weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Quantised {
    /// Rows of the weights.
    pub(crate) k: u64,
    /// Columns of the weights.
    pub(crate) n: u64,
    /// Bits of a weight.
    pub(crate) bits: u64,
    /// Weights that share a scale.
    pub(crate) block: u64,
    /// How activations may be rounded: 4 is to int8, 1 not at all, 0 is left open.
    pub(crate) accuracy_level: u64,
    /// Whether blocks have zero points beside scales.
    pub(crate) zero_points: bool,
    /// What else keeps the own kernel from it.
    other: Option<&'static str>,
}

impl Quantised {
    /// Reads a `MatMulNBits` node of a graph with these constants.
    pub(crate) fn of(node: &Node<'_>, constants: &HashMap<&[u8], u64>) -> Result<Self, Damaged> {
        let mut numbers =
            [("K", 0), ("N", 0), ("bits", 4), ("block_size", 0), ("accuracy_level", 0)];
        let mut other = None;
        for bytes in &node.attributes {
            let (name, value) = attribute(bytes)?;
            match numbers.iter_mut().find(|(known, _)| known.as_bytes() == name) {
                Some(number) => number.1 = value.unwrap_or(0),
                // An attribute that is not known here might change the result.
                None => other = Some("it has an attribute that phi4d does not know"),
            }
        }
        let [k, n, bits, block, accuracy_level] = numbers.map(|(_, value)| value);
        let input = |index: usize| node.inputs.get(index).filter(|name| !name.is_empty());
        // The kernel wants scales and zero points laid out before the first step.
        let is = |index, element| {
            input(index).is_some_and(|name| constants.get(*name) == Some(&element))
        };
        let zero_points = input(3).is_some();
        if !is(2, FLOAT) {
            other = Some("its scales are not constants in single precision");
        } else if zero_points && !is(3, UINT8) {
            other = Some("its zero points are not constant whole numbers");
        } else if node.inputs.iter().skip(4).any(|name| !name.is_empty()) {
            other = Some("it has a group index or a bias");
        }
        Ok(Self { k, n, bits, block, accuracy_level, zero_points, other })
    }

    /// The form of the weights, if the own kernel does this matmul.
    ///
    /// # Errors
    /// Why it does not.
    pub(crate) fn form(&self) -> Result<Form, &'static str> {
        let size = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
        let form = Form {
            k: size(self.k),
            n: size(self.n),
            bits: size(self.bits),
            block: size(self.block),
            zero_points: self.zero_points,
        };
        match self.other {
            Some(reason) => Err(reason),
            None if self.accuracy_level != 4 => {
                Err("its accuracy level is not 4, which allows activations in int8")
            }
            None if !form.fits() => {
                Err("its bits, blocks or columns are not of the sizes it takes")
            }
            None => Ok(form),
        }
    }
}

/// `node` as the own operator, whose last input is zero points, if there are some.
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
        assert_eq!(super::count(&model).unwrap(), 21);
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
