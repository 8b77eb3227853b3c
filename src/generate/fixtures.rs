//! Model folders for this layer's tests.

use std::path::PathBuf;
use std::process::Command;

/// The committed demo model.
pub(super) fn demo_folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/demo"))
}

/// A folder with Phi-4's real tokenizer, built by the repository's own script.
pub(super) fn phi4_folder(template: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/make_phi4_tokenizer.py");
    let output = Command::new("python3")
        .arg(script)
        .arg(folder.path())
        .args(["--template", template])
        .output()
        .expect("python3 can be run");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script} failed: {errors}");
    folder
}

/// The cases of the committed golden outputs, which transformers and a Python ONNX Runtime loop
/// made from the demo model.
pub(super) fn golden_cases() -> Vec<serde_json::Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/golden/golden.json");
    let mut golden: serde_json::Value =
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    serde_json::from_value(golden["cases"].take()).unwrap()
}
