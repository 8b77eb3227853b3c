//! What a model folder holds: its configuration, its graph and the identity of its weights.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::error::{LoadError, lacks_memory, lacks_threads};
use super::genai_config::GenaiConfig;
use super::graph_edit::{self, Wanted};
use super::inspect::graph::{made_for_of, weight_bytes};
use super::protobuf::Damaged;
use super::{external, rotary_edit, rotary_joined};

/// A model folder, read without its weights.
#[derive(Debug)]
pub(super) struct Source {
    /// The folder.
    pub(super) folder: PathBuf,
    /// The graph's file.
    pub(super) path: PathBuf,
    /// The folder's configuration.
    pub(super) config: GenaiConfig,
    /// The real folder of the weights, after links.
    pub(super) weights: PathBuf,
    /// The graph to load: the file's, edited to give logits of the last positions only.
    pub(super) graph: Vec<u8>,
    /// For models with two rotary tables: the most tokens of a sequence that uses the first. The graph
    /// then takes the choice as an input.
    pub(super) rotary_switch: Option<usize>,
    /// Bytes of the weights, as the file's graph names them.
    pub(super) weight_bytes: u64,
    /// The providers that it was exported for; none for the CPU.
    pub(super) made_for: Vec<String>,
    /// Differs between models, and between versions of one model's files.
    pub(super) fingerprint: [u8; 32],
}

impl Source {
    /// Reads `folder`.
    ///
    /// # Errors
    /// If a file is missing or invalid.
    pub(super) fn read(folder: &Path) -> Result<Self, LoadError> {
        let mut config = GenaiConfig::read(folder)?;
        let path = folder.join(&config.model.decoder.filename);
        let graph = read_graph(&path)?;
        let fingerprint = fingerprint(&graph, &path);
        // Before the edits, which add small constants: `inspect` counts the same bytes.
        let weight_bytes = weight_bytes(&graph);
        let made_for = made_for_of(&config, &graph);
        let invalid = |reason| LoadError::Invalid { path: path.clone(), reason };
        let followed = external::follow(&graph, folder).map_err(invalid)?;
        let (graph, weights) = followed.unwrap_or_else(|| (graph, folder.into()));
        let (graph, rotary_switch) = edited(graph, &config).map_err(invalid)?;
        // With a choice as an input the tables are apart, and none of them is two in one.
        if rotary_switch.is_none() {
            limit_context(&mut config, &graph, &weights).map_err(invalid)?;
        }
        Ok(Self {
            folder: folder.into(),
            path,
            config,
            weights,
            graph,
            rotary_switch,
            weight_bytes,
            made_for,
            fingerprint,
        })
    }

    /// The error that ONNX Runtime does not load the model's file on its provider `provider`.
    pub(super) fn invalid(&self, error: &ort::Error, provider: &str) -> LoadError {
        let error = error.to_string();
        // ONNX Runtime reports the system's refusals as faults of the model.
        if lacks_threads(&error) {
            return LoadError::Threads { reason: error };
        }
        if lacks_memory(&error) {
            return LoadError::Weights { reason: error };
        }
        let reason = missing_operator(&error, provider).unwrap_or(error);
        LoadError::Invalid { path: self.path.clone(), reason }
    }
}

/// The message for an operator that neither `provider` nor the CPU has, if `error` is about one.
fn missing_operator(error: &str, provider: &str) -> Option<String> {
    let (_, rest) = error.split_once("Could not find an implementation for ")?;
    let operator = rest.split(['(', ' ']).next().filter(|name| !name.is_empty())?;
    let hint = match operator {
        "PagedAttention" => {
            "; use a provider that has it (CUDA, WebGPU), or the export without \
             use_paged_attention"
        }
        _ => "",
    };
    Some(format!(
        "its operator {operator} is not there on {provider}{hint} (ONNX Runtime: {error})"
    ))
}

/// Ends the context where the attention's kernel would change its rotary table by itself: keys that are
/// cached with one table are useless with the other.
fn limit_context(config: &mut GenaiConfig, graph: &[u8], folder: &Path) -> Result<(), String> {
    let context = config.model.context_length;
    if let Some(tokens) = rotary_joined::first_rows(graph, folder, context)? {
        log::warn!(
            context_tokens = tokens, of = context;
            "this export's attention changes its rotary table by itself past {tokens} tokens, which \
             its cache does not outlive; the context ends there. Exports for cpu, cuda and webgpu \
             without graph capture have it whole"
        );
        config.model.context_length = tokens;
    }
    Ok(())
}

/// The edited graph, and the length at which it would have changed its rotary table.
pub(super) fn edited(
    graph: Vec<u8>,
    config: &GenaiConfig,
) -> Result<(Vec<u8>, Option<usize>), String> {
    let inputs = &config.model.decoder.inputs;
    let logits = &config.model.decoder.outputs.logits;
    let damaged = |damage: Damaged| damage.to_string();
    let has = |name: &str| graph_edit::has_input(&graph, name).map_err(damaged);
    // Such an export takes the wanted tokens itself.
    let chosen = if has(&inputs.paged.logits_indices)? {
        None
    } else if has(&inputs.paged.block_table)? {
        graph_edit::choose_logits(&graph, logits, Wanted::Named).map_err(damaged)?
    } else {
        graph_edit::choose_logits(&graph, logits, Wanted::Last).map_err(damaged)?
    };
    let graph = chosen.unwrap_or(graph);
    let position_ids = inputs.position_ids.as_deref();
    let chosen = rotary_edit::choose_by_input(&graph, position_ids)
        .map_err(|refused| refused.to_string())?;
    Ok(match chosen {
        Some(edited) => (edited.model, Some(edited.short_tokens)),
        None => (graph, None),
    })
}

/// Reads the graph, and checks that its weights are there: ONNX Runtime's message would not name the
/// missing file.
fn read_graph(path: &Path) -> Result<Vec<u8>, LoadError> {
    let read = |path: &Path| {
        let path = path.to_path_buf();
        |source| LoadError::Read { path, source }
    };
    let graph = std::fs::read(path).map_err(read(path))?;
    let Some(name) = path.file_name() else { return Ok(graph) };
    let mut name = name.to_os_string();
    name.push(".data");
    // The graph names the file of its weights in plain bytes.
    let wanted = name.as_encoded_bytes();
    if graph.windows(wanted.len()).any(|window| window == wanted) {
        let data = path.with_file_name(&name);
        File::open(&data).map_err(read(&data))?;
    }
    Ok(graph)
}

/// A hash of the graph and of the weights' size, time of change and 64 samples. Reading gigabytes of
/// weights whole would double the time of a start.
fn fingerprint(graph: &[u8], path: &Path) -> [u8; 32] {
    const SAMPLES: u64 = 64;
    let mut hasher = blake3::Hasher::new();
    hasher.update(graph);
    let mut name = path.as_os_str().to_os_string();
    name.push(".data");
    if let Ok(mut weights) = File::open(&name)
        && let Ok(metadata) = weights.metadata()
    {
        hasher.update(&metadata.len().to_le_bytes());
        // The time distinguishes a file that was replaced by one of the same size.
        let changed = metadata.modified().ok();
        let changed = changed.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        hasher.update(&changed.map_or(0, |time| time.as_nanos()).to_le_bytes());
        let mut sample = [0; 4096];
        for index in 0..SAMPLES {
            let place = metadata.len() / SAMPLES * index;
            let read = weights.seek(SeekFrom::Start(place)).and_then(|_| weights.read(&mut sample));
            hasher.update(&sample[..read.unwrap_or(0)]);
        }
    }
    *hasher.finalize().as_bytes()
}
