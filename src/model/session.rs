//! Sessions of a model: their provider and their options.

use std::path::Path;

use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use super::error::LoadError;
use super::plan::LoadOptions;
use super::provider::{self, Chosen, RECORD};
use super::runtime;
use super::source::Source;
use super::stop::LoadCancel;

/// Session option that says where a graph loaded from memory has its weights
/// (`kOrtSessionOptionsModelExternalInitializersFileFolderPath`).
const WEIGHTS_FOLDER: &str = "session.model_external_initializers_file_folder_path";

/// Session option that says whether idle threads spin (`kOrtSessionOptionsConfigAllowIntraOpSpinning`).
const SPINNING: &str = "session.intra_op.allow_spinning";

/// Chooses the provider for the model, and logs it.
pub(super) fn choose(source: &Source, options: &LoadOptions) -> Result<Chosen, LoadError> {
    let made_for = &source.made_for;
    let library = options.runtime_library.as_deref();
    let chosen = provider::choose(&options.provider, made_for, library)?;
    if chosen.is_cpu() && !made_for.is_empty() {
        log::warn!(
            "{} was exported for {} and runs on the CPU ({}), where an export for CPUs is faster: \
             phi4d pull fetches it",
            source.folder.display(),
            made_for.join(", "),
            chosen.reason()
        );
    }
    log::info!(
        name = chosen.name();
        "the model runs on {}: {}",
        chosen.provider(),
        chosen.reason()
    );
    Ok(chosen)
}

/// Options for the graph of `source`, loaded from memory. As for all options here, another provider
/// than the CPU is yet to be registered.
pub(super) fn exported(
    source: &Source,
    options: &LoadOptions,
) -> Result<SessionBuilder, LoadError> {
    build(options, GraphOptimizationLevel::All, Some(&source.weights))
}

/// Options for a graph that ONNX Runtime has optimised before, loaded from its file.
pub(super) fn prepared(options: &LoadOptions) -> Result<SessionBuilder, LoadError> {
    build(options, GraphOptimizationLevel::Disable, None)
}

/// Options for the graph of an embedding model, loaded from memory, whose weights are in `weights`. Its
/// threads sleep when they have nothing to do: spinning would take the processor from the steps of answers.
pub(super) fn embedding(
    threads: usize,
    library: Option<&Path>,
    weights: &Path,
) -> Result<SessionBuilder, LoadError> {
    let builder = builder(threads, library, GraphOptimizationLevel::All, Some(weights))?;
    // Set for this session alone: steps of answers begin many times a second, and theirs spin.
    builder.with_config_entry(SPINNING, "0").map_err(LoadError::from)
}

/// The session of `graph`, which is `source`'s or an edit of it, on the provider that ONNX Runtime calls
/// `provider`.
///
/// # Errors
/// If ONNX Runtime can't load it, or `cancel` was used.
pub(super) fn commit(
    mut builder: SessionBuilder,
    source: &Source,
    graph: &[u8],
    provider: &str,
    cancel: &LoadCancel,
) -> Result<Session, LoadError> {
    cancel.reach(builder.canceler())?;
    builder.commit_from_memory(graph).map_err(|error| source.invalid(&error, provider))
}

fn build(
    options: &LoadOptions,
    level: GraphOptimizationLevel,
    weights: Option<&Path>,
) -> Result<SessionBuilder, LoadError> {
    let builder = builder(options.threads, options.runtime_library.as_deref(), level, weights)?;
    builder.with_config_entry(RECORD, "1").map_err(LoadError::from)
}

fn builder(
    threads: usize,
    library: Option<&Path>,
    level: GraphOptimizationLevel,
    weights: Option<&Path>,
) -> Result<SessionBuilder, LoadError> {
    let environment = runtime::load(library)?;
    let threads = match threads {
        // As many as this process may use: its affinity and its cgroup's quota count.
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        threads => threads,
    };
    // Where ONNX Runtime can make some of its threads and then no more, it waits for good.
    phi4d_os::probe_threads(threads)
        .map_err(|error| LoadError::Threads { reason: error.to_string() })?;
    Session::builder(environment)
        .and_then(|builder| {
            let builder = builder
                .with_optimization_level(level)?
                .with_intra_threads(threads)?
                // A decoder's nodes run one after another: threads that run several would only
                // wait.
                .with_inter_threads(1)?
                // Every step has other shapes: a pattern of memory for each would only pile up.
                .with_memory_pattern(false)?;
            match weights {
                Some(folder) => {
                    Ok(builder.with_config_entry(WEIGHTS_FOLDER, folder.to_string_lossy())?)
                }
                None => Ok(builder),
            }
        })
        .map_err(LoadError::from)
}
