//! Two thousand requests in random mixes: joins, leaves, shared prefixes, conversations, little memory, greedy
//! and with seeds, streamed or not, speculative decoding on and off, with a KV cache in half precision and in int8.
//! Every answer equals the one that the same request gets alone, without exception.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "an end-to-end test")]

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::common::{Client, Daemon, Setup, golden};

const REQUESTS_OF_A_SEED: usize = 500;
const CLIENTS: usize = 12;

/// A request and its answer alone.
struct Case {
    body: Value,
    text: String,
}

/// Requests of all lengths: the goldens, the tasks, and conversations that begin alike.
fn bodies() -> Vec<Value> {
    let mut bodies = Vec::new();
    let chat = |messages: Value| json!({ "messages": messages });
    for (file, every) in [("golden.json", 1), ("accuracy.json", 4)] {
        for case in golden(file)["cases"].as_array().unwrap().iter().step_by(every) {
            if case["kind"] == "chat" {
                bodies.push(chat(case["messages"].clone()));
            }
        }
    }
    let system = "You are a helpful program on a small server. Answer in as few words as you can.";
    for (question, answer, next) in [
        ("What is 3+4?", "7", "What is 20+5?"),
        ("Repeat: red stone", "red stone", "Repeat: blue river"),
        ("Count to 10", "1 2 3 4 5 6 7 8 9 10", "Count to 12"),
    ] {
        let first = json!([
            { "role": "system", "content": system },
            { "role": "user", "content": question },
        ]);
        let mut second = first.clone();
        second.as_array_mut().unwrap().extend([
            json!({ "role": "assistant", "content": answer }),
            json!({ "role": "user", "content": next }),
        ]);
        bodies.extend([chat(first), chat(second)]);
    }
    for (index, body) in bodies.iter_mut().enumerate() {
        body["temperature"] = 0.into();
        body["max_tokens"] = 60.into();
        if index % 3 == 2 {
            body["temperature"] = 1.2.into();
            body["seed"] = index.into();
        }
    }
    bodies
}

/// Asks the daemon for each body alone.
fn alone(daemon: &Daemon) -> Vec<Case> {
    let client = daemon.unix();
    let case = |body: Value| Case { text: answer(&client, &body), body };
    bodies().into_iter().map(case).collect()
}

fn answer(client: &Client, body: &Value) -> String {
    let response = client.post("/v1/chat/completions", body);
    assert_eq!(response.status, 200, "{}", response.text());
    if body["stream"] == true {
        let chunks = response.chunks();
        return chunks
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
            .collect();
    }
    response.json()["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned()
}

/// Asks for one case; every so often leaves in the middle of it.
fn ask(client: &Client, case: &Case, random: &mut StdRng) -> Option<String> {
    let mut body = case.body.clone();
    body["stream"] = random.random_bool(0.4).into();
    if body["stream"] == true && random.random_bool(0.5) {
        let mut connection = client.send(
            "POST",
            "/v1/chat/completions",
            &[("Content-Type", "application/json")],
            body.to_string().as_bytes(),
        );
        let mut some = vec![0; random.random_range(1..600)];
        let _ = std::io::Read::read(&mut connection, &mut some);
        return None;
    }
    Some(answer(client, &body))
}

/// Sends a seed's requests from many clients.
fn run(daemon: &Daemon, cases: &[Case], seed: u64) {
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let client = if number % 2 == 0 { daemon.tcp() } else { daemon.unix() };
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(seed * 1000 + number as u64);
                for _ in 0..REQUESTS_OF_A_SEED.div_ceil(CLIENTS) {
                    let case = &cases[random.random_range(0..cases.len())];
                    if let Some(text) = ask(&client, case, &mut random) {
                        assert_eq!(text, case.text, "seed {seed}: {}", case.body);
                    }
                }
            });
        }
    });
}

/// Whether own attention and matmuls run here: with them a token's logits depend on nothing beside its sequence.
#[cfg(target_arch = "x86_64")]
fn is_own() -> bool {
    is_x86_feature_detected!("avx2")
}

#[cfg(not(target_arch = "x86_64"))]
fn is_own() -> bool {
    false
}

#[test]
fn every_answer_in_a_random_mix_is_the_one_given_alone() {
    let own = is_own();
    // Elsewhere the setting gives equal answers, for the same chunks.
    let always: &[&str] = if own { &[] } else { &["--reproducible", "true"] };
    let start = |kind: &str, arguments: &[&str]| {
        Setup::new().with(&["--kv-cache-type", kind]).with(always).with(arguments).start()
    };
    let plain = ["--prefix-slots", "0", "--draft-tokens", "0"];
    let cases = ["f16", "int8"].map(|kind| (kind, alone(&start(kind, &plain))));
    // 1 KiB a token in the demo's cache; the third mix has room for 3,000 tokens only.
    let mixes: [(u64, usize, &[&str]); 5] = [
        (1, 0, &[]),
        (2, 1, &["--draft-tokens", "0", "--slots", "3", "--prefix-slots", "2"]),
        (3, 0, &["--kv-cache-bytes", "3072000", "--prefill-chunk-tokens", "48"]),
        (4, 0, &["--slots", "5", "--prefix-slots", "0", "--prefill-share", "0.1"]),
        (5, 1, &["--kv-cache-bytes", "2000000", "--prefill-chunk-tokens", "100"]),
    ];
    let mut requests = 0;
    for (seed, kind, arguments) in mixes {
        let (kind, cases) = &cases[kind];
        let of_chunks = (!own).then(|| alone(&start(kind, arguments)));
        let cases = of_chunks.as_ref().unwrap_or(cases);
        assert!(cases.len() >= 100);
        let daemon = start(kind, arguments);
        run(&daemon, cases, seed);
        let health = daemon.wait_idle();
        let count = |name: &str| health[name].as_u64().unwrap();
        assert_eq!(count("failed"), 0, "{health}");
        assert_eq!(count("accepted"), count("finished") + count("cancelled"), "{health}");
        requests += count("accepted");
        println!("seed {seed}: {health}");
    }
    assert!(requests >= 2000, "{requests}");
}
