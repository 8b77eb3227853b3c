//! What must hold of a model folder's files, whatever their bytes.

use std::collections::HashSet;
use std::path::Path;
use std::sync::LazyLock;

use super::external;
use super::genai_config::{GenaiConfig, layer_name};
use super::gqa;
use super::graph_edit::{self, Wanted};
use super::matmul;
use super::protobuf::{
    Damaged, Fields, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_NODE, GRAPH_OUTPUT, MODEL_GRAPH, Node,
    TENSOR_NAME, VALUE_NAME, Value, content, contents,
};
use super::rotary_edit;
use super::source;
use phi4d_settings::Int8Activations;

/// `genai_config.json`: what is taken names a file of the folder, counts that memory can be planned
/// by, and tokens of the vocabulary.
pub fn genai_config(data: &[u8]) {
    let Ok(config) = GenaiConfig::from_json(data) else { return };
    let model = &config.model;
    let decoder = &model.decoder;
    let folder = Path::new("/folder");
    let path = folder.join(&decoder.filename);
    assert_eq!(path.parent(), Some(folder), "{path:?}");
    let token_bytes = decoder.num_hidden_layers * decoder.num_key_value_heads * decoder.head_size;
    assert!(token_bytes > 0 && token_bytes.checked_mul(model.context_length).is_some());
    for token in model.eos_token_id.to_vec().into_iter().chain(model.bos_token_id) {
        assert!((token as usize) < model.vocab_size);
    }
    let pattern = &decoder.inputs.past_key_names;
    assert!(!pattern.contains("%d") || layer_name(pattern, 3) != layer_name(pattern, 4));
}

/// Whether the message and, in it, every field of this number can be read.
fn is_whole(message: &[u8], inner: u64) -> bool {
    Fields::new(message).all(|field| {
        field.is_ok_and(|field| match field.value {
            Value::Bytes(bytes) if field.number == inner => {
                Fields::new(bytes).all(|field| field.is_ok())
            }
            _ => true,
        })
    })
}

/// The graph's file: all edits refuse it or leave a message that can be read, which has grown by
/// little. The matmul is replaced once.
pub fn graph(data: &[u8]) {
    const GRAPH: u64 = 7;
    // Some 300 bytes for each graph in it, of which a file has one.
    let most = data.len() * 32;
    for wanted in [Wanted::Last, Wanted::Named] {
        if let Ok(Some(edited)) = graph_edit::choose_logits(data, "logits", wanted) {
            assert!(is_whole(&edited, GRAPH), "{edited:?}");
            assert!(edited.len() <= most);
        }
    }
    let _ = graph_edit::has_input(data, "block_table");
    if let Ok(Some(edited)) = rotary_edit::choose_by_input(data, None) {
        assert!(is_whole(&edited.model, GRAPH), "{edited:?}");
        assert!(edited.model.len() <= most);
    }
    // A folder with links in it: `exe`, `cwd`.
    if let Ok(Some((edited, _))) = external::follow(data, Path::new("/proc/self")) {
        assert!(is_whole(&edited, GRAPH), "{edited:?}");
    }
    for rule in [Int8Activations::Export, Int8Activations::Always] {
        if let Ok(Some(edited)) = matmul::edit::edit(data, rule) {
            assert!(is_whole(&edited, GRAPH), "{edited:?}");
            assert_eq!(matmul::edit::edit(&edited, rule), Ok(None), "replaced twice");
        }
    }
}

/// The configuration of the small graphs in `fuzz/seeds/attention`: one layer, two query heads over one
/// key-value head of 16 values.
static SMALL: LazyLock<Option<GenaiConfig>> = LazyLock::new(|| {
    let config =
        br#"{"model": {"type": "phi3", "eos_token_id": 1, "context_length": 64, "vocab_size": 8,
        "decoder": {"filename": "model.onnx", "head_size": 16, "num_hidden_layers": 1,
        "num_key_value_heads": 1, "inputs": {"input_ids": "ids", "attention_mask": "mask",
        "past_key_names": "past.%d.key", "past_value_names": "past.%d.value"},
        "outputs": {"logits": "logits", "present_key_names": "now.%d.key",
        "present_value_names": "now.%d.value"}}}}"#;
    GenaiConfig::from_json(config).ok()
});

/// The graph's file, to which loading gives its edits: own attention refuses it, or leaves a graph that has
/// no other attention, takes the inputs of a step, gives logits only, and reads nothing that is not there.
pub fn attention(data: &[u8]) {
    assert!(SMALL.is_some(), "the configuration can be read");
    let Some(config) = &*SMALL else { return };
    let decoder = &config.model.decoder;
    // With the edits of loading, and with what a file brings as if they had been made.
    let loaded = source::edited(data.to_vec(), config).map(|(graph, _)| graph);
    for graph in [Ok(data.to_vec()), loaded].into_iter().flatten() {
        let Ok(Some(edited)) = gqa::edit::edit(&graph, decoder) else { continue };
        let model = edited.model;
        assert!(is_whole(&model, MODEL_GRAPH), "{model:?}");
        assert!(model.len() <= 4 * graph.len() + 1024, "{} of {}", model.len(), graph.len());
        assert!(edited.heads > 0 && edited.heads.is_multiple_of(decoder.num_key_value_heads));
        // A message's field that may come once and comes twice: readers differ in what they make of it.
        if contents(&graph, MODEL_GRAPH).count() == 1 {
            let checked = check_own(&graph, &model, config);
            assert_eq!(checked, Ok(()), "{model:?}");
        }
    }
}

/// Checks a graph with own attention, `model`, that was made of `before`.
fn check_own(before: &[u8], model: &[u8], config: &GenaiConfig) -> Result<(), Damaged> {
    let decoder = &config.model.decoder;
    assert_eq!(gqa::edit::edit(model, decoder)?, None, "replaced twice");
    let before = content(before, MODEL_GRAPH)?.unwrap_or_default();
    let graph = content(model, MODEL_GRAPH)?.unwrap_or_default();
    let mut own = 0;
    for node in contents(graph, GRAPH_NODE) {
        let node = Node::read(node?)?;
        assert_ne!(node.operator, b"GroupQueryAttention");
        own += usize::from(node.operator == gqa::edit::OPERATOR.as_bytes());
    }
    assert!(own <= decoder.num_hidden_layers || has_node(before, gqa::edit::OPERATOR.as_bytes())?);
    let step = [decoder.inputs.input_ids.as_str(), graph_edit::ROWS_INPUT, rotary_edit::LONG_INPUT];
    for name in names(graph, GRAPH_INPUT, VALUE_NAME)? {
        assert!(step.iter().any(|known| known.as_bytes() == name), "{name:?}");
    }
    let logits = decoder.outputs.logits.as_bytes();
    assert!(names(graph, GRAPH_OUTPUT, VALUE_NAME)?.iter().all(|name| *name == logits));
    assert!(!runs_in_order(before)? || runs_in_order(graph)?, "a tensor is read that is not there");
    Ok(())
}

fn has_node(graph: &[u8], operator: &[u8]) -> Result<bool, Damaged> {
    for node in contents(graph, GRAPH_NODE) {
        if Node::read(node?)?.operator == operator {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The names in the fields `number` of a graph.
fn names(graph: &[u8], number: u64, name: u64) -> Result<Vec<&[u8]>, Damaged> {
    contents(graph, number).map(|item| Ok(content(item?, name)?.unwrap_or_default())).collect()
}

/// Whether each node of a graph reads only what inputs, constants and the nodes before it give, and so do
/// the outputs.
fn runs_in_order(graph: &[u8]) -> Result<bool, Damaged> {
    // An input that is left out has no name.
    let mut there: HashSet<&[u8]> = HashSet::from([&b""[..]]);
    there.extend(names(graph, GRAPH_INPUT, VALUE_NAME)?);
    there.extend(names(graph, GRAPH_INITIALIZER, TENSOR_NAME)?);
    for node in contents(graph, GRAPH_NODE) {
        let node = Node::read(node?)?;
        if !node.inputs.iter().all(|name| there.contains(name)) {
            return Ok(false);
        }
        there.extend(node.outputs);
    }
    Ok(names(graph, GRAPH_OUTPUT, VALUE_NAME)?.iter().all(|name| there.contains(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fuzzer begins with graphs that get own attention, and with some that just do not.
    #[test]
    fn the_seeds_are_on_both_sides_of_what_qualifies() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/attention");
        let config = SMALL.as_ref().unwrap();
        for (name, is_own) in [
            ("plain", true),
            ("packed", true),
            ("edited", true),
            ("branch", false),
            ("window", false),
            ("bias", false),
            ("wide_mask", false),
        ] {
            let data = std::fs::read(seeds.join(name)).unwrap();
            attention(&data);
            let (graph, _) = source::edited(data, config).unwrap();
            let edited = gqa::edit::edit(&graph, &config.model.decoder).unwrap();
            assert_eq!(edited.is_some(), is_own, "{name}");
        }
    }
}
