//! Several models of a daemon that ends when idle, and that the next connection starts again.

use std::io::Read as _;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use super::{Stock, alone, ask, completion, send, start_long, tokens};
use crate::common::{Client, Response, demo_folder, wait_for};
use crate::idle::WHILE;
use crate::idle::activator::Activator;

/// What `/v1/models` says of a model.
fn state(client: &Client, model: &str) -> Value {
    client.get(&format!("/v1/models/{model}")).json()["state"].clone()
}

#[test]
fn a_request_for_any_model_keeps_the_daemon_awake_also_while_its_model_loads() {
    let stock = Stock::new();
    let tables = [stock.table("long", "long", ""), stock.table("twin", "twin", "")];
    let daemon = Activator::with(stock.setup(&tables, &["--idle-exit", "0.2"]));
    let client = daemon.unix();
    let stays_awake = |starts: usize| {
        std::thread::sleep(WHILE);
        assert_eq!((daemon.starts(), daemon.is_asleep()), (starts, false));
    };
    // The first request of all is for a further model. Its answer fills every buffer on its way.
    let mut running = start_long(&client, "twin");
    stays_awake(1);
    let mut rest = Vec::new();
    running.read_to_end(&mut rest).unwrap();
    assert!(String::from_utf8_lossy(&rest).contains("data: [DONE]"), "the answer is whole");
    daemon.wait_asleep();

    // At its start it reads all folders, so the load is held up once it serves.
    let load_slowly = || {
        let held = start_long(&client, "twin");
        let gate = stock.gate("long");
        let waits = send(&client, &completion("long", &[1, 2, 3], &json!({})));
        wait_for("it loads", || (state(&client, "long") == "loading").then_some(()));
        drop(held);
        (gate, waits)
    };
    let (gate, mut waits) = load_slowly();
    stays_awake(2);
    gate.open();
    let answer = tokens(&Response::read(&mut waits));
    daemon.wait_asleep();

    // A load that nobody waits for any more does not keep it awake, and ends in good order.
    let (gate, leaves) = load_slowly();
    drop(leaves);
    std::thread::sleep(WHILE);
    gate.open();
    daemon.wait_asleep();
    assert_eq!(ask(&client, "long", &[1, 2, 3]), answer);
    assert_eq!(daemon.starts(), 4);
    let log = daemon.finish();
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn the_first_request_after_a_sleep_may_be_for_any_model_and_finds_its_prompt() {
    let stock = Stock::new();
    let tables = [stock.table("long", "long", ""), stock.table("twin", "twin", "")];
    let store = stock.path("store");
    // One is unloaded before it sleeps, as two fit.
    let more = ["--idle-exit", "0.1", "--models-memory-bytes", "44000000", "--prefix-store"];
    let arguments = [&more[..], &[store.to_str().unwrap()]].concat();
    let daemon = Activator::with(stock.setup(&tables, &arguments));
    let prompt: Vec<u32> = (3..300).collect();
    let models = ["demo", "long", "twin"];
    let ask = |model: &str| {
        daemon.unix().post("/v1/completions", &completion(model, &prompt, &json!({})))
    };
    let first = models.map(|model| tokens(&ask(model)));
    assert_ne!(first[0], first[1]);
    for (model, expected) in models.iter().zip(&first).rev() {
        daemon.wait_asleep();
        let starts = daemon.starts();
        let answer = ask(model);
        assert_eq!((&tokens(&answer), daemon.starts()), (expected, starts + 1));
        // All but the last token, whose logits are needed.
        let usage = &answer.json()["usage"];
        let cached = &usage["prompt_tokens_details"]["cached_tokens"];
        assert_eq!(cached, prompt.len() - 1, "{model}: {usage}");
    }
    daemon.finish();
}

#[test]
fn no_request_for_any_model_is_lost_while_the_daemon_falls_asleep() {
    let seed = 20_261_202;
    println!("seed {seed}");
    let stock = Stock::new();
    let prompts = [vec![5, 6, 7], (3..80).collect()];
    let expected = [alone(&demo_folder(), &prompts), alone(&stock.path("long"), &prompts)];
    let models = [("demo", 0), ("twin", 0), ("long", 1)];
    let tables = [stock.table("long", "long", ""), stock.table("twin", "twin", "")];
    let store = stock.path("store");
    let arguments = ["--idle-exit", "0.05", "--models-memory-bytes", "44000000"];
    let arguments = [&arguments[..], &["--prefix-store", store.to_str().unwrap()]].concat();
    let daemon = Activator::with(stock.setup(&tables, &arguments));
    let begun = Instant::now();
    let asks = |seed: u64| {
        let mut random = StdRng::seed_from_u64(seed);
        // As many sleeps as the time allows on a slow machine.
        while daemon.starts() < 20 && begun.elapsed() < Duration::from_secs(30) {
            let (model, kind) = models[random.random_range(0..models.len())];
            let which = random.random_range(0..prompts.len());
            assert_eq!(ask(&daemon.unix(), model, &prompts[which]), expected[kind][which]);
            // About as long as it takes to fall asleep.
            std::thread::sleep(Duration::from_millis(random.random_range(40..140)));
        }
    };
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let asks = &asks;
            scope.spawn(move || asks(seed + worker));
        }
    });
    daemon.wait_asleep();
    println!("{} starts in {:?}", daemon.starts(), begun.elapsed());
    assert!(daemon.starts() >= 5, "it was hardly ever asleep");
    let log = daemon.finish();
    assert!(!log.contains("ERROR") && !log.contains("panicked"), "{log}");
}
