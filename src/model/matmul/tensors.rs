//! What is known of a graph's tensors before its nodes are edited.

use std::collections::HashMap;

use crate::protobuf::{
    ATTRIBUTE_GRAPH, Damaged, GRAPH_INITIALIZER, GRAPH_NODE, GRAPH_OUTPUT, Node, Tensor,
    VALUE_NAME, content, contents,
};

/// A constant of a graph.
#[derive(Debug)]
pub(crate) struct Constant {
    /// A number of `TensorProto.DataType`.
    pub(crate) element: u64,
    pub(crate) sizes: Vec<u64>,
    /// Whether its values are stored as bytes, in the graph's file or in another.
    pub(crate) is_bytes: bool,
}

/// The tensors of a graph, by their names.
#[derive(Debug, Default)]
pub(crate) struct Tensors<'a> {
    constants: HashMap<&'a [u8], Constant>,
    /// How many nodes and outputs of the graph read each tensor.
    uses: HashMap<&'a [u8], usize>,
    /// The nodes that weights may come from, by their outputs.
    makers: HashMap<&'a [u8], Node<'a>>,
}

impl<'a> Tensors<'a> {
    /// Those of `graph`.
    pub(crate) fn of(graph: &'a [u8]) -> Result<Self, Damaged> {
        let mut tensors = Self::default();
        for tensor in contents(graph, GRAPH_INITIALIZER) {
            let tensor = Tensor::read(tensor?)?;
            let is_bytes = tensor.raw.is_some() || tensor.file.is_some();
            let (element, sizes) = (tensor.element, tensor.dimensions);
            tensors.constants.insert(tensor.name, Constant { element, sizes, is_bytes });
        }
        // An output of the graph is read by the caller, so its maker can't go.
        for output in contents(graph, GRAPH_OUTPUT) {
            if let Some(name) = content(output?, VALUE_NAME)? {
                *tensors.uses.entry(name).or_default() += 1;
            }
        }
        tensors.count_uses(graph)?;
        for node in contents(graph, GRAPH_NODE) {
            let node = Node::read(node?)?;
            if let ([output], b"DequantizeLinear" | b"Transpose" | b"Reshape") =
                (&node.outputs[..], node.operator)
            {
                tensors.makers.insert(output, node);
            }
        }
        Ok(tensors)
    }

    /// Counts what the nodes of `graph` read, and those of the graphs in their attributes.
    fn count_uses(&mut self, graph: &'a [u8]) -> Result<(), Damaged> {
        // A list, as a damaged file may nest graphs deeper than the stack is.
        let mut graphs = vec![graph];
        while let Some(graph) = graphs.pop() {
            for node in contents(graph, GRAPH_NODE) {
                let node = Node::read(node?)?;
                for attribute in &node.attributes {
                    graphs.extend(content(attribute, ATTRIBUTE_GRAPH)?);
                }
                for input in node.inputs {
                    *self.uses.entry(input).or_default() += 1;
                }
            }
        }
        Ok(())
    }

    /// The constant of this name.
    pub(crate) fn constant(&self, name: &[u8]) -> Option<&Constant> {
        self.constants.get(name)
    }

    /// How many nodes and outputs of the graph read the tensor.
    pub(crate) fn uses(&self, name: &[u8]) -> usize {
        self.uses.get(name).copied().unwrap_or(0)
    }

    /// Whether only one node reads the tensor.
    pub(crate) fn is_read_once(&self, name: &[u8]) -> bool {
        self.uses(name) == 1
    }

    /// The `DequantizeLinear`, `Transpose` or `Reshape` that makes the tensor.
    pub(crate) fn maker(&self, name: &[u8]) -> Option<&Node<'a>> {
        self.makers.get(name)
    }
}
