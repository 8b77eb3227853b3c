//! One address can't shut out the others: it holds no more than its bound, and what serves nobody makes
//! way for who asks. Clients come from several loopback addresses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;

use crate::common::{Daemon, Response, Setup, connect_from as open, wait_for};

/// What an honest client may wait while others do their worst.
const SOON: Duration = Duration::from_secs(1);

const ASK: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
const ASK_ONCE: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/// The loopback address of this number.
fn at(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, number)
}

/// Room for some thousand connections in this process.
fn raise_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// Asks on a connection of its own; how long that took.
fn honest(source: Ipv4Addr, to: SocketAddr) -> Duration {
    let begun = Instant::now();
    let mut stream = open(source, to);
    stream.write_all(ASK_ONCE).unwrap();
    assert_eq!(Response::read(&mut stream).status, 200);
    begun.elapsed()
}

/// The times of `count` honest requests in a row: the median and the 99th percentile.
fn honest_times(count: usize, source: Ipv4Addr, to: SocketAddr) -> (Duration, Duration) {
    let mut times: Vec<Duration> = (0..count).map(|_| honest(source, to)).collect();
    times.sort_unstable();
    (times[count / 2], times[count * 99 / 100])
}

/// Asks and reads the answer, and keeps the connection; `None` if the daemon closed it.
fn idle(source: Ipv4Addr, to: SocketAddr) -> Option<TcpStream> {
    let mut stream = open(source, to);
    stream.write_all(ASK).ok()?;
    let mut answer = [0; 4096];
    match stream.read(&mut answer) {
        Ok(count) if count > 0 => {
            assert!(answer.starts_with(b"HTTP/1.1 200 "));
            Some(stream)
        }
        _ => None,
    }
}

fn descriptors(daemon: &Daemon) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.id())).unwrap().count()
}

fn shed(daemon: &Daemon, reason: &str) -> u64 {
    let page = daemon.unix().get("/metrics").text();
    let begin = format!("phi4d_connections_shed_total{{reason=\"{reason}\"}} ");
    let line = page.lines().find_map(|line| line.strip_prefix(&begin));
    line.map_or(0, |count| count.parse().unwrap())
}

fn is_closed(stream: &mut TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match stream.read(&mut [0; 4096]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// Waits until the daemon has no more descriptors than before.
fn assert_flat(daemon: &Daemon, before: usize) {
    wait_for("descriptors of the crowd to be closed", || {
        (descriptors(daemon) <= before).then_some(())
    });
}

#[test]
fn a_thousand_idle_and_a_thousand_half_heads_shut_nobody_out() {
    raise_limit();
    let daemon = Daemon::start();
    let to = daemon.address();
    let alone = honest_times(100, at(4), to);
    let before = descriptors(&daemon);

    let kept: Vec<TcpStream> = (0..1024).filter_map(|_| idle(at(2), to)).collect();
    // Three quarters of TCP's share, which is seven eighths of 1024.
    assert_eq!(kept.len(), 672);
    assert_eq!(shed(&daemon, "address"), 1024 - 672);
    daemon.log.says("127.0.0.2 holds 672");
    assert!(honest(at(4), to) < SOON);

    let mut halves: Vec<TcpStream> = Vec::new();
    for _ in 0..1153 {
        let mut stream = open(at(3), to);
        // One over the bound is closed by then, maybe.
        let _ = stream.write_all(b"GET /health HTTP/1.1\r\nHost: loc");
        halves.push(stream);
    }
    let beside = honest_times(100, at(4), to);
    assert!(beside.1 < SOON, "alone {alone:?}, beside {beside:?}");
    println!("honest p50 and p99: alone {alone:?}, beside {beside:?}");
    assert!(descriptors(&daemon) <= before + 1024 + 2);
    // In a crowd half heads are given up after 2 seconds, until it is none; the last ones have 10.
    wait_for("half heads to be given up", || halves.iter_mut().all(is_closed).then_some(()));
    assert!(shed(&daemon, "slow_head") > 100);
    drop((kept, halves));
    assert_flat(&daemon, before);
}

#[test]
fn who_has_a_request_keeps_its_connection_in_any_crowd() {
    let daemon = Setup::new().with(&["--max-connections", "32"]).start();
    let to = daemon.address();
    let body = json!({
        "prompt": "The", "max_tokens": 3000, "ignore_eos": true, "temperature": 0, "stream": true,
    })
    .to_string();
    let mut stream = open(at(5), to);
    write!(
        stream,
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: \
         application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    stream.read_exact(&mut [0; 200]).unwrap();
    let mut crowd = Vec::new();
    for round in 0..6 {
        for number in 10..14 {
            crowd.extend((0..10).filter_map(|_| idle(at(number), to)));
            crowd.extend((0..3).map(|_| open(at(number + 10), to)));
        }
        assert!(honest(at(4), to) < SOON, "round {round}");
    }
    assert!(shed(&daemon, "idle") > 0);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("data: [DONE]"), "{rest}");
    drop(crowd);
    assert_eq!(daemon.wait_idle()["finished"], 1);
}

/// Draws numbers; the same each time.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }
}

/// A hostile connection: what it has sent, and what it still has to trickle.
struct Hostile {
    stream: TcpStream,
    rest: Vec<u8>,
    sent: usize,
}

impl Hostile {
    fn draw(draw: &mut Draw, to: SocketAddr) -> Self {
        let source = at(u8::try_from(20 + draw.below(6)).unwrap());
        let body =
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                     Content-Length: 400\r\n\r\n{";
        let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
        let (rest, at_once): (Vec<u8>, usize) = match draw.below(6) {
            // A head that stops anywhere, or trickles.
            0 | 1 => {
                let head = [ASK, b"X-Slow: ", &[b'a'; 300]].concat();
                let long = [&ASK[..ASK.len() - 2], &head[ASK.len()..]].concat();
                (long, draw.below(200))
            }
            2 => (hello.to_vec(), draw.below(hello.len())),
            // Many requests, whose answers it does not read.
            3 => (ASK.repeat(400), 400 * ASK.len()),
            4 => (body.to_vec(), draw.below(body.len())),
            _ => (ASK.to_vec(), ASK.len()),
        };
        let mut one = Self { stream: open(source, to), rest, sent: 0 };
        one.stream.set_nonblocking(true).unwrap();
        one.send(at_once);
        one
    }

    fn send(&mut self, count: usize) {
        let end = (self.sent + count).min(self.rest.len());
        // It may be closed, or its buffers full.
        if let Ok(sent) = self.stream.write(&self.rest[self.sent..end]) {
            self.sent += sent;
        }
    }
}

#[test]
fn slow_and_greedy_clients_of_any_kind_hold_up_nobody() {
    raise_limit();
    let daemon = Setup::new().with(&["--max-connections", "64"]).start();
    let to = daemon.address();
    let alone = honest_times(50, at(4), to);
    let before = descriptors(&daemon);
    let mut draw = Draw(17);
    let mut crowd: Vec<Hostile> = Vec::new();
    let mut times = Vec::new();
    for _ in 0..300 {
        for _ in 0..6 {
            crowd.push(Hostile::draw(&mut draw, to));
        }
        for one in &mut crowd {
            one.send(draw.below(3));
        }
        times.push(honest(at(4), to));
        assert!(descriptors(&daemon) <= before + 64 + 4);
        // Some leave.
        while crowd.len() > 400 {
            let at = draw.below(crowd.len());
            drop(crowd.swap_remove(at));
        }
    }
    times.sort_unstable();
    let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
    println!("honest p50 and p99: alone {alone:?}, beside {:?}", (p50, p99));
    assert!(p99 < SOON, "alone {alone:?}, beside {:?}", (p50, p99));
    drop(crowd);
    assert_flat(&daemon, before);
    daemon.ends();
}

#[test]
fn one_users_connections_leave_room_for_tcp() {
    let daemon = Setup::new().with(&["--max-connections", "32"]).start();
    let to = daemon.address();
    let mut crowd: Vec<_> = (0..40).map(|_| daemon.unix().connect()).collect();
    for stream in &mut crowd {
        let _ = stream.write_all(ASK);
    }
    assert!(honest(at(2), to) < SOON);
    drop(crowd);
}

#[test]
fn a_head_has_its_time_and_an_idle_connection_has_more() {
    let daemon = Setup::new().with(&["--first-head-timeout-s", "1"]).start();
    let to = daemon.address();
    let mut kept = idle(at(2), to).unwrap();
    let mut silent = open(at(2), to);
    let mut begun = idle(at(2), to).unwrap();
    begun.write_all(b"GET /health HTTP/1.1\r\nHo").unwrap();
    for late in [&mut silent, &mut begun] {
        assert_eq!(late.read(&mut [0; 100]).unwrap(), 0, "it is closed without an answer");
    }
    wait_for("both to be counted", || (shed(&daemon, "slow_head") == 2).then_some(()));
    kept.write_all(ASK_ONCE).unwrap();
    assert_eq!(Response::read(&mut kept).status, 200);
}
