//! Which models are in memory: a budget, what makes room, and what is unloaded when.

use std::io::Read as _;

use serde_json::{Value, json};

use super::{
    Stock, ask, completion, metric, post_from, resident_kib, send, short, start_long, tokens,
    wait_state,
};
use crate::common::{Response, wait_for};

#[test]
fn the_least_recently_used_model_makes_room() {
    let stock = Stock::new();
    let tables = [
        stock.table("long", "long", "kv_cache_type = 'f32'"),
        stock.table("twin", "twin", "kv_cache_type = 'f32'\nkv_cache_bytes = 67108864"),
    ];
    // Two of them fit, by their caches and weights.
    let daemon = stock.start(&tables, &["--models-memory-bytes", "94000000"]);
    let client = daemon.unix();
    ask(&client, "twin", &[1, 2, 3]);
    wait_state(&daemon, "demo", "loaded");
    ask(&client, "demo", &[1, 2, 3]);
    // What it holds shows in the daemon's memory, and is given back.
    for n in 1..5 {
        let prompt: Vec<u32> = (0..3900).map(|id| (id * n) % 997 + 1).collect();
        ask(&client, "twin", &prompt);
    }
    ask(&client, "demo", &[1, 2, 4]);
    let before = resident_kib(&daemon);
    ask(&client, "long", &[1, 2, 3]);
    let states = ["demo", "long", "twin"].map(|model| short(&daemon, model)["state"].clone());
    assert_eq!(states, ["loaded", "loaded", "unloaded"]);
    let fell = before.saturating_sub(resident_kib(&daemon));
    assert!(fell > 12 << 10, "it fell by {fell} KiB of {before}");
    let bytes: f64 = ["demo", "long", "twin"]
        .map(|model| metric(&daemon, "phi4d_model_memory_bytes", model))
        .into_iter()
        .sum();
    assert!(bytes > 20e6 && bytes <= 94e6, "{bytes}");
    // The first model goes, too, and comes back by its name or by none.
    ask(&client, "twin", &[1, 2, 3]);
    wait_state(&daemon, "demo", "unloaded");
    assert_eq!(client.get("/ready").status, 200);
    assert_eq!(client.get("/props").status, 200);
    wait_state(&daemon, "demo", "loaded");
    let counts = daemon.ends();
    assert_eq!(counts[0], 9, "counters outlive their engines");
}

#[test]
fn a_model_that_never_fits_is_an_error_of_its_requests() {
    let stock = Stock::new();
    let tables = [stock.table("huge", "twin", "kv_cache_bytes = 60000000")];
    let daemon = stock.start(&tables, &["--models-memory-bytes", "30000000"]);
    let refused = daemon.unix().post("/v1/completions", &completion("huge", &[1], &json!({})));
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("models_memory_bytes allows 30000000"), "{}", refused.text());
    ask(&daemon.unix(), "demo", &[1, 2, 3]);
}

#[test]
fn a_model_with_a_request_stays_and_the_next_in_line_gets_the_room() {
    let stock = Stock::new();
    let tables = [stock.table("long", "long", ""), stock.table("twin", "twin", "")];
    let daemon = stock.start(&tables, &["--models-memory-bytes", "22000000"]);
    let client = daemon.unix();
    let mut running = start_long(&client, "demo");
    let mut next = send(&client, &completion("long", &[1, 2, 3], &json!({})));
    wait_for("it waits", || (short(&daemon, "long")["waiting"] == 1).then_some(()));
    // Those that come later for the model that is to go wait behind.
    let mut behind = send(&client, &completion("demo", &[1, 2, 3], &json!({})));
    wait_for("it waits", || (short(&daemon, "demo")["waiting"] == 1).then_some(()));
    assert_eq!(short(&daemon, "demo")["state"], "loaded");
    let mut rest = Vec::new();
    running.read_to_end(&mut rest).unwrap();
    assert!(String::from_utf8_lossy(&rest).contains("data: [DONE]"), "the answer is whole");
    tokens(&Response::read(&mut next));
    tokens(&Response::read(&mut behind));
    assert_eq!(short(&daemon, "long")["state"], "unloaded");
    assert_eq!(metric(&daemon, "phi4d_model_loads_total", "demo"), 2.0);
    // One that leaves gives way at once.
    let running = start_long(&client, "demo");
    let mut next = send(&client, &completion("twin", &[1, 2, 3], &json!({})));
    wait_for("it waits", || (short(&daemon, "twin")["waiting"] == 1).then_some(()));
    drop(running);
    tokens(&Response::read(&mut next));
    daemon.ends();
}

#[test]
fn nobody_waits_for_all_the_loads_that_another_asks_for() {
    let stock = Stock::new();
    let daemon =
        stock.start(&[stock.table("long", "long", "")], &["--models-memory-bytes", "22000000"]);
    // Until all are in line no room is made for any of them.
    let mut running = start_long(&daemon.unix(), "demo");
    let from =
        |last, model| post_from(last, daemon.address(), &completion(model, &[1, 2, 3], &json!({})));
    let waits = |count: u64| {
        let waiting = |model| short(&daemon, model)["waiting"].as_u64().unwrap();
        wait_for("they wait", || (waiting("long") + waiting("demo") == count).then_some(()));
    };
    let mut greedy = Vec::new();
    for number in 0..10 {
        greedy.push(from(2, if number % 2 == 0 { "long" } else { "demo" }));
        waits(number + 1);
    }
    let mut other = from(3, "demo");
    waits(11);
    running.read_to_end(&mut Vec::new()).unwrap();
    tokens(&Response::read(&mut other));
    let ended = daemon.health()["finished"].as_u64().unwrap();
    assert!(ended < 7, "{ended} of 12 answers came first");
    greedy.iter_mut().for_each(|connection| {
        tokens(&Response::read(connection));
    });
}

#[test]
fn keep_alive_and_empty_prompts_load_and_unload_as_ollama_does() {
    let stock = Stock::new();
    let daemon = stock.start(&[stock.table("long", "long", "")], &["--idle-unload", "3600"]);
    let client = daemon.unix();
    let expires = || {
        let running = client.get("/api/ps").json();
        let models = running["models"].as_array().unwrap().clone();
        let found = models.into_iter().find(|model| model["name"] == "long");
        found.map(|model| model["expires_at"].as_str().unwrap()[..4].parse::<u32>().unwrap())
    };
    let load = |keep: Value| {
        let body = json!({"model": "long:latest", "keep_alive": keep, "stream": false});
        let answer = client.post("/api/generate", &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    assert_eq!(expires(), None);
    assert_eq!(load(json!("5m"))["done_reason"], "load");
    wait_state(&daemon, "long", "loaded");
    assert!(expires().is_some_and(|year| year < 2900));
    for forever in [json!(-1), json!("-1m"), json!("-1")] {
        load(forever);
        assert_eq!(expires(), Some(2999));
    }
    for zero in [json!(0), json!("0"), json!("0s")] {
        load(json!("1h30m"));
        assert_eq!(load(zero)["done_reason"], "unload");
        wait_state(&daemon, "long", "unloaded");
    }
    for soon in [json!(0.3), json!("300ms")] {
        load(soon);
        wait_state(&daemon, "long", "unloaded");
    }
    // A chat with it answers first.
    let chat = json!({"model": "long", "stream": false, "keep_alive": 0, "messages": [
        {"role": "user", "content": "x"}], "options": {"num_predict": 4, "temperature": 0}});
    let answer = client.post("/api/chat", &chat).json();
    assert_eq!((&answer["done"], &answer["eval_count"]), (&json!(true), &json!(4)), "{answer}");
    assert!(answer["load_duration"].as_u64().unwrap() > 0);
    wait_state(&daemon, "long", "unloaded");
    // The next request without it goes by the setting again.
    load(json!(-1));
    ask(&client, "long", &[1]);
    assert!(expires().is_some_and(|year| year < 2900));
    for wrong in [json!("soon"), json!([]), json!("5x"), json!(true)] {
        let body = json!({"model": "long", "keep_alive": wrong});
        assert_eq!(client.post("/api/generate", &body).status, 400, "{wrong}");
    }
}

#[test]
fn idle_models_are_unloaded_and_come_back() {
    let stock = Stock::new();
    let daemon = stock.start(&[stock.table("long", "long", "")], &["--idle-unload", "0.2"]);
    let client = daemon.unix();
    let first = ask(&client, "long", &[4, 5, 6]);
    for model in ["long", "demo"] {
        wait_state(&daemon, model, "unloaded");
    }
    assert_eq!(client.get("/slots").json(), json!([]));
    assert_eq!(ask(&client, "long", &[4, 5, 6]), first);
    // Of one model, too.
    let daemon = stock.start(&[], &["--idle-unload", "0.2"]);
    let first = ask(&daemon.unix(), "demo", &[4, 5, 6]);
    wait_state(&daemon, "demo", "unloaded");
    assert_eq!(ask(&daemon.unix(), "demo", &[4, 5, 6]), first);
}
