//! `phi4d inspect` on the demo model and on damaged copies of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "tests may stop where something is wrong"
)]

use std::process::{Command, Output};

use serde_json::Value;

fn inspect(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_phi4d"))
        .args(["inspect", "--log-level", "error"])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_clear()
        .envs(crate::common::isa())
        .output()
        .unwrap()
}

fn json(arguments: &[&str]) -> Value {
    let output = inspect(&[&["--json"], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_demo_model_is_reported_for_people_and_for_programs() {
    let output = inspect(&["models/demo"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    for part in [
        "phi3: 4 layers, 2 KV heads of 32",
        "GroupQueryAttention: do_rotary 1",
        "of 4 bits in blocks of 32, without zero points",
        "runs on    cpu: the model was exported for the CPU",
        "1.0 KiB a token",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    assert!(!text.contains("warning"), "{text}");
    let value = json(&["models/demo", "--slots", "3", "--context-tokens", "100", "--nodes"]);
    assert_eq!(value["runs"]["provider"], "cpu");
    assert_eq!(value["memory"]["kv_bytes_full"], 3 * 100 * 1024);
    assert_eq!(value["export"]["attention"]["operator"], "GroupQueryAttention");
    assert_eq!(value["nodes"]["CPUExecutionProvider"]["Attention"], 4);
    assert_eq!(value["text"]["template_thinks"], false);
    assert_eq!(value["warnings"], serde_json::json!([]));
}

#[test]
fn damaged_folders_are_reported_and_a_missing_one_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let model = crate::common::copy_demo(folder.path());
    let path = model.to_str().unwrap();
    let weights = std::fs::File::options().write(true).open(model.join("model.onnx.data"));
    weights.unwrap().set_len(1 << 20).unwrap();
    std::fs::write(model.join("tokenizer.json"), "{").unwrap();
    let value = json(&[path]);
    let warning = value["warnings"][0].as_str().unwrap();
    assert!(warning.contains("model.onnx.data is truncated"), "{warning}");
    assert!(value["text"]["fault"].as_str().unwrap().contains("tokenizer.json"), "{value}");
    let output = inspect(&["/nowhere"]);
    assert_eq!(output.status.code(), Some(66));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("phi4d: cannot read /nowhere/genai_config.json"), "{text}");
}

#[test]
fn a_provider_that_is_not_there_is_reported_and_no_error() {
    let value = json(&["models/demo", "--provider", "webgpu"]);
    let fault = value["runs"]["fault"].as_str().unwrap();
    assert!(fault.contains("onnxruntime-ep-webgpu"), "{fault}");
}

#[test]
fn without_a_folder_all_models_of_the_settings_are_reported() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("phi4d.toml");
    let text = "model = 'models/demo'\nmodels_memory_bytes = 80000000\n\
                [models.long]\nmodel = 'models/longrope'\nslots = 2\nload = 'start'\n\
                [models.gone]\nmodel = '/nowhere'\n";
    std::fs::write(&file, text).unwrap();
    let config = ["--config", file.to_str().unwrap()];
    let output = inspect(&config);
    // What can't be read is the end's error, and does not hide the others.
    assert_eq!(output.status.code(), Some(66));
    let text = String::from_utf8(output.stdout).unwrap();
    let parts: Vec<&str> = text.split("\n\n").collect();
    assert_eq!(parts.len(), 3, "{text}");
    for (part, wanted) in parts.iter().zip([
        ["name       demo\n", "loaded     at the start\n", "phi3: 4 layers", "runs on    cpu"],
        ["name       gone", "at the first request", "model = /nowhere", "fault      cannot read"],
        ["name       long", "loaded     at the start\n", "slots = 2", "runs on    cpu"],
    ]) {
        assert!(wanted.iter().all(|wanted| part.contains(wanted)), "{wanted:?}: {part}");
    }
    assert!(!parts[0].contains("settings "), "{text}");
    let output = inspect(&[&config[..], &["--json"]].concat());
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let models = value["models"].as_array().unwrap();
    assert_eq!(models[2]["found"]["memory"]["slots"], 2, "{value}");
    // Each has its weights and a part of what all of them leave, of which its cache is half.
    let caches =
        [0, 2].map(|model: usize| models[model]["found"]["memory"]["kv_budget_bytes"].as_u64());
    assert!(caches.iter().all(|bytes| bytes.unwrap() < 20_000_000), "{caches:?}");
    assert!(models[1]["fault"].as_str().unwrap().contains("/nowhere"), "{value}");
    // With a folder it is that one alone.
    assert_eq!(json(&[&config[..], &["models/demo"]].concat())["runs"]["provider"], "cpu");
}

#[test]
fn both_rotary_tables_and_what_each_is_for_are_reported() {
    let output = inspect(&["models/longrope"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.starts_with("rotary")).unwrap();
    for part in ["up to 64 tokens by the short table", "for 512", "1.00 to 23.55 times slower"] {
        assert!(line.contains(part), "{line}");
    }
    let value = json(&["models/longrope"]);
    assert_eq!(value["export"]["rotary"]["short_tokens"], 64);
    assert_eq!(value["export"]["rotary"]["tables"]["long"]["positions"], 512);
}
