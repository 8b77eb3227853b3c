//! NVIDIA GPUs, by the CUDA provider's library: as a plugin, which any ONNX Runtime takes, or as a part
//! of an ONNX Runtime that is built for it.

use std::error::Error as _;
use std::path::Path;

use ort::environment::Environment;
use ort::ep::{CUDA, ExecutionProvider as _};

use super::options::Options;
use super::{Provider, Way, plugin, refused, version};
use crate::error::LoadError;
use crate::runtime;

/// The provider's file.
const LIBRARY: &str = if cfg!(windows) {
    "onnxruntime_providers_cuda.dll"
} else {
    "libonnxruntime_providers_cuda.so"
};

/// The driver's library, which comes with the driver and with nothing else.
const DRIVER: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };

/// Device files of GPUs: of the driver, of Windows' subsystem for Linux, of Jetson boards.
const NODES: [&str; 4] = ["/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg", "/dev/nvgpu"];

/// The way to CUDA, after a check of all that it needs. As a plugin if that finds a device, since then
/// tensors can be copied between the memories; else as a part of ONNX Runtime's build.
pub(super) fn way(
    library: Option<&Path>,
    options: Options,
    environment: &'static Environment,
) -> Result<Way, LoadError> {
    let library = match library {
        Some(library) => library.to_path_buf(),
        None => {
            runtime::beside(LIBRARY).ok_or_else(|| refused(Provider::Cuda, missing_library()))?
        }
    };
    // Before it is loaded: a library of another version may crash the process and not fail.
    let fits = of_this_version(&library);
    fits.and_then(|()| driver()).map_err(|why| refused(Provider::Cuda, why))?;
    match plugin::open(Provider::Cuda, &library, &options, passed(&options), environment) {
        // Plugins find devices on the PCI bus, which containers may hide; the built-in one asks the driver.
        Err(error) if CUDA::is_available().unwrap_or(false) && !plugin::found_devices(&library) => {
            log::debug!("CUDA as a plugin: {error}");
            Ok(Way::BuiltInCuda(options))
        }
        way => way,
    }
}

/// The options of the plugin, whose device is chosen otherwise.
fn passed(options: &Options) -> Vec<(String, String)> {
    // The plugin's device is given as one of its list; a number beside it could name another.
    options.for_cuda().into_iter().filter(|(name, _)| name != "device_id").collect()
}

fn missing_library() -> String {
    format!(
        "its library {LIBRARY} is not beside ONNX Runtime ({}); the Python package onnxruntime-gpu \
         has both, of one version: name its {} by runtime_library",
        runtime::folder().display(),
        runtime::LIBRARY_NAME,
    )
}

/// Whether the provider library is of ONNX Runtime's own version, where it has one in it.
fn of_this_version(library: &Path) -> Result<(), String> {
    let refused =
        |what: &dyn std::fmt::Display| format!("provider library {}: {what}", library.display());
    let found = version::of_library(library).map_err(|error| refused(&error))?;
    let loaded = runtime::version();
    match found {
        Some(found) if !version::fits(&found, &loaded) => Err(refused(&format!(
            "it is of version {found}, and the ONNX Runtime that is loaded ({}) of {loaded}; take \
             both from one release of the Python package onnxruntime-gpu",
            runtime::folder().display()
        ))),
        _ => Ok(()),
    }
}

/// Whether the driver and a device are there.
fn driver() -> Result<(), String> {
    // The provider's own message would not say that the driver is what is missing.
    ort::util::preload_dylib(DRIVER).map_err(|error| {
        let error = error.source().map_or_else(|| error.to_string(), ToString::to_string);
        format!(
            "the NVIDIA driver's library {DRIVER} can't be loaded ({error}); install the driver \
             (Debian: nvidia-driver and libcuda1), in a container pass the GPU in"
        )
    })?;
    if cfg!(unix) && !NODES.iter().any(|node| Path::new(node).exists()) {
        return Err(format!(
            "there is no NVIDIA device: none of {} is there; load the driver's kernel module, and \
             under systemd let the unit see it (PrivateDevices=no and DeviceAllow=)",
            NODES.join(", ")
        ));
    }
    Ok(())
}

/// Explains ONNX Runtime's message if it is about missing libraries.
pub(super) fn explained(error: &str) -> String {
    let missing = ["libcudnn", "libcublas", "libcudart", "libcufft", "libcurand", "libnvrtc"];
    if missing.iter().any(|name| error.contains(name)) {
        return format!("CUDA or cuDNN is missing or of another version: {error}");
    }
    error.to_owned()
}
