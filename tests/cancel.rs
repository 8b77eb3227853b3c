//! A client that goes away frees its slot at once, whatever its request was at.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may stop where something is wrong")]

mod common;

use std::io::Read;

use common::{Client, Connection, Daemon, Setup, wait_for};
use serde_json::{Value, json};

/// A request that takes thousands of steps.
fn endless(stream: bool) -> Value {
    json!({
        "prompt": "The", "max_tokens": 4000, "ignore_eos": true, "temperature": 0, "stream": stream,
    })
}

fn begin(client: &Client, body: &Value) -> Connection {
    let headers = [("Content-Type", "application/json")];
    client.send("POST", "/v1/completions", &headers, body.to_string().as_bytes())
}

fn count(health: &Value, name: &str) -> u64 {
    health[name].as_u64().unwrap_or_else(|| panic!("{name} in {health}"))
}

/// Waits until the engine has made tokens for one sequence.
fn wait_generating(daemon: &Daemon) {
    wait_for("a running sequence", || {
        let health = daemon.health();
        (count(&health, "running") == 1 && count(&health, "generated_tokens") > 3).then_some(())
    });
}

/// One request was cancelled before it came to its end, and nothing runs.
fn check_cancelled(daemon: &Daemon) -> Value {
    let health = daemon.wait_idle();
    let ended = ["accepted", "cancelled", "finished", "failed"].map(|name| count(&health, name));
    assert_eq!(ended, [1, 1, 0, 0], "{health}");
    assert!(count(&health, "generated_tokens") < 4000, "{health}");
    // Cancelled means that no step runs for it any more.
    assert_eq!(daemon.health()["steps"], health["steps"]);
    health
}

#[test]
fn a_stream_that_nobody_reads_any_more() {
    for over in [Daemon::tcp, Daemon::unix] {
        let daemon = Daemon::start();
        let mut connection = begin(&over(&daemon), &endless(true));
        // The answer has begun.
        connection.read_exact(&mut [0; 600]).unwrap();
        drop(connection);
        check_cancelled(&daemon);
    }
}

#[test]
fn a_whole_answer_that_nobody_waits_for_any_more() {
    for over in [Daemon::tcp, Daemon::unix] {
        let daemon = Daemon::start();
        let connection = begin(&over(&daemon), &endless(false));
        wait_generating(&daemon);
        drop(connection);
        check_cancelled(&daemon);
    }
}

#[test]
fn a_long_prompt_that_is_still_being_read() {
    let setup = Setup::new().with(&["--prefill-chunk-tokens", "1"]);
    let daemon = setup.start();
    let prompt: Vec<u32> = (0..4000).map(|n| 100 + n % 700).collect();
    let connection = begin(&daemon.tcp(), &json!({ "prompt": prompt, "max_tokens": 1 }));
    wait_for("prefill steps", || (count(&daemon.health(), "steps") > 10).then_some(()));
    drop(connection);
    let health = check_cancelled(&daemon);
    assert!(count(&health, "steps") < 4000, "{health}");
    assert_eq!(count(&health, "generated_tokens"), 0);
}

#[test]
fn a_request_that_still_waits_for_a_slot() {
    let daemon = Setup::new().with(&["--slots", "1"]).start();
    let running = begin(&daemon.unix(), &endless(true));
    wait_generating(&daemon);
    let waiting = begin(&daemon.unix(), &endless(false));
    wait_for("a waiting request", || (count(&daemon.health(), "waiting") == 1).then_some(()));
    drop(waiting);
    wait_for("its end", || (count(&daemon.health(), "cancelled") == 1).then_some(()));
    assert_eq!(daemon.health()["running"], 1);
    drop(running);
    let health = daemon.wait_idle();
    assert_eq!((count(&health, "cancelled"), count(&health, "finished")), (2, 0), "{health}");
}

#[test]
fn slots_that_were_freed_serve_others() {
    let daemon = Setup::new().with(&["--slots", "2"]).start();
    for _ in 0..20 {
        let mut connections =
            [begin(&daemon.tcp(), &endless(true)), begin(&daemon.unix(), &endless(true))];
        for connection in &mut connections {
            connection.read_exact(&mut [0; 400]).unwrap();
        }
    }
    let answer = daemon.unix().chat("What is 12+7?", &json!({}));
    assert_eq!(answer["choices"][0]["message"]["content"], "19");
    let health = daemon.wait_idle();
    assert_eq!((count(&health, "cancelled"), count(&health, "finished")), (40, 1), "{health}");
}

#[test]
fn a_full_queue_is_told_at_once_and_when_to_come_back() {
    let daemon = Setup::new().with(&["--slots", "1", "--queue", "1"]).start();
    let _running = begin(&daemon.unix(), &endless(true));
    wait_generating(&daemon);
    let _waiting = begin(&daemon.unix(), &endless(true));
    wait_for("a waiting request", || (count(&daemon.health(), "waiting") == 1).then_some(()));
    let refused = daemon.tcp().post("/v1/completions", &json!({ "prompt": "12+7=" }));
    assert!([429, 503].contains(&refused.status), "{}", refused.text());
    assert!(refused.header("retry-after").unwrap().parse::<u32>().unwrap() > 0);
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("try again"));
}
