//! Puts phi4d's own attention in the place of `GroupQueryAttention`, for all nodes of a graph or for none.
//!
//! The operator keeps keys and values in memory of its own, so the graph loses its cache, and with it the
//! attention mask and what is computed from it. The tokens of a step are one row, `[1, tokens]`, of any
//! sequences: everything else in the graph works on each token alone. Logits are those of the tokens that an
//! input names.

use std::collections::HashSet;

use crate::genai_config::DecoderSection;
use crate::graph_edit::{ROWS_INPUT, TAIL_INPUT};
use crate::inspect::graph::tensor_info;
use crate::protobuf::{
    self, ATTRIBUTE_FLOAT, ATTRIBUTE_GRAPH, Damaged, Fields, GRAPH_INITIALIZER, GRAPH_INPUT,
    GRAPH_NODE, GRAPH_OUTPUT, INT64, MODEL_GRAPH, MODEL_OPSET, NODE_ATTRIBUTE, NODE_DOMAIN,
    NODE_INPUT, NODE_NAME, NODE_OPERATOR, NODE_OUTPUT, Node, Size, TENSOR_NAME, VALUE_NAME, Value,
    attribute, content, contents, edited, kept, message, message_of_number, put_attribute,
    put_bytes, value_info,
};
use crate::rotary_edit::LONG_INPUT;

/// The operator's domain and name.
pub(super) const DOMAIN: &str = "phi4d.attention";
pub(crate) const OPERATOR: &str = "Attention";

/// The attribute that says which layer's keys and values a node has.
pub(super) const LAYER: &str = "layer";

/// The element type of activations, as `inspect` names it.
const SINGLE: &str = "float32";

/// Inputs of `GroupQueryAttention`, by their places.
const PAST: [usize; 2] = [3, 4];
const TABLES: [usize; 2] = [7, 8];

/// A graph with own attention.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Edited {
    /// The model.
    pub(crate) model: Vec<u8>,
    /// Query heads of each layer.
    pub(crate) heads: usize,
}

/// Whether the attention of `graph`, which has the edits of [`crate::source`], can be own.
pub(crate) fn fits(graph: &[u8], decoder: &DecoderSection) -> bool {
    // A damaged graph is reported by those that load it.
    edit(graph, decoder).is_ok_and(|edited| edited.is_some())
}

/// The model `bytes` with own attention; `None` if a node does what it does not, or the graph has another
/// form. `bytes` have the edits of [`crate::source`], by which the positions whose logits are wanted, and the
/// rotary table, are inputs.
pub(crate) fn edit(bytes: &[u8], decoder: &DecoderSection) -> Result<Option<Edited>, Damaged> {
    let mut found = None;
    let mut model = edited(bytes, MODEL_GRAPH, |graph| {
        let graph = Graph::read(graph, decoder)?;
        let edited = graph.and_then(|graph| Some((graph.edited()?, graph.heads)));
        Ok::<_, Damaged>(edited.map(|(graph, heads)| {
            found = Some(heads);
            graph
        }))
    })?;
    let opset = [message(1, DOMAIN.as_bytes()), message_of_number(2, 1)].concat();
    put_bytes(&mut model, MODEL_OPSET, &opset);
    Ok(found.map(|heads| Edited { model, heads }))
}

/// A graph whose attention is own.
struct Graph<'a> {
    graph: &'a [u8],
    decoder: &'a DecoderSection,
    /// Query heads of each layer.
    heads: usize,
    /// Its nodes, those that change in their new form.
    nodes: Vec<New<'a>>,
}

/// A node of the new graph.
struct New<'a> {
    /// Its bytes, unless the old ones stay.
    bytes: Option<Vec<u8>>,
    inputs: Vec<&'a [u8]>,
    outputs: Vec<&'a [u8]>,
    /// Names that its subgraphs read.
    inner: Vec<&'a [u8]>,
}

impl<'a> Graph<'a> {
    /// Reads `graph`; `None` if its attention can't be own.
    fn read(graph: &'a [u8], decoder: &'a DecoderSection) -> Result<Option<Self>, Damaged> {
        if !tensors_fit(graph, decoder)? {
            return Ok(None);
        }
        let cache = decoder.cache_names();
        let (mut layers, mut all_heads) = (HashSet::new(), HashSet::new());
        let mut nodes = Vec::new();
        for bytes in contents(graph, GRAPH_NODE) {
            let bytes = bytes?;
            let node = Node::read(bytes)?;
            let new = match node.operator {
                b"GroupQueryAttention" => {
                    let pasts =
                        PAST.map(|place| node.inputs.get(place).copied().unwrap_or_default());
                    let layer = cache.chunks(2).position(|names| {
                        names.iter().zip(pasts).all(|((past, _), found)| past.as_bytes() == found)
                    });
                    // Two nodes on one layer's cache, or a node on none, are a graph that the pool
                    // has no place for.
                    let Some(layer) = layer.filter(|layer| layers.insert(*layer)) else {
                        return Ok(None);
                    };
                    let Some(heads) = plain_heads(&node, decoder)? else { return Ok(None) };
                    all_heads.insert(heads);
                    attention(bytes, &node, layer)?
                }
                b"Slice" if node.inputs.get(1) == Some(&TAIL_INPUT.as_bytes()) => gather(&node),
                _ => New {
                    bytes: None,
                    inner: inner_names(&node)?,
                    inputs: node.inputs,
                    outputs: node.outputs,
                },
            };
            nodes.push(new);
        }
        // For all nodes or for none: half a cache in blocks and half in tensors would need both
        // runners.
        let all = layers.len() == decoder.num_hidden_layers && all_heads.len() == 1;
        let heads = all_heads.into_iter().next().filter(|_| all);
        Ok(heads.map(|heads| Self { graph, decoder, heads, nodes }))
    }

    /// The new graph, without what nothing reads any more. `None` if it then has inputs that are not known.
    fn edited(&self) -> Option<Vec<u8>> {
        let logits = self.decoder.outputs.logits.as_bytes();
        // Nodes are in the order in which they run, so one pass from the end finds all that are needed.
        let mut needed = HashSet::from([logits]);
        let mut kept = vec![false; self.nodes.len()];
        for (node, kept) in self.nodes.iter().zip(&mut kept).rev() {
            if node.outputs.iter().any(|output| needed.contains(output)) {
                *kept = true;
                needed.extend(node.inputs.iter().chain(&node.inner));
            }
        }
        if !needed.contains(ROWS_INPUT.as_bytes()) {
            return None;
        }
        let mut nodes = self.nodes.iter().zip(kept);
        let mut out = Vec::with_capacity(self.graph.len());
        for field in Fields::new(self.graph) {
            let field = field.ok()?;
            let name = |number| match field.value {
                Value::Bytes(bytes) => content(bytes, number).ok().flatten().unwrap_or_default(),
                _ => b"",
            };
            match field.number {
                GRAPH_NODE => match nodes.next()? {
                    (_, false) => {}
                    (New { bytes: Some(bytes), .. }, true) => {
                        put_bytes(&mut out, GRAPH_NODE, bytes);
                    }
                    (_, true) => out.extend_from_slice(field.raw),
                },
                GRAPH_INITIALIZER if !needed.contains(name(TENSOR_NAME)) => {}
                GRAPH_OUTPUT if name(VALUE_NAME) != logits => {}
                GRAPH_INPUT => {
                    let name = name(VALUE_NAME);
                    let ids = self.decoder.inputs.input_ids.as_bytes();
                    if name == ids || name == LONG_INPUT.as_bytes() {
                        out.extend_from_slice(field.raw);
                    // An input that is still read, such as positions, would have to be filled for
                    // each token.
                    } else if needed.contains(name) {
                        return None;
                    }
                }
                _ => out.extend_from_slice(field.raw),
            }
        }
        let rows = value_info(ROWS_INPUT, INT64, &[Size::Open(ROWS_INPUT)]);
        put_bytes(&mut out, GRAPH_INPUT, &rows);
        Some(out)
    }
}

/// Whether inputs and outputs are such that own attention fits: a cache in single precision, of whole heads,
/// and logits of all positions.
fn tensors_fit(graph: &[u8], decoder: &DecoderSection) -> Result<bool, Damaged> {
    let size = decoder.head_size;
    // The kernels read a head in whole vectors, of 16 numbers at most.
    if size == 0 || !size.is_multiple_of(16) || size > phi4d_attention::LONGEST {
        return Ok(false);
    }
    let cache = decoder.cache_names();
    let mut caches = 0;
    for input in contents(graph, GRAPH_INPUT) {
        let input = input?;
        let name = content(input, VALUE_NAME)?.unwrap_or_default();
        if cache.iter().any(|(past, _)| past.as_bytes() == name) {
            let info = tensor_info(input)?;
            let fixed = |axis: usize| -> Option<usize> { info.shape.get(axis)?.parse().ok() };
            let heads = fixed(1).is_none_or(|heads| heads == decoder.num_key_value_heads);
            let head = fixed(3).is_none_or(|head| head == size);
            if info.element != SINGLE || !heads || !head {
                return Ok(false);
            }
            caches += 1;
        }
    }
    for output in contents(graph, GRAPH_OUTPUT) {
        let output = output?;
        if content(output, VALUE_NAME)? == Some(decoder.outputs.logits.as_bytes()) {
            let info = tensor_info(output)?;
            let positions = info.shape.get(1).is_some_and(|size| size.parse::<u64>().is_err());
            // Pruned exports give the last position's only, which the graph has chosen already.
            return Ok(caches == cache.len() && info.element == SINGLE && positions);
        }
    }
    Ok(false)
}

/// The query heads of a node that is attention with rotary embeddings and nothing else; `None` if it is more.
fn plain_heads(node: &Node<'_>, decoder: &DecoderSection) -> Result<Option<usize>, Damaged> {
    let (mut rotates, mut heads, mut kv_heads) = (false, 0, 0);
    for bytes in &node.attributes {
        let (name, value) = attribute(bytes)?;
        let value = value.unwrap_or(0);
        let plain = match name {
            b"scale" => true,
            b"num_heads" => {
                heads = value;
                true
            }
            b"kv_num_heads" => {
                kv_heads = value;
                true
            }
            b"do_rotary" => {
                rotates = value == 1;
                true
            }
            b"rotary_interleaved" | b"qk_output" => value == 0,
            // -1, as an unsigned number: not used.
            b"local_window_size" => value == u64::MAX,
            b"smooth_softmax" => value == 0 || value == u64::MAX,
            b"softcap" => is_zero(bytes)?,
            // An attribute that is not known here might change the result.
            _ => false,
        };
        if !plain {
            return Ok(None);
        }
    }
    let tables =
        TABLES.iter().all(|place| node.inputs.get(*place).is_some_and(|name| !name.is_empty()));
    // Inputs 9 and on: positions, a bias, sinks, scales of a quantised cache.
    let others = node.inputs.iter().skip(9).all(|name| name.is_empty());
    let kv_heads = usize::try_from(kv_heads).unwrap_or(0);
    let heads = usize::try_from(heads).unwrap_or(0);
    let grouped = kv_heads > 0 && heads > 0 && heads.is_multiple_of(kv_heads);
    let plain = rotates && tables && others && grouped && kv_heads == decoder.num_key_value_heads;
    Ok(plain.then_some(heads))
}

/// Whether an attribute's floating-point number is 0, or missing.
fn is_zero(bytes: &[u8]) -> Result<bool, Damaged> {
    for field in Fields::new(bytes) {
        let field = field?;
        if field.number == ATTRIBUTE_FLOAT {
            // Four zero bytes are 0.0; -0.0, which no exporter writes, is taken for another number.
            return Ok(field.raw.ends_with(&[0; 4]));
        }
    }
    Ok(true)
}

/// The own operator in the place of `node`.
fn attention<'a>(bytes: &'a [u8], node: &Node<'a>, layer: usize) -> Result<New<'a>, Damaged> {
    let mut inputs: Vec<&[u8]> = node.inputs.iter().copied().take(3).collect();
    inputs.extend(TABLES.map(|place| node.inputs[place]));
    let outputs = vec![node.outputs.first().copied().unwrap_or_default()];
    let mut new = kept(bytes, |field| [NODE_NAME, NODE_ATTRIBUTE].contains(&field.number))?;
    for input in &inputs {
        put_bytes(&mut new, NODE_INPUT, input);
    }
    put_bytes(&mut new, NODE_OUTPUT, outputs[0]);
    put_bytes(&mut new, NODE_OPERATOR, OPERATOR.as_bytes());
    put_bytes(&mut new, NODE_DOMAIN, DOMAIN.as_bytes());
    put_attribute(&mut new, LAYER, layer as u64);
    Ok(New { bytes: Some(new), inputs, outputs, inner: Vec::new() })
}

/// A choice of tokens by [`ROWS_INPUT`] in the place of the last ones by [`TAIL_INPUT`].
fn gather<'a>(node: &Node<'a>) -> New<'a> {
    let inputs = vec![node.inputs[0], ROWS_INPUT.as_bytes()];
    let output = node.outputs.first().copied().unwrap_or_default();
    let mut new = protobuf::node("Gather", &inputs, output, "phi4d.logits_gather");
    put_attribute(&mut new, "axis", 1);
    New { bytes: Some(new), inputs, outputs: vec![output], inner: Vec::new() }
}

/// Names that the subgraphs of a node read.
fn inner_names<'a>(node: &Node<'a>) -> Result<Vec<&'a [u8]>, Damaged> {
    let mut names = Vec::new();
    let mut attributes = node.attributes.clone();
    // A subgraph reads names of the graph around it without listing them as inputs. A stack of our
    // own, as a damaged file may nest them deeper than the stack is.
    while let Some(attribute) = attributes.pop() {
        for graph in contents(attribute, ATTRIBUTE_GRAPH) {
            for inner in contents(graph?, GRAPH_NODE) {
                let inner = Node::read(inner?)?;
                names.extend(inner.inputs);
                attributes.extend(inner.attributes);
            }
        }
    }
    Ok(names)
}
