//! Loads that fail, keys, the end of the daemon, and any order of all of it.

use std::process::Command;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;

use super::{
    Gate, Stock, alone, ask, completion, descriptors, metric, resident_kib, send, short, tokens,
    wait_state,
};
use crate::common::{Response, demo_folder, wait_for};

#[test]
fn a_folder_that_is_broken_is_an_error_of_its_requests_until_it_is_mended() {
    let stock = Stock::new();
    let (file, away) = (stock.path("twin").join("model.onnx"), stock.path("away"));
    std::fs::rename(&file, &away).unwrap();
    let tables =
        [stock.table("twin", "twin", "load = 'start'"), stock.table("none", "nowhere", "")];
    let daemon = stock.start(&tables, &[]);
    let client = daemon.unix();
    for (model, part) in [("twin", "model.onnx"), ("none", "nowhere")] {
        let refused = client.post("/v1/completions", &completion(model, &[1], &json!({})));
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert_eq!(refused.json()["error"]["code"], "model_unavailable");
        assert!(refused.text().contains(part), "{}", refused.text());
    }
    ask(&client, "demo", &[1, 2, 3]);
    std::fs::rename(&away, &file).unwrap();
    let answer = wait_for("it is mended", || {
        let response = client.post("/v1/completions", &completion("twin", &[1, 2, 3], &json!({})));
        (response.status == 200).then(|| tokens(&response))
    });
    assert_eq!(answer, ask(&client, "demo", &[1, 2, 3]));
    assert!(metric(&daemon, "phi4d_model_load_failures_total", "twin") >= 1.0);
    // A load that fails half-way leaves the model and its waiting requests no worse.
    let unload = json!({"model": "twin", "keep_alive": 0});
    client.post("/api/generate", &unload);
    wait_state(&daemon, "twin", "unloaded");
    let gate = stock.gate("twin");
    let body = completion("twin", &[1, 2, 3], &json!({}));
    let mut sent = [send(&client, &body), send(&client, &body)];
    wait_for("both wait", || (short(&daemon, "twin")["waiting"] == 2).then_some(()));
    Gate { text: b"{".to_vec(), ..gate }.open();
    for connection in &mut sent {
        let refused = Response::read(connection);
        assert!(refused.status == 503 && refused.text().contains("tokenizer.json"));
    }
    daemon.ends();
}

#[test]
fn keys_hold_for_every_model() {
    let stock = Stock::new();
    let keys = stock.path("keys");
    let added = Command::new(env!("CARGO_BIN_EXE_phi4d"))
        .args(["key", "add", "small", "--tokens-per-minute", "40", "--api-keys-file"])
        .arg(&keys)
        .output()
        .unwrap();
    let key = String::from_utf8(added.stdout).unwrap();
    let tables = [stock.table("long", "long", "")];
    let file = keys.to_str().unwrap();
    let daemon = stock.start(&tables, &["--api-keys-file", file]);
    let body = completion("long", &[1, 2, 3], &json!({})).to_string();
    let ask = |headers: &[(&str, &str)]| {
        let headers = [headers, &[("Content-Type", "application/json")]].concat();
        daemon.tcp().request("POST", "/v1/completions", &headers, body.as_bytes()).status
    };
    assert_eq!(ask(&[]), 401);
    // Nobody without a key makes the daemon load.
    assert_eq!(short(&daemon, "long")["state"], "unloaded");
    let bearer = format!("Bearer {}", key.trim());
    let key = [("Authorization", bearer.as_str())];
    assert_eq!((ask(&key), ask(&key), ask(&key)), (200, 200, 429));
}

#[test]
fn the_daemon_stops_whatever_its_models_do() {
    let stock = Stock::new();
    let tables = [stock.table("long", "long", ""), stock.table("twin", "twin", "load = 'start'")];
    let store = stock.path("store");
    let arguments = ["--prefix-store", store.to_str().unwrap(), "--drain-timeout-s", "0"];
    let mut daemon = stock.start(&tables, &arguments);
    wait_state(&daemon, "twin", "loaded");
    let prompt: Vec<u32> = (3..300).collect();
    for model in ["demo", "twin"] {
        ask(&daemon.unix(), model, &prompt);
    }
    let gate = stock.gate("long");
    let mut waits = send(&daemon.unix(), &completion("long", &[1], &json!({})));
    wait_state(&daemon, "long", "loading");
    daemon.signal("TERM");
    let refused = Response::read(&mut waits);
    assert_eq!(refused.status, 503, "{}", refused.text());
    gate.open();
    assert!(daemon.wait_end().success());
    // Each model has kept its prompts in a folder of its own.
    let daemon = stock.start(&tables, &arguments);
    wait_state(&daemon, "twin", "loaded");
    for model in ["demo", "twin"] {
        let body = completion(model, &prompt, &json!({}));
        let usage = daemon.unix().post("/v1/completions", &body).json()["usage"].clone();
        assert!(usage["prompt_tokens_details"]["cached_tokens"].as_u64() > Some(200), "{usage}");
    }
}

/// Hundreds of requests in any order, some of which load, unload or leave: each gets its model's answer,
/// and nothing is left of it.
#[test]
fn every_request_gets_its_models_answer_whatever_comes_and_goes() {
    let seed = 20_261_201;
    println!("seed {seed}");
    let stock = Stock::new();
    let prompts: Vec<Vec<u32>> =
        (1..6).map(|n| (2..9 * n).map(|id| id * 3 + n).collect()).collect();
    let expected = [alone(&demo_folder(), &prompts), alone(&stock.path("long"), &prompts)];
    let names = [("demo", 0), ("twin", 0), ("long", 1), ("again", 1)];
    let tables = [
        stock.table("twin", "twin", ""),
        stock.table("long", "long", ""),
        stock.table("again", "long", ""),
    ];
    // A large and a small one fit.
    let daemon = stock.start(&tables, &["--models-memory-bytes", "24000000"]);
    let client = daemon.unix();
    let run = |seed: u64, count: usize| {
        let mut random = StdRng::seed_from_u64(seed);
        let mut right = 0_usize;
        for _ in 0..count {
            let (model, kind) = names[random.random_range(0..names.len())];
            let which = random.random_range(0..prompts.len());
            let body = completion(model, &prompts[which], &json!({}));
            match random.random_range(0..12) {
                0 => drop(send(&client, &body)),
                1 => {
                    let keep =
                        [json!(0), json!("1ms"), json!(-1)][random.random_range(0..3)].clone();
                    let unload = json!({"model": model, "keep_alive": keep, "stream": false});
                    assert_eq!(client.post("/api/generate", &unload).status, 200);
                }
                _ => {
                    assert_eq!(ask(&client, model, &prompts[which]), expected[kind][which]);
                    right += 1;
                }
            }
        }
        right
    };
    // The first round is for what stays: threads' stacks, the allocator's memory.
    let mut sizes = Vec::new();
    for round in 0..3 {
        let seeds: Vec<u64> = (0..4).map(|worker| seed + 10 * round + worker).collect();
        let right: usize = std::thread::scope(|scope| {
            let run = &run;
            let workers: Vec<_> = seeds.iter().map(|seed| scope.spawn(|| run(*seed, 16))).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert!(right > 30);
        for (model, _) in names {
            client.post("/api/generate", &json!({"model": model, "keep_alive": 0}));
            wait_state(&daemon, model, "unloaded");
        }
        daemon.ends();
        sizes.push((resident_kib(&daemon), descriptors(&daemon)));
    }
    println!("KiB and descriptors after each round: {sizes:?}");
    let ((first, files), (last, _)) = (sizes[0], sizes[2]);
    // Connections that were just closed may still be on their way.
    wait_for("all descriptors are given back", || (descriptors(&daemon) <= files).then_some(()));
    assert!(last < first + (8 << 10), "{sizes:?}");
}
