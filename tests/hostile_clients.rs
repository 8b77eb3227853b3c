//! Clients that send slowly, close by half, never read or come in crowds: what the daemon holds for
//! them is bounded, goes when they do, and nobody else waits. `benches/hostile_clients.py` does the
//! same with ten thousand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Connection, Daemon, Setup, wait_for};

/// Clients of one kind at a time.
const CROWD: usize = 40;

/// Of these, as many as the daemon has to give up one after the other.
const NEVER_READING: usize = 8;

/// The settings' limits on them, in seconds.
const LIMIT: &str = "1";

/// What a process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    threads: u64,
    resident_kib: u64,
}

impl Held {
    fn by(daemon: &Daemon) -> Self {
        let folder = format!("/proc/{}", daemon.id());
        let status = std::fs::read_to_string(format!("{folder}/status")).unwrap();
        let field = |name: &str| -> u64 {
            let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            value.split_whitespace().next().unwrap().parse().unwrap()
        };
        Self {
            descriptors: std::fs::read_dir(format!("{folder}/fd")).unwrap().count(),
            threads: field("Threads:"),
            resident_kib: field("VmRSS:"),
        }
    }
}

fn daemon(more: &[&str]) -> Target {
    let limits = [
        "--header-timeout-s",
        LIMIT,
        "--body-timeout-s",
        LIMIT,
        "--slow-client-timeout-s",
        LIMIT,
        "--slots",
        "4",
    ];
    let daemon = Setup::new().with(&limits).with(more).start();
    Target { address: daemon.address(), daemon }
}

/// A daemon and its address, which it says only at its start.
struct Target {
    daemon: Daemon,
    address: SocketAddr,
}

impl Target {
    /// Twice the same in a row: the connections of earlier questions are closed.
    fn wait_at_rest(&self) -> Held {
        self.daemon.wait_idle();
        let mut last = None;
        wait_for("a daemon at rest", || {
            let now = Held::by(&self.daemon);
            let same = last.replace(now.descriptors) == Some(now.descriptors);
            same.then_some(now)
        })
    }

    fn open(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(crate::common::PATIENCE)).unwrap();
        stream
    }
}

/// Runs a crowd three times. After each the daemon holds no descriptor more than before, and the
/// later crowds take no memory beyond what the first one did.
fn assert_flat(target: &Target, crowd: impl Fn(&Target)) {
    let daemon = &target.daemon;
    daemon.unix().chat("2+2=", &json!({}));
    let before = target.wait_at_rest();
    let mut after = Vec::new();
    for _ in 0..3 {
        crowd(target);
        let held = wait_for("descriptors of the crowd to be closed", || {
            let held = Held::by(daemon);
            (held.descriptors <= before.descriptors).then_some(held)
        });
        // Threads for long prompts come and go, two at most.
        assert!(held.threads <= before.threads + 2, "{before:?} {held:?}");
        daemon.wait_idle();
        after.push(held);
    }
    let growth = after[2].resident_kib.saturating_sub(after[0].resident_kib);
    assert!(growth < 8 * 1024, "{growth} KiB more after each crowd: {after:?}");
    let health = daemon.health();
    let count = |name: &str| health[name].as_u64().unwrap();
    let ends = count("finished") + count("cancelled") + count("failed");
    assert_eq!(count("accepted"), ends, "{health}");
}

/// Reads until the daemon closes.
fn read_to_close(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is an end, too.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn post(body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: \
         application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A request whose answer is far longer than what sockets hold.
fn long_stream() -> String {
    post(&json!({
        "messages": [{ "role": "user", "content": "copy a" }], "max_tokens": 2000,
        "ignore_eos": true, "stream": true, "logprobs": true, "top_logprobs": 20,
        "temperature": 0,
    }))
}

#[test]
fn heads_and_bodies_that_trickle_in_are_given_up() {
    let target = daemon(&[]);
    assert_flat(&target, |target| {
        let mut heads: Vec<TcpStream> = (0..CROWD).map(|_| target.open()).collect();
        let mut bodies: Vec<TcpStream> = (0..CROWD).map(|_| target.open()).collect();
        for stream in &mut heads {
            stream.write_all(b"GET /health HTTP/1.1\r\nHost: loc").unwrap();
        }
        let begun = long_stream();
        for stream in &mut bodies {
            stream.write_all(&begun.as_bytes()[..begun.len() - 5]).unwrap();
        }
        // One more byte now and then keeps none of them open.
        let until = Instant::now() + Duration::from_secs(30);
        let mut open = heads;
        while !open.is_empty() {
            assert!(Instant::now() < until, "{} trickling clients are still there", open.len());
            // Others are served meanwhile.
            assert_eq!(target.daemon.unix().get("/health").status, 200);
            open.retain_mut(|stream| {
                stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
                let _ = stream.write_all(b"a");
                !matches!(stream.read(&mut [0; 512]), Ok(0))
            });
        }
        for stream in &mut bodies {
            let answer = read_to_close(stream);
            assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
        }
    });
}

#[test]
fn clients_that_close_by_half_or_never_read_hold_nothing_for_long() {
    let target = daemon(&[]);
    assert_flat(&target, |target| {
        let request = long_stream();
        let mut by_half: Vec<TcpStream> = (0..CROWD).map(|_| target.open()).collect();
        for stream in &mut by_half {
            stream.write_all(request.as_bytes()).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        }
        // By the Unix socket, whose buffers do not grow to hold the whole answer.
        let mut never: Vec<Connection> =
            (0..NEVER_READING).map(|_| target.daemon.unix().connect()).collect();
        for stream in &mut never {
            stream.write_all(request.as_bytes()).unwrap();
        }
        // Someone who reads gets an answer all the same, if only after those before it.
        let answer = target.daemon.unix().chat("2+2=", &json!({ "priority": -5 }));
        assert!(answer["choices"][0]["message"]["content"].is_string(), "{answer}");
        target.daemon.wait_idle();
        drop((by_half, never));
    });
}

#[test]
fn a_crowd_waits_outside_and_is_let_in_as_others_leave() {
    let most = 20;
    let target = daemon(&["--max-connections", "20", "--max-connections-per-local", "20"]);
    let idle = Held::by(&target.daemon).descriptors;
    assert_flat(&target, |target| {
        let mut crowd: Vec<TcpStream> = Vec::new();
        for _ in 0..CROWD * 2 {
            let mut stream = target.open();
            stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            crowd.push(stream);
        }
        let held = Held::by(&target.daemon).descriptors;
        assert!(held <= idle + most + 2, "{held} descriptors, of which {idle} at rest");
        // Idle connections are closed, others come in their place: all are answered.
        for stream in &mut crowd {
            let answer = read_to_close(stream);
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            let held = Held::by(&target.daemon).descriptors;
            assert!(held <= idle + most + 2, "{held} descriptors, of which {idle} at rest");
        }
    });
}

#[test]
fn a_crowd_on_tcp_leaves_connections_for_the_unix_socket() {
    let (most, share) = (16, 14);
    // Nobody of the crowd is given up while the test runs.
    let limits = ["--max-connections", "16", "--max-connections-per-local", "16"];
    let daemon = Setup::new().with(&limits).start();
    let address = daemon.address();
    let open = || TcpStream::connect(address).unwrap();
    let mut crowd: Vec<TcpStream> = (0..CROWD).map(|_| open()).collect();
    let held = || -> usize {
        let page = daemon.unix().get("/metrics").text();
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix("phi4d_connections{transport=\"tcp\"} "));
        line.unwrap().parse().unwrap()
    };
    wait_for("TCP to have its share", || (held() == share).then_some(()));
    // Programs on this machine are answered, as many at once as are kept for them.
    let mut local: Vec<Connection> = (share..most).map(|_| daemon.unix().connect()).collect();
    let request = post(&json!({
        "messages": [{ "role": "user", "content": "2+2=" }], "max_tokens": 4,
    }));
    for stream in &mut local {
        stream.write_all(request.as_bytes()).unwrap();
        assert_eq!(crate::common::Response::read_one(stream, "POST").status, 200);
    }
    drop(local);
    assert_eq!(held(), share, "TCP took what is the Unix socket's");
    // Those who wait outside come in as others leave.
    let mut last = crowd.pop().unwrap();
    last.set_read_timeout(Some(crate::common::PATIENCE)).unwrap();
    last.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    drop(crowd);
    assert!(read_to_close(&mut last).starts_with("HTTP/1.1 200"));
}

#[test]
fn bodies_share_what_memory_there_is_for_them() {
    // A caller may have half of what there is: eight bodies.
    let (most, fit) = (256 * 1024, 8);
    let limits = ["--max-body-bytes", "262144", "--request-memory-bytes", "4194304"];
    let daemon = Setup::new().with(&limits).start();
    let head = format!(
        "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {most}\r\n\r\n"
    );
    let all_but_one = vec![b' '; most - 1];
    let mut crowd: Vec<TcpStream> = Vec::new();
    for _ in 0..fit + 6 {
        let mut stream = TcpStream::connect(daemon.address()).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&all_but_one).unwrap();
        stream.set_nonblocking(true).unwrap();
        crowd.push(stream);
    }
    let mut refused = 0;
    wait_for("those that do not fit to be refused", || {
        crowd.retain_mut(|stream| {
            let mut answer = [0; 4096];
            let Ok(read) = stream.read(&mut answer) else { return true };
            let answer = String::from_utf8_lossy(&answer[..read]);
            assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("out_of_memory"));
            refused += 1;
            false
        });
        (refused >= 6).then_some(())
    });
    // Short ones are none of it, and once the others have gone a long one is read again.
    let question = json!({ "prompt": "2+2=" });
    assert_eq!(daemon.tcp().post("/tokenize", &question).status, 200);
    // Those that are in have their room, and another caller finds what is left.
    let long = json!({ "prompt": "a ".repeat(20_000) });
    assert_eq!(daemon.unix().post("/tokenize", &long).status, 200);
    assert!(refused < 14, "{refused} of {}", fit + 6);
    drop(crowd);
    wait_for("room for a long body", || {
        (daemon.tcp().post("/tokenize", &long).status == 200).then_some(())
    });
}
