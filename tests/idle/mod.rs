//! A daemon that ends when nobody needs it (`idle_exit`), and that the next connection starts again.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests may stop where something is wrong"
)]

pub(crate) mod activator;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::access::{add_key, keys_file};
use crate::common::{Client, Connection, PATIENCE, Response, Setup, wait_for};
use activator::Activator;

/// The exit code of settings that are wrong.
const SETTINGS: i32 = 78;

/// Longer than any `idle_exit` here, so that a daemon that may end has every chance to.
pub(crate) const WHILE: Duration = Duration::from_millis(800);

const LONG: &str = "Tell me about the small river that runs behind the old mill, about the stones in \
                    it, and about the people who come there in the evening to sit and to talk.";

fn text(answer: &Value) -> &Value {
    &answer["choices"][0]["message"]["content"]
}

/// A request whose connection stays open.
fn kept_open(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

fn is_closed(connection: &mut Connection) -> bool {
    matches!(connection.read(&mut [0]), Ok(0))
}

#[test]
fn asleep_it_is_no_process_and_it_wakes_with_its_prompts() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("prefixes");
    let setup = Setup::new().with(&["--prefix-store", store.to_str().unwrap()]);
    let daemon = Activator::with(setup.with(&["--idle-exit", "0.1"]));
    let first = daemon.unix().chat(LONG, &json!({ "max_tokens": 20 }));
    daemon.wait_asleep();
    let from = Instant::now();
    let again = daemon.tcp().chat(LONG, &json!({ "max_tokens": 1 }));
    eprintln!("woken and asked for one token: {:?}", from.elapsed());
    let prompt = first["usage"]["prompt_tokens"].as_u64().unwrap();
    // All but the last token, whose logits are needed.
    assert_eq!(again["usage"]["prompt_tokens_details"]["cached_tokens"], prompt - 1);
    assert_eq!(daemon.starts(), 2);
    let log = daemon.finish();
    assert_eq!(log.matches("no request for 0.1 s: ending").count(), 2, "{log}");
    assert!(!log.contains("ERROR"), "{log}");
}

#[test]
fn a_socket_of_its_own_is_refused_as_nothing_would_wake_the_daemon() {
    for (listen, setting) in [("127.0.0.1:0", "listen"), ("off", "socket")] {
        let setup = Setup::new().listen(listen).with(&["--idle-exit", "300"]);
        let (status, said) = setup.run_to_end();
        assert_eq!(status.code(), Some(SETTINGS), "{said}");
        let line = said.lines().find(|line| line.starts_with("phi4d: ")).unwrap();
        assert!(line.contains(&format!("but {setting} = ")), "{line}");
        assert!(!setup.socket().exists());
    }
}

#[test]
fn probes_and_scrapes_do_not_keep_it_awake() {
    let daemon = Activator::new("0.3");
    let mut connection = daemon.unix().connect();
    // Far more often than it would have to be.
    let from = Instant::now();
    for path in ["/health", "/ready", "/metrics", "/slots"].into_iter().cycle() {
        assert!(from.elapsed() < PATIENCE, "it is kept awake");
        // It closes between two requests; one that was on its way then was not answered in part.
        if connection.write_all(kept_open(path).as_bytes()).is_err() {
            break;
        }
        let mut first = [0];
        if !matches!(connection.read(&mut first), Ok(1)) {
            break;
        }
        let response = Response::read_one(&mut first.chain(&mut connection), "GET");
        assert_eq!(response.status, 200, "{}", response.text());
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(connection);
    daemon.finish();
}

#[test]
fn idle_connections_are_closed_in_good_order() {
    let daemon = Activator::new("0.1");
    for client in [daemon.unix(), daemon.tcp()] {
        let mut connection = client.connect();
        connection.write_all(kept_open("/v1/models").as_bytes()).unwrap();
        assert_eq!(Response::read_one(&mut connection, "GET").status, 200);
        assert!(is_closed(&mut connection));
        daemon.wait_asleep();
    }
    assert_eq!(daemon.starts(), 2);
    daemon.finish();
}

#[test]
fn what_has_begun_keeps_it_awake() {
    // A slow machine must not take the half of a head for a slow client's.
    let setup = Setup::new().with(&["--first-head-timeout-s", "60"]);
    let daemon = Activator::with(setup.with(&["--idle-exit", "0.1"]));
    let one_start = || assert_eq!((daemon.starts(), daemon.is_asleep()), (1, false));

    // A connection that has not asked yet, and half of a head on one that has.
    let mut connection = daemon.unix().connect();
    wait_for("the daemon's start", || (daemon.starts() == 1).then_some(()));
    let mut other = daemon.tcp().connect();
    for part in ["GET /v1/models HTTP/1.1\r\nHo", "st: localhost\r\n\r\n"] {
        std::thread::sleep(WHILE);
        one_start();
        other.write_all(part.as_bytes()).unwrap();
    }
    assert_eq!(Response::read_one(&mut other, "GET").status, 200);
    other.write_all(b"GET /v1/mod").unwrap();
    connection.write_all(kept_open("/v1/models").as_bytes()).unwrap();
    assert_eq!(Response::read_one(&mut connection, "GET").status, 200);
    std::thread::sleep(WHILE);
    other.write_all(b"els HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!(Response::read(&mut other).status, 200);
    assert_eq!(daemon.starts(), 1);
    daemon.wait_asleep();

    // An answer that nobody reads for a while. It fills every buffer on its way.
    let long = json!({ "prompt": "a", "max_tokens": 3000, "ignore_eos": true, "stream": true,
        "logprobs": 5 });
    let headers = [("Content-Type", "application/json")];
    let body = long.to_string();
    let mut stream = daemon.unix().send("POST", "/v1/completions", &headers, body.as_bytes());
    stream.read_exact(&mut [0; 15]).unwrap();
    std::thread::sleep(WHILE);
    assert!(!daemon.is_asleep());
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(String::from_utf8_lossy(&rest).contains("data: [DONE]"));
    assert_eq!(daemon.starts(), 2);
    daemon.finish();
}

#[test]
fn a_quota_of_a_minute_is_not_forgotten_by_sleeping() {
    let setup = Setup::new().with(&["--idle-exit", "0.1"]);
    let file = keys_file(&setup);
    let key = add_key(&file, &["mine", "--tokens-per-minute", "1000"]);
    let daemon = Activator::with(setup.with(&["--api-keys-file", file.to_str().unwrap()]));
    let token = format!("Bearer {key}");
    let headers = [("Authorization", token.as_str())];
    assert_eq!(daemon.tcp().request("GET", "/v1/models", &headers, b"").status, 200);
    std::thread::sleep(WHILE);
    assert_eq!((daemon.starts(), daemon.is_asleep()), (1, false));
}

/// Asks at random moments, by which the daemon is awake, ending, asleep or starting. All are answered.
fn asks(daemon: &Activator, client: &Client, seed: u64, is_over: &dyn Fn() -> bool) -> usize {
    let mut random = StdRng::seed_from_u64(seed);
    let mut kept = None;
    let mut asked = 0;
    while !is_over() {
        std::thread::sleep(Duration::from_millis(random.random_range(0..120)));
        match random.random_range(0..4) {
            0 => kept = Some(again(client, kept.take())),
            1 => assert_eq!(client.get("/health").status, 200),
            _ => {
                let answer = client.chat("What is 12+7?", &json!({}));
                assert_eq!(text(&answer), "19", "{answer}");
            }
        }
        asked += 1;
        // All clients must be silent at the same time now and then.
        if random.random_range(0..3) == 0 {
            drop(kept.take());
            daemon.wait_asleep();
        }
    }
    asked
}

/// Asks on a connection that is open from before, or on a new one if the daemon has closed that one.
fn again(client: &Client, kept: Option<Connection>) -> Connection {
    if let Some(mut connection) = kept {
        let mut first = [0];
        let sent = connection.write_all(kept_open("/v1/models").as_bytes());
        if sent.is_ok() && matches!(connection.read(&mut first), Ok(1)) {
            let response = Response::read_one(&mut first.chain(&mut connection), "GET");
            assert_eq!(response.status, 200);
            return connection;
        }
    }
    let mut connection = client.connect();
    connection.write_all(kept_open("/v1/models").as_bytes()).unwrap();
    assert_eq!(Response::read_one(&mut connection, "GET").status, 200);
    connection
}

#[test]
fn no_request_is_lost_over_random_sleeps_and_wakes() {
    // As many as a minute allows on a slow machine; .ci/nightly asks for 1,000.
    let wanted = std::env::var("PHI4D_SLEEPS").ok().map(|count| count.parse().unwrap());
    let (most, limit) = (wanted.unwrap_or(100), wanted.map_or(60, |_| 7200));
    let daemon = Activator::new("0.05");
    let from = Instant::now();
    let is_over = || daemon.starts() >= most || from.elapsed().as_secs() > limit;
    let clients = [daemon.unix(), daemon.tcp()];
    let asked: usize = std::thread::scope(|scope| {
        let asking = clients.iter().zip(1..);
        let asking = asking.map(|(client, seed)| {
            let (daemon, is_over) = (&daemon, &is_over);
            scope.spawn(move || asks(daemon, client, seed, is_over))
        });
        let asking: Vec<_> = asking.collect();
        asking.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    daemon.wait_asleep();
    let starts = daemon.starts();
    eprintln!("{starts} starts, {asked} requests in {:?}", from.elapsed());
    assert!(starts >= wanted.unwrap_or(5), "it was hardly ever asleep: {starts} starts");
    let log = daemon.finish();
    assert!(!log.contains("ERROR") && !log.contains("panicked"), "{log}");
}
