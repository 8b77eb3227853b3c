//! Execution providers: where the model's operators run.
//!
//! [`choose`] finds out which one can be used and says why, or why not. A provider that was asked for
//! is used or is an error; there is no silent fallback to the CPU.

mod chosen;
mod cuda;
mod directml;
mod graphs;
mod options;
mod placement;
mod plugin;
mod version;

use std::path::{Path, PathBuf};

use ort::environment::Environment;
use ort::session::Session;
use phi4d_settings::Provider;

use super::error::LoadError;
use super::runtime;

pub(super) use chosen::{CPU_NAME, Chosen};
pub(super) use graphs::{Graphs, UNRECORDED, name as name_graph};
pub use options::OptionFault;
pub use placement::Placement;
pub(super) use placement::RECORD;

/// A provider as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProviderSettings {
    /// Which.
    pub provider: Provider,
    /// The library that it is in, for those that come as a library of their own; `None` looks for
    /// it beside ONNX Runtime.
    pub library: Option<PathBuf>,
    /// Options by their names; [`ProviderSettings::check`] lists unknown ones.
    pub options: Vec<(String, String)>,
}

impl ProviderSettings {
    /// Checks the options against what the provider knows.
    ///
    /// # Errors
    /// Every option that is unknown or has a value that is not accepted.
    pub fn check(&self) -> Result<(), Vec<OptionFault>> {
        options::check(self)
    }
}

/// An error that `provider` can't be used.
fn refused(provider: Provider, reason: impl Into<String>) -> LoadError {
    LoadError::Provider { provider: provider.as_str().into(), reason: reason.into() }
}

impl From<Provider> for ProviderSettings {
    fn from(provider: Provider) -> Self {
        Self { provider, ..Self::default() }
    }
}

/// How a session gets the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// Every session has it.
    Cpu,
    /// ONNX Runtime was built with it.
    BuiltInCuda(options::Options),
    /// ONNX Runtime was built with it.
    BuiltInDirectMl(options::Options),
    /// Device `index` of the provider `name`, which a library of its own brought.
    Plugin { name: String, index: usize, options: Vec<(String, String)> },
}

/// The provider to use for a model whose export names the providers in `made_for`.
///
/// Loads ONNX Runtime, and the provider's library where it is in one of its own.
///
/// # Errors
/// If the one asked for can't be used: what is missing and what to do.
pub(super) fn choose(
    settings: &ProviderSettings,
    made_for: &[String],
    runtime_library: Option<&Path>,
) -> Result<Chosen, LoadError> {
    let environment = runtime::load(runtime_library)?;
    match settings.provider {
        Provider::Auto => choose_auto(settings, made_for, environment),
        provider => Chosen::of(settings, provider, environment),
    }
}

/// Providers in the order in which they are tried, and what the model builder calls them. The CPU
/// comes last and is not tried.
const ORDER: [(Provider, &str); 3] =
    [(Provider::Cuda, "cuda"), (Provider::DirectMl, "dml"), (Provider::WebGpu, "webgpu")];

/// Stands for the provider of an export for GPUs that names none.
pub(super) const ANY_GPU: &str = "gpu";

/// The first provider that starts. Exports for the CPU (which name no other provider) stay on it:
/// their cache is twice as large as that of exports for devices.
fn choose_auto(
    settings: &ProviderSettings,
    made_for: &[String],
    environment: &'static Environment,
) -> Result<Chosen, LoadError> {
    if settings.library.is_some() {
        // Naming a library is asking for it.
        let reason = "provider_library names a library";
        return Ok(Chosen::of(settings, Provider::Plugin, environment)?.because(reason));
    }
    // Exports name the providers that they were built for; one without names is for the CPU.
    let for_devices =
        made_for.iter().any(|name| name == ANY_GPU || ORDER.iter().any(|(_, known)| known == name));
    if !for_devices {
        return Ok(Chosen::cpu("the model was exported for the CPU".into()));
    }
    let mut refusals = Vec::new();
    for (provider, _) in ORDER {
        let tried = Chosen::of(settings, provider, environment).and_then(|chosen| {
            let builder = Session::builder(environment)?;
            // This starts the provider, which may fail although its library was found.
            chosen.register(builder).map(|_| chosen)
        });
        match tried {
            Ok(chosen) => return Ok(chosen.because("it is the first that can be used here")),
            Err(error) => refusals.push(error.to_string()),
        }
    }
    // Each refusal says what is missing, which is what the administrator came to read.
    let reason = format!("no other can be used: {}", refusals.join("; "));
    Ok(Chosen::cpu(reason))
}
