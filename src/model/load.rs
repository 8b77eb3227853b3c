//! Loads a model folder into a runner.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use super::cancel::LoadCancel;
use super::contract;
use super::error::LoadError;
use super::genai_config::GenaiConfig;
use super::graph_edit;
use super::onnx::{OnnxRunner, Shape};
use super::provider::Provider;
use super::runner::{Interrupt, Runner};
use super::runtime;

/// Session option that says where a graph loaded from memory has its weights
/// (`kOrtSessionOptionsModelExternalInitializersFileFolderPath`).
const WEIGHTS_FOLDER: &str = "session.model_external_initializers_file_folder_path";

/// What to load and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOptions {
    /// The model folder.
    pub folder: PathBuf,
    /// Where to run it.
    pub provider: Provider,
    /// Threads of a step; 0 takes as many as the process may use.
    pub threads: usize,
    /// Sequences that can be live at once.
    pub slots: usize,
    /// Tokens that a slot holds; 0 takes the model's context, which is also the most.
    pub context_tokens: usize,
    /// The most tokens of one prefill step.
    pub max_prefill_tokens: usize,
    /// ONNX Runtime's shared library; `None` looks for it (see [`super::library_search_path`]).
    pub runtime_library: Option<PathBuf>,
}

/// A loaded model.
pub struct Loaded {
    /// Runs it.
    pub runner: Box<dyn Runner>,
    /// Cuts its running step short.
    pub interrupt: Arc<dyn Interrupt>,
    /// Its configuration.
    pub config: GenaiConfig,
    /// Differs between models, and between versions of one model's files.
    pub fingerprint: [u8; 32],
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("limits", self.runner.limits()).finish_non_exhaustive()
    }
}

/// Loads ONNX Runtime and the model, and checks the model against the contract.
///
/// # Errors
/// Everything that can be wrong with the library, the folder, the model or the memory.
pub fn load(options: &LoadOptions) -> Result<Loaded, LoadError> {
    load_cancellable(options, &LoadCancel::default())
}

/// As [`load`], until `cancel` is used.
///
/// # Errors
/// As [`load`]; [`LoadError::Cancelled`] if it was cancelled.
pub fn load_cancellable(options: &LoadOptions, cancel: &LoadCancel) -> Result<Loaded, LoadError> {
    load_unless_cancelled(options, cancel).map_err(|error| {
        // ONNX Runtime reports a load that was given up as a fault of the model.
        if cancel.is_cancelled() { LoadError::Cancelled } else { error }
    })
}

fn load_unless_cancelled(options: &LoadOptions, cancel: &LoadCancel) -> Result<Loaded, LoadError> {
    let config = GenaiConfig::read(&options.folder)?;
    let path = options.folder.join(&config.model.decoder.filename);
    let graph = read_graph(&path)?;
    let invalid = |reason: String| LoadError::Invalid { path: path.clone(), reason };
    let fingerprint = fingerprint(&graph, &path);
    let edited = graph_edit::slice_logits(&graph, &config.model.decoder.outputs.logits)
        .map_err(|damage| invalid(damage.to_string()))?;
    let graph = edited.unwrap_or(graph);
    let mut builder = session_builder(options)?;
    cancel.reach(builder.canceler());
    if cancel.is_cancelled() {
        return Err(LoadError::Cancelled);
    }
    let session = builder.commit_from_memory(&graph).map_err(|error| invalid(error.to_string()))?;
    let contract = contract::check(&session, &config, &path)?;
    let shape = Shape::new(&config, &contract, options);
    let mut runner = OnnxRunner::new(session, &config, contract, shape)?;
    try_out(&mut runner, &path)?;
    Ok(Loaded { interrupt: runner.interrupt(), runner: Box::new(runner), config, fingerprint })
}

/// Runs one token, to find now what the graph leaves open and its operators check only when they
/// run, such as the size of a head.
fn try_out(runner: &mut OnnxRunner, path: &Path) -> Result<(), LoadError> {
    let contract = |difference: String| LoadError::Contract {
        path: path.into(),
        differences: vec![difference],
    };
    match runner.prefill(0, 0, &[0], 1) {
        Ok(logits) if logits.row(0).iter().any(|logit| logit.is_finite()) => {}
        Ok(_) => return Err(contract("a trial step gave no finite logit".into())),
        Err(error) => return Err(contract(format!("a trial step failed: {error}"))),
    }
    runner.release(0, 0);
    Ok(())
}

/// Reads the graph, and finds missing weights early, where ONNX Runtime's message would not say
/// which file.
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

/// A hash of the graph and of what can be told of the weights without reading them all: their
/// size, their time of change and a sample of each 64th of them.
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

/// Options of a session whose weights lie in the model folder.
fn session_builder(options: &LoadOptions) -> Result<SessionBuilder, LoadError> {
    let environment = runtime::load(options.runtime_library.as_deref())?;
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        threads => threads,
    };
    let builder = Session::builder(environment)
        .and_then(|builder| {
            let builder = builder
                .with_optimization_level(GraphOptimizationLevel::All)?
                .with_intra_threads(threads)?
                .with_inter_threads(1)?
                // Every step has other shapes: a pattern of memory for each would only pile up.
                .with_memory_pattern(false)?
                .with_config_entry(WEIGHTS_FOLDER, options.folder.to_string_lossy())?;
            Ok(builder)
        })
        .map_err(|error| LoadError::Session(error.to_string()))?;
    options.provider.register(builder)
}
