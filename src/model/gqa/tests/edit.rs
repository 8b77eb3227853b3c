//! The edit of the graph.

use proptest::prelude::*;

use super::models;
use crate::genai_config::GenaiConfig;
use crate::gqa::edit::{self, Edited};
use crate::graph_edit::{ROWS_INPUT, TAIL_INPUT};
use crate::protobuf::{
    GRAPH_INPUT, GRAPH_NODE, GRAPH_OUTPUT, MODEL_GRAPH, Node, VALUE_NAME, content, contents,
};
use crate::source::Source;

fn source(folder: &str) -> Source {
    Source::read(&models(folder)).unwrap()
}

fn edited(graph: &[u8], config: &GenaiConfig) -> Option<Edited> {
    edit::edit(graph, &config.model.decoder).unwrap()
}

/// Names of a graph's inputs or outputs.
fn names(model: &[u8], number: u64) -> Vec<String> {
    let graph = content(model, MODEL_GRAPH).unwrap().unwrap();
    let name = |value| content(value, VALUE_NAME).unwrap().unwrap().to_vec();
    contents(graph, number).map(|value| String::from_utf8(name(value.unwrap())).unwrap()).collect()
}

/// How many nodes of a graph have this operator.
fn count(model: &[u8], operator: &[u8]) -> usize {
    let graph = content(model, MODEL_GRAPH).unwrap().unwrap();
    let nodes = contents(graph, GRAPH_NODE);
    nodes.filter(|node| Node::read(node.as_ref().unwrap()).unwrap().operator == operator).count()
}

/// `bytes` with every `from` replaced by `to`, which is as long.
fn changed(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = bytes.to_vec();
    let places: Vec<usize> =
        (0..bytes.len() - from.len()).filter(|&at| &bytes[at..at + from.len()] == from).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at..at + from.len()].copy_from_slice(to);
    }
    bytes
}

#[test]
fn the_cache_the_mask_and_what_follows_from_them_leave_the_graph() {
    for (folder, layers, query_heads, inputs) in [
        ("demo", 4, 8, &["input_ids", ROWS_INPUT][..]),
        ("longrope", 2, 4, &["input_ids", "phi4d.long_rotary", ROWS_INPUT]),
    ] {
        let source = source(folder);
        assert_eq!(count(&source.graph, b"GroupQueryAttention"), layers);
        let Edited { model, heads } = edited(&source.graph, &source.config).unwrap();
        assert_eq!(heads, query_heads);
        assert_eq!(names(&model, GRAPH_INPUT), inputs);
        assert_eq!(names(&model, GRAPH_OUTPUT), ["logits"]);
        assert_eq!(count(&model, b"Attention"), layers);
        for gone in [&b"GroupQueryAttention"[..], b"ReduceSum", b"Shape", b"Slice"] {
            assert_eq!(count(&model, gone), 0, "{folder}");
        }
        assert_eq!(edited(&model, &source.config), None);
    }
}

#[test]
fn one_node_that_does_not_qualify_keeps_all_as_they_are() {
    let source = source("demo");
    let is_own = |graph: &[u8]| edited(graph, &source.config).is_some();
    assert!(is_own(&source.graph));
    for (from, to) in [
        // An attribute that is not known, no rotation, interleaved pairs.
        (&b"do_rotary"[..], &b"do_rotarz"[..]),
        (b"do_rotary\x18\x01", b"do_rotary\x18\x00"),
        // Another number of KV heads than the configuration's.
        (b"kv_num_heads\x18\x02", b"kv_num_heads\x18\x04"),
        // A cache under another name, and positions that something else chooses.
        (b"past_key_values.2.value", b"past_key_values.2.valuf"),
        (TAIL_INPUT.as_bytes(), b"phi4d.logits_talk"),
    ] {
        let graph = changed(&source.graph, from, to);
        assert!(!is_own(&graph), "{}", String::from_utf8_lossy(to));
    }
    let mut config = source.config.clone();
    config.model.decoder.num_hidden_layers = 3;
    assert_eq!(edited(&source.graph, &config), None);
}

proptest! {
    #[test]
    fn damaged_bytes_are_an_error_or_no_edit_and_never_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        cut in 0_usize..40_000,
        at in 0_usize..40_000,
        byte: u8,
    ) {
        let source = source("demo");
        let decoder = &source.config.model.decoder;
        let _ = edit::edit(&bytes, decoder);
        let _ = edit::edit(&source.graph[..cut.min(source.graph.len())], decoder);
        let mut graph = source.graph.clone();
        let at = at % graph.len();
        graph[at] = byte;
        let _ = edit::edit(&graph, decoder);
    }
}
