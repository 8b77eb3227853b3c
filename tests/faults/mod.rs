//! The real daemon while something goes wrong that is not its fault: it is killed, the disk is full,
//! files change under it, descriptors or memory run out, the clock jumps, its own engine breaks.
//! Each client gets an answer, an error, or a connection that is plainly cut; what goes on serving
//! has counted each request as exactly one of finished, cancelled and failed.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

mod clock;
mod commands;
mod descriptors;
mod disk;
mod engine;
mod injection;
mod killed;
mod log;
mod memory;
mod model_files;
mod modes;
mod shim;

use std::io::Read;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::{Client, Connection, Daemon, Response, Setup};

/// A stream that goes on for thousands of steps.
fn endless() -> Value {
    json!({
        "prompt": "The", "max_tokens": 4000, "ignore_eos": true, "temperature": 0, "stream": true,
    })
}

/// Asks for completions and leaves the answer unread.
fn begin(client: &Client, body: &Value) -> Connection {
    let headers = [("Content-Type", "application/json")];
    client.send("POST", "/v1/completions", &headers, body.to_string().as_bytes())
}

/// Begins an endless stream and waits until its first tokens are here.
fn begin_stream(client: &Client) -> Connection {
    let mut connection = begin(client, &endless());
    let mut head = [0; 600];
    connection.read_exact(&mut head).unwrap();
    assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
    connection
}

/// How a client's request ended, as the client sees it.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Whole,
    /// With the code of the error.
    Error(String),
    /// The connection ended where neither HTTP nor the stream has an end.
    Cut,
}

/// Reads what is left of an answer whose beginning may have been read already.
fn read_end(mut connection: Connection) -> End {
    let mut bytes = Vec::new();
    // A reset is an end, too.
    let _ = connection.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    if let Some(at) = text.find("{\"error\":") {
        let mut values = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
        if let Some(Ok(value)) = values.next() {
            return End::Error(value["error"]["code"].as_str().unwrap().to_owned());
        }
    }
    let streamed = text.contains("data: [DONE]") && text.ends_with("0\r\n\r\n");
    let whole = text.starts_with("HTTP/1.1 200 ")
        && text.contains("content-length: ")
        && serde_json::from_slice::<Value>(&Response::parse(&bytes).body).is_ok();
    if streamed || whole { End::Whole } else { End::Cut }
}

/// The daemon's setup, to start another in its place.
fn take_setup(daemon: &mut Daemon) -> Setup {
    std::mem::replace(&mut daemon.setup, Setup::new())
}

/// `count` prompts of `length` tokens that differ from their first token on.
fn prompts(count: u32, length: u32) -> Vec<Vec<u32>> {
    (0..count).map(|n| (0..length).map(|at| 100 + (n * 31 + at * 7) % 700).collect()).collect()
}

/// Answers each prompt with one token, which leaves the prompt in the cache.
fn cache(client: &Client, prompts: &[Vec<u32>]) {
    for prompt in prompts {
        let body = json!({ "prompt": prompt, "max_tokens": 1, "temperature": 0 });
        let answer = client.post("/v1/completions", &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}

/// Tokens of `prompt` that were in the cache.
fn cached(client: &Client, prompt: &[u32]) -> u64 {
    let body = json!({ "prompt": prompt, "max_tokens": 1, "temperature": 0 });
    let answer = client.post("/v1/completions", &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
}

/// Processor time that a process has taken so far, in clock ticks of a hundredth of a second.
fn ticks(daemon: &Daemon) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// The unit starts the daemon again after faults that another start may mend, and not after others.
#[test]
fn the_service_manager_is_reported_what_a_restart_may_mend() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/phi4d.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    assert!(unit.contains("\nRestart=on-failure\n"), "signals and codes count as failures");
    let line =
        unit.lines().find_map(|line| line.strip_prefix("RestartPreventExitStatus=")).unwrap();
    let codes: Vec<i32> = line.split(' ').map(|code| code.parse().unwrap()).collect();
    // The engine's panic, what the system refused, a file that was lost.
    assert!([70, 71, 74].iter().all(|code| !codes.contains(code)), "{codes:?}");
    // Damaged or missing files, wrong settings.
    assert!([65, 66, 78].iter().all(|code| codes.contains(code)), "{codes:?}");
}
