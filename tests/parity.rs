//! The daemon's greedy output equals that of an independent Python loop over ONNX Runtime, token
//! for token, and solves the demo model's tasks as its `PyTorch` checkpoint does.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "an end-to-end test"
)]

use serde_json::{Value, json};

use crate::common::{Client, Daemon, Setup, golden, merge};

/// A daemon that takes a whole prompt in one step, as the Python loop does, and guesses nothing.
fn plain() -> Daemon {
    Setup::new()
        .with(&["--prefill-chunk-tokens", "4096", "--draft-tokens", "0", "--prefix-slots", "0"])
        .start()
}

/// Asks for a case's output, with each token's bytes.
fn ask(client: &Client, case: &Value, more: &Value) -> Value {
    let chat = case["kind"] == "chat";
    let mut body = json!({ "temperature": 0, "max_tokens": case["max_tokens"] });
    let path = if chat {
        body["messages"] = case["messages"].clone();
        body["logprobs"] = true.into();
        "/v1/chat/completions"
    } else {
        body["prompt"] = case["prompt"].clone();
        body["logprobs"] = 0.into();
        "/v1/completions"
    };
    merge(&mut body, more);
    let response = client.post(path, &body);
    assert_eq!(response.status, 200, "{}: {}", case["id"], response.text());
    response.json()
}

fn text(answer: &Value) -> &str {
    let choice = &answer["choices"][0];
    choice["message"]["content"].as_str().or_else(|| choice["text"].as_str()).unwrap()
}

/// What each token of the answer spells, by its log-probabilities.
fn spelled(answer: &Value) -> Vec<String> {
    let logprobs = &answer["choices"][0]["logprobs"];
    let chat = logprobs["content"].as_array().map(|content| {
        content
            .iter()
            .map(|entry| spell(serde_json::from_value(entry["bytes"].clone()).unwrap()))
            .collect()
    });
    let completion = logprobs["tokens"]
        .as_array()
        .map(|tokens| tokens.iter().map(|token| token.as_str().unwrap().to_owned()).collect());
    chat.or(completion).unwrap_or_default()
}

/// The file's own tokenizer, by Hugging Face's library.
fn tokenizer() -> tokenizers::Tokenizer {
    tokenizers::Tokenizer::from_file(crate::common::demo_folder().join("tokenizer.json")).unwrap()
}

/// A token as the API spells it: text, or `bytes:\\x..` where it is no whole character. The file
/// writes each byte as a printable character, as GPT-2 did.
fn spelling(tokenizer: &tokenizers::Tokenizer, token: u32) -> String {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let others: Vec<u8> = (0..=255).filter(|&byte| !printable(byte)).collect();
    let byte_of = |character: char| match u32::from(character).checked_sub(256) {
        Some(index) => others[index as usize],
        None => u8::try_from(character).unwrap(),
    };
    spell(tokenizer.id_to_token(token).unwrap().chars().map(byte_of).collect())
}

/// A token's bytes as completions spell them.
fn spell(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| {
        let escaped = error.as_bytes().iter().map(|byte| format!("\\x{byte:02x}"));
        format!("bytes:{}", escaped.collect::<String>())
    })
}

fn cases(name: &str) -> Vec<Value> {
    golden(name)["cases"].as_array().unwrap().clone()
}

fn check(case: &Value, answer: &Value, tokenizer: &tokenizers::Tokenizer) {
    let (id, ort) = (&case["id"], &case["ort"]);
    assert_eq!(text(answer), ort["text"].as_str().unwrap(), "case {id}");
    assert_eq!(answer["choices"][0]["finish_reason"], ort["finish_reason"], "case {id}");
    assert_eq!(answer["usage"]["prompt_tokens"], case["prompt_length"], "case {id}");
    let tokens: Vec<u32> = serde_json::from_value(ort["tokens"].clone()).unwrap();
    let expected: Vec<String> = tokens.iter().map(|&token| spelling(tokenizer, token)).collect();
    let mut made = spelled(answer);
    // The token that ends a turn is generated too.
    assert_eq!(answer["usage"]["completion_tokens"], made.len(), "case {id}");
    if ort["finish_reason"] == "stop" {
        let end = made.pop().unwrap();
        assert!(["<|im_end|>", "<|endoftext|>"].contains(&end.as_str()), "case {id}: {end}");
    }
    assert_eq!(made, expected, "case {id}");
}

#[test]
fn greedy_tokens_equal_the_python_loops() {
    let cases = cases("golden.json");
    let of = |kind: &str| cases.iter().filter(|case| case["kind"] == kind).count();
    assert!(cases.len() >= 50 && of("chat") >= 20 && of("completion") >= 20);
    let lengths = cases.iter().map(|case| case["prompt_length"].as_u64().unwrap());
    assert_eq!((lengths.clone().min(), lengths.max() >= Some(1000)), (Some(1), true));
    let daemon = plain();
    let tokenizer = tokenizer();
    for (index, case) in cases.iter().enumerate() {
        let client = if index % 2 == 0 { daemon.tcp() } else { daemon.unix() };
        check(case, &ask(&client, case, &json!({})), &tokenizer);
    }
}

#[test]
fn chunks_guesses_and_cached_prompts_change_no_token() {
    let daemon = Setup::new().with(&["--prefill-chunk-tokens", "32"]).start();
    let tokenizer = tokenizer();
    for case in cases("golden.json") {
        for _ in 0..2 {
            check(&case, &ask(&daemon.unix(), &case, &json!({})), &tokenizer);
        }
    }
    let health = daemon.health();
    assert!(health["cached_prompt_tokens"].as_u64().unwrap() > 5000, "{health}");
    assert!(health["accepted_draft_tokens"].as_u64().unwrap() > 0, "{health}");
}

#[test]
fn eight_requests_at_once_give_what_each_gives_alone() {
    let daemon = Daemon::start();
    let tokenizer = tokenizer();
    let cases = cases("golden.json");
    for group in cases.chunks(8) {
        let answers: Vec<Value> = std::thread::scope(|scope| {
            let asked: Vec<_> = group
                .iter()
                .map(|case| scope.spawn(|| ask(&daemon.tcp(), case, &json!({}))))
                .collect();
            asked.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for (case, answer) in group.iter().zip(&answers) {
            check(case, answer, &tokenizer);
        }
    }
    let health = daemon.wait_idle();
    let count = |name: &str| health[name].as_u64().unwrap();
    assert_eq!(count("accepted"), cases.len() as u64);
    assert_eq!(count("finished"), count("accepted"));
    // Requests shared steps: fewer steps than tokens, though each prompt took some of its own.
    assert!(count("steps") < count("generated_tokens"), "{health}");
}

#[test]
fn the_tasks_are_solved_as_by_the_checkpoint() {
    let file = golden("accuracy.json");
    let cases = file["cases"].as_array().unwrap();
    let daemon = Daemon::start();
    let max_tokens = json!({ "max_tokens": file["max_tokens"] });
    let right = std::thread::scope(|scope| {
        let parts: Vec<_> = cases
            .chunks(cases.len().div_ceil(4))
            .map(|part| {
                let client = daemon.unix();
                let max_tokens = &max_tokens;
                scope.spawn(move || {
                    part.iter()
                        .filter(|case| text(&ask(&client, case, max_tokens)) == case["expected"])
                        .count()
                })
            })
            .collect();
        parts.into_iter().map(|part| part.join().unwrap()).sum::<usize>()
    });
    let percent = 100.0 * right as f64 / cases.len() as f64;
    let checkpoint = file["results"]["checkpoint"]["percent"].as_f64().unwrap();
    println!(
        "exact match through the API: {percent:.2}% ({right} of {}), checkpoint: {checkpoint}%",
        cases.len()
    );
    assert!((percent - checkpoint).abs() <= 1.0);
}
