//! The daemon with its model and KV cache on a device, by the WebGPU provider.
//!
//! `tests/webgpu/run` makes a place with a device of Mesa's software Vulkan driver, and runs these
//! there. Answers are held to those of the CPU provider on the same export. Half precision in
//! another order moves logits by up to a tenth, which can turn a near-tie: an answer may leave the
//! expected one only at a token that the expected one had no more than [`NEAR_TIE`] above.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "an end-to-end test"
)]

#[path = "../common/mod.rs"]
mod common;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{Client, Daemon, Setup, golden};
use serde_json::{Value, json};

/// Logits (and so log-probabilities) closer than this may change places.
const NEAR_TIE: f64 = 0.2;

/// The provider's attention, paged or not, for 32 tokens and more is wrong on Mesa's driver from the
/// ninth on (onnxruntime-ep-webgpu 0.4.0, any LP_NATIVE_VECTOR_WIDTH); shorter chunks are right.
const CHUNK: &str = "16";

fn gpu_export() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-gpu")
}

/// The same model's export with a paged cache, made in `folder`.
fn paged_export(folder: &Path) -> PathBuf {
    for entry in std::fs::read_dir(gpu_export()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    for (from, to) in [("paged.onnx", "model.onnx"), ("paged.json", "genai_config.json")] {
        std::fs::rename(folder.join(from), folder.join(to)).unwrap();
    }
    folder.to_path_buf()
}

fn setup(model: &Path, provider: &str) -> Setup {
    Setup::new().model(model).with(&["--provider", provider, "--prefill-chunk-tokens", CHUNK])
}

fn on_device(arguments: &[&str]) -> Daemon {
    export_on_device(&gpu_export(), arguments)
}

fn export_on_device(model: &Path, arguments: &[&str]) -> Daemon {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let daemon = setup(model, "webgpu")
        .with(&["--provider-library", &variable("PHI4D_TEST_WEBGPU")])
        .with(arguments)
        .variable("XDG_RUNTIME_DIR", variable("XDG_RUNTIME_DIR"))
        .start();
    let log = daemon.log.text();
    assert!(log.contains("the KV cache is in device memory"), "{log}");
    assert!(log.contains("WebGPU_Buf"), "{log}");
    daemon
}

fn on_cpu() -> Daemon {
    let daemon =
        setup(&gpu_export(), "cpu").with(&["--prefix-slots", "0", "--draft-tokens", "0"]).start();
    assert!(!daemon.log.text().contains("device memory"));
    daemon
}

/// Chats of the golden file, whose prompts are of 12 to 70 tokens, and a long one.
fn bodies() -> Vec<Value> {
    let golden = golden("golden.json");
    let chats = golden["cases"].as_array().unwrap().iter().filter(|case| case["kind"] == "chat");
    let mut bodies: Vec<Value> = chats
        .filter(|case| case["prompt_length"].as_u64().unwrap() < 70)
        .step_by(4)
        .take(9)
        .map(|case| json!({ "messages": case["messages"] }))
        .collect();
    let long = "Ada has 3 red stones and Ben has 4 blue ones. ".repeat(20) + "What is 3+4?";
    bodies.push(json!({ "messages": [{ "role": "user", "content": long }] }));
    for body in &mut bodies {
        common::merge(
            body,
            &json!({ "temperature": 0, "max_tokens": 10, "logprobs": true, "top_logprobs": 5 }),
        );
    }
    bodies
}

fn ask(client: &Client, body: &Value) -> Value {
    let response = client.post("/v1/chat/completions", body);
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()
}

/// Tokens of an answer, each with those that were likeliest.
fn tokens(answer: &Value) -> Vec<Value> {
    answer["choices"][0]["logprobs"]["content"].as_array().unwrap().clone()
}

/// Checks an answer token by token; returns whether it is the expected one to the end.
#[track_caller]
fn check(answer: &Value, expected: &Value) -> bool {
    let (answer, expected) = (tokens(answer), tokens(expected));
    for (made, wanted) in answer.iter().zip(&expected) {
        let [of_made, of_wanted] = [made, wanted].map(|token| token["logprob"].as_f64().unwrap());
        if made["token"] == wanted["token"] {
            assert!((of_made - of_wanted).abs() < NEAR_TIE, "{made} for {wanted}");
            continue;
        }
        let others = wanted["top_logprobs"].as_array().unwrap();
        let other = others.iter().find(|other| other["token"] == made["token"]);
        let below = other.map(|other| of_wanted - other["logprob"].as_f64().unwrap());
        assert!(below.is_some_and(|below| below < NEAR_TIE), "{made} for {wanted}");
        println!("near-tie: {} for {}", made["token"], wanted["token"]);
        return false;
    }
    assert_eq!(answer.len(), expected.len());
    true
}

#[test]
#[ignore = "needs a device: tests/webgpu/run"]
fn answers_are_the_cpus_alone_and_among_others_and_from_cached_prompts() {
    answers_are_the_cpus(&gpu_export(), &bodies());
}

#[test]
#[ignore = "needs a device: tests/webgpu/run"]
fn answers_from_a_paged_cache_are_the_cpus_alone_and_among_others_and_from_cached_prompts() {
    let folder = tempfile::tempdir().unwrap();
    let bodies = bodies();
    answers_are_the_cpus(&paged_export(folder.path()), &bodies[bodies.len() - 4..]);
}

fn answers_are_the_cpus(model: &Path, bodies: &[Value]) {
    let cpu = on_cpu();
    let expected: Vec<Value> = bodies.iter().map(|body| ask(&cpu.unix(), body)).collect();
    drop(cpu);
    let daemon = export_on_device(model, &["--slots", "4", "--prefix-slots", "4"]);
    let mut same = 0;
    for (body, expected) in bodies.iter().zip(&expected) {
        same += usize::from(check(&ask(&daemon.unix(), body), expected));
    }
    assert!(same * 10 >= bodies.len() * 8, "{same} of {} are the same", bodies.len());
    // All at once, of mixed lengths, some from what is cached, more than there are slots.
    std::thread::scope(|scope| {
        for (body, expected) in bodies.iter().zip(&expected) {
            let client = daemon.tcp();
            scope.spawn(move || check(&ask(&client, body), expected));
        }
    });
    // A conversation's next turn takes up what is there.
    let long = bodies.last().unwrap();
    check(&ask(&daemon.unix(), long), expected.last().unwrap());
    let again = ask(&daemon.unix(), long);
    check(&again, expected.last().unwrap());
    let cached = again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    let prompt = again["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(cached + 1 == prompt, "{cached} of {prompt}");
    let [accepted, finished, ..] = daemon.ends();
    assert_eq!((accepted, finished), (2 * bodies.len() as u64 + 2, accepted));
}

#[test]
#[ignore = "needs a device: tests/webgpu/run"]
fn cached_prompts_outlive_a_restart() {
    let store = tempfile::tempdir().unwrap();
    let arguments = ["--slots", "2", "--prefix-store", store.path().to_str().unwrap()];
    let body = bodies().pop().unwrap();
    let mut daemon = on_device(&arguments);
    let first = ask(&daemon.unix(), &body);
    daemon.signal("TERM");
    assert!(daemon.wait_end().success());
    let daemon = on_device(&arguments);
    let again = ask(&daemon.unix(), &body);
    check(&again, &first);
    let cached = again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert_eq!(cached + 1, again["usage"]["prompt_tokens"].as_u64().unwrap());
}

#[test]
#[ignore = "needs a device: tests/webgpu/run"]
fn a_client_that_leaves_ends_its_work_and_harms_no_other() {
    let daemon = on_device(&["--slots", "3"]);
    let body = &bodies()[0];
    let expected = ask(&daemon.unix(), body);
    let endless = json!({
        "prompt": "The", "max_tokens": 4000, "ignore_eos": true, "temperature": 0, "stream": true,
    });
    let begin = || {
        let headers = [("Content-Type", "application/json")];
        let body = endless.to_string();
        daemon.tcp().send("POST", "/v1/completions", &headers, body.as_bytes())
    };
    let mut connections = [begin(), begin()];
    for connection in &mut connections {
        connection.read_exact(&mut [0; 600]).unwrap();
    }
    // Beside them, and when one of them goes while the answer is made.
    check(&ask(&daemon.unix(), body), &expected);
    std::thread::scope(|scope| {
        let client = daemon.unix();
        let expected = &expected;
        let answer = scope.spawn(move || check(&ask(&client, body), expected));
        drop(connections);
        answer.join().unwrap();
    });
    let [_, finished, cancelled, failed] = daemon.ends();
    assert_eq!((finished, cancelled, failed), (3, 2, 0));
}

#[test]
#[ignore = "needs a device: tests/webgpu/run"]
fn a_paged_cache_of_few_blocks_serves_all_in_turn_and_outlives_a_restart() {
    /// 4 layers, keys and values, 2 heads of 32 halves, 16 positions.
    const BLOCK_BYTES: usize = 4 * 2 * 2 * 32 * 2 * 16;
    let (folder, store) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let model = paged_export(folder.path());
    let bytes = (12 * BLOCK_BYTES).to_string();
    let store = store.path().to_str().unwrap();
    let arguments = [
        "--slots",
        "4",
        "--prefix-slots",
        "4",
        "--kv-cache-bytes",
        &bytes,
        "--prefix-store",
        store,
    ];
    let mut daemon = export_on_device(&model, &arguments);
    let log = daemon.log.text();
    assert!(log.contains(&format!("kv_cache_bytes={bytes}")), "{log}");
    assert!(
        !log.contains("memory for the KV cache, from what is left"),
        "the host's memory is not what counts: {log}"
    );
    // 192 tokens of cache for sequences that grow to 100 each: they wait, are put back and go on.
    let body = |number: usize| {
        json!({
            "prompt": format!("{number}+{number}="), "max_tokens": 80, "ignore_eos": true,
            "temperature": 0, "logprobs": 1,
        })
    };
    let ask = |client: &Client, number: usize| {
        let response = client.post("/v1/completions", &body(number));
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()["usage"]["completion_tokens"].as_u64().unwrap()
    };
    let all = |daemon: &Daemon| {
        std::thread::scope(|scope| {
            for number in 0..6 {
                let client = daemon.tcp();
                scope.spawn(move || assert_eq!(ask(&client, number), 80));
            }
        });
    };
    all(&daemon);
    let [accepted, finished, ..] = daemon.ends();
    assert_eq!((accepted, finished), (6, 6));
    let metrics = daemon.unix().get("/metrics").text();
    let preempted = |line: &&str| line.starts_with("phi4d_preemptions_total");
    let line = metrics.lines().find(preempted).unwrap();
    assert!(!line.ends_with(" 0"), "{line}");
    let log = daemon.log.text();
    assert!(!log.contains("not aliased"), "the cache is written in place: {log}");
    daemon.signal("TERM");
    assert!(daemon.wait_end().success());
    let daemon = export_on_device(&model, &arguments);
    let log = daemon.log.text();
    assert!(log.contains("restored cached prefixes") && !log.contains("count=0"), "{log}");
    all(&daemon);
    let log = daemon.log.text();
    let line = log.lines().rfind(|line| line.contains("laid out the KV cache")).unwrap();
    assert!(line.contains("blocks=12 "), "{line}");
}

/// Resident memory in bytes.
fn resident(daemon: &Daemon) -> usize {
    let status = PathBuf::from(format!("/proc/{}/status", daemon.id()));
    let status = std::fs::read_to_string(status).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

#[test]
#[ignore = "needs a device: tests/webgpu/run"]
fn a_thousand_requests_leave_memory_as_it_was() {
    const REQUESTS: usize = 1000;
    const WARM: usize = 200;
    let daemon = on_device(&["--slots", "4", "--prefix-slots", "4", "--queue", "64"]);
    // Bytes of the cache, as it was laid out last.
    let laid_out = || {
        let log = daemon.log.text();
        let line = log.lines().rfind(|line| line.contains("laid out the KV cache")).unwrap();
        let bytes = line.split(" bytes=").nth(1).unwrap().split(' ').next().unwrap();
        bytes.parse::<usize>().unwrap()
    };
    // On this driver the device's memory is the process's own.
    let ask_from = |range: std::ops::Range<usize>| {
        let next = AtomicUsize::new(range.start);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let client = daemon.unix();
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= range.end {
                            return;
                        }
                        let prompt = format!("{}+{}=", number % 97, number % 13);
                        let body = json!({
                            "prompt": prompt, "max_tokens": 1 + number % 3, "temperature": 0,
                        });
                        let response = client.post("/v1/completions", &body);
                        assert_eq!(response.status, 200, "{}", response.text());
                    }
                });
            }
        });
        daemon.ends()
    };
    ask_from(0..WARM);
    let before = (resident(&daemon), laid_out());
    let [accepted, finished, ..] = ask_from(WARM..REQUESTS);
    let after = (resident(&daemon), laid_out());
    println!(
        "memory and the cache's part of it: {before:?} after {WARM}, {after:?} after {REQUESTS}"
    );
    assert_eq!((accepted, finished), (REQUESTS as u64, REQUESTS as u64));
    assert_eq!(before.1, after.1, "the cache's memory");
    assert!(after.0 < before.0 + (8 << 20), "{before:?} {after:?}");
}
