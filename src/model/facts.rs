//! What this machine can run a model on, without loading one.

use std::path::{Path, PathBuf};

use super::error::LoadError;
use super::provider::{self, ProviderSettings};
use super::runtime;
use phi4d_settings::Provider;

/// ONNX Runtime as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeFacts {
    /// The library, links followed; only its name if the system's loader found it.
    pub library: PathBuf,
    /// Its version, such as `1.32`.
    pub version: String,
    /// Devices that it knows, each with the provider that drives it.
    pub devices: Vec<DeviceFacts>,
}

/// A device as ONNX Runtime describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceFacts {
    /// The provider's name within ONNX Runtime.
    pub provider: String,
    /// Who made the device.
    pub vendor: String,
    /// `CPU`, `GPU` or `NPU`.
    pub kind: String,
}

/// Loads ONNX Runtime and describes it.
///
/// # Errors
/// [`LoadError::Runtime`], saying what to install.
pub fn runtime_facts(library: Option<&Path>) -> Result<RuntimeFacts, LoadError> {
    let environment = runtime::load(library)?;
    let devices = environment.devices().map(|device| {
        let hardware = device.hardware_device();
        DeviceFacts {
            provider: device.ep().unwrap_or("unknown").to_owned(),
            vendor: hardware.vendor().unwrap_or("unknown").to_owned(),
            kind: format!("{:?}", hardware.ty()),
        }
    });
    let devices = devices.collect();
    Ok(RuntimeFacts { library: runtime::library(), version: runtime::version(), devices })
}

/// The provider that a model whose export names the providers in `made_for` would run on, never
/// [`Provider::Auto`], and why.
///
/// # Errors
/// As loading a model: if the one asked for can't be used.
pub fn provider_facts(
    settings: &ProviderSettings,
    made_for: &[String],
    library: Option<&Path>,
) -> Result<(Provider, String), LoadError> {
    let chosen = provider::choose(settings, made_for, library)?;
    Ok((chosen.provider(), chosen.reason().to_owned()))
}

/// The instruction set that phi4d's own kernel uses here, such as `avx2`; `None` if this processor has
/// none of its sets.
#[must_use]
pub fn own_kernel() -> Option<&'static str> {
    phi4d_matmul::Kernel::chosen().map(phi4d_matmul::Kernel::name)
}

/// The instructions by which ONNX Runtime and our own kernel are chosen, and so the layout of
/// weights.
#[must_use]
pub fn processor_features() -> Vec<&'static str> {
    // The order is part of the stamp of prepared folders: another one would make them unusable.
    let mut features = Vec::new();
    #[cfg(target_arch = "x86_64")]
    for (name, there) in [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
        ("avxvnni", is_x86_feature_detected!("avxvnni")),
    ] {
        features.extend(there.then_some(name));
    }
    #[cfg(target_arch = "aarch64")]
    for (name, there) in [
        ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
        ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
        ("bf16", std::arch::is_aarch64_feature_detected!("bf16")),
        ("sve", std::arch::is_aarch64_feature_detected!("sve")),
    ] {
        features.extend(there.then_some(name));
    }
    features
}

/// The kind of processor, as one text that differs where kernels may.
pub(super) fn processor_kind() -> String {
    let mut parts = vec![std::env::consts::ARCH];
    parts.extend(processor_features());
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_a_device_and_what_a_model_for_it_runs_on() {
        let facts = runtime_facts(None).unwrap();
        assert!(facts.version.starts_with("1."), "{facts:?}");
        assert!(facts.devices.iter().any(|device| device.kind == "CPU"), "{facts:?}");
        let auto = ProviderSettings::from(Provider::Auto);
        let (chosen, reason) = provider_facts(&auto, &[], None).unwrap();
        assert_eq!(chosen, Provider::Cpu);
        assert!(reason.contains("exported for the CPU"));
    }
}
