//! What must hold of a model folder's files, whatever their bytes.

use std::path::Path;

use super::external;
use super::genai_config::{GenaiConfig, layer_name};
use super::graph_edit::{self, Wanted};
use super::load_options::Int8Activations;
use super::matmul;
use super::protobuf::{Fields, Value};
use super::rotary_edit;

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
