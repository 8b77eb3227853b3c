//! Does the work of loading in advance: it optimises the graph and lays the weights out as the
//! processor's kernels want them, in a file that is mapped instead of copied. The layout is our own
//! kernels' if they do the matmuls, else ONNX Runtime's.
//!
//! The result is in a folder of its own in the model's folder. Its stamp names the model files and the
//! layout; ONNX Runtime's depends on its build and on the kind of processor, our own is the same on all.
//! Unless all of them fit, the model is loaded as it was exported.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ort::session::Session;
use ort::session::builder::SessionBuilder;

use super::error::LoadError;
use super::facts::processor_kind;
use super::matmul;
use super::matmul::store::Store;
use super::plan::LoadOptions;
use super::progress::LoadProgress;
use super::provider::CPU_NAME;
use super::session;
use super::source::Source;
use super::stop::LoadCancel;
use phi4d_settings::WeightsMemory;

/// The folder's name in a model's folder.
pub const PREPARED_FOLDER: &str = "prepared";

const GRAPH: &str = "model.onnx";
const WEIGHTS: &str = "model.onnx.data";
const STAMP: &str = "stamp";

/// Names of session options of ONNX Runtime (`onnxruntime_session_options_config_keys.h`).
const WEIGHTS_FILE: &str = "session.optimized_model_external_initializers_file_name";
const WEIGHTS_LEAST: &str = "session.optimized_model_external_initializers_min_size_in_bytes";
const SAVE_PREPACKED: &str = "session.save_external_prepacked_constant_initializers";

/// Prepares the model of `options` and returns the folder made. An older one is replaced.
///
/// # Errors
/// As loading; or if the folder can't be written.
pub fn prepare(options: &LoadOptions) -> Result<PathBuf, LoadError> {
    let source = Source::read(&options.folder)?;
    let chosen = session::choose(&source, options)?;
    if !chosen.is_cpu() {
        return Err(LoadError::Provider {
            provider: chosen.provider().to_string(),
            reason: "what can be prepared is for the CPU only, and the model would not run there"
                .into(),
        });
    }
    let folder = source.folder.join(PREPARED_FOLDER);
    let beside = source.folder.join(format!("{PREPARED_FOLDER}.new"));
    let write = |path: &Path| {
        let path = path.to_path_buf();
        |source: io::Error| LoadError::Write { path, source }
    };
    remove(&beside).map_err(write(&beside))?;
    // Written beside and renamed at the end: a daemon that starts meanwhile sees the old or the new
    // folder, never half of one.
    fs::create_dir(&beside).map_err(write(&beside))?;
    let made = write_into(&beside, &source, options).and_then(|()| {
        remove(&folder).map_err(write(&folder))?;
        fs::rename(&beside, &folder).map_err(write(&folder))
    });
    if made.is_err() {
        // A half-written folder is of no use, and may be large.
        let _ = remove(&beside);
    }
    made.map(|()| folder)
}

fn write_into(folder: &Path, source: &Source, options: &LoadOptions) -> Result<(), LoadError> {
    if let Some(graph) = matmul::graph(source, options)? {
        matmul::lay_out(folder, source, &graph, options)?;
        // The stamp comes last: without it a folder is not used.
        return write_stamp(folder, &stamp(source, &graph, matmul::LAYOUT));
    }
    let builder = with_output(session::exported(source, options)?, folder)?;
    drop(session::commit(builder, source, &source.graph, CPU_NAME, &LoadCancel::default())?);
    write_stamp(folder, &stamp(source, &source.graph, &runtime_layout()))
}

fn write_stamp(folder: &Path, stamp: &str) -> Result<(), LoadError> {
    let path = folder.join(STAMP);
    fs::write(&path, stamp).map_err(|source| LoadError::Write { path, source })
}

/// Lets a session write what it made of the model into `folder`.
fn with_output(builder: SessionBuilder, folder: &Path) -> ort::Result<SessionBuilder> {
    let builder = builder
        .with_optimized_model_path(folder.join(GRAPH))?
        .with_config_entry(WEIGHTS_FILE, WEIGHTS)?
        // The file is for weights: small constants stay in the graph, beside the nodes that read them.
        .with_config_entry(WEIGHTS_LEAST, "1024")?
        .with_config_entry(SAVE_PREPACKED, "1")?;
    Ok(builder)
}

/// Loads what [`prepare`] made, if it fits the model and this machine. `None` if it does not or is
/// damaged, which is logged.
pub(super) fn load(
    source: &Source,
    options: &LoadOptions,
    cancel: &LoadCancel,
) -> Result<Option<Session>, LoadError> {
    let folder = source.folder.join(PREPARED_FOLDER);
    // Most folders have nothing prepared, which is worth no line in the log.
    let Ok(stamp) = fs::read_to_string(folder.join(STAMP)) else { return Ok(None) };
    // Loads ONNX Runtime, whose build the stamp names.
    let mut builder = session::prepared(options)?;
    if stamp != self::stamp(source, &source.graph, &runtime_layout()) {
        warn_of_another(&folder);
        return Ok(None);
    }
    cancel.reach(builder.canceler())?;
    match builder.commit_from_file(folder.join(GRAPH)) {
        Ok(session) => Ok(Some(session)),
        Err(error) => {
            log::warn!(folder:% = folder.display(); "what was prepared can't be loaded: {error}");
            Ok(None)
        }
    }
}

/// The weights that [`prepare`] laid out for the own operator in `graph`, if they fit the model and this
/// machine. `None` if they do not or are damaged, which is logged.
pub(super) fn laid_out(
    source: &Source,
    graph: &[u8],
    memory: WeightsMemory,
    progress: &LoadProgress,
) -> Option<Store> {
    let folder = source.folder.join(PREPARED_FOLDER);
    let stamp = fs::read_to_string(folder.join(STAMP)).ok()?;
    if stamp != self::stamp(source, graph, matmul::LAYOUT) {
        warn_of_another(&folder);
        return None;
    }
    let store = Store::open(&folder.join(matmul::LAID_OUT), memory, progress);
    store
        .inspect_err(|error| {
            log::warn!(folder:% = folder.display(); "what was prepared can't be loaded: {error}");
        })
        .ok()
}

fn warn_of_another(folder: &Path) {
    log::warn!(
        folder:% = folder.display();
        "what was prepared is of other model files, another ONNX Runtime, another kind of \
         processor or other kernels; `phi4d prepare` makes it again"
    );
}

/// Names the layout that ONNX Runtime's kernels want: it depends on its build and on the processor.
fn runtime_layout() -> String {
    format!("{} {}", ort::info(), processor_kind())
}

/// Names what a prepared model is for: `graph` is the one loaded, and `layout` that of its weights.
fn stamp(source: &Source, graph: &[u8], layout: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&source.fingerprint);
    // The graph itself is hashed, as an edit of a newer release may differ for the same file.
    hasher.update(graph);
    hasher.update(layout.as_bytes());
    hasher.finalize().to_string()
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
