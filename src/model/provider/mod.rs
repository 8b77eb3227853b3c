//! Execution providers: where the model's operators run.
//!
//! [`choose`] finds out which one can be used and says why, or why not. There is no silent fall back
//! to the CPU: a provider that was asked for is used, or it is an error.

mod auto;
mod chosen;
mod cuda;
mod directml;
mod graphs;
mod options;
mod placement;
mod plugin;
mod version;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::error::LoadError;

pub(super) use chosen::{CPU_NAME, Chosen, choose};
pub(super) use graphs::{Graphs, UNRECORDED, name as name_graph};
pub use options::OptionFault;
pub use placement::Placement;
pub(super) use placement::RECORD;

/// Which provider is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Provider {
    /// The first that this machine has and the model was exported for, the CPU at the least.
    Auto,
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// A GPU on Windows.
    DirectMl,
    /// Any GPU with a Vulkan, Direct3D or Metal driver, by the WebGPU provider library.
    WebGpu,
    /// Whatever the provider library that is named brings.
    Plugin,
}

impl Provider {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Auto, Self::Cpu, Self::Cuda, Self::DirectMl, Self::WebGpu, Self::Plugin];

    /// The name in the settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::DirectMl => "directml",
            Self::WebGpu => "webgpu",
            Self::Plugin => "plugin",
        }
    }

    /// An error that this provider can't be used.
    fn refused(self, reason: impl Into<String>) -> LoadError {
        LoadError::Provider { provider: self.as_str().into(), reason: reason.into() }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected one of auto, cpu, cuda, directml, webgpu, plugin")]
pub struct UnknownProvider;

impl FromStr for Provider {
    type Err = UnknownProvider;

    fn from_str(name: &str) -> Result<Self, UnknownProvider> {
        Self::ALL.into_iter().find(|provider| provider.as_str() == name).ok_or(UnknownProvider)
    }
}

/// A provider as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProviderSettings {
    /// Which.
    pub provider: Provider,
    /// The library that it is in, for those that come as a library of their own; `None` looks for
    /// it beside ONNX Runtime.
    pub library: Option<PathBuf>,
    /// Options by their names; [`ProviderSettings::check`] tells which are known.
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

impl From<Provider> for ProviderSettings {
    fn from(provider: Provider) -> Self {
        Self { provider, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        for provider in Provider::ALL {
            assert_eq!(provider.to_string().parse(), Ok(provider));
        }
        assert_eq!("tpu".parse::<Provider>(), Err(UnknownProvider));
    }
}
