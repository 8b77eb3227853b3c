//! Execution providers: where the model's operators run.

use std::fmt;
use std::str::FromStr;

use ort::session::builder::SessionBuilder;

use super::error::LoadError;

/// Where the model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Provider {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// A GPU on Windows.
    DirectMl,
}

impl Provider {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cpu, Self::Cuda, Self::DirectMl];

    /// The name in the settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::DirectMl => "directml",
        }
    }

    /// Registers the provider with a session to be built.
    ///
    /// # Errors
    /// If it can't be used. There is no silent fall back to the CPU.
    pub(super) fn register(self, builder: SessionBuilder) -> Result<SessionBuilder, LoadError> {
        match self {
            // ONNX Runtime always has it.
            Self::Cpu => Ok(builder),
            Self::Cuda | Self::DirectMl => Err(LoadError::Provider {
                provider: self.as_str().into(),
                reason: "this version keeps the KV cache in host memory and so runs on the CPU \
                         only; set provider = \"cpu\""
                    .into(),
            }),
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected one of cpu, cuda, directml")]
pub struct UnknownProvider;

impl FromStr for Provider {
    type Err = UnknownProvider;

    fn from_str(name: &str) -> Result<Self, UnknownProvider> {
        Self::ALL.into_iter().find(|provider| provider.as_str() == name).ok_or(UnknownProvider)
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
