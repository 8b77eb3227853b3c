//! Answers judged by programs that are not ours: answers that must be of a form, whatever the model
//! would rather say, by JSON Schema validators; each sampling parameter by a computation of its own
//! on the model's logits. `tests/clients/setup` and
//! `tests/schemas/setup` install what they need.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop where something is wrong"
)]

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::Daemon;

/// What a judge of `tests/clients` says of the daemon.
fn judge(script: &str, daemon: &Daemon, arguments: &[&OsStr]) -> Value {
    let python = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let python = python.join("clients/venv/bin/python");
    assert!(python.exists(), "{} is missing; run tests/clients/setup", python.display());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(script);
    let output = Command::new(python)
        .arg(script)
        .arg(format!("http://{}", daemon.address()))
        .args(arguments)
        .env("ORT_DISABLE_TELEMETRY", "1")
        .output()
        .unwrap();
    let [printed, said] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{}\n{said}\n{printed}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs a program of `tests/schemas`; what it printed.
fn run(program: &Path, arguments: &[&OsStr]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let [printed, said] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{arguments:?}: {}\n{said}\n{printed}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// The model answers each schema, validly by two validators, or the schema is refused. Nightly
/// takes more of them (`PHI4D_SCHEMA_COUNT`) and more seeds (`PHI4D_SCHEMA_SEEDS`).
#[test]
fn answers_by_random_schemas_are_valid() {
    let setting =
        |name: &str, usual: &str| std::env::var(name).unwrap_or_else(|_| usual.to_owned());
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("schemas");
    let python = place.join("venv/bin/python");
    assert!(python.exists(), "{} is missing; run tests/schemas/setup", python.display());
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemas");
    let files = tempfile::tempdir_in(&place).unwrap();
    let [ask, draw, judge] = ["ask.py", "schemas.py", "judge.py"].map(|name| scripts.join(name));
    // Node.js looks for the validator beside the script.
    let ajv = files.path().join("judge.mjs");
    std::fs::copy(scripts.join("judge.mjs"), &ajv).unwrap();
    let [schemas, answers] = ["schemas", "answers"].map(|name| files.path().join(name));
    let count = setting("PHI4D_SCHEMA_COUNT", "240");
    let drawn = run(&python, &[draw.as_ref(), "0".as_ref(), count.as_ref()]);
    std::fs::write(&schemas, drawn).unwrap();
    let daemon = Daemon::start();
    let url = format!("http://{}", daemon.address());
    let seeds = setting("PHI4D_SCHEMA_SEEDS", "1");
    let mut arguments: Vec<&OsStr> =
        vec![ask.as_ref(), url.as_ref(), schemas.as_ref(), answers.as_ref()];
    arguments.extend(seeds.split(' ').map(OsStr::new));
    run(&python, &arguments);
    let seen = run(&python, &[judge.as_ref(), schemas.as_ref(), answers.as_ref()]);
    let by_ajv = [ajv.as_ref(), schemas.as_ref(), answers.as_ref()];
    let also = run(&place.join("venv/bin/node"), &by_ajv);
    let number = |text: &str, key: &str| {
        let seen: Value = serde_json::from_str(text).unwrap();
        seen[key].as_u64().unwrap_or(0)
    };
    let asked: u64 = count.parse::<u64>().unwrap() * seeds.split(' ').count() as u64;
    assert!(number(&seen, "stop") * 2 > asked && number(&seen, "length") * 20 > asked, "{seen}");
    assert!(number(&also, "valid") * 2 > asked, "{also}");
    // Each judge passes over expressions that are nothing in its language, which few are.
    for seen in [&seen, &also] {
        assert!(number(seen, "skipped") * 50 < asked, "{seen}");
    }
    daemon.wait_idle();
}

#[test]
fn each_parameter_does_what_its_definition_says() {
    let daemon = Daemon::start();
    let seen = judge("reference.py", &daemon, &[crate::common::demo_folder().as_os_str()]);
    let seen = seen.as_object().unwrap();
    assert!(seen.len() >= 20, "{seen:?}");
    let sum = |key: &str| seen.values().map(|found| found[key].as_u64().unwrap()).sum::<u64>();
    // The judge stops at the first token that is wrong by more than the logits' noise.
    assert!(sum("near_ties") * 50 < sum("compared"), "{seen:?}");
}

#[test]
fn texts_are_scored_as_evaluation_harnesses_read_them() {
    let daemon = Daemon::start();
    let seen = judge("scores.py", &daemon, &[crate::common::demo_folder().as_os_str()]);
    // Some end in the stop token, which must have its entry.
    assert!(seen["pairs"].as_u64() > Some(5) && seen["ended"].as_u64() > Some(1), "{seen}");
}

/// Grammars of llama.cpp's, each with an expression of the same language.
#[test]
fn grammars_in_gbnf_are_kept_to() {
    let daemon = Daemon::start();
    for (grammar, expression) in [
        ("root ::= \"yes\" | \"no\"", r"yes|no"),
        ("root ::= [0-9]{1,3} (\".\" [0-9])?", r"[0-9]{1,3}(\.[0-9])?"),
        ("root ::= item{2,4}\nitem ::= \"- \" [a-z]+ \"\\n\"", r"(- [a-z]+\n){2,4}"),
        (
            "root ::= a-b | \"(\" root \")\"\na-b ::= \"\\\"\" [^\\\"\\x00-\\x1f]{0,5} \"\\\"\"",
            ".*",
        ),
        ("root ::= ws \"x\" ws\nws ::= | \" \" ws", " *x *"),
    ] {
        let expression = regex::Regex::new(&format!(r"\A(?s:{expression})\z")).unwrap();
        for seed in 0..4 {
            let body = json!({
                "prompt": "12+7=", "temperature": 1.5, "max_tokens": 60, "grammar": grammar,
                "seed": seed
            });
            let answer = daemon.tcp().post("/v1/completions", &body).json();
            let choice = &answer["choices"][0];
            let text = choice["text"].as_str().unwrap_or_else(|| panic!("{grammar}: {answer}"));
            let is_cut = choice["finish_reason"] == "length";
            assert!(is_cut || expression.is_match(text), "{grammar}: {text:?}");
        }
    }
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
