//! What an export is, read from its folder without its weights and without ONNX Runtime.

pub(super) mod graph;
mod rotary;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use phi4d_attention::{BLOCK, Layout};
use serde::Serialize;

use super::error::LoadError;
use super::genai_config::GenaiConfig;
use super::gqa::edit;
use super::memory::page_bytes;
use super::plan::{KvGrowth, LoadOptions, ModelLimits};
use super::{rotary_joined, source};

pub use graph::{Attention, Quantised, TensorInfo};
use graph::{made_for, total};
pub use rotary::{RotaryChoice, RotaryTable, RotaryTables};

/// An export: what its configuration and its graph say.
#[derive(Debug, Clone, Serialize)]
pub struct Export {
    /// The configuration's part.
    pub model: Shape,
    /// The program that wrote the graph, with its version, as it calls itself.
    pub producer: String,
    /// The providers that it was exported for, as the model builder calls them; none for the CPU, and
    /// `gpu` if its files name none and its cache or logits are of half precision.
    pub made_for: Vec<String>,
    /// Inputs but for the cache.
    pub inputs: Vec<TensorInfo>,
    /// Outputs but for the cache.
    pub outputs: Vec<TensorInfo>,
    /// The first layer's cached keys, where there is a cache; the other layers' are alike.
    pub cache: Option<TensorInfo>,
    /// Bytes of the cache for each token, over all layers.
    pub kv_bytes_per_token: u64,
    /// The blocks of the cache, where it is paged.
    pub blocks: Option<Blocks>,
    /// How the graph chooses between two rotary tables, where it has two.
    pub rotary: Option<RotaryChoice>,
    /// Nodes of the graph by their operator.
    pub operators: BTreeMap<String, usize>,
    /// The attention operator.
    pub attention: Option<Attention>,
    /// Kinds of matmuls with quantised weights.
    pub quantised: Vec<Quantised>,
    /// Matmuls with quantised weights that phi4d's own kernel does, whatever this processor is.
    #[serde(rename = "own_products")]
    pub own_matmuls: usize,
    /// Whether phi4d's own attention fits it, on the CPU.
    pub own_attention: bool,
    /// The files of the weights.
    pub weights: Vec<WeightFile>,
    /// Bytes of weights of which a step reads single rows only, such as the table of embeddings.
    pub table_bytes: u64,
    /// Bytes of weights that are in the graph's file itself.
    pub inner_weights: u64,
    /// The graph's file.
    pub graph: PathBuf,
    /// Its size.
    pub graph_bytes: u64,
    /// Tokens of the context that can be used, which is less than the model's where its attention
    /// changes its rotary table by itself.
    #[serde(skip)]
    usable_context: usize,
}

/// The blocks of a paged cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Blocks {
    /// Tokens in a block.
    pub tokens: usize,
    /// Bytes of a block, over all layers.
    pub bytes: u64,
    /// Blocks that a sequence of the whole context has.
    pub of_a_context: usize,
}

/// The model's shape, by its configuration.
#[derive(Debug, Clone, Serialize)]
pub struct Shape {
    /// Architecture, such as `phi3`.
    pub architecture: String,
    /// Layers.
    pub layers: usize,
    /// Key-value heads of a layer.
    pub kv_heads: usize,
    /// Values in a head's key or value.
    pub head_size: usize,
    /// Tokens that prompt and answer may have together.
    pub context: usize,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Tokens that end an answer.
    pub end_tokens: Vec<u32>,
}

impl Export {
    /// Bytes of all weights, as the graph names them.
    #[must_use]
    pub fn weight_bytes(&self) -> u64 {
        total(self.inner_weights, self.weights.iter().map(|file| file.needed))
    }

    /// Bytes of weights that each decode step reads.
    #[must_use]
    pub fn step_bytes(&self) -> u64 {
        self.weight_bytes().saturating_sub(self.table_bytes)
    }

    /// What the runner's limits will be with `options`, `on_device` or with the KV cache in the host's
    /// memory. Only [`ModelLimits::many_rows`] is the session's to say.
    #[must_use]
    pub fn limits(&self, options: &LoadOptions, on_device: bool) -> ModelLimits {
        // Bytes of one head's key at one position: in the host's memory a slot's heads are committed page
        // by page, so a block is the positions in a page.
        let tensors = self.model.layers.saturating_mul(2).saturating_mul(self.model.kv_heads);
        let mut kv_bytes_per_token = usize::try_from(self.kv_bytes_per_token).unwrap_or(usize::MAX);
        let position_bytes = (kv_bytes_per_token / tensors.max(1)).max(1);
        let mut block_tokens = page_bytes().div_ceil(position_bytes);
        let mut kv_growth = if self.blocks.is_some() { KvGrowth::Shared } else { KvGrowth::Own };
        if self.own_attention && options.own_attention().is_some() && !on_device {
            let layout = Layout {
                layers: self.model.layers,
                kv_heads: self.model.kv_heads,
                head_size: self.model.head_size,
                kind: options.kv_cache_type,
            };
            (kv_bytes_per_token, block_tokens) = (layout.token_bytes(), BLOCK);
            kv_growth = KvGrowth::Shared;
        }
        let switch = self.rotary.as_ref().map(|choice| choice.short_tokens);
        let mut limits = ModelLimits {
            kv_bytes_per_token,
            kv_block_tokens: self.blocks.map_or(block_tokens, |blocks| blocks.tokens),
            kv_growth,
            ..options.limits(self.model.vocabulary, self.usable_context, switch)
        };
        match (on_device, self.blocks) {
            (false, _) => {}
            (true, None) => {
                limits.on_device(options.kv_cache_bytes);
            }
            (true, Some(_)) => {
                limits.in_device_blocks(options.kv_cache_bytes);
            }
        }
        limits
    }

    /// What is wrong with the files of the weights.
    #[must_use]
    pub fn damage(&self) -> Vec<String> {
        self.weights.iter().filter_map(WeightFile::damage).collect()
    }
}

/// Reads what `folder` holds. Missing and truncated weights are no error: see [`Export::damage`].
///
/// # Errors
/// If the configuration or the graph is missing or is not what it should be.
pub fn inspect(folder: &Path) -> Result<Export, LoadError> {
    let config = GenaiConfig::read(folder)?;
    let path = folder.join(&config.model.decoder.filename);
    let bytes =
        std::fs::read(&path).map_err(|source| LoadError::Read { path: path.clone(), source })?;
    let graph = graph::read(&bytes)
        .map_err(|damage| LoadError::Invalid { path: path.clone(), reason: damage.to_string() })?;
    let made_for = made_for(&config, &graph);
    let cache_names = |name: &str| {
        let decoder = &config.model.decoder;
        let (ins, outs) = (&decoder.inputs, &decoder.outputs);
        [
            &ins.past_key_names,
            &ins.past_value_names,
            &outs.present_key_names,
            &outs.present_value_names,
        ]
        .iter()
        .any(|pattern| is_layer_of(name, pattern))
    };
    // By their names: without a session nothing else distinguishes a cache from other inputs.
    let (cached, inputs): (Vec<_>, Vec<_>) =
        graph.inputs.into_iter().partition(|input| cache_names(&input.name));
    let outputs = graph.outputs.into_iter().filter(|output| !cache_names(&output.name)).collect();
    let decoder = &config.model.decoder;
    let of_tensor =
        |tensor| bytes_per_token(tensor, decoder.num_key_value_heads, decoder.head_size);
    let kv_bytes_per_token = total(0, cached.iter().map(of_tensor));
    // As `paged::is_paged` decides it on a session.
    let is_paged = inputs.iter().any(|input| input.name == decoder.inputs.paged.block_table);
    let blocks = is_paged.then(|| blocks(&config, kv_bytes_per_token));
    // Attention is judged on the graph as loading edits it, since those edits add inputs that it
    // counts on.
    let own_attention = source::edited(bytes.clone(), &config)
        .is_ok_and(|(graph, _)| edit::fits(&graph, &config.model.decoder));
    let rotary = rotary::read(&bytes, decoder.inputs.position_ids.as_deref());
    let context = config.model.context_length;
    // The table may be in a file of weights that is missing, which is no error here.
    let first_rows = || rotary_joined::first_rows(&bytes, folder, context).ok().flatten();
    let usable_context = rotary.is_none().then(first_rows).flatten().unwrap_or(context);
    let own = graph.quantised.iter().filter(|kind| kind.fallback.is_none());
    Ok(Export {
        blocks,
        rotary,
        usable_context,
        producer: graph.producer,
        made_for,
        inputs,
        outputs,
        cache: cached.into_iter().next(),
        kv_bytes_per_token,
        operators: graph.operators,
        attention: graph.attention,
        own_matmuls: own.map(|kind| kind.nodes).sum(),
        quantised: graph.quantised,
        own_attention,
        weights: weight_files(folder, graph.external),
        table_bytes: graph.tables,
        inner_weights: graph.inner_weights,
        graph_bytes: bytes.len() as u64,
        graph: path,
        model: Shape {
            architecture: config.model.architecture.clone(),
            layers: decoder.num_hidden_layers,
            kv_heads: decoder.num_key_value_heads,
            head_size: decoder.head_size,
            context,
            vocabulary: config.model.vocab_size,
            end_tokens: config.model.eos_token_id.to_vec(),
        },
    })
}

/// Kinds of matmuls with quantised weights of a graph; none if it is damaged, which its reader reports.
pub(super) fn quantised(graph: &[u8]) -> Vec<Quantised> {
    graph::read(graph).map_or_else(|_| Vec::new(), |graph| graph.quantised)
}

fn blocks(config: &GenaiConfig, kv_bytes_per_token: u64) -> Blocks {
    let tokens = config.engine.dynamic_batching.block_tokens();
    Blocks {
        tokens,
        bytes: kv_bytes_per_token.saturating_mul(tokens as u64),
        of_a_context: config.model.context_length.div_ceil(tokens.max(1)),
    }
}

/// A file of weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WeightFile {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes that the graph reads of it, up to the last.
    pub needed: u64,
    /// Its size; `None` if it is not there.
    pub bytes: Option<u64>,
}

impl WeightFile {
    fn damage(&self) -> Option<String> {
        let path = self.path.display();
        match self.bytes {
            // A file that may not be looked at, or a link to nowhere, is not one that is missing.
            None => Some(match std::fs::metadata(&self.path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    format!("{path} can't be read: {error}")
                }
                _ if self.path.is_symlink() => {
                    format!("{path} is a link to a file that is missing")
                }
                _ => format!("{path} is missing"),
            }),
            Some(bytes) if bytes < self.needed => Some(format!(
                "{path} is truncated: it has {bytes} bytes, and the graph reads up to {}",
                self.needed
            )),
            Some(_) => None,
        }
    }
}

/// The files that the graph names, each with where the last of its tensors ends.
fn weight_files(folder: &Path, ends: BTreeMap<String, u64>) -> Vec<WeightFile> {
    ends.into_iter()
        .map(|(name, needed)| {
            let path = folder.join(name);
            let bytes = std::fs::metadata(&path).ok().map(|metadata| metadata.len());
            WeightFile { path, needed, bytes }
        })
        .collect()
}

/// Bytes that one token takes in a tensor of the cache: its heads' last dimension, by the graph where
/// that fixes it (quantised caches pack two values into a byte), else by the configuration.
fn bytes_per_token(cache: &TensorInfo, heads: usize, head_size: usize) -> u64 {
    // Names of open dimensions do not parse, and leave it to the configuration.
    let last = cache.shape.last().and_then(|size| size.parse().ok());
    let last = last.unwrap_or(head_size as u64);
    (heads as u64).saturating_mul(last).saturating_mul(cache.element_bytes())
}

/// Whether `name` is `pattern` with a number in the place of `%d`.
fn is_layer_of(name: &str, pattern: &str) -> bool {
    let Some((before, after)) = pattern.split_once("%d") else { return name == pattern };
    let number = name.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
    number.is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

#[cfg(test)]
mod tests;
