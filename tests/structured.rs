//! Answers that must be of a form are, whatever the model would rather say: the real daemon on the
//! demo model at a temperature where it says nothing sensible, judged by a JSON Schema validator
//! that is not ours. `tests/clients/setup` installs it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop where something is wrong"
)]

mod common;

use std::path::Path;
use std::process::Command;

use common::Daemon;
use serde_json::{Value, json};

const ASKED: u64 = 660;

#[test]
fn answers_by_random_schemas_are_valid() {
    let python = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let python = python.join("clients/venv/bin/python");
    assert!(python.exists(), "{} is missing; run tests/clients/setup", python.display());
    let daemon = Daemon::start();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/structured.py");
    let url = format!("http://{}", daemon.address());
    let output = Command::new(python)
        .args([script.as_os_str(), url.as_ref()])
        .args([ASKED.to_string(), "1".to_owned()])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}", output.status);
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(seen["valid"].as_u64().unwrap() >= 500, "{seen}");
    assert!(seen["cut"].as_u64().unwrap() >= 30, "{seen}");
    assert_eq!(daemon.wait_idle()["finished"], ASKED);
}

#[test]
fn each_form_is_kept_to() {
    let daemon = Daemon::start();
    let answer = |more: &Value| {
        let mut body = json!({ "prompt": "12+7=", "temperature": 1.5, "max_tokens": 200 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = daemon.tcp().post("/v1/completions", &body).json();
        assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
        answer["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    let choices = ["left", "right", "straight on"];
    let number = regex::Regex::new(r"\A-?[0-9]{1,4}\z").unwrap();
    for seed in 0..10 {
        let text = answer(&json!({ "guided_choice": choices, "seed": seed }));
        assert!(choices.contains(&text.as_str()), "{text:?}");
        let text = answer(&json!({ "guided_regex": "-?[0-9]{1,4}", "seed": seed }));
        assert!(number.is_match(&text), "{text:?}");
        let lark = "start: \"(\" NUMBER (\",\" NUMBER)? \")\"\nNUMBER: /[0-9]{1,3}/";
        let text = answer(&json!({ "grammar": lark, "seed": seed }));
        assert!(text.starts_with('(') && text.ends_with(')'), "{text:?}");
    }
}

#[test]
fn answers_of_one_request_have_each_their_own_place_in_the_form() {
    let daemon = Daemon::start();
    let body = json!({
        "prompt": "12+7=", "temperature": 1.5, "seed": 1, "n": 8, "guided_regex": "[a-z]{3}-[0-9]{3}"
    });
    let answer = daemon.tcp().post("/v1/completions", &body).json();
    let pattern = regex::Regex::new(r"\A[a-z]{3}-[0-9]{3}\z").unwrap();
    let texts: Vec<&str> =
        answer["choices"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert!(texts.len() == 8 && texts.iter().all(|text| pattern.is_match(text)), "{texts:?}");
    assert!(texts.iter().any(|text| text != &texts[0]), "{texts:?}");
}
