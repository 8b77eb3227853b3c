//! Providers that come as a library of their own, which ONNX Runtime loads when asked to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use ort::device::Device;
use ort::environment::Environment;

use super::options::Options;
use super::{Provider, Way, refused};
use crate::error::LoadError;
use crate::runtime;

/// The names of the providers that each library brought. ONNX Runtime refuses to load one twice.
static REGISTERED: Mutex<BTreeMap<PathBuf, Vec<String>>> = Mutex::new(BTreeMap::new());

/// The file of the WebGPU provider.
const WEBGPU: &str = if cfg!(windows) {
    "onnxruntime_providers_webgpu.dll"
} else {
    "libonnxruntime_providers_webgpu.so"
};

/// The way to the provider in `library`, or the WebGPU one beside ONNX Runtime.
pub(super) fn way(
    provider: Provider,
    library: Option<&Path>,
    options: &Options,
    environment: &'static Environment,
) -> Result<Way, LoadError> {
    let library = match (library, provider) {
        (Some(library), _) => library.to_path_buf(),
        (None, Provider::WebGpu) => runtime::beside(WEBGPU).ok_or_else(|| {
            refused(
                provider,
                format!(
                    "its library {WEBGPU} is not beside ONNX Runtime ({}); the Python package \
                 onnxruntime-ep-webgpu has it: put it there, or name it by provider_library",
                    runtime::folder().display()
                ),
            )
        })?,
        (None, _) => {
            return Err(refused(
                provider,
                "it needs the setting provider_library, a library's path",
            ));
        }
    };
    open(provider, &library, options, options.others.clone(), environment)
}

/// The way to a device of the provider in `library`. `passed` are the options that it is given.
pub(super) fn open(
    provider: Provider,
    library: &Path,
    options: &Options,
    passed: Vec<(String, String)>,
    environment: &'static Environment,
) -> Result<Way, LoadError> {
    let names = register(provider, library, environment)?;
    let Some(name) = names.first() else {
        return Err(refused(
            provider,
            format!(
                "{} found no device that it can use{}",
                library.display(),
                no_device_hint(provider)
            ),
        ));
    };
    let index = usize::try_from(options.device).unwrap_or(usize::MAX);
    let count = devices(environment, name).len();
    if index >= count {
        return Err(refused(
            provider,
            format!(
                "provider_options.device is {index}, and {name} has {count} device{}, counted from 0",
                if count == 1 { "" } else { "s" }
            ),
        ));
    }
    Ok(Way::Plugin { name: name.clone(), index, options: passed })
}

/// Whether the library found devices, or could not be loaded at all.
pub(super) fn found_devices(library: &Path) -> bool {
    let registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    let path = std::path::absolute(library).unwrap_or_else(|_| library.to_path_buf());
    registered.get(&path).is_none_or(|names| !names.is_empty())
}

fn no_device_hint(provider: Provider) -> &'static str {
    match provider {
        Provider::WebGpu if cfg!(target_os = "linux") => {
            "; it needs a GPU under /sys/class/drm and a Vulkan driver (Debian: mesa-vulkan-drivers)"
        }
        Provider::Cuda => "; it needs an NVIDIA GPU and its driver",
        _ => "",
    }
}

/// Lets ONNX Runtime load the library, and returns the names of its providers that have devices.
fn register(
    provider: Provider,
    library: &Path,
    environment: &'static Environment,
) -> Result<Vec<String>, LoadError> {
    let refused = |what: &dyn std::fmt::Display| {
        refused(provider, format!("provider library {}: {what}", library.display()))
    };
    // The system's loader would search a relative path in folders that are not meant.
    let path = std::path::absolute(library).map_err(|error| refused(&error))?;
    std::fs::File::open(&path).map_err(|error| refused(&error))?;
    // Held through the call: of two sessions that are made at the same time, one must see the
    // other's library.
    let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(names) = registered.get(&path) {
        return Ok(names.clone());
    }
    let before = environment.devices().count();
    environment
        .register_ep_library(path.to_string_lossy(), &path)
        .map_err(|error| refused(&explained(&error.to_string())))?;
    let mut names = Vec::new();
    // New devices are listed after the known ones.
    for device in environment.devices().skip(before) {
        let name = device.ep().map_err(|error| refused(&error))?;
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    log::info!(library:% = path.display(), providers = names.join(" "); "loaded a provider library");
    // Kept even if it found no device: ONNX Runtime refuses to load the library again.
    registered.insert(path, names.clone());
    Ok(names)
}

/// Explains ONNX Runtime's message if it is about versions.
fn explained(error: &str) -> String {
    if error.contains("API version") || error.contains("api version") {
        return format!(
            "it is made for another version of ONNX Runtime than the {} that is loaded: {error}",
            runtime::version()
        );
    }
    error.to_owned()
}

/// The devices of the provider called `name`.
pub(super) fn devices(environment: &'static Environment, name: &str) -> Vec<Device<'static>> {
    environment.devices().filter(|device| device.ep().is_ok_and(|ep| ep == name)).collect()
}
