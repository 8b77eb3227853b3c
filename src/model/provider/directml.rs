//! DirectML, which is a part of ONNX Runtime's build for Windows.

use std::path::Path;

use ort::environment::Environment;

use super::options::Options;
use super::{Provider, Way, plugin, refused};
use crate::error::LoadError;

/// The way to it: in the library that is named, else in ONNX Runtime itself.
pub(super) fn way(
    library: Option<&Path>,
    options: Options,
    environment: &'static Environment,
) -> Result<Way, LoadError> {
    if !cfg!(windows) {
        return Err(refused(
            Provider::DirectMl,
            "it is a part of Windows; on this system set provider to cpu, cuda or webgpu",
        ));
    }
    device_id(&options).map_err(|why| refused(Provider::DirectMl, why))?;
    if let Some(library) = library {
        return plugin::open(Provider::DirectMl, library, &options, Vec::new(), environment);
    }
    // ONNX Runtime has these functions only where it is built with DirectML.
    if ort::ep::directml::api().is_none() {
        return Err(refused(
            Provider::DirectMl,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime;

    #[test]
    fn the_device_is_a_number_that_directml_takes() {
        let of = |device| device_id(&Options { device, ..Options::default() });
        assert_eq!(of(0), Ok(0));
        assert_eq!(of(3), Ok(3));
        assert!(of(u32::MAX).unwrap_err().contains("expected 0 to 2147483647"));
    }

    #[cfg(not(windows))]
    #[test]
    fn elsewhere_than_on_windows_it_is_refused() {
        let environment = runtime::load(None).unwrap();
        let error = way(None, Options::default(), environment).unwrap_err().to_string();
        assert!(error.contains("a part of Windows"), "{error}");
    }

    #[cfg(windows)]
    #[test]
    fn on_windows_it_is_taken_if_onnx_runtime_has_it_and_refused_with_the_package_else() {
        let environment = runtime::load(None).unwrap();
        let options = Options { device: 1, ..Options::default() };
        match way(None, options.clone(), environment) {
            Ok(taken) => assert_eq!(taken, Way::BuiltInDirectMl(options)),
            Err(error) => assert!(error.to_string().contains("onnxruntime-directml"), "{error}"),
        }
    }
}
