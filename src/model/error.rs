//! Why a model can't be loaded, and why a step fails.

use std::path::PathBuf;

/// Why a model can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// ONNX Runtime's shared library is not there or not usable.
    #[error("ONNX Runtime: {reason}; {hint}")]
    Runtime {
        /// What went wrong.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// A file of the model folder is missing or can't be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something can't be written into the model folder.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of the model folder is not what it should be.
    #[error("{path}: {reason}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The model's inputs or outputs are not those this program runs.
    #[error("{path} does not fit the Phi-4 export contract: {}", first_of(differences))]
    Contract {
        /// The model file.
        path: PathBuf,
        /// Every difference, each naming the input or output, what it is and what it should be. The
        /// message shows the first few.
        differences: Vec<String>,
    },
    /// The execution provider asked for can't be used.
    #[error("execution provider {provider}: {reason}")]
    Provider {
        /// The provider's name in the settings.
        provider: String,
        /// Why.
        reason: String,
    },
    /// Memory for the KV cache could not be reserved.
    #[error("cannot reserve {bytes} bytes of address space for the KV cache: {source}")]
    Memory {
        /// How much was asked for.
        bytes: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// ONNX Runtime has no threads.
    #[error("ONNX Runtime can't start its threads: {reason}")]
    Threads {
        /// What it said.
        reason: String,
    },
    /// The system has no memory for weights that are laid out for phi4d's kernels.
    #[error("{reason}")]
    Weights {
        /// Which weights, and what the system said.
        reason: String,
    },
    /// The load was cancelled.
    #[error("the loading of the model was cancelled")]
    Cancelled,
    /// ONNX Runtime refused something else.
    #[error("ONNX Runtime: {0}")]
    Session(String),
}

/// What ONNX Runtime refused that is not the model's fault.
impl<R> From<ort::Error<R>> for LoadError {
    fn from(error: ort::Error<R>) -> Self {
        let reason = error.to_string();
        if lacks_threads(&reason) { Self::Threads { reason } } else { Self::Session(reason) }
    }
}

/// Whether ONNX Runtime's error is the system's that it has no thread to give.
pub(super) fn lacks_threads(error: &str) -> bool {
    error.contains("pthread_create failed") || error.contains("Resource temporarily unavailable")
}

/// Whether an error of loading is the system's that it has no memory to give. It passes through ONNX
/// Runtime as text, since an operator's weights are laid out while the session is made.
pub(super) fn lacks_memory(error: &str) -> bool {
    error.contains("Cannot allocate memory")
}

/// The first differences: those of the other layers are alike.
fn first_of(differences: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown = differences.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("; ");
    match differences.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The step was interrupted on request.
    #[error("the step was interrupted")]
    Interrupted,
    /// ONNX Runtime reported an error.
    #[error("{0}")]
    Runtime(String),
}
