//! The provider that is used, as sessions need it.

use ort::device::Device;
use ort::environment::Environment;
use ort::ep::{ArbitrarilyConfigurableExecutionProvider as _, CUDA, DirectML};
use ort::session::builder::SessionBuilder;

use super::{Provider, ProviderSettings, Way, cuda, directml, options, plugin, refused};
use crate::error::LoadError;
use crate::runtime;

/// ONNX Runtime's name for the CPU's provider.
pub(crate) const CPU_NAME: &str = "CPUExecutionProvider";

/// A provider that can be used, by all that can be known before a session is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// Which; never [`Provider::Auto`].
    provider: Provider,
    /// Why it was chosen.
    reason: String,
    way: Way,
}

impl Chosen {
    /// `provider`, which is not [`Provider::Auto`], with the options of `settings`.
    pub(super) fn of(
        settings: &ProviderSettings,
        provider: Provider,
        environment: &'static Environment,
    ) -> Result<Self, LoadError> {
        // The settings hold options as names and values only; which of them exist is checked here.
        let options = options::parse(settings).map_err(|faults| {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            refused(settings.provider, faults.join("; "))
        })?;
        let library = settings.library.as_deref();
        let way = match provider {
            Provider::Cpu | Provider::Auto => Way::Cpu,
            Provider::Cuda => cuda::way(library, options, environment)?,
            Provider::DirectMl => directml::way(library, options, environment)?,
            Provider::WebGpu | Provider::Plugin => {
                plugin::way(provider, library, &options, environment)?
            }
        };
        Ok(Self { provider, reason: "asked for".into(), way })
    }

    /// The CPU, for the reason given.
    pub(super) fn cpu(reason: String) -> Self {
        Self { provider: Provider::Cpu, reason, way: Way::Cpu }
    }

    pub(super) fn because(self, reason: &str) -> Self {
        Self { reason: reason.into(), ..self }
    }

    /// Which provider it is; never [`Provider::Auto`].
    pub(crate) fn provider(&self) -> Provider {
        self.provider
    }

    /// Why it was taken.
    pub(crate) fn reason(&self) -> &str {
        &self.reason
    }

    /// Whether the model runs on the CPU, with its memory in the host's.
    pub(crate) fn is_cpu(&self) -> bool {
        self.way == Way::Cpu
    }

    /// The provider's name within ONNX Runtime.
    pub(crate) fn name(&self) -> &str {
        match &self.way {
            Way::Cpu => CPU_NAME,
            Way::BuiltInCuda(_) => "CUDAExecutionProvider",
            Way::BuiltInDirectMl(_) => "DmlExecutionProvider",
            Way::Plugin { name, .. } => name,
        }
    }

    /// Registers the provider with a session to be built.
    ///
    /// # Errors
    /// If ONNX Runtime can't start it.
    pub(crate) fn register(&self, builder: SessionBuilder) -> Result<SessionBuilder, LoadError> {
        let registered = match &self.way {
            Way::Cpu => return Ok(builder),
            Way::BuiltInCuda(options) => {
                // Without `error_on_failure` ONNX Runtime would fall back to the CPU.
                let pairs = options.for_cuda();
                let cuda = pairs.iter().fold(CUDA::default(), |cuda, (name, value)| {
                    cuda.with_arbitrary_config(name, value)
                });
                builder.with_execution_providers([cuda.build().error_on_failure()])
            }
            Way::BuiltInDirectMl(options) => {
                let device = directml::device_id(options).map_err(|why| self.refused(&why))?;
                let directml = DirectML::default().with_device_id(device);
                builder.with_execution_providers([directml.build().error_on_failure()])
            }
            // A session has one list of options, in which the prefix names the provider.
            Way::Plugin { name, options, .. } => {
                let options: Vec<(String, String)> = options
                    .iter()
                    .map(|(key, value)| (format!("{name}.{key}"), value.clone()))
                    .collect();
                builder.with_devices([self.plugin_device()?], Some(&options))
            }
        };
        registered.map_err(|error| {
            let error = error.to_string();
            self.refused(&match self.provider {
                Provider::Cuda => cuda::explained(&error),
                _ => error,
            })
        })
    }

    /// Whether decode steps are recorded as CUDA graphs.
    pub(crate) fn records_graphs(&self) -> bool {
        match &self.way {
            Way::BuiltInCuda(options) => options.graphs,
            Way::Plugin { options, .. } => {
                self.provider == Provider::Cuda
                    && options
                        .iter()
                        .any(|(name, value)| name == "enable_cuda_graph" && value == "1")
            }
            Way::Cpu | Way::BuiltInDirectMl(_) => false,
        }
    }

    /// The device of a plugin.
    fn plugin_device(&self) -> Result<Device<'static>, LoadError> {
        let Way::Plugin { name, index, .. } = &self.way else {
            return Err(self.refused("its device is not listed"));
        };
        // Looked up again: a device is bound to the environment and can't be kept in options that
        // are compared.
        let environment = runtime::load(None)?;
        plugin::devices(environment, name)
            .into_iter()
            .nth(*index)
            .ok_or_else(|| self.refused("its device is gone"))
    }

    fn refused(&self, reason: &str) -> LoadError {
        refused(self.provider, reason)
    }
}

#[cfg(test)]
mod tests {
    use super::options::Options;
    use super::*;

    #[test]
    fn graphs_are_recorded_only_by_cuda_and_only_where_that_is_asked_for() {
        let chosen = |provider, way| Chosen { provider, reason: String::new(), way };
        let options = |graphs| Options { graphs, ..Options::default() };
        let plugin = |graphs: bool| Way::Plugin {
            name: "x".into(),
            index: 0,
            options: options(graphs).for_cuda(),
        };
        assert!(chosen(Provider::Cuda, Way::BuiltInCuda(options(true))).records_graphs());
        assert!(chosen(Provider::Cuda, plugin(true)).records_graphs());
        for (provider, way) in [
            (Provider::Cuda, Way::BuiltInCuda(options(false))),
            (Provider::Cuda, plugin(false)),
            (Provider::Plugin, plugin(true)),
            (Provider::Cpu, Way::Cpu),
            (Provider::DirectMl, Way::BuiltInDirectMl(options(true))),
        ] {
            assert!(!chosen(provider, way.clone()).records_graphs(), "{way:?}");
        }
    }
}
