//! Reads what is of interest out of a graph's file (onnx.proto, ONNX 1.x).

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use crate::wire::{Damaged, Fields, Value};

// Field numbers of onnx.proto's messages.
const MODEL_PRODUCER: u64 = 2;
const MODEL_PRODUCER_VERSION: u64 = 3;
const MODEL_GRAPH: u64 = 7;
const GRAPH_NODE: u64 = 1;
const GRAPH_INITIALIZER: u64 = 5;
const GRAPH_INPUT: u64 = 11;
const GRAPH_OUTPUT: u64 = 12;
const NODE_INPUT: u64 = 1;
const NODE_OPERATOR: u64 = 4;
const NODE_ATTRIBUTE: u64 = 5;
const ATTRIBUTE_NAME: u64 = 1;
const ATTRIBUTE_INT: u64 = 3;
const TENSOR_NAME: u64 = 8;
const TENSOR_RAW: u64 = 9;
const TENSOR_EXTERNAL: u64 = 13;
const VALUE_NAME: u64 = 1;
const VALUE_TYPE: u64 = 2;

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

/// A kind of products with quantised weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quantised {
    /// Bits of a weight.
    pub bits: i64,
    /// Weights that share a scale.
    pub block: i64,
    /// How activations may be rounded: 4 is to int8, 1 not at all, 0 is left open.
    pub accuracy_level: i64,
    /// Whether blocks have zero points beside scales.
    pub zero_points: bool,
    /// How many there are.
    pub nodes: usize,
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
    let tables = graph.looked_up.difference(&graph.read_whole);
    graph.tables = tables.filter_map(|name| graph.sizes.get(name)).sum();
    graph.producer = format!("{producer} {version}").trim().to_owned();
    Ok(graph)
}

impl Graph {
    fn read(&mut self, bytes: &[u8]) -> Result<(), Damaged> {
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
        let (mut operator, mut inputs) = (String::new(), Vec::new());
        let mut names = Vec::new();
        let mut attributes = BTreeMap::new();
        for field in Fields::new(bytes) {
            let field = field?;
            let Value::Bytes(value) = field.value else { continue };
            match field.number {
                NODE_OPERATOR => operator = text(value),
                NODE_INPUT => {
                    inputs.push(!value.is_empty());
                    names.push(text(value));
                }
                NODE_ATTRIBUTE => attributes.extend(whole_attribute(value)?),
                _ => {}
            }
        }
        if operator.starts_with("Gather") {
            self.looked_up.extend(names);
        } else {
            self.read_whole.extend(names);
        }
        if operator == "MatMulNBits" {
            self.quantised_product(&attributes, inputs.get(3) == Some(&true));
        }
        if ATTENTION.contains(&operator.as_str()) {
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

    fn quantised_product(&mut self, attributes: &BTreeMap<String, i64>, zero_points: bool) {
        let number = |name: &str, default| attributes.get(name).copied().unwrap_or(default);
        let (bits, block) = (number("bits", 4), number("block_size", 0));
        let accuracy_level = number("accuracy_level", 0);
        let alike = self.quantised.iter_mut().find(|kind| {
            (kind.bits, kind.block, kind.accuracy_level, kind.zero_points)
                == (bits, block, accuracy_level, zero_points)
        });
        match alike {
            Some(kind) => kind.nodes += 1,
            None => self.quantised.push(Quantised {
                bits,
                block,
                accuracy_level,
                zero_points,
                nodes: 1,
            }),
        }
    }

    /// Counts an initializer, in this file or in another.
    fn weights(&mut self, bytes: &[u8]) -> Result<(), Damaged> {
        let mut entries = BTreeMap::new();
        let (mut name, mut size) = (String::new(), 0);
        for field in Fields::new(bytes) {
            let field = field?;
            let Value::Bytes(value) = field.value else { continue };
            match field.number {
                TENSOR_NAME => name = text(value),
                TENSOR_RAW => {
                    size = value.len() as u64;
                    self.inner_weights += size;
                }
                TENSOR_EXTERNAL => entries.extend([pair(value)?]),
                _ => {}
            }
        }
        if let Some(location) = entries.remove("location") {
            let number = |name: &str| entries.get(name).and_then(|text| text.parse::<u64>().ok());
            size = number("length").unwrap_or(0);
            let end = number("offset").unwrap_or(0).saturating_add(size);
            let last = self.external.entry(location).or_default();
            *last = end.max(*last);
        }
        self.sizes.insert(name, size);
        Ok(())
    }
}

/// An attribute that is a whole number. Those that are 0 may leave the number out.
fn whole_attribute(bytes: &[u8]) -> Result<Option<(String, i64)>, Damaged> {
    let (mut name, mut number) = (String::new(), None);
    for field in Fields::new(bytes) {
        let field = field?;
        match field.value {
            Value::Bytes(value) if field.number == ATTRIBUTE_NAME => name = text(value),
            Value::Number(value) if field.number == ATTRIBUTE_INT => {
                number = Some(value.cast_signed());
            }
            _ => {}
        }
    }
    Ok(number.map(|number| (name, number)))
}

/// A `ValueInfoProto`.
fn tensor_info(bytes: &[u8]) -> Result<TensorInfo, Damaged> {
    let mut info = TensorInfo { element: "unknown", ..TensorInfo::default() };
    for field in Fields::new(bytes) {
        let field = field?;
        let Value::Bytes(value) = field.value else { continue };
        match field.number {
            VALUE_NAME => info.name = text(value),
            VALUE_TYPE => {
                // TypeProto.tensor_type: its element is field 1, its shape field 2.
                for tensor in messages(value, 1)? {
                    info.element = element(tensor)?;
                    for shape in messages(tensor, 2)? {
                        info.shape = dimensions(shape)?;
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
    for dimension in messages(shape, 1)? {
        let mut size = "?".to_owned();
        for field in Fields::new(dimension) {
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

/// A `StringStringEntryProto`.
fn pair(bytes: &[u8]) -> Result<(String, String), Damaged> {
    let (mut key, mut value) = (String::new(), String::new());
    for field in Fields::new(bytes) {
        let field = field?;
        match (field.number, field.value) {
            (1, Value::Bytes(bytes)) => key = text(bytes),
            (2, Value::Bytes(bytes)) => value = text(bytes),
            _ => {}
        }
    }
    Ok((key, value))
}

/// The messages in field `number` of a message.
fn messages(bytes: &[u8], number: u64) -> Result<Vec<&[u8]>, Damaged> {
    let mut found = Vec::new();
    for field in Fields::new(bytes) {
        let field = field?;
        if let (true, Value::Bytes(value)) = (field.number == number, field.value) {
            found.push(value);
        }
    }
    Ok(found)
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
