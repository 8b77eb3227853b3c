//! `phi4d doctor`: well and unwell installations.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests may stop where something is wrong"
)]

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::common::Setup;

/// The exit code and the report, of a doctor with nothing of this machine's settings.
fn doctor(folder: &Path, arguments: &[&str]) -> (i32, Value) {
    let socket = folder.join("phi4d.sock");
    let output = Command::new(env!("CARGO_BIN_EXE_phi4d"))
        .args(["doctor", "--json", "--socket", socket.to_str().unwrap()])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_clear()
        .envs(crate::common::isa())
        .output()
        .unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    (output.status.code().unwrap(), report)
}

const WELL: [&str; 4] = ["--model", "models/demo", "--listen", "127.0.0.1:0"];

/// What a check's faults say, each with what to do.
fn faults(report: &Value, check: &str) -> Vec<String> {
    let findings = report["findings"].as_array().unwrap();
    let faults = findings.iter().filter(|one| one["level"] == "fault" && one["check"] == check);
    faults
        .map(|fault| {
            let mend = fault["mend"].as_str().unwrap();
            assert!(!mend.is_empty(), "{fault} does not say what to do");
            format!("{} -> {mend}", fault["text"].as_str().unwrap())
        })
        .collect()
}

#[track_caller]
fn assert_fault(report: &Value, check: &str, part: &str) {
    let faults = faults(report, check);
    assert!(faults.iter().any(|text| text.contains(part)), "{part:?} is not in {faults:?}");
}

#[test]
fn a_whole_installation_is_well_and_tells_its_figures() {
    let folder = tempfile::tempdir().unwrap();
    let (code, report) = doctor(folder.path(), &WELL);
    assert_eq!((code, &report["faults"]), (0, &Value::from(0)), "{report:#}");
    let figures = &report["figures"];
    assert_eq!(figures["provider"], "cpu");
    assert_eq!(figures["memory"]["kv_bytes_per_token"], 1024);
    assert!(figures["runtime_version"].as_str().unwrap().starts_with("1."));
    let rate = figures["read_bytes_per_second"].as_f64().unwrap();
    let step = figures["step_bytes"].as_f64().unwrap();
    let expected = figures["expected_tokens_per_second"].as_f64().unwrap();
    assert!((expected - 0.75 * rate / step).abs() < 1e-6 * expected, "{figures}");
}

#[test]
fn every_fault_is_reported_with_what_to_do_and_the_code_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    // Nobody takes the doctor's call: it is given up after a while.
    let (code, report) = doctor(
        folder.path(),
        &[
            "--no-speed",
            "--model",
            "/nowhere",
            "--listen",
            &address,
            "--provider",
            "webgpu",
            "--api-keys-file",
            "/nowhere/keys",
        ],
    );
    assert_eq!(code, 1);
    assert_fault(&report, "model", "/nowhere/genai_config.json");
    assert_fault(&report, "sockets", "is taken by another program");
    assert_fault(&report, "provider", "onnxruntime-ep-webgpu");
    assert_fault(&report, "access", "/nowhere/keys");
    assert_eq!(report["faults"], 4, "{report:#}");
}

#[test]
fn more_connections_than_files_are_no_fault_as_the_daemon_takes_fewer() {
    let folder = tempfile::tempdir().unwrap();
    let many = ["--no-speed", "--max-connections", "1000000"];
    let script = format!(
        "ulimit -n 200 && exec {} doctor --json --socket {}/phi4d.sock \"$@\"",
        env!("CARGO_BIN_EXE_phi4d"),
        folder.path().display(),
    );
    let output = Command::new("sh")
        .args(["-c", &script, "sh"])
        .args(WELL.iter().chain(&many))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["faults"], 0, "{report:#}");
    assert!(report.to_string().contains("takes 152 at once"), "{report:#}");
}

#[test]
fn damaged_models_wrong_settings_and_a_missing_runtime_are_faults() {
    let folder = tempfile::tempdir().unwrap();
    let model = crate::common::copy_demo(folder.path());
    let weights = std::fs::File::options().write(true).open(model.join("model.onnx.data"));
    weights.unwrap().set_len(4096).unwrap();
    std::fs::remove_file(model.join("tokenizer_config.json")).unwrap();
    let (code, report) = doctor(
        folder.path(),
        &[
            "--no-speed",
            "--model",
            model.to_str().unwrap(),
            "--listen",
            "off",
            "--runtime-library",
            "/nowhere/lib.so",
            "--provider-options",
            "speed=9",
        ],
    );
    assert_eq!(code, 1);
    assert_fault(&report, "model", "is truncated");
    assert_fault(&report, "model", "tokenizer_config.json");
    assert_fault(&report, "runtime", "/nowhere/lib.so");
    assert_fault(&report, "settings", "provider_options.speed");
    let (code, report) = doctor(folder.path(), &["--slots", "0"]);
    assert_eq!(code, 1);
    assert_fault(&report, "settings", "slots = \"0\"");
}

#[test]
fn a_state_folder_that_cannot_be_written_is_a_fault() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let store = file.join("prefixes");
    let store = store.to_str().unwrap();
    let (code, report) =
        doctor(folder.path(), &[&WELL[..], &["--no-speed", "--prefix-store", store]].concat());
    assert_eq!(code, 1);
    assert_fault(&report, "state", "is not a folder");
}

#[test]
fn a_running_daemon_is_known_for_one() {
    let daemon = Setup::new().start();
    let folder = tempfile::tempdir().unwrap();
    let address = daemon.address().to_string();
    let (code, report) =
        doctor(folder.path(), &["--no-speed", "--model", "models/demo", "--listen", &address]);
    assert_eq!(code, 0, "{report:#}");
    assert!(report.to_string().contains("a phi4d serves on TCP"), "{report:#}");
}
