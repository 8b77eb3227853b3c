//! Providers that are asked for and can't be used: each says why, and none of them is silently the
//! CPU. Run where there is no GPU; where there is one, what a test then expects says so.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests may stop where something is wrong"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::Setup;

const UNAVAILABLE: i32 = 69;

/// What the daemon says when it is started with these arguments and is not to come up.
fn refusal(arguments: &[&str]) -> String {
    let (status, text) = Setup::new().with(&["--log-level", "error"]).with(arguments).run_to_end();
    assert_eq!(status.code(), Some(UNAVAILABLE), "{text}");
    // ONNX Runtime itself may have printed others.
    let ours = text.lines().filter(|line| line.starts_with("phi4d: "));
    assert_eq!(ours.count(), 1, "{text}");
    text
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// ONNX Runtime in a folder of its own, with `provider` beside it.
fn runtime_with(folder: &Path, provider: Option<&[u8]>) -> PathBuf {
    let original = Path::new(env!("CARGO_MANIFEST_DIR")).join(".runtime/libonnxruntime.so");
    let library = folder.join("libonnxruntime.so");
    std::fs::copy(original, &library).unwrap();
    if let Some(bytes) = provider {
        std::fs::write(folder.join("libonnxruntime_providers_cuda.so"), bytes).unwrap();
    }
    library
}

/// A library compiled from `source`.
fn compiled(folder: &Path, source: &str) -> String {
    let (code, library) = (folder.join("provider.c"), folder.join("libprovider.so"));
    std::fs::write(&code, source).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).args([&library, &code]);
    assert!(compiler.status().expect("a C compiler, which the build needs, too").success());
    library.to_str().unwrap().to_owned()
}

/// The door by which ONNX Runtime asks a library for its providers.
const DOOR: &str = r"
#include <stddef.h>
#include <stdint.h>
struct api { void *(*create_status)(int code, const char *message); };
struct base { const struct api *(*get_api)(uint32_t version); const char *(*version)(void); };
";

#[test]
fn cuda_without_its_library_names_the_file_the_folder_and_the_package() {
    let folder = tempfile::tempdir().unwrap();
    let library = runtime_with(folder.path(), None);
    let text = refusal(&["--provider", "cuda", "--runtime-library", library.to_str().unwrap()]);
    assert_says(
        &text,
        &[
            "execution provider cuda",
            "libonnxruntime_providers_cuda.so",
            folder.path().to_str().unwrap(),
            "onnxruntime-gpu",
        ],
    );
}

#[test]
fn cuda_of_another_version_names_both_and_is_not_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let library = runtime_with(folder.path(), Some(b"no library at all\x001.19.2\0"));
    let library = library.to_str().unwrap();
    let text = refusal(&["--provider", "cuda", "--runtime-library", library]);
    assert_says(&text, &["it is of version 1.19.2", "of 1.", "one release", "onnxruntime-gpu"]);
    // The same for one that is named.
    let named = folder.path().join("libonnxruntime_providers_cuda.so");
    let text = refusal(&["--provider", "cuda", "--provider-library", named.to_str().unwrap()]);
    assert_says(&text, &[named.to_str().unwrap(), "it is of version 1.19.2"]);
}

#[test]
fn cuda_without_a_driver_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let library = runtime_with(folder.path(), Some(b"no library at all"));
    let text = refusal(&["--provider", "cuda", "--runtime-library", library.to_str().unwrap()]);
    if Path::new("/dev/nvidiactl").exists() {
        // There is one, so that the library is loaded, which is none.
        assert_says(&text, &["execution provider cuda"]);
    } else {
        assert_says(&text, &["libcuda.so.1", "No such file", "install the driver", "libcuda1"]);
    }
}

#[test]
fn directml_is_for_windows() {
    let text = refusal(&["--provider", "directml"]);
    assert_says(&text, &["execution provider directml: it is a part of Windows"]);
}

#[test]
fn webgpu_without_its_library_names_the_package() {
    let text = refusal(&["--provider", "webgpu"]);
    assert_says(&text, &["libonnxruntime_providers_webgpu.so", "onnxruntime-ep-webgpu"]);
}

#[test]
fn a_plugin_needs_a_library_that_is_there_and_is_one() {
    assert_says(&refusal(&["--provider", "plugin"]), &["needs the setting provider_library"]);
    let plugin = |path: &str| refusal(&["--provider", "plugin", "--provider-library", path]);
    assert_says(&plugin("/nowhere/ep.so"), &["/nowhere/ep.so", "No such file"]);
    assert_says(&plugin("Cargo.toml"), &["Cargo.toml", "invalid ELF header"]);
    let folder = tempfile::tempdir().unwrap();
    let text = plugin(&compiled(folder.path(), "int nothing(void) { return 0; }"));
    assert_says(&text, &["libprovider.so", "CreateEpFactories"]);
}

#[test]
fn a_plugin_made_for_a_newer_onnx_runtime_says_which_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let source = format!(
        r#"{DOOR}
void *CreateEpFactories(const char *name, const struct base *base, const void *logger,
                        void **factories, size_t most, size_t *count) {{
    if (!base->get_api(9999))
        return base->get_api(1)->create_status(1, "the requested API version 9999 is not there");
    *count = 0;
    return NULL;
}}
void *ReleaseEpFactory(void *factory) {{ return NULL; }}
"#
    );
    let library = compiled(folder.path(), &source);
    let text = refusal(&["--provider", "plugin", "--provider-library", &library]);
    assert_says(&text, &["libprovider.so", "another version of ONNX Runtime than the 1.", "9999"]);
}

#[test]
fn a_plugin_without_a_device_is_no_plugin_to_run_on() {
    let folder = tempfile::tempdir().unwrap();
    let source = format!(
        r"{DOOR}
void *CreateEpFactories(const char *name, const struct base *base, const void *logger,
                        void **factories, size_t most, size_t *count) {{
    *count = 0;
    return NULL;
}}
void *ReleaseEpFactory(void *factory) {{ return NULL; }}
"
    );
    let library = compiled(folder.path(), &source);
    let text = refusal(&["--provider", "plugin", "--provider-library", &library]);
    assert_says(&text, &["libprovider.so found no device"]);
    // A library that is named is meant, for auto, too.
    let text = refusal(&["--provider-library", &library]);
    assert_says(&text, &["libprovider.so found no device"]);
}

#[test]
fn options_that_a_provider_does_not_know_are_reported_one_and_all() {
    let text = refusal(&["--provider", "cuda", "--provider-options", "graphs=1,speed=9"]);
    assert_says(&text, &["provider_options.graphs = \"1\"", "true or false", "speed", "arena"]);
    let text = refusal(&["--provider", "cpu", "--provider-options", "device=0"]);
    assert_says(&text, &["provider_options.device", "expected no options"]);
}

#[test]
fn auto_runs_a_gpu_export_on_the_cpu_only_with_a_warning_that_names_every_reason() {
    if Path::new("/dev/nvidiactl").exists() {
        // Here it may well find one.
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let model = crate::common::copy_demo(folder.path());
    let path = model.join("genai_config.json");
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["model"]["decoder"]["session_options"]["provider_options"] =
        serde_json::json!([{"cuda": {"enable_cuda_graph": "0"}}]);
    std::fs::write(&path, config.to_string()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_phi4d"))
        .args(["check", "--provider", "auto", "--log-format", "text", "--threads", "1", "--model"])
        .arg(&model)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    let warning = text.lines().find(|line| line.contains("WARN")).expect(&text);
    assert_says(warning, &["runs on the CPU", "provider cuda:", "provider directml:", "webgpu:"]);
}
