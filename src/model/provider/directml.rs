//! DirectML, which is a part of ONNX Runtime's build for Windows.

use std::path::Path;

use ort::environment::Environment;

use super::chosen::Way;
use super::options::Options;
use super::{Provider, plugin};
use crate::model::error::LoadError;

/// The way to it: in the library that is named, else in ONNX Runtime itself.
pub(super) fn way(
    library: Option<&Path>,
    options: Options,
    environment: &'static Environment,
) -> Result<Way, LoadError> {
    if !cfg!(windows) {
        return Err(Provider::DirectMl.refused(
            "it is a part of Windows; on this system set provider to cpu, cuda or webgpu",
        ));
    }
    device_id(&options).map_err(|why| Provider::DirectMl.refused(why))?;
    if let Some(library) = library {
        return plugin::open(Provider::DirectMl, library, &options, Vec::new(), environment);
    }
    if ort::ep::directml::api().is_none() {
        return Err(Provider::DirectMl.refused(
            "this ONNX Runtime is built without it; the Python package onnxruntime-directml has an \
             onnxruntime.dll with it: name that by runtime_library",
        ));
    }
    Ok(Way::BuiltInDirectMl(options))
}

/// The device's number as DirectML takes it.
pub(super) fn device_id(options: &Options) -> Result<i32, String> {
    i32::try_from(options.device).map_err(|_| {
        format!("provider_options.device is {}; expected 0 to {}", options.device, i32::MAX)
    })
}
