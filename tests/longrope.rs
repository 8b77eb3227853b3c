//! A model with two rotary tables, as Phi-4-mini has: greedy tokens across the switch from one to
//! the other equal those of an independent Python loop that keeps no cache at all
//! (`models/make_longrope.py`). The same weights with quantised caches equal a loop whose past and
//! present are apart.

#![allow(clippy::unwrap_used, reason = "an end-to-end test")]

use serde_json::{Value, json};

use crate::common::{Client, Setup, demo_folder, golden};

/// A folder with the model of the file `graph`, and the tokenizer of the demo model.
fn folder(graph: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let models = demo_folder().parent().unwrap().to_path_buf();
    for (from, name) in [
        ("longrope", "genai_config.json"),
        ("longrope", "model.onnx.data"),
        ("demo", "tokenizer.json"),
        ("demo", "tokenizer_config.json"),
    ] {
        std::fs::copy(models.join(from).join(name), folder.path().join(name)).unwrap();
    }
    std::fs::copy(models.join("longrope").join(graph), folder.path().join("model.onnx")).unwrap();
    folder
}

/// Continues `prompt` by `count` tokens. Returns them, and how many of the prompt's were cached.
fn continued(client: &Client, prompt: &[Value], count: usize) -> (Vec<Value>, u64) {
    let body = json!({
        "prompt": prompt, "max_tokens": count, "temperature": 0, "ignore_eos": true,
        "return_token_ids": true,
    });
    let response = client.post("/v1/completions", &body);
    assert_eq!(response.status, 200, "{}", response.text());
    let answer = response.json();
    let cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    (answer["choices"][0]["token_ids"].as_array().unwrap().clone(), cached)
}

/// Prompt and output of each golden case.
fn cases() -> Vec<(Vec<Value>, Vec<Value>)> {
    let golden = golden("longrope.json");
    let switch = golden["switch"].as_u64().unwrap();
    let cases = golden["cases"].as_array().unwrap();
    for case in cases {
        // What a cache that is kept across the switch gives differs, so that it would be seen.
        let crosses = list(&case["prompt_tokens"]).len() as u64 <= switch;
        assert_eq!(case["kept"] != case["tokens"], crosses);
    }
    prompts_and_tokens(&golden["cases"])
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().unwrap().clone()
}

fn prompts_and_tokens(cases: &Value) -> Vec<(Vec<Value>, Vec<Value>)> {
    list(cases).iter().map(|case| (list(&case["prompt_tokens"]), list(&case["tokens"]))).collect()
}

/// The golden tokens are of single precision, and weights are random: half precision chooses another token
/// after some dozens.
const EXACT: [&str; 2] = ["--kv-cache-type", "f32"];

#[test]
fn alone_in_chunks_of_any_size_and_with_guesses() {
    let folder = folder("model.onnx");
    for arguments in [
        ["--prefill-chunk-tokens", "512", "--draft-tokens", "0"],
        ["--prefill-chunk-tokens", "16", "--draft-tokens", "0"],
        ["--prefill-chunk-tokens", "50", "--draft-tokens", "7"],
    ] {
        let daemon = Setup::new().model(folder.path()).with(&EXACT).with(&arguments).start();
        for (prompt, tokens) in cases() {
            let (given, _) = continued(&daemon.unix(), &prompt, tokens.len());
            assert_eq!(given, tokens, "{arguments:?}, a prompt of {}", prompt.len());
        }
    }
}

#[test]
fn batched_and_going_on_from_what_is_cached() {
    let folder = folder("model.onnx");
    let daemon = Setup::new()
        .model(folder.path())
        .with(&EXACT)
        .with(&["--slots", "4", "--prefix-slots", "6", "--prefill-chunk-tokens", "16"])
        .start();
    std::thread::scope(|scope| {
        for (prompt, tokens) in cases() {
            let client = daemon.unix();
            // Each goes on from its own text, from before the switch and from past it.
            scope.spawn(move || {
                for keep in [0, 30, 3, 60] {
                    let whole = [&prompt[..], &tokens[..keep]].concat();
                    let (given, _) = continued(&client, &whole, tokens.len() - keep);
                    assert_eq!(given, tokens[keep..], "{} and {keep}", prompt.len());
                }
            });
        }
    });
}

#[test]
fn cached_tokens_are_used_on_their_side_of_the_switch() {
    let folder = folder("model.onnx");
    let daemon =
        Setup::new().model(folder.path()).with(&EXACT).with(&["--prefix-slots", "4"]).start();
    let client = daemon.unix();
    let (prompt, tokens) = cases().into_iter().find(|(prompt, _)| prompt.len() == 60).unwrap();
    let mut cached = Vec::new();
    // 60, 63, 75 and 90 tokens, each of them in two parts.
    for (keep, count) in [(0, 3), (3, 1), (15, 15), (30, 50)] {
        let whole = [&prompt[..], &tokens[..keep]].concat();
        let (given, used) = continued(&client, &whole, count);
        assert_eq!(given, tokens[keep..][..count], "after {keep}");
        cached.push(used);
    }
    assert_eq!(cached, [0, 62, 0, 89]);
}

#[test]
fn quantised_caches_alone_and_together() {
    for (name, graph) in [("int8", "int8.onnx"), ("int4", "int4.onnx")] {
        let folder = folder(graph);
        let arguments = ["--slots", "4", "--prefix-slots", "4", "--prefill-chunk-tokens", "16"];
        let daemon = Setup::new().model(folder.path()).with(&arguments).start();
        let cases = prompts_and_tokens(&golden("longrope.json")[name]);
        for (prompt, tokens) in &cases {
            let (given, _) = continued(&daemon.unix(), prompt, tokens.len());
            assert_eq!(given, *tokens, "{name}, a prompt of {}", prompt.len());
        }
        std::thread::scope(|scope| {
            for (prompt, tokens) in &cases {
                let client = daemon.unix();
                scope.spawn(move || {
                    for keep in [0, 30, 70] {
                        let whole = [&prompt[..], &tokens[..keep]].concat();
                        let (given, _) = continued(&client, &whole, tokens.len() - keep);
                        assert_eq!(given, tokens[keep..], "{name}, {} and {keep}", prompt.len());
                    }
                });
            }
        });
    }
}
