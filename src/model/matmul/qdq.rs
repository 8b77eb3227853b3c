//! Folds `DequantizeLinear` and the `MatMul` that reads it into one matmul of quantised weights (ONNX's QDQ
//! form, operator set 21 and later).
//!
//! `DequantizeLinear` has no accuracy level. ONNX Runtime fuses the two nodes as well, and rounds activations to
//! int8 then unless a session option forbids it, so this is what such an export allows.

use std::collections::{HashMap, HashSet};

use super::quantised::{DOMAIN, OPERATOR, Quantised};
use super::tensors::{Constant, Tensors};
use crate::protobuf::{
    Damaged, FLOAT, GRAPH_NODE, INT4, INT8, NODE_DOMAIN, Node, TENSOR_DIMENSION, TENSOR_TYPE,
    Tensor, UINT4, UINT8, VALUE_NAME, attribute, attribute_list, content, contents, kept, node,
    put_attribute, put_bytes, put_number,
};
use phi4d_settings::Int8Activations;

/// Attributes of the own operator by which it reads weights of this form ([`super::grid::Grid`]).
pub(super) const SOURCE_BLOCK: &str = "source_block";
pub(super) const BY_COLUMN: &str = "by_column";
pub(super) const SIGNED: &str = "signed";

/// A `MatMul` of weights that `DequantizeLinear` makes.
#[derive(Debug)]
pub(crate) struct Fold<'a> {
    pub(crate) quantised: Quantised,
    activations: &'a [u8],
    output: &'a [u8],
    /// Levels, scales, and zero points if there are some.
    weights: Vec<&'a [u8]>,
    /// Outputs of the nodes that are folded into it.
    gone: Vec<&'a [u8]>,
    /// Whether the weights are `[n, k]`, which a `Transpose` turns.
    by_column: bool,
    signed: bool,
}

impl<'a> Fold<'a> {
    /// Reads the `MatMul` that `matmul` may be. `None` if it is none, or its weights are not of 4 or 8 bits.
    pub(crate) fn of(matmul: &Node<'a>, tensors: &Tensors<'a>) -> Result<Option<Self>, Damaged> {
        let (b"MatMul", [activations, weights], [output]) =
            (matmul.operator, &matmul.inputs[..], &matmul.outputs[..])
        else {
            return Ok(None);
        };
        let mut gone = vec![*weights];
        let Some(mut maker) = tensors.maker(weights) else { return Ok(None) };
        let by_column = maker.operator == b"Transpose";
        // The builder stores weights as PyTorch has them, `[n, k]`, and lets the graph turn them.
        if by_column {
            let [source] = maker.inputs[..] else { return Ok(None) };
            match tensors.maker(source) {
                Some(source) if turns(maker)? => maker = source,
                _ => return Ok(None),
            }
            gone.push(source);
        }
        let (b"DequantizeLinear", [levels, ..]) = (maker.operator, &maker.inputs[..]) else {
            return Ok(None);
        };
        let Some(constant) = tensors.constant(levels) else { return Ok(None) };
        let (bits, signed) = match constant.element {
            INT4 => (4, true),
            UINT4 => (4, false),
            INT8 => (8, true),
            UINT8 => (8, false),
            _ => return Ok(None),
        };
        let [k, n] = match constant.sizes[..] {
            [n, k] if by_column => [k, n],
            [k, n] => [k, n],
            _ => return Ok(None),
        };
        let inputs: Vec<&[u8]> =
            maker.inputs.iter().copied().filter(|name| !name.is_empty()).collect();
        let mut quantised = Quantised {
            k,
            n,
            bits,
            block: k,
            accuracy_level: 4,
            // Without zero points unsigned levels begin at 0, and not in the middle.
            zero_points: inputs.len() > 2 || !signed,
            qdq: true,
            other: None,
        };
        match block(maker, by_column, &quantised, tensors)? {
            Ok(block) => quantised.block = block,
            Err(reason) => quantised.other = Some(reason),
        }
        let is_bytes = |name: &&[u8]| tensors.constant(name).is_some_and(|found| found.is_bytes);
        // Nodes are taken out of the graph, and levels and zero points get another type.
        let changed = gone.iter().chain(inputs.iter().take(1)).chain(inputs.iter().skip(2));
        if !changed.copied().all(|name| tensors.is_read_once(name)) {
            quantised.other = Some("its weights are read by another node, too");
        } else if !inputs.iter().all(is_bytes) {
            quantised.other = Some("its scales or zero points are not constants");
        }
        Ok(Some(Self { quantised, activations, output, weights: inputs, gone, by_column, signed }))
    }

    /// The own operator's node.
    pub(super) fn node(&self) -> Vec<u8> {
        let inputs = [&[self.activations], &self.weights[..]].concat();
        let name = String::from_utf8_lossy(self.output);
        let mut node = node(OPERATOR, &inputs, self.output, &format!("{name}/{OPERATOR}"));
        put_bytes(&mut node, NODE_DOMAIN, DOMAIN.as_bytes());
        let Quantised { k, n, bits, block, .. } = self.quantised;
        for (name, value) in [
            ("K", k),
            ("N", n),
            ("bits", bits),
            ("block_size", self.quantised.packed_block()),
            (SOURCE_BLOCK, block),
            (BY_COLUMN, self.by_column.into()),
            (SIGNED, self.signed.into()),
        ] {
            put_attribute(&mut node, name, value);
        }
        node
    }
}

/// Whether a `Transpose` of a matrix exchanges its axes.
fn turns(transpose: &Node<'_>) -> Result<bool, Damaged> {
    match transpose.attributes[..] {
        [] => Ok(true),
        [order] => Ok(attribute_list(order)? == [1, 0]),
        _ => Ok(false),
    }
}

/// How many weights of a column share a scale of `DequantizeLinear`, by its attributes and the sizes of its
/// scales and zero points; or why that can't be folded.
fn block(
    maker: &Node<'_>,
    by_column: bool,
    weights: &Quantised,
    tensors: &Tensors<'_>,
) -> Result<Result<u64, &'static str>, Damaged> {
    const OTHER: &str = "its scales are not of blocks along its columns";
    let (mut axis, mut block) = (1, 0);
    for bytes in &maker.attributes {
        match attribute(bytes)? {
            (b"axis", value) => axis = value.unwrap_or(0).cast_signed(),
            (b"block_size", value) => block = value.unwrap_or(0),
            // The type of what it makes is the scales', or single precision, which is the same here. `saturate` has no
            // effect on weights of these types.
            (b"output_dtype", None | Some(0 | FLOAT)) | (b"saturate", _) => {}
            _ => return Ok(Err("it has an attribute that phi4d does not know")),
        }
    }
    let &Quantised { k, n, .. } = weights;
    // ONNX counts negative axes from the end, here of two.
    let axis = if axis < 0 { axis + 2 } else { axis };
    // K is the first axis of `[k, n]` and the second of `[n, k]`.
    let along_k = axis == i64::from(by_column);
    let Some(scales) = maker.inputs.get(1).and_then(|name| tensors.constant(name)) else {
        return Ok(Err("its scales are not constants in single precision"));
    };
    if scales.element != FLOAT {
        return Ok(Err("its scales are not constants in single precision"));
    }
    let zeros = maker.inputs.get(2).filter(|name| !name.is_empty());
    let zeros: Option<Option<&Constant>> = zeros.map(|name| tensors.constant(name));
    // The kernel reads both by one place, so they must be of the same sizes.
    if zeros.is_some_and(|zeros| zeros.is_none_or(|zeros| zeros.sizes != scales.sizes)) {
        return Ok(Err("its zero points are not constant whole numbers"));
    }
    let found = match (block, &scales.sizes[..]) {
        // One for the matrix, or one for each column.
        (0, [] | [1]) => Some(k),
        (0, [columns]) if !along_k && *columns == n => Some(k),
        (1.., [columns, blocks]) if by_column && along_k => {
            (*columns == n && *blocks == k.div_ceil(block)).then_some(block)
        }
        (1.., [blocks, columns]) if !by_column && along_k => {
            (*columns == n && *blocks == k.div_ceil(block)).then_some(block)
        }
        _ => None,
    };
    Ok(found.ok_or(OTHER))
}

/// All that is folded in a graph.
#[derive(Debug, Default)]
pub(crate) struct Folded<'a> {
    /// By the output of the `MatMul`.
    folds: HashMap<&'a [u8], Fold<'a>>,
    /// Outputs of nodes that go.
    gone: HashSet<&'a [u8]>,
    /// Levels and zero points, which become bytes, with the bytes that they have.
    bytes: HashMap<&'a [u8], u64>,
}

impl<'a> Folded<'a> {
    /// What the own operator takes of `graph` by `rule`.
    pub(crate) fn of(
        graph: &'a [u8],
        tensors: &Tensors<'a>,
        rule: Int8Activations,
    ) -> Result<Self, Damaged> {
        let mut folded = Self::default();
        for node in contents(graph, GRAPH_NODE) {
            let Some(fold) = Fold::of(&Node::read(node?)?, tensors)? else { continue };
            if fold.quantised.form(rule).is_err() {
                continue;
            }
            folded.gone.extend(&fold.gone);
            // Scales, the second of the weights, are in single precision already and stay as they
            // are.
            for name in fold.weights.iter().take(1).chain(fold.weights.iter().skip(2)) {
                let sizes = tensors.constant(name).into_iter().flat_map(|found| &found.sizes);
                let numbers = sizes.fold(1, |count, size| u64::saturating_mul(count, *size));
                let bytes = numbers.saturating_mul(fold.quantised.bits).div_ceil(8);
                folded.bytes.insert(name, bytes);
            }
            folded.folds.insert(fold.output, fold);
        }
        Ok(folded)
    }

    /// The matmul that is put in the place of `node`.
    pub(crate) fn matmul(&self, node: &Node<'_>) -> Option<&Fold<'a>> {
        self.folds.get(*node.outputs.first()?)
    }

    /// Whether `node` is folded into another.
    pub(crate) fn removes(&self, node: &Node<'_>) -> bool {
        node.outputs.first().is_some_and(|output| self.gone.contains(output))
    }

    /// Whether the tensor that a `ValueInfoProto` describes is one that goes or gets another type.
    pub(crate) fn changes(&self, value: &[u8]) -> Result<bool, Damaged> {
        let name = content(value, VALUE_NAME)?.unwrap_or_default();
        // ONNX Runtime checks what a graph says of a tensor's type against what it finds, and
        // refuses a difference.
        Ok(self.gone.contains(name) || self.bytes.contains_key(name))
    }

    /// A `TensorProto` with the type that the own operator takes, if it has another: its bytes stay where they
    /// are, two levels of 4 bits in each.
    pub(crate) fn tensor(&self, bytes: &[u8]) -> Result<Option<Vec<u8>>, Damaged> {
        let Some(length) = self.bytes.get(Tensor::read(bytes)?.name) else { return Ok(None) };
        let mut tensor =
            kept(bytes, |field| ![TENSOR_DIMENSION, TENSOR_TYPE].contains(&field.number))?;
        put_number(&mut tensor, TENSOR_DIMENSION, *length);
        put_number(&mut tensor, TENSOR_TYPE, UINT8);
        Ok(Some(tensor))
    }
}
