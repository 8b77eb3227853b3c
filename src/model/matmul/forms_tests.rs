//! The demo model with its weights in every form that the own kernel takes, against ONNX Runtime's kernels.
#![expect(clippy::cast_possible_truncation, reason = "levels and sizes of a small model")]

use std::collections::HashMap;

use super::edit;
use super::quantised::Quantised;
use super::tensors::Tensors;
use crate::protobuf::{
    ATTRIBUTE_INT, ATTRIBUTE_NAME, FLOAT, Fields, GRAPH_INITIALIZER, GRAPH_NODE, INT4, MODEL_GRAPH,
    NODE_ATTRIBUTE, NODE_INPUT, Node, TENSOR_DIMENSION, TENSOR_NAME, TENSOR_RAW, TENSOR_TYPE,
    Tensor, UINT8, attribute, contents, edited, message, node, put_attribute, put_bytes,
    put_number,
};
use crate::tests::{copy_of_demo, options, prompt};
use crate::{Int8Activations, LoadOptions, load};

/// Bits, block and whether there are zero points.
type Kind = (usize, usize, bool);

/// Weights of a matmul as an export's tensors.
#[derive(Default)]
struct Weights {
    levels: Vec<u8>,
    scales: Vec<u8>,
    zero_points: Vec<u8>,
}

/// Adds numbers of `bits` in whole bytes, the first in the low half.
fn put_levels(out: &mut Vec<u8>, levels: &[u8], bits: usize) {
    match bits {
        4 => out.extend(levels.chunks(2).map(|two| two[0] | two.get(1).unwrap_or(&0) << 4)),
        _ => out.extend(levels),
    }
}

/// Rounds `[n, k]` values to the nearest levels.
fn quantised(values: &[f32], k: usize, (bits, block, zero_points): Kind) -> Weights {
    let most = f32::from((1_u16 << bits) - 1);
    let mut weights = Weights::default();
    for column in values.chunks(k) {
        let mut zeros = Vec::new();
        for values in column.chunks(block) {
            let least = values.iter().copied().fold(0.0, f32::min);
            let greatest = values.iter().copied().fold(0.0, f32::max);
            let (scale, zero) = if zero_points {
                let scale = (greatest - least) / most;
                (scale, (-least / scale).round())
            } else {
                (greatest.max(-least) / (most / 2.0).floor(), (most / 2.0).ceil())
            };
            let level = |value: &f32| (value / scale + zero).round().clamp(0.0, most) as u8;
            let mut levels: Vec<u8> = values.iter().map(level).collect();
            levels.resize(block, 0);
            put_levels(&mut weights.levels, &levels, bits);
            weights.scales.extend(scale.to_le_bytes());
            zeros.push(zero as u8);
        }
        if zero_points {
            put_levels(&mut weights.zero_points, &zeros, bits);
        }
    }
    weights
}

fn tensor(name: &[u8], element: u64, sizes: &[usize], raw: &[u8]) -> Vec<u8> {
    let mut tensor = Vec::new();
    for size in sizes {
        put_number(&mut tensor, TENSOR_DIMENSION, *size as u64);
    }
    put_number(&mut tensor, TENSOR_TYPE, element);
    put_bytes(&mut tensor, TENSOR_NAME, name);
    put_bytes(&mut tensor, TENSOR_RAW, raw);
    tensor
}

fn attribute_of(name: &str, value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_bytes(&mut bytes, ATTRIBUTE_NAME, name.as_bytes());
    put_number(&mut bytes, ATTRIBUTE_INT, value as u64);
    // AttributeProto.type is INT.
    put_number(&mut bytes, 20, 2);
    bytes
}

/// The demo model's graph with the weights of matmul `index` in the form `kind(index)`.
fn requantised(model: &[u8], data: &[u8], kind: impl Fn(usize) -> Kind) -> Vec<u8> {
    let graph = contents(model, MODEL_GRAPH).next().unwrap().unwrap();
    let mut bytes_of = HashMap::new();
    for bytes in contents(graph, GRAPH_INITIALIZER) {
        let tensor = Tensor::read(bytes.unwrap()).unwrap();
        let (from, length) = (tensor.offset as usize, tensor.length as usize);
        let raw = tensor.raw.unwrap_or_else(|| &data[from..from + length]);
        bytes_of.insert(tensor.name.to_vec(), raw.to_vec());
    }
    let mut tensors = HashMap::new();
    let mut added = Vec::new();
    let mut index = 0;
    let graph = edited(graph, GRAPH_NODE, |bytes| {
        let node = Node::read(bytes)?;
        if node.operator != b"MatMulNBits" {
            return Ok::<_, crate::protobuf::Damaged>(None);
        }
        let found = Quantised::of(&node, &Tensors::default())?;
        let (k, n) = (found.k as usize, found.n as usize);
        let kind @ (bits, block, zero_points) = kind(index);
        index += 1;
        let scales = bytes_of[node.inputs[2]].as_chunks::<4>().0;
        let nibbles = bytes_of[node.inputs[1]].iter().flat_map(|byte| [byte & 15, byte >> 4]);
        let value = |(at, level): (usize, u8)| {
            (f32::from(level) - 8.0) * f32::from_le_bytes(scales[at / 32])
        };
        let values: Vec<f32> = nibbles.enumerate().map(value).collect();
        let weights = quantised(&values, k, kind);
        let (blocks, bytes_of_block) = (k.div_ceil(block), block * bits / 8);
        let sizes = [n, blocks, bytes_of_block];
        let levels = tensor(node.inputs[1], UINT8, &sizes, &weights.levels);
        tensors.insert(node.inputs[1].to_vec(), levels);
        let scales = tensor(node.inputs[2], FLOAT, &[n, blocks], &weights.scales);
        tensors.insert(node.inputs[2].to_vec(), scales);
        let mut edited = Vec::new();
        for field in Fields::new(bytes) {
            let field = field?;
            if ![NODE_INPUT, NODE_ATTRIBUTE].contains(&field.number) {
                edited.extend_from_slice(field.raw);
            }
        }
        for input in &node.inputs[..3] {
            put_bytes(&mut edited, NODE_INPUT, input);
        }
        if zero_points {
            let name = [node.inputs[1], b".zero_points"].concat();
            put_bytes(&mut edited, NODE_INPUT, &name);
            let length = weights.zero_points.len();
            added.push(tensor(&name, UINT8, &[n, length / n], &weights.zero_points));
        }
        for bytes in &node.attributes {
            if !matches!(attribute(bytes)?.0, b"bits" | b"block_size") {
                put_bytes(&mut edited, NODE_ATTRIBUTE, bytes);
            }
        }
        for (name, value) in [("bits", bits), ("block_size", block)] {
            put_bytes(&mut edited, NODE_ATTRIBUTE, &attribute_of(name, value));
        }
        Ok(Some(edited))
    });
    let replaced = |bytes: &[u8]| {
        Ok::<_, crate::protobuf::Damaged>(tensors.get(Tensor::read(bytes)?.name).cloned())
    };
    let mut graph = edited(&graph.unwrap(), GRAPH_INITIALIZER, replaced).unwrap();
    for tensor in added {
        put_bytes(&mut graph, GRAPH_INITIALIZER, &tensor);
    }
    let whole = |_: &[u8]| Ok::<_, crate::protobuf::Damaged>(Some(graph.clone()));
    edited(model, MODEL_GRAPH, whole).unwrap()
}

/// Runs the demo model with weights in these forms by both kernels.
fn own_kernel_agrees(kind: impl Fn(usize) -> Kind, what: &str) {
    let folder = copy_of_demo();
    let path = folder.path().join("model.onnx");
    let data = std::fs::read(folder.path().join("model.onnx.data")).unwrap();
    let graph = requantised(&std::fs::read(&path).unwrap(), &data, kind);
    std::fs::write(&path, &graph).unwrap();
    assert_eq!(edit::count(&graph, Int8Activations::Export).unwrap(), 21, "{what}");
    let run = |own_kernels| {
        let options = LoadOptions { folder: folder.path().into(), own_kernels, ..options(1) };
        let loaded = load(&options).unwrap();
        assert_eq!(loaded.batch_invariant, own_kernels, "{what}");
        let mut runner = loaded.runner;
        let mut logits = runner.prefill(0, 0, &prompt(5, 37), 1).unwrap().row(0).to_vec();
        logits.extend(runner.decode(0, &[7], &[37]).unwrap().row(0));
        logits
    };
    let (own, runtimes) = (run(true), run(false));
    let most = runtimes.iter().fold(0.0_f32, |most, logit| most.max(logit.abs()));
    let off = own.iter().zip(&runtimes).map(|(own, other)| (own - other).abs()).fold(0.0, f32::max);
    // Either is as far from single precision as they are from each other: activations are int8.
    assert!(off < 0.05 * most, "{what}: off by {off} of {most}");
}

#[test]
fn every_form_of_weights_runs_on_the_own_kernel() {
    if crate::own_kernel().is_none() {
        return;
    }
    for bits in [4, 8] {
        for block in [16, 32, 64, 128, 256] {
            for zero_points in [false, true] {
                let what = format!("{bits} bits, blocks of {block}, zero points {zero_points}");
                own_kernel_agrees(|_| (bits, block, zero_points), &what);
            }
        }
    }
}

#[test]
fn a_model_of_mixed_forms_runs_on_the_own_kernel() {
    // As k_quant_mixed and rtn_last make them: int8 in some layers and for the vocabulary.
    if crate::own_kernel().is_some() {
        let mixed = |index| if index % 3 == 2 { (8, 32, true) } else { (4, 32, index % 2 == 0) };
        own_kernel_agrees(mixed, "mixed");
    }
}

/// A model with one matmul of weights that `DequantizeLinear` makes, by these attributes of it and with
/// more nodes.
fn dequantised(attributes: &[(&str, u64)], more: &[Vec<u8>]) -> Vec<u8> {
    let mut dequantise =
        node("DequantizeLinear", &[b"levels", b"scales"], b"weights", "dequantise");
    for (name, value) in attributes {
        put_attribute(&mut dequantise, name, *value);
    }
    let mut graph = Vec::new();
    let matmul = node("MatMul", &[b"x", b"weights"], b"y", "matmul");
    for node in [dequantise, matmul].iter().chain(more) {
        put_bytes(&mut graph, GRAPH_NODE, node);
    }
    let levels = tensor(b"levels", INT4, &[64, 16], &[0; 512]);
    let scales = tensor(b"scales", FLOAT, &[2, 16], &[0; 128]);
    for tensor in [levels, scales] {
        put_bytes(&mut graph, GRAPH_INITIALIZER, &tensor);
    }
    message(MODEL_GRAPH, &graph)
}

#[test]
fn only_weights_that_nothing_else_reads_are_folded() {
    let by_columns = &[("axis", 0), ("block_size", 32)][..];
    let model = dequantised(by_columns, &[]);
    let edited = edit::edit(&model, Int8Activations::Export).unwrap().unwrap();
    let graph = contents(&edited, MODEL_GRAPH).next().unwrap().unwrap();
    let nodes: Vec<Node<'_>> =
        contents(graph, GRAPH_NODE).map(|node| Node::read(node.unwrap()).unwrap()).collect();
    assert_eq!(nodes.len(), 1);
    assert_eq!(nodes[0].inputs, [&b"x"[..], b"levels", b"scales"]);
    let levels = contents(graph, GRAPH_INITIALIZER).next().unwrap().unwrap();
    let levels = Tensor::read(levels).unwrap();
    assert_eq!((levels.element, levels.dimensions), (UINT8, vec![512]));

    let reader = |name: &'static [u8]| node("Identity", &[name], b"z", "reader");
    let along_rows = &[("axis", 1), ("block_size", 8)][..];
    let other_blocks = &[("axis", 0), ("block_size", 16)][..];
    let unknown = &[("axis", 0), ("block_size", 32), ("rounding", 1)][..];
    for (attributes, more, part) in [
        (by_columns, vec![reader(b"levels")], "read by another node"),
        (by_columns, vec![reader(b"weights")], "read by another node"),
        (along_rows, vec![], "not of blocks along its columns"),
        (other_blocks, vec![], "not of blocks along its columns"),
        (unknown, vec![], "does not know"),
    ] {
        let model = dequantised(attributes, &more);
        assert_eq!(edit::edit(&model, Int8Activations::Always), Ok(None), "{part}");
        let graph = contents(&model, MODEL_GRAPH).next().unwrap().unwrap();
        let found = edit::matmuls(graph).unwrap();
        let reason = found[0].form(Int8Activations::Always).unwrap_err();
        assert!(reason.contains(part), "{reason}");
    }
}
