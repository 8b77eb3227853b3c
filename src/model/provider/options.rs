//! Options of providers: ours by name and type, a plugin's own as they are.

use super::{Provider, ProviderSettings};

/// How an arena of device memory grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Arena {
    /// In doubling steps.
    #[default]
    NextPowerOfTwo,
    /// By what is asked for.
    SameAsRequested,
}

/// The options, checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Options {
    /// Which of the provider's devices, counted from 0.
    pub(super) device: u32,
    /// The most device memory that the provider's arena takes, in bytes.
    pub(super) memory_limit: Option<u64>,
    pub(super) arena: Arena,
    /// Matmuls of single precision with inputs rounded to TF32.
    pub(super) tf32: Option<bool>,
    /// Decode steps recorded once and played again.
    pub(super) graphs: bool,
    /// Options without a type here, which the provider checks.
    pub(super) others: Vec<(String, String)>,
}

/// An option that is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "provider_options.{name} = \"{value}\" is not accepted for {provider}: expected {accepted}"
)]
pub struct OptionFault {
    /// The provider it was given for.
    pub provider: Provider,
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
    /// What would be accepted.
    pub accepted: String,
}

/// Names of the options that have a type, by provider.
fn typed(provider: Provider) -> &'static [&'static str] {
    match provider {
        Provider::Cpu => &[],
        Provider::Cuda | Provider::Auto => {
            &["device", "memory_limit_bytes", "arena", "tf32", "graphs"]
        }
        Provider::DirectMl | Provider::WebGpu | Provider::Plugin => &["device"],
    }
}

/// Whether options that have no type are passed on.
fn passes_others_on(settings: &ProviderSettings) -> bool {
    match settings.provider {
        Provider::Cpu | Provider::DirectMl => false,
        // A library that is named may know options that this program does not.
        Provider::Auto | Provider::Cuda => settings.library.is_some(),
        Provider::WebGpu | Provider::Plugin => true,
    }
}

pub(super) fn check(settings: &ProviderSettings) -> Result<(), Vec<OptionFault>> {
    parse(settings).map(|_| ())
}

/// The options, or every one that is not accepted.
pub(super) fn parse(settings: &ProviderSettings) -> Result<Options, Vec<OptionFault>> {
    let known = typed(settings.provider);
    let mut options = Options::default();
    let mut faults = Vec::new();
    for (name, value) in &settings.options {
        let fault = |accepted: String| OptionFault {
            provider: settings.provider,
            name: name.clone(),
            value: value.clone(),
            accepted,
        };
        if known.contains(&name.as_str()) {
            if let Err(accepted) = options.set(name, value) {
                faults.push(fault(accepted.into()));
            }
        } else if name.is_empty() || name.contains('\0') || value.contains('\0') {
            faults.push(fault("a name and a value without null characters".into()));
        } else if passes_others_on(settings) {
            options.others.push((name.clone(), value.clone()));
        } else if known.is_empty() {
            faults.push(fault("no options".into()));
        } else {
            faults.push(fault(format!("one of the options {}", known.join(", "))));
        }
    }
    if faults.is_empty() { Ok(options) } else { Err(faults) }
}

impl Options {
    /// Sets a typed option. The error is what it accepts.
    fn set(&mut self, name: &str, value: &str) -> Result<(), &'static str> {
        match name {
            "device" => self.device = whole(value).ok_or("a device's number, from 0")?,
            "memory_limit_bytes" => {
                let bytes = whole(value).filter(|bytes: &u64| *bytes > 0);
                self.memory_limit = Some(bytes.ok_or("a whole number of bytes above 0")?);
            }
            "arena" => {
                self.arena = match value {
                    "next_power_of_two" => Arena::NextPowerOfTwo,
                    "same_as_requested" => Arena::SameAsRequested,
                    _ => return Err("next_power_of_two or same_as_requested"),
                }
            }
            "tf32" => self.tf32 = Some(value.parse().map_err(|_| "true or false")?),
            "graphs" => self.graphs = value.parse().map_err(|_| "true or false")?,
            _ => return Err("another name"),
        }
        Ok(())
    }

    /// The options as ONNX Runtime's CUDA provider calls them.
    pub(super) fn for_cuda(&self) -> Vec<(String, String)> {
        let mut pairs = vec![("device_id".to_owned(), self.device.to_string())];
        let mut push = |name: &str, value: String| pairs.push((name.to_owned(), value));
        if let Some(bytes) = self.memory_limit {
            push("gpu_mem_limit", bytes.to_string());
        }
        let arena = match self.arena {
            Arena::NextPowerOfTwo => "kNextPowerOfTwo",
            Arena::SameAsRequested => "kSameAsRequested",
        };
        push("arena_extend_strategy", arena.to_owned());
        if let Some(tf32) = self.tf32 {
            push("use_tf32", u8::from(tf32).to_string());
        }
        // Said either way: what is left out is the provider's default, which may change.
        push("enable_cuda_graph", u8::from(self.graphs).to_string());
        pairs.extend(self.others.iter().cloned());
        pairs
    }
}

/// A whole number without a sign.
fn whole<T: std::str::FromStr>(text: &str) -> Option<T> {
    // `parse` alone would take a leading plus.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(provider: Provider, options: &[(&str, &str)]) -> ProviderSettings {
        let options = options.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        ProviderSettings { provider, library: None, options: options.collect() }
    }

    fn messages(provider: Provider, options: &[(&str, &str)]) -> Vec<String> {
        let faults = settings(provider, options).check().unwrap_err();
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn cuda_takes_its_typed_options_under_onnx_runtimes_names() {
        let options = parse(&settings(
            Provider::Cuda,
            &[
                ("device", "1"),
                ("memory_limit_bytes", "8000000000"),
                ("arena", "same_as_requested"),
                ("tf32", "false"),
                ("graphs", "true"),
            ],
        ));
        let pairs = options.unwrap().for_cuda();
        let pairs: Vec<String> =
            pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            pairs,
            [
                "device_id=1",
                "gpu_mem_limit=8000000000",
                "arena_extend_strategy=kSameAsRequested",
                "use_tf32=0",
                "enable_cuda_graph=1"
            ]
        );
    }

    #[test]
    fn without_options_cuda_leaves_memory_and_tf32_to_onnx_runtime_and_graphs_off() {
        let pairs = parse(&settings(Provider::Cuda, &[])).unwrap().for_cuda();
        let names: Vec<&str> = pairs.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["device_id", "arena_extend_strategy", "enable_cuda_graph"]);
        assert!(pairs.contains(&("enable_cuda_graph".into(), "0".into())));
    }

    #[test]
    fn every_fault_is_reported_with_what_is_accepted() {
        let messages = messages(
            Provider::Cuda,
            &[("device", "-1"), ("tf32", "1"), ("memory_limit_bytes", "0"), ("streams", "2")],
        );
        assert_eq!(
            messages[0],
            "provider_options.device = \"-1\" is not accepted for cuda: expected a device's number, \
             from 0"
        );
        assert!(messages[1].ends_with("expected true or false"), "{messages:?}");
        assert!(messages[2].ends_with("expected a whole number of bytes above 0"), "{messages:?}");
        assert!(messages[3].contains("device, memory_limit_bytes, arena, tf32, graphs"));
        assert_eq!(messages.len(), 4);
    }

    #[test]
    fn the_cpu_has_no_options_and_directml_only_the_device() {
        assert!(messages(Provider::Cpu, &[("device", "0")])[0].ends_with("expected no options"));
        assert!(
            messages(Provider::DirectMl, &[("graphs", "true")])[0]
                .ends_with("one of the options device")
        );
        assert_eq!(parse(&settings(Provider::DirectMl, &[("device", "2")])).unwrap().device, 2);
    }

    #[test]
    fn a_plugins_own_options_are_passed_on() {
        let options = parse(&settings(
            Provider::WebGpu,
            &[("device", "1"), ("powerPreference", "high-performance")],
        ))
        .unwrap();
        assert_eq!(options.device, 1);
        assert_eq!(options.others, [("powerPreference".into(), "high-performance".into())]);
        let with_null = messages(Provider::Plugin, &[("a\0", "b")]);
        assert!(with_null[0].ends_with("without null characters"), "{with_null:?}");
    }
}
