//! Embeddings that are the head's quantised weights.
//!
//! The model builder has the head's levels `[vocabulary, blocks, bytes]` made flat by a `Reshape`, for
//! `GatherBlockQuantized` to look up. ONNX Runtime does that ahead and keeps the result: a copy of the levels in
//! memory, beside those that are laid out for the kernel. The own operator takes levels of any shape, so the constant
//! itself is made flat. It stays in the model's file, of which only the rows that are looked up are read.

use std::collections::{HashMap, HashSet};

use super::quantised::Quantised;
use super::tensors::Tensors;
use crate::protobuf::{
    Damaged, GRAPH_NODE, NODE_INPUT, Node, TENSOR_DIMENSION, Tensor, UINT8, VALUE_NAME, attribute,
    content, contents, edited, kept, put_number,
};
use phi4d_settings::Int8Activations;

/// The embeddings of a graph that are made flat.
#[derive(Debug, Default)]
pub(crate) struct Tied<'a> {
    /// The levels, by the outputs of the nodes that reshape them.
    levels: HashMap<&'a [u8], &'a [u8]>,
    /// New sizes of levels.
    sizes: HashMap<&'a [u8], [u64; 2]>,
}

impl<'a> Tied<'a> {
    /// Those of `graph` whose head runs on the own kernel by `rule`.
    pub(crate) fn of(
        graph: &'a [u8],
        tensors: &Tensors<'a>,
        rule: Int8Activations,
    ) -> Result<Self, Damaged> {
        let (mut heads, mut lookups) = (HashSet::new(), Vec::new());
        for node in contents(graph, GRAPH_NODE) {
            let node = Node::read(node?)?;
            // Which head is which is known at the end only: the lookup comes first in the graph.
            match (node.operator, &node.inputs[..]) {
                (b"MatMulNBits", [_, levels, ..])
                    if Quantised::of(&node, tensors)?.form(rule).is_ok() =>
                {
                    heads.insert(*levels);
                }
                (b"GatherBlockQuantized", [_, _, _, ..]) => lookups.push(node),
                _ => {}
            }
        }
        let mut tied = Self::default();
        for lookup in lookups {
            let (table, scales) = (lookup.inputs[0], lookup.inputs[2]);
            let Some(reshape) = tensors.maker(table) else { continue };
            let (b"Reshape", [levels, _]) = (reshape.operator, &reshape.inputs[..]) else {
                continue;
            };
            // Only the lookup may read the flat table, and only it and the head the levels: another
            // reader would see a shape that it does not expect.
            let alone = tensors.is_read_once(table) && tensors.uses(levels) == 2;
            if !alone || !heads.contains(levels) || !is_by_rows(&lookup)? {
                continue;
            }
            // Scales have the table's sizes, but for the axis that has blocks. So these two say what the new sizes
            // are, whatever they are computed from.
            let (Some(constant), Some(scales)) =
                (tensors.constant(levels), tensors.constant(scales))
            else {
                continue;
            };
            if let ([rows, blocks, bytes], UINT8) = (&constant.sizes[..], constant.element)
                && scales.sizes == [*rows, *blocks]
            {
                tied.levels.insert(table, levels);
                tied.sizes.insert(levels, [*rows, blocks.saturating_mul(*bytes)]);
            }
        }
        Ok(tied)
    }

    /// Whether `node` is no longer needed.
    pub(crate) fn removes(&self, node: &Node<'_>) -> bool {
        node.operator == b"Reshape"
            && node.outputs.first().is_some_and(|output| self.levels.contains_key(output))
    }

    /// `bytes`, which are `node`, with the levels themselves, if it looks up reshaped ones.
    pub(crate) fn lookup(&self, node: &Node<'_>, bytes: &[u8]) -> Result<Option<Vec<u8>>, Damaged> {
        let Some(table) = node.inputs.first().copied() else { return Ok(None) };
        let Some(levels) = self.levels.get(table) else { return Ok(None) };
        let renamed = |input: &[u8]| Ok((input == table).then(|| levels.to_vec()));
        edited(bytes, NODE_INPUT, renamed).map(Some)
    }

    /// Whether the tensor that a `ValueInfoProto` describes is one that goes or gets other sizes.
    pub(crate) fn changes(&self, value: &[u8]) -> Result<bool, Damaged> {
        let name = content(value, VALUE_NAME)?.unwrap_or_default();
        Ok(self.levels.contains_key(name) || self.sizes.contains_key(name))
    }

    /// A `TensorProto` with its new sizes, if it gets some.
    pub(crate) fn tensor(&self, bytes: &[u8]) -> Result<Option<Vec<u8>>, Damaged> {
        let Some(sizes) = self.sizes.get(Tensor::read(bytes)?.name) else { return Ok(None) };
        let mut tensor = kept(bytes, |field| field.number != TENSOR_DIMENSION)?;
        for size in sizes {
            put_number(&mut tensor, TENSOR_DIMENSION, *size);
        }
        Ok(Some(tensor))
    }
}

/// Whether a `GatherBlockQuantized` looks up rows whose blocks lie along them.
fn is_by_rows(lookup: &Node<'_>) -> Result<bool, Damaged> {
    let (mut gather, mut quantise) = (0, 1);
    for bytes in &lookup.attributes {
        match attribute(bytes)? {
            (b"gather_axis", value) => gather = value.unwrap_or(0),
            (b"quantize_axis", value) => quantise = value.unwrap_or(0),
            _ => {}
        }
    }
    Ok((gather, quantise) == (0, 1))
}
