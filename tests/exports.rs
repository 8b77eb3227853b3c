//! Exports of every form of weights, through the daemon and as `inspect` and `doctor` show them.
//!
//! `tests/exports/setup` makes the folders; without it these tests are skipped, unless `REAL_MODEL` is
//! `required`. The forms' logits are compared in `src/model/matmul/exports_tests.rs`.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "an end-to-end test")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::common::{Client, Daemon, Setup, golden, isa};

/// The folder of all forms; `None` where it could not be made and need not be there, or where the processor has no
/// instruction set of phi4d's own.
fn exports() -> Option<PathBuf> {
    if phi4d_model::own_kernel().is_none() {
        eprintln!("skipped: phi4d's kernel does not run on this processor");
        return None;
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let folder = target.join("exports");
    if folder.join(".made").exists() {
        return Some(folder);
    }
    let required = std::env::var("REAL_MODEL").is_ok_and(|value| value == "required");
    assert!(!required, "{} is missing; run tests/exports/setup", folder.display());
    eprintln!("skipped: there is no {}", folder.display());
    None
}

fn program(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_phi4d"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_clear()
        .envs(isa())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn inspected(folder: &Path, arguments: &[&str]) -> Value {
    program(&[&["inspect", "--json", folder.to_str().unwrap()], arguments].concat())
}

fn complete(client: &Client, prompt: &Value, max_tokens: &Value) -> String {
    let body = json!({ "prompt": prompt, "temperature": 0, "max_tokens": max_tokens });
    let response = client.post("/v1/completions", &body);
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()["choices"][0]["text"].as_str().unwrap().to_owned()
}

#[test]
fn inspect_names_the_own_kernel_for_every_form() {
    let Some(exports) = exports() else { return };
    let mut forms = 0;
    for entry in std::fs::read_dir(&exports).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.is_dir() {
            continue;
        }
        forms += 1;
        let shown = inspected(&folder, &["--int8-activations", "always"]);
        let kernels = shown["kernels"].as_str().unwrap();
        assert!(kernels.ends_with("for all 21 matmuls"), "{}: {kernels}", folder.display());
        for form in shown["forms"].as_array().unwrap() {
            assert!(form["kernel"].as_str().unwrap().starts_with("phi4d's kernel ("), "{form}");
            assert_eq!(form["fallback"], Value::Null, "{form}");
        }
    }
    assert!(forms >= 28, "{forms} forms");
}

#[test]
fn a_form_that_falls_back_is_shown_with_the_reason_and_the_cost() {
    let Some(exports) = exports() else { return };
    let folder = exports.join("level-1");
    let shown = inspected(&folder, &[]);
    let form = &shown["forms"][0];
    assert_eq!(form["kernel"], "ONNX Runtime's kernel");
    let reason = form["fallback"].as_str().unwrap();
    for part in ["accuracy level is not 4", "int8_activations = \"always\""] {
        assert!(reason.contains(part), "{reason}");
    }
    let folder = folder.to_str().unwrap();
    let report = program(&["doctor", "--json", "--no-speed", "--model", folder, "--listen", "off"]);
    let findings = report["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["check"] == "kernels").unwrap();
    assert_eq!(finding["level"], "note");
    let text = finding["text"].as_str().unwrap();
    for part in ["21 of 4 bits", "ONNX Runtime's kernel, because", "1.3 times as long"] {
        assert!(text.contains(part), "{text}");
    }
}

/// A daemon with an export, once its log said how many matmuls phi4d's kernel runs.
fn served(folder: PathBuf, arguments: &[&str], own: usize) -> Daemon {
    let daemon = Setup::new().model(folder).with(arguments).start();
    let line = format!("phi4d's kernel runs {own} of 21 matmuls with quantised weights");
    let log = daemon.log.says("INFO  serving ");
    assert!(log.contains(&line), "{log}");
    daemon
}

#[test]
fn every_kind_of_export_is_served_by_the_own_kernel() {
    let Some(exports) = exports() else { return };
    for form in ["rtn-last", "k-quant-mixed", "tied", "tied-int8", "embedding", "qdq-int8-channel"]
    {
        let daemon = served(exports.join(form), &[], 21);
        let answer = complete(&daemon.unix(), &json!("12+7="), &json!(4));
        assert!(!answer.is_empty(), "{form}");
        // Embeddings that are the head's weights are not what the demo model was trained with.
        assert!(form.starts_with("tied") || answer == "19", "{form}: {answer}");
    }
}

#[test]
fn other_levels_run_on_the_own_kernel_only_if_the_setting_says_so() {
    let Some(exports) = exports() else { return };
    for (arguments, own) in [(&[][..], 0), (&["--int8-activations", "always"], 21)] {
        let daemon = served(exports.join("level-1"), arguments, own);
        assert_eq!(complete(&daemon.unix(), &json!("12+7="), &json!(4)), "19", "{arguments:?}");
        let reason = daemon.log.text().contains("its accuracy level is not 4");
        assert_eq!(reason, own == 0, "{}", daemon.log.text());
    }
}

#[test]
fn other_forms_of_the_demo_models_weights_give_the_golden_tokens() {
    let Some(exports) = exports() else { return };
    let cases = golden("golden.json");
    let cases = cases["cases"].as_array().unwrap().iter();
    // The longest prompts take most of the time and show no more: `parity` asks them all.
    let short = |case: &&Value| case["prompt_length"].as_u64() < Some(300);
    let cases: Vec<&Value> =
        cases.filter(short).filter(|case| case["kind"] == "completion").collect();
    assert!(cases.len() >= 15, "{} cases", cases.len());
    for form in ["default", "int8", "qdq"] {
        let daemon = served(exports.join(form), &[], 21);
        for case in &cases {
            let answer = complete(&daemon.unix(), &case["prompt"], &case["max_tokens"]);
            assert_eq!(answer, case["ort"]["text"], "{form}: case {}", case["id"]);
        }
    }
}
