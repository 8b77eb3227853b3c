//! What a request makes the threads do that carry connections: little more than to receive its bytes
//! and to send its answer's, whatever is in it. Counted in processor time, by the kernel. And what
//! requests take in memory: no more than the budget says.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Daemon, PATIENCE, Response, Setup};

/// Bodies are as long as they may be, or nearly.
const BODY: usize = 8 << 20;

/// The same where each shape is sent to each route, one after the other.
const ROUTED: usize = 4 << 20;

/// Routes that take a body.
const ROUTES: [&str; 11] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/chat/completions/render",
    "/apply-template",
    "/tokenize",
    "/detokenize",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/api/chat",
    "/api/generate",
];

/// One JSON text of nearly `bytes` bytes: `open`, then `item` as often as it fits, then `close`.
fn filled(bytes: usize, open: &str, item: impl Fn(usize) -> String, close: &str) -> String {
    let mut text = String::with_capacity(bytes);
    text.push_str(open);
    let mut index = 0;
    loop {
        let item = item(index);
        if text.len() + item.len() + close.len() + 1 > bytes {
            break;
        }
        if index > 0 {
            text.push(',');
        }
        text.push_str(&item);
        index += 1;
    }
    text + close
}

/// Bodies that mean something to many routes at once, by the names of their shapes: fields that a
/// route does not know are ignored.
fn shapes(bytes: usize) -> Vec<(&'static str, String)> {
    let few = "\"max_tokens\":1,\"prompt\":\"a\",\"input\":\"a\",\
               \"messages\":[{\"role\":\"user\",\"content\":\"a\"}]";
    let words = |count: usize| "some words, 12 numbers; ".repeat(count / 24);
    let text = words(bytes - 200);
    let of_text = |text: &str| {
        json!({
            "max_tokens": 1, "prompt": text, "input": text, "instructions": text,
            "messages": [{"role": "user", "content": text}],
        })
        .to_string()
    };
    let message = |_| "{\"role\":\"user\",\"content\":\"a b\"}".to_owned();
    let tool = |index: usize| {
        format!(
            "{{\"type\":\"function\",\"name\":\"f{index}\",\"input_schema\":{{}},\
             \"function\":{{\"name\":\"f{index}\"}}}}"
        )
    };
    let deep = "[".repeat(100) + &"]".repeat(100);
    let with = |rest: &str| format!("{{{few},{rest}");
    vec![
        ("one text", of_text(&text[..text.len() / 4])),
        ("escapes", of_text(&"\n\u{1}\"".repeat(bytes / 60))),
        ("a text of 1 MiB", of_text(&words(1 << 18))),
        ("no words", of_text(&"漢".repeat(bytes / 24))),
        ("objects", filled(bytes, &with("\"guided_json\":{\"enum\":["), |_| "{}".into(), "]}}")),
        (
            "a schema",
            filled(bytes / 32, &with("\"guided_json\":{\"enum\":["), |_| "{}".into(), "]}}"),
        ),
        ("keys", filled(bytes, &with("\"x\":{"), |index| format!("\"{index}\":0"), "}}")),
        ("fields", filled(bytes, &with("\"x\":0,"), |index| format!("\"{index}\":0"), "}")),
        ("numbers", filled(bytes, &with("\"x\":["), |_| "0".into(), "]}")),
        ("ids", filled(bytes / 8, "{\"max_tokens\":1,\"prompt\":[", |_| "5".into(), "]}")),
        ("tokens", filled(bytes / 8, "{\"tokens\":[", |_| "5".into(), "]}")),
        ("lists", filled(bytes, &with("\"x\":["), |_| deep.clone(), "]}")),
        ("strings", filled(bytes, &with("\"stop\":["), |_| "\"ab\"".into(), "]}")),
        ("messages", filled(bytes / 4, "{\"max_tokens\":1,\"messages\":[", message, "]}")),
        ("tools", filled(bytes / 4, &with("\"tools\":["), tool, "]}")),
        ("a model's name", format!("{{{few},\"model\":\"{text}\"}}")),
        (
            "a text and a bound",
            json!({"prompt": text, "truncate_prompt_tokens": 5, "max_tokens": 1}).to_string(),
        ),
    ]
}

/// Sends a request as it stands, and reads its answer.
fn ask(address: SocketAddr, path: &str, body: &str) -> Response {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // An answer may come before all has been sent.
    let _ = stream.write_all(body.as_bytes());
    Response::read_one(&mut stream, "POST")
}

/// Processor time of the threads that carry connections, since they began.
fn net_time(daemon: &Daemon) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.id())).unwrap();
    let mut threads = 0;
    let mut nanoseconds = 0;
    for task in tasks {
        let folder = task.unwrap().path();
        // Others may end meanwhile.
        let Ok(name) = std::fs::read_to_string(folder.join("comm")) else { continue };
        if name.trim() != "phi4d-net" {
            continue;
        }
        let figures = std::fs::read_to_string(folder.join("schedstat")).unwrap();
        nanoseconds += figures.split(' ').next().unwrap().parse::<u64>().unwrap();
        threads += 1;
    }
    assert_eq!(threads, 2);
    Duration::from_nanos(nanoseconds)
}

/// What `work` makes the threads do that carry connections.
fn net_time_of<T>(daemon: &Daemon, work: impl FnOnce() -> T) -> (T, Duration) {
    let before = net_time(daemon);
    let done = work();
    (done, net_time(daemon) - before)
}

/// Bytes in memory: now, and at most since the last [`reset_peak`].
fn resident(daemon: &Daemon) -> (usize, usize) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    let field = |name: &str| -> usize {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
    };
    (field("VmRSS:"), field("VmHWM:"))
}

fn reset_peak(daemon: &Daemon) {
    std::fs::write(format!("/proc/{}/clear_refs", daemon.id()), "5").unwrap();
}

#[test]
fn no_route_makes_the_net_threads_work_with_the_input() {
    let limits = ["--request-memory-bytes", "1073741824", "--max-body-bytes", "4194304"];
    let daemon = Setup::new().with(&limits).start();
    let address = daemon.address();
    daemon.unix().chat("2+2=", &json!({}));
    // Receiving alone: it is refused for its first byte.
    let junk = "x".repeat(ROUTED - 1);
    let receiving = (0..3).map(|_| {
        let (answer, time) = net_time_of(&daemon, || ask(address, ROUTES[0], &junk));
        assert_eq!(answer.status, 400, "{}", answer.text());
        time
    });
    let receiving = receiving.max().unwrap();
    for (shape, body) in shapes(ROUTED - 1) {
        for route in ROUTES {
            let (answer, time) = net_time_of(&daemon, || ask(address, route, &body));
            assert!(answer.status < 500, "{shape} to {route}: {}", answer.status);
            // Answers are sent, too.
            let megabytes = u32::try_from(answer.text().len() >> 20).unwrap();
            let most = receiving * (3 + megabytes / 2) + Duration::from_millis(30);
            assert!(time < most, "{shape} to {route}: {time:?}, receiving takes {receiving:?}");
        }
    }
}

#[test]
fn others_are_answered_while_large_requests_are_read() {
    let daemon = Setup::new().with(&["--request-memory-bytes", "1073741824"]).start();
    let address = daemon.address();
    let alone = slowest(&daemon, || ());
    let bodies: Vec<String> = shapes(BODY - 1).into_iter().map(|(_, body)| body).collect();
    let beside = slowest(&daemon, || {
        std::thread::scope(|scope| {
            for (index, body) in bodies.iter().enumerate() {
                scope.spawn(move || ask(address, ROUTES[index % ROUTES.len()], body));
            }
        });
    });
    // A clock on a busy machine: the bound is far from what it is, and from what it was.
    let most = alone * 3 + Duration::from_secs(2);
    assert!(beside < most, "{beside:?} beside large requests, {alone:?} alone");
}

/// The slowest of the answers to short questions and to `/health` while `work` is done.
fn slowest(daemon: &Daemon, work: impl FnOnce()) -> Duration {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            let mut rounds = 0;
            while rounds < 5 || !over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                assert_eq!(daemon.unix().get("/health").status, 200);
                let asked = json!({ "prompt": "2+2=" });
                assert_eq!(daemon.unix().post("/tokenize", &asked).status, 200);
                slowest = slowest.max(begun.elapsed());
                rounds += 1;
            }
            slowest
        });
        work();
        over.store(true, Ordering::Relaxed);
        asking.join().unwrap()
    })
}

#[test]
fn long_prompts_are_read_beside_a_crowd_s_that_never_end() {
    let daemon = Setup::new().with(&["--request-memory-bytes", "1073741824"]).start();
    let address = daemon.address();
    let prompt = json!({ "prompt": "some words, 12 numbers; ".repeat(5_000) });
    let timed = || {
        let begun = Instant::now();
        assert_eq!(daemon.unix().post("/tokenize", &prompt).status, 200);
        begun.elapsed()
    };
    let alone = (0..3).map(|_| timed()).max().unwrap();
    let text =
        json!({ "prompt": "some words, 12 numbers; ".repeat((BODY - 200) / 24) }).to_string();
    let over = AtomicBool::new(false);
    let beside = std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let status = ask(address, "/tokenize", &text).status;
                    assert!([400, 503].contains(&status), "{status}");
                }
            });
        }
        let beside = (0..5).map(|_| timed()).max().unwrap();
        over.store(true, Ordering::Relaxed);
        beside
    });
    // A step of another caller's for each of its own, and processors that are shared by all.
    let most = alone * 6 + Duration::from_secs(2);
    assert!(beside < most, "{beside:?} beside the crowd, {alone:?} alone");
}

#[test]
fn requests_keep_to_their_budget_of_memory() {
    let budget = 256 << 20;
    // What the allocator keeps of what was freed, stacks, and a stretch of text for each thread.
    let beside = 96 << 20;
    let daemon = Setup::new().with(&["--request-memory-bytes", &budget.to_string()]).start();
    let address = daemon.address();
    daemon.unix().chat("2+2=", &json!({}));
    let (before, _) = resident(&daemon);
    for (index, (shape, body)) in shapes(BODY - 1).into_iter().enumerate() {
        reset_peak(&daemon);
        let route = ROUTES[[0, 3, 4, 6][index % 4]];
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let status = ask(address, route, &body).status;
                    assert!(status < 500 || status == 503, "{shape} to {route}: {status}");
                });
            }
            // Another caller, who leaves the crowd alone, is answered.
            let answer = daemon.unix().chat("2+2=", &json!({ "max_tokens": 2 }));
            assert!(answer["choices"][0]["message"].is_object(), "{answer}");
        });
        let (_, peak) = resident(&daemon);
        let grown = peak.saturating_sub(before);
        assert!(grown <= budget + beside, "{shape} to {route}: {} MiB more", grown >> 20);
    }
    crate::common::wait_for("the requests' memory to be given back", || {
        let page = daemon.unix().get("/metrics").text();
        let held = page.lines().find_map(|line| line.strip_prefix("phi4d_request_memory_bytes "));
        (held == Some("0")).then_some(())
    });
}

#[test]
fn what_becomes_too_large_is_refused_by_its_values() {
    let daemon = Setup::new().with(&["--request-memory-bytes", "134217728"]).start();
    let address = daemon.address();
    let body = filled(BODY - 1, "{\"prompt\":\"a\",\"x\":[", |_| "{}".into(), "]}");
    let answer = ask(address, "/tokenize", &body);
    assert_eq!(answer.status, 413);
    let fault: Value = answer.json();
    let message = fault["error"]["message"].as_str().unwrap();
    assert!(message.contains("JSON values") && message.contains("67108864"), "{message}");
    let long = json!({ "prompt": "a b c ".repeat(1 << 20) });
    let answer = ask(address, "/tokenize", &long.to_string());
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("fewer than 1048576 tokens"), "{}", answer.text());
}
