//! Who waits for whom while long prompts are read.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "an end-to-end test")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Client, Daemon, Response, Setup, wait_for};

/// Distinct prompts that no other begins like.
fn prompt(first: u32, tokens: u32) -> Vec<u32> {
    (0..tokens).map(|n| 100 + (first * 31 + n * 7) % 700).collect()
}

fn body(prompt: &[u32], tokens: u32) -> Value {
    json!({ "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": true })
}

fn complete(client: &Client, prompt: &[u32], tokens: u32) -> Value {
    let response = client.post("/v1/completions", &body(prompt, tokens));
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()
}

fn count(daemon: &Daemon, name: &str) -> u64 {
    daemon.health()[name].as_u64().unwrap()
}

#[test]
fn a_short_prompt_is_answered_while_a_long_one_is_read() {
    // Many small chunks, so that the long prompt takes hundreds of steps on any machine.
    let daemon = Setup::new().with(&["--prefill-chunk-tokens", "8"]).start();
    let client = daemon.tcp();
    let headers = [("Content-Type", "application/json")];
    let long = body(&prompt(1, 4000), 1).to_string();
    let mut reading = client.send("POST", "/v1/completions", &headers, long.as_bytes());
    wait_for("chunks of the long prompt", || (count(&daemon, "steps") > 10).then_some(()));
    complete(&client, &prompt(2, 10), 1);
    // The long prompt is not read yet, and goes on.
    assert_eq!(count(&daemon, "running"), 1);
    assert_eq!(Response::read(&mut reading).status, 200);
}

#[test]
fn equal_prompts_sent_at_once_are_read_once() {
    let daemon = Setup::new().with(&["--prefill-chunk-tokens", "16"]).start();
    let equal = prompt(3, 3000);
    let cached: Vec<u64> = std::thread::scope(|scope| {
        let ask = || complete(&daemon.tcp(), &equal, 1);
        let asked: Vec<_> = (0..3).map(|_| scope.spawn(ask)).collect();
        let answers = asked.into_iter().map(|asked| asked.join().unwrap());
        let cached =
            |answer: Value| answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
        answers.map(|answer| cached(answer).unwrap_or(0)).collect()
    });
    // All but the last token, whose logits are needed.
    assert_eq!(cached.iter().filter(|&&tokens| tokens == 2999).count(), 2, "{cached:?}");
    assert_eq!(count(&daemon, "prompt_tokens"), 3000 + 2);
}

/// Prints the times of a short prompt alone and beside one that fills the context. Not part of the suite:
/// other tests on the machine would decide what it finds.
#[test]
#[ignore = "measures times"]
fn first_token_of_a_short_prompt_beside_a_long_one() {
    let daemon = Daemon::start();
    let client = daemon.tcp();
    let timed = |prompt: &[u32]| {
        let began = Instant::now();
        complete(&client, prompt, 1);
        began.elapsed()
    };
    // The daemon learns what steps take.
    timed(&prompt(9, 4000));
    for round in 0..5 {
        let alone = timed(&prompt(10 + 3 * round, 10));
        let (long, beside) = std::thread::scope(|scope| {
            let long = scope.spawn(|| {
                let client = daemon.tcp();
                let began = Instant::now();
                complete(&client, &prompt(11 + 3 * round, 4080), 1);
                began.elapsed()
            });
            std::thread::sleep(Duration::from_millis(20));
            let beside = timed(&prompt(12 + 3 * round, 10));
            (long.join().unwrap(), beside)
        });
        println!("4,080 tokens {long:.1?}; 10 tokens alone {alone:.1?}, beside them {beside:.1?}");
    }
}
