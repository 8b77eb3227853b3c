//! The daemon's life: loading, ready, draining, and every way in which a start fails.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests may stop where something is wrong"
)]

mod faults;

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Connection, Daemon, Response, Setup, copy_demo, wait_for};

/// A daemon whose every message to the service manager is kept, from its first on.
struct Launched {
    child: Child,
    notify: UnixDatagram,
    messages: Vec<String>,
    setup: Setup,
}

impl Launched {
    fn new(setup: Setup) -> Self {
        let path = setup.folder.path().join("notify.sock");
        let notify = UnixDatagram::bind(&path).unwrap();
        notify.set_nonblocking(true).unwrap();
        let log = File::create(setup.folder.path().join("log")).unwrap();
        let mut command = setup.command();
        command.env("NOTIFY_SOCKET", &path).stdout(Stdio::null()).stderr(log);
        Self { child: command.spawn().unwrap(), notify, messages: Vec::new(), setup }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.setup.folder.path().join("log")).unwrap()
    }

    /// All messages so far but requests for more time.
    fn messages(&mut self) -> &[String] {
        let mut buffer = [0; 4096];
        while let Ok(count) = self.notify.recv(&mut buffer) {
            let text = String::from_utf8(buffer[..count].to_vec()).unwrap();
            let states: Vec<&str> =
                text.lines().filter(|line| !line.starts_with("EXTEND_TIMEOUT_USEC=")).collect();
            if !states.is_empty() {
                self.messages.push(states.join("|"));
            }
        }
        &self.messages
    }

    fn wait_message(&mut self, message: &str) {
        wait_for(message, || self.messages().iter().any(|sent| sent == message).then_some(()));
    }

    fn signal(&self, name: &str) {
        crate::common::send_signal(self.child.id(), name);
    }

    fn wait_end(&mut self) -> ExitStatus {
        let child = &mut self.child;
        wait_for("the daemon's end", || child.try_wait().unwrap())
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- messages: {:?}\n--- log:\n{}", self.messages, self.log());
        }
    }
}

/// A setup whose model loads for as long as nobody writes the returned bytes to the returned pipe,
/// which is in the place of the graph.
fn stuck_loading() -> (Setup, PathBuf, Vec<u8>) {
    let mut setup = Setup::new();
    setup.model = copy_demo(setup.folder.path());
    let path = setup.model.join("model.onnx");
    let graph = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    (setup, path, graph)
}

/// A streamed chat that fills every buffer on its way long before its end, so that it is surely
/// running while nobody reads it.
fn long_stream() -> Value {
    json!({
        "messages": [{ "role": "user", "content": "hello" }], "temperature": 0, "stream": true,
        "max_tokens": LONG, "ignore_eos": true, "logprobs": true, "top_logprobs": 20,
        "stream_options": { "include_usage": true },
    })
}

const LONG: u64 = 3000;

/// Starts [`long_stream`] and returns when the engine is at work on it, which is later than the
/// head of the response.
fn begin(daemon: &Daemon) -> Begun {
    let mut connection = daemon.unix().send(
        "POST",
        "/v1/chat/completions",
        &[("Content-Type", "application/json")],
        long_stream().to_string().as_bytes(),
    );
    let mut seen = vec![0; 512];
    connection.read_exact(&mut seen).unwrap();
    assert!(seen.starts_with(b"HTTP/1.1 200 OK\r\n"));
    wait_for("the stream to run", || (daemon.health()["running"] == 1).then_some(()));
    Begun { seen, connection }
}

struct Begun {
    seen: Vec<u8>,
    connection: Connection,
}

impl Begun {
    fn read_rest(self) -> Response {
        Response::read(&mut self.seen.as_slice().chain(self.connection))
    }
}

#[test]
fn ready_is_said_when_requests_are_answered_and_not_before() {
    let (setup, pipe, graph) = stuck_loading();
    let socket = setup.socket();
    let mut daemon = Launched::new(setup);
    daemon.wait_message("STATUS=loading copy");
    // The socket is bound already, so that a client that comes now is answered later.
    let mut early = UnixStream::connect(&socket).unwrap();
    early.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    early.set_nonblocking(true).unwrap();
    let unanswered = early.read(&mut [0]).unwrap_err();
    assert_eq!(unanswered.kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(daemon.messages(), ["STATUS=loading copy"]);

    std::fs::write(pipe, graph).unwrap();
    daemon.wait_message("READY=1|STATUS=serving copy");
    early.set_nonblocking(false).unwrap();
    early.set_read_timeout(Some(crate::common::PATIENCE)).unwrap();
    let health = Response::read(&mut early);
    assert_eq!((health.status, &health.json()["status"]), (200, &json!("ok")));

    daemon.signal("TERM");
    assert_eq!(daemon.wait_end().code(), Some(0));
    let stopping = "STOPPING=1|STATUS=finishing answers in progress";
    let order = ["STATUS=loading copy", "READY=1|STATUS=serving copy", stopping];
    assert_eq!(daemon.messages(), order);
}

#[test]
fn a_reload_asked_for_while_loading_follows_once_it_is_ready() {
    let (setup, pipe, graph) = stuck_loading();
    let file = setup.folder.path().join("phi4d.toml");
    std::fs::write(&file, "metrics_access = \"admin\"\n").unwrap();
    let setup = setup.with(&["--config", file.to_str().unwrap()]);
    let mut daemon = Launched::new(setup);
    daemon.wait_message("STATUS=loading copy");
    std::fs::write(&file, "metrics_access = \"nobody\"\n").unwrap();
    daemon.signal("HUP");
    std::fs::write(pipe, graph).unwrap();
    // Bad settings do not stop what has begun with good ones.
    let refused = "READY=1|STATUS=serving copy by the old settings; the new ones were refused";
    daemon.wait_message(refused);
    let messages = daemon.messages();
    assert_eq!(messages[..2], ["STATUS=loading copy", "READY=1|STATUS=serving copy"]);
    assert!(messages[2].starts_with("RELOADING=1|MONOTONIC_USEC="), "{messages:?}");
    assert_eq!(messages[3..], [refused]);
    daemon.signal("TERM");
    assert_eq!(daemon.wait_end().code(), Some(0));
}

#[test]
fn told_to_stop_while_loading_it_ends_without_having_been_ready() {
    for name in ["TERM", "INT"] {
        let (setup, pipe, graph) = stuck_loading();
        let socket = setup.socket();
        let mut daemon = Launched::new(setup);
        daemon.wait_message("STATUS=loading copy");
        daemon.signal(name);
        daemon.wait_message("STOPPING=1");
        // The load goes on to where it can be given up; the process does not end under it.
        assert_eq!(daemon.child.try_wait().unwrap(), None);
        std::fs::write(pipe, graph).unwrap();
        assert_eq!(daemon.wait_end().code(), Some(0));
        assert_eq!(daemon.messages(), ["STATUS=loading copy", "STOPPING=1"]);
        assert!(!socket.exists());
    }
}

#[test]
fn told_to_stop_it_completes_the_streams_that_run_and_takes_no_more() {
    // A limit that no machine is slow enough to reach, since the limit is another test's business.
    let mut daemon = Setup::new().with(&["--drain-timeout-s", "3600"]).start();
    let address = daemon.address();
    let stream = begin(&daemon);
    daemon.signal("TERM");
    daemon.wait_notified("STOPPING=1");
    wait_for("TCP to be closed", || TcpStream::connect(address).is_err().then_some(()));
    assert!(UnixStream::connect(daemon.socket()).is_err());

    let chunks = stream.read_rest().chunks();
    let reasons = chunks.iter().map(|chunk| &chunk["choices"][0]["finish_reason"]);
    assert_eq!(reasons.filter(|reason| *reason == "length").count(), 1);
    assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], LONG);
    assert_eq!(daemon.wait_end().code(), Some(0));
    assert!(daemon.log.text().contains("all answers are complete"));
}

#[test]
fn the_drain_limit_cuts_what_is_left_with_an_error() {
    // One at a time, they take many times the limit.
    let setup = Setup::new().with(&["--slots", "1", "--drain-timeout-s", "1"]);
    let mut daemon = setup.start();
    let client = daemon.unix();
    let asked: Vec<_> = (0..24)
        .map(|_| {
            let client = client.clone();
            std::thread::spawn(move || client.post("/v1/chat/completions", &long_stream()))
        })
        .collect();
    wait_for("all requests to be accepted", || {
        let health = daemon.health();
        (health["accepted"] == 24 && health["running"] == 1).then_some(())
    });
    daemon.signal("TERM");
    daemon.wait_notified("STOPPING=1");
    let begun = Instant::now();
    assert_eq!(daemon.wait_end().code(), Some(0));
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(900), "{took:?}");

    let (mut complete, mut cut_in_stream) = (0, 0);
    for thread in asked {
        let response = thread.join().unwrap();
        let events = response.events();
        if events.last().is_some_and(|event| event == "[DONE]") {
            complete += 1;
            continue;
        }
        let last = match response.status {
            200 => {
                cut_in_stream += 1;
                serde_json::from_str(events.last().unwrap()).unwrap()
            }
            status => {
                assert_eq!(status, 503, "{}", response.text());
                response.json()
            }
        };
        assert_eq!(last["error"]["code"], "shutting_down", "{last}");
        assert_eq!(last["error"]["type"], "server_error", "{last}");
    }
    assert!(complete < 24 && cut_in_stream > 0, "{complete} complete, {cut_in_stream} cut");
}

#[test]
fn a_second_signal_stops_at_once() {
    for (first, second) in [("TERM", "TERM"), ("INT", "TERM")] {
        let mut daemon = Setup::new().with(&["--drain-timeout-s", "3600"]).start();
        let stream = begin(&daemon);
        daemon.signal(first);
        daemon.wait_notified("STOPPING=1");
        daemon.signal(second);
        assert_eq!(daemon.wait_end().code(), Some(0));
        let events = stream.read_rest().events();
        assert!(!events.iter().any(|event| event == "[DONE]"));
        assert!(daemon.log.text().contains("again; stopping at once"));
    }
}

#[test]
fn nothing_is_written_into_the_home() {
    let setup = Setup::new();
    let home = setup.folder.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let mut daemon = setup.start();
    let answer = daemon.tcp().chat("hello", &json!({ "max_tokens": 4 }));
    assert_eq!(answer["object"], "chat.completion");
    daemon.signal("TERM");
    assert_eq!(daemon.wait_end().code(), Some(0));
    assert_eq!(std::fs::read_dir(&home).unwrap().count(), 0);
}

#[test]
fn the_watchdog_is_reported_while_the_engine_works_and_while_it_has_nothing_to_do() {
    let mut daemon = Setup::new().variable("WATCHDOG_USEC", "100000").start();
    for _ in 0..3 {
        daemon.wait_notified("WATCHDOG=1");
    }
    let stream = daemon.unix().send(
        "POST",
        "/v1/chat/completions",
        &[("Content-Type", "application/json")],
        long_stream().to_string().as_bytes(),
    );
    for _ in 0..3 {
        daemon.wait_notified("WATCHDOG=1");
    }
    drop(stream);
    daemon.wait_idle();
}
