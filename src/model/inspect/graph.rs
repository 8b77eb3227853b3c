//! Reads what is of interest out of a graph's file (onnx.proto, ONNX 1.x).

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use crate::genai_config::GenaiConfig;
use crate::matmul::{edit, quantised};
use crate::protobuf::{
    Damaged, Fields, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_NODE, GRAPH_OUTPUT, MODEL_GRAPH,
    MODEL_PRODUCER, MODEL_PRODUCER_VERSION, Node, Tensor, VALUE_NAME, VALUE_TYPE, Value, attribute,
    contents,
};
use crate::provider::ANY_GPU;
use phi4d_settings::Int8Activations;

/// Operators of attention.
const ATTENTION: [&str; 5] =
    ["GroupQueryAttention", "PagedAttention", "SparseAttention", "MultiHeadAttention", "Attention"];

/// `TensorProto.DataType` by number: its name, and bits of an element.
const ELEMENTS: [(u64, &str, u64); 12] = [
    (1, "float32", 32),
    (2, "uint8", 8),
    (3, "int8", 8),
    (6, "int32", 32),
    (7, "int64", 64),
    (9, "bool", 8),
    (10, "float16", 16),
    (11, "float64", 64),
    (16, "bfloat16", 16),
    (17, "float8e4m3fn", 8),
    (21, "uint4", 4),
    (22, "int4", 4),
];

/// An input or output.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// The type of its elements, such as `float16`.
    pub element: &'static str,
    /// Its dimensions: numbers, or names where they are left open.
    pub shape: Vec<String>,
}

impl TensorInfo {
    /// Bytes of an element, at least one.
    pub(super) fn element_bytes(&self) -> u64 {
        // Types of less than a byte count as one: the cache packs none of them.
        let known = ELEMENTS.iter().find(|(_, name, _)| *name == self.element);
        known.map_or(1, |(_, _, bits)| bits.div_ceil(8))
    }
}

/// The attention operator, by the first layer's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attention {
    /// Its name.
    pub operator: String,
    /// How many there are.
    pub nodes: usize,
    /// Its attributes that are whole numbers: heads, rotary embedding, quantisation and others.
    pub attributes: BTreeMap<String, i64>,
}

/// A kind of matmuls with quantised weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quantised {
    /// Bits of a weight.
    pub bits: u64,
    /// Weights that share a scale.
    pub block: u64,
    /// How activations may be rounded: 4 is to int8, 1 not at all, 0 is left open.
    pub accuracy_level: u64,
    /// Whether blocks have zero points beside scales.
    pub zero_points: bool,
    /// Whether they are `DequantizeLinear` and `MatMul` instead of `MatMulNBits`.
    pub qdq: bool,
    /// Why phi4d's own kernel does not take them; `None` if it does.
    pub fallback: Option<&'static str>,
    /// The same where every export's activations may be rounded to int8.
    #[serde(skip)]
    other_fallback: Option<&'static str>,
    /// How many there are.
    pub nodes: usize,
}

impl Quantised {
    /// Why phi4d's own kernel does not take them by `rule`; `None` if it does.
    #[must_use]
    pub fn fallback_by(&self, rule: Int8Activations) -> Option<&'static str> {
        match rule {
            Int8Activations::Export => self.fallback,
            Int8Activations::Always => self.other_fallback,
        }
    }
}

impl std::fmt::Display for Quantised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { bits, block, accuracy_level, nodes, .. } = self;
        let zero_points = if self.zero_points { "with" } else { "without" };
        write!(f, "{nodes} of {bits} bits in blocks of {block}, {zero_points} zero points, ")?;
        if self.qdq { f.write_str("QDQ") } else { write!(f, "accuracy level {accuracy_level}") }
    }
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pub(super) producer: String,
    pub(super) inputs: Vec<TensorInfo>,
    pub(super) outputs: Vec<TensorInfo>,
    pub(super) operators: BTreeMap<String, usize>,
    pub(super) attention: Option<Attention>,
    pub(super) quantised: Vec<Quantised>,
    /// Files of weights by name, each with where the last of its tensors ends.
    pub(super) external: BTreeMap<String, u64>,
    pub(super) inner_weights: u64,
    /// Bytes of weights of which a step reads single rows: tables that only `Gather` looks up.
    pub(super) tables: u64,
    /// Bytes of each initializer.
    sizes: HashMap<String, u64>,
    /// Inputs of operators that look up rows, and of all others.
    looked_up: HashSet<String>,
    read_whole: HashSet<String>,
}

pub(super) fn read(bytes: &[u8]) -> Result<Graph, Damaged> {
    let mut graph = Graph::default();
    let (mut producer, mut version) = (String::new(), String::new());
    for field in Fields::new(bytes) {
        let field = field?;
        let Value::Bytes(value) = field.value else { continue };
        match field.number {
            MODEL_PRODUCER => producer = text(value),
            MODEL_PRODUCER_VERSION => version = text(value),
            MODEL_GRAPH => graph.read(value)?,
            _ => {}
        }
    }
    // Tied embeddings are looked up and multiplied: a step reads all of them.
    let tables = graph.looked_up.difference(&graph.read_whole);
    // The lengths are the file's own words, and a damaged file's sum may overflow.
    let sizes = tables.filter_map(|name| graph.sizes.get(name));
    graph.tables = sizes.fold(0, |sum, size| u64::saturating_add(sum, *size));
    graph.producer = format!("{producer} {version}").trim().to_owned();
    Ok(graph)
}

impl Graph {
    fn read(&mut self, bytes: &[u8]) -> Result<(), Damaged> {
        // By the edit's own reading, so that `inspect` and the loaded model never disagree.
        for matmul in edit::matmuls(bytes)? {
            self.quantised_matmul(&matmul);
        }
        for field in Fields::new(bytes) {
            let field = field?;
            let Value::Bytes(value) = field.value else { continue };
            match field.number {
                GRAPH_NODE => self.node(value)?,
                GRAPH_INITIALIZER => self.weights(value)?,
                GRAPH_INPUT => self.inputs.push(tensor_info(value)?),
                GRAPH_OUTPUT => self.outputs.push(tensor_info(value)?),
                _ => {}
            }
        }
        Ok(())
    }

    fn node(&mut self, bytes: &[u8]) -> Result<(), Damaged> {
        let node = Node::read(bytes)?;
        let operator = text(node.operator);
        let names = node.inputs.iter().map(|name| text(name));
        // A table that only Gather reads costs a step one row, not its size (see `tables`).
        if operator.starts_with("Gather") {
            self.looked_up.extend(names);
        } else {
            self.read_whole.extend(names);
        }
        let mut attributes = BTreeMap::new();
        for bytes in &node.attributes {
            if let (name, Some(number)) = attribute(bytes)? {
                attributes.insert(text(name), number.cast_signed());
            }
        }
        if ATTENTION.contains(&operator.as_str()) {
            // The first layer's attributes stand for all; exports make their layers alike.
            let attention = self.attention.get_or_insert_with(|| Attention {
                operator: operator.clone(),
                nodes: 0,
                attributes,
            });
            attention.nodes += 1;
        }
        *self.operators.entry(operator).or_default() += 1;
        Ok(())
    }

    fn quantised_matmul(&mut self, found: &quantised::Quantised) {
        let kind = Quantised {
            bits: found.bits,
            block: found.block,
            accuracy_level: found.accuracy_level,
            zero_points: found.zero_points,
            qdq: found.qdq,
            fallback: found.form(Int8Activations::Export).err(),
            other_fallback: found.form(Int8Activations::Always).err(),
            nodes: 1,
        };
        // A model has two or three kinds, so a list is searched.
        let alike = |other: &&mut Quantised| Quantised { nodes: 1, ..(**other).clone() } == kind;
        match self.quantised.iter_mut().find(alike) {
            Some(other) => other.nodes += 1,
            None => self.quantised.push(kind),
        }
    }

    /// Counts an initializer, in this file or in another.
    fn weights(&mut self, bytes: &[u8]) -> Result<(), Damaged> {
        let tensor = Tensor::read(bytes)?;
        let inner = tensor.raw.map_or(0, |raw| raw.len() as u64);
        self.inner_weights += inner;
        let size = match tensor.file {
            Some(file) => {
                // A damaged file may name any offset, so the sum must not overflow.
                let end = tensor.offset.saturating_add(tensor.length);
                let last = self.external.entry(file.to_owned()).or_default();
                *last = end.max(*last);
                tensor.length
            }
            None => inner,
        };
        // By name: which of them are tables is known once all nodes were read.
        self.sizes.insert(text(tensor.name), size);
        Ok(())
    }
}

/// The sum of sizes, which a damaged graph may name as large as it likes.
pub(super) fn total(first: u64, sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(first, u64::saturating_add)
}

/// The providers that the export in `bytes` was made for, as the model builder calls them; none for the
/// CPU, nor for a damaged graph.
pub(crate) fn made_for_of(config: &GenaiConfig, bytes: &[u8]) -> Vec<String> {
    read(bytes).map_or_else(|_| Vec::new(), |graph| made_for(config, &graph))
}

/// As [`made_for_of`], of a graph that was read.
///
/// Exports for GPUs are published without their `provider_options` by now, to be used with any
/// provider. Half precision at the graph's ends shows them: exports for the CPU have single.
pub(super) fn made_for(config: &GenaiConfig, graph: &Graph) -> Vec<String> {
    let named = config.model.decoder.made_for();
    let mut ends = graph.inputs.iter().chain(&graph.outputs);
    let is_half = ends.any(|end| matches!(end.element, "float16" | "bfloat16"));
    if named.is_empty() && is_half { vec![ANY_GPU.to_owned()] } else { named }
}

/// Bytes of all weights that a graph names; 0 if it is damaged, which its reader reports.
pub(crate) fn weight_bytes(graph: &[u8]) -> u64 {
    let graph = read(graph);
    graph.map_or(0, |graph| total(graph.inner_weights, graph.external.into_values()))
}

/// Whether `graph` has an operator whose name begins with `prefix`.
pub(crate) fn has_operator(graph: &[u8], prefix: &str) -> Result<bool, Damaged> {
    Ok(read(graph)?.operators.keys().any(|name| name.starts_with(prefix)))
}

/// A `ValueInfoProto`.
pub(crate) fn tensor_info(bytes: &[u8]) -> Result<TensorInfo, Damaged> {
    let mut info = TensorInfo { element: "unknown", ..TensorInfo::default() };
    for field in Fields::new(bytes) {
        let field = field?;
        let Value::Bytes(value) = field.value else { continue };
        match field.number {
            VALUE_NAME => info.name = text(value),
            VALUE_TYPE => {
                // TypeProto.tensor_type: its element is field 1, its shape field 2.
                for tensor in contents(value, 1) {
                    let tensor = tensor?;
                    // The last tensor type wins; a value that is no tensor keeps "unknown".
                    info.element = element(tensor)?;
                    for shape in contents(tensor, 2) {
                        info.shape = dimensions(shape?)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(info)
}

fn element(tensor: &[u8]) -> Result<&'static str, Damaged> {
    for field in Fields::new(tensor) {
        let field = field?;
        if let (1, Value::Number(number)) = (field.number, field.value) {
            let known = ELEMENTS.iter().find(|(known, ..)| *known == number);
            return Ok(known.map_or("unknown", |(_, name, _)| name));
        }
    }
    Ok("unknown")
}

/// The dimensions of a `TensorShapeProto`.
fn dimensions(shape: &[u8]) -> Result<Vec<String>, Damaged> {
    let mut sizes = Vec::new();
    for dimension in contents(shape, 1) {
        let mut size = "?".to_owned();
        for field in Fields::new(dimension?) {
            match field?.value {
                Value::Number(number) => size = number.to_string(),
                Value::Bytes(name) => size = text(name),
                Value::Other => {}
            }
        }
        sizes.push(size);
    }
    Ok(sizes)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn damaged_files_are_errors_and_nothing_worse(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }

    #[test]
    fn a_cut_graph_is_read_or_damaged() {
        let bytes =
            std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/demo/model.onnx"));
        let bytes = bytes.unwrap();
        assert!(read(&bytes).is_ok());
        assert!(read(&bytes[..bytes.len() / 2]).is_err());
    }
}
