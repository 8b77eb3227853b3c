//! A client that goes away frees its slot at once, whatever its request was at.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may stop where something is wrong")]

use std::io::Read;

use serde_json::{Value, json};

use crate::common::{Client, Connection, Daemon, Setup, wait_for};

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
fn a_full_queue_is_refused_at_once_with_when_to_come_back() {
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

#[test]
fn a_caller_over_its_share_gets_when_to_come_back() {
    let daemon = Setup::new().with(&["--slots", "1", "--queue-per-caller", "1"]).start();
    let running = begin(&daemon.unix(), &endless(true));
    wait_generating(&daemon);
    let waiting = begin(&daemon.unix(), &endless(true));
    wait_for("a waiting request", || (count(&daemon.health(), "waiting") == 1).then_some(()));
    let refused = daemon.unix().post("/v1/completions", &json!({ "prompt": "12+7=" }));
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert_eq!(refused.json()["error"]["code"], "rate_limit_exceeded");
    assert!(refused.header("retry-after").unwrap().parse::<u32>().unwrap() > 0);
    // Another caller has a share of its own.
    let other = begin(&daemon.tcp(), &endless(true));
    wait_for("another's request", || (count(&daemon.health(), "waiting") == 2).then_some(()));
    let refused = daemon.tcp().post("/v1/completions", &json!({ "prompt": "12+7=" }));
    assert_eq!(refused.status, 429, "{}", refused.text());
    // Their places come back with their waiting requests.
    drop((running, waiting, other));
    daemon.wait_idle();
    daemon.unix().chat("Hello!", &json!({ "max_tokens": 1 }));
    let health = daemon.wait_idle();
    let ended = ["accepted", "cancelled", "finished", "failed"].map(|name| count(&health, name));
    assert_eq!(ended, [4, 3, 1, 0], "{health}");
}

#[test]
fn a_deadline_ends_a_stream_with_an_error() {
    let daemon = Daemon::start();
    for client in [daemon.tcp(), daemon.unix()] {
        let mut body = endless(true);
        body["timeout"] = 0.2.into();
        let response = client.post("/v1/completions", &body);
        assert_eq!(response.status, 200, "{}", response.text());
        let events = response.events();
        let (last, before) = events.split_last().unwrap();
        let error: Value = serde_json::from_str(last).unwrap();
        assert_eq!(error["error"]["code"], "deadline_exceeded", "{error}");
        assert_eq!(error["error"]["type"], "server_error", "{error}");
        assert!(!before.is_empty() && before.iter().all(|event| event.contains("choices")));
    }
    let health = daemon.wait_idle();
    assert_eq!((count(&health, "failed"), count(&health, "accepted")), (2, 2), "{health}");
    assert_eq!(daemon.health()["steps"], health["steps"]);
}

#[test]
fn a_deadline_holds_for_those_who_wait() {
    let daemon = Setup::new().with(&["--slots", "1"]).start();
    let running = begin(&daemon.unix(), &endless(true));
    wait_generating(&daemon);
    let body = json!({ "prompt": "12+7=", "timeout": 0.05 });
    let late = daemon.unix().post("/v1/completions", &body);
    assert_eq!(late.status, 504, "{}", late.text());
    let health = daemon.health();
    let places = ["running", "waiting", "failed"].map(|name| count(&health, name));
    assert_eq!(places, [1, 0, 1], "{health}");
    drop(running);
    daemon.wait_idle();
}

#[test]
fn a_client_that_closes_its_sending_half_is_gone() {
    let daemon = Daemon::start();
    let connection = begin(&daemon.tcp(), &endless(false));
    wait_generating(&daemon);
    let Connection::Tcp(stream) = &connection else { panic!("asked for TCP") };
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    check_cancelled(&daemon);
}

/// What one of many clients does with its request.
#[derive(Clone, Copy, PartialEq)]
enum Deed {
    Stays,
    LeavesAfter(usize),
    LeavesAtOnce,
    SetsDeadline,
}

#[test]
fn whatever_many_clients_do_each_request_ends_once() {
    use Deed::{LeavesAfter, LeavesAtOnce, SetsDeadline, Stays};
    let daemon = Setup::new().with(&["--slots", "4"]).start();
    // A fixed, odd order of the kinds.
    let mut state = 20_u64;
    let mut next = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let deeds: Vec<Deed> = (0..60)
        .map(|_| match next(4) {
            0 => Stays,
            1 => LeavesAfter(200 + usize::try_from(next(3000)).unwrap()),
            2 => LeavesAtOnce,
            _ => SetsDeadline,
        })
        .collect();
    std::thread::scope(|scope| {
        for part in deeds.chunks(3) {
            let clients = [daemon.tcp(), daemon.unix()];
            scope.spawn(move || {
                for (index, deed) in part.iter().enumerate() {
                    act(&clients[index % 2], *deed);
                }
            });
        }
    });
    let names = ["accepted", "finished", "cancelled", "failed", "running", "waiting"];
    // Those who left at once may still arrive while we look.
    let health = wait_for("every request's end", || {
        let health = daemon.health();
        let [accepted, finished, cancelled, failed, running, waiting] =
            names.map(|name| count(&health, name));
        (accepted == finished + cancelled + failed && running + waiting == 0).then_some(health)
    });
    let of = |kind: fn(&Deed) -> bool| deeds.iter().filter(|deed| kind(deed)).count() as u64;
    assert_eq!(count(&health, "finished"), of(|deed| *deed == Stays), "{health}");
    assert_eq!(count(&health, "failed"), of(|deed| *deed == SetsDeadline), "{health}");
    let left = of(|deed| matches!(deed, LeavesAfter(_)));
    assert!(count(&health, "cancelled") >= left, "{health}");
    assert!(count(&health, "accepted") <= deeds.len() as u64, "{health}");
}

fn act(client: &Client, deed: Deed) {
    match deed {
        Deed::Stays => {
            let answer = client.chat("Count to 12.", &json!({ "max_tokens": 20 }));
            assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() > 0);
        }
        Deed::LeavesAfter(bytes) => {
            begin(client, &endless(true)).read_exact(&mut vec![0; bytes]).unwrap();
        }
        Deed::LeavesAtOnce => drop(begin(client, &endless(false))),
        Deed::SetsDeadline => {
            let mut body = endless(false);
            body["timeout"] = 0.05.into();
            assert_eq!(client.post("/v1/completions", &body).status, 504);
        }
    }
}
