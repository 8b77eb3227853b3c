//! What is not quite HTTP gets one 4xx or nothing, and a closed connection. What follows it on the
//! connection is never read as a request, and nobody else notices.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may stop where something is wrong")]

use std::io::{Read, Write};

use proptest::prelude::*;
use serde_json::json;

use crate::common::{Client, Daemon, Response, Setup};

/// A request that must never be answered: it follows what is malformed.
const SMUGGLED: &str = "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Sends bytes and reads until the daemon closes the connection.
fn exchange(client: &Client, bytes: &[u8]) -> Vec<u8> {
    let mut connection = client.connect();
    // The daemon may refuse and close before it has read all.
    let _ = connection.write_all(bytes);
    let mut answer = Vec::new();
    match connection.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection stays open: {error}"),
    }
    answer
}

fn post(headers: &str, body: &str) -> String {
    format!("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n\r\n{body}")
}

fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked", body)
}

/// More than this may be left unread by a daemon that refuses.
const UNREAD: usize = 4096;

/// Name, bytes, and the statuses that are right; none: closed without an answer.
fn rows() -> Vec<(&'static str, String, &'static [u16])> {
    let get =
        |headers: &str| format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n\r\n");
    let long = "x".repeat(300_000);
    vec![
        ("no HTTP", "nonsense\r\n\r\n".to_owned(), &[400]),
        ("no path", "GET HTTP/1.1\r\n\r\n".to_owned(), &[400]),
        ("unknown version", "GET /health HTTP/9.9\r\n\r\n".to_owned(), &[400]),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), &[]),
        ("TLS", "\u{16}\u{3}\u{1}\u{0}\u{5}\u{1}\u{0}\u{0}\u{1}\u{3}".to_owned(), &[400]),
        ("method with a slash", "GE/T /health HTTP/1.1\r\n\r\n".to_owned(), &[400]),
        ("space behind a name", get("X-One : 1"), &[400]),
        ("line without a colon", get("X-One"), &[400]),
        ("folded line", get("X-One: 1\r\n  2"), &[400]),
        ("NUL in a value", get("X-One: a\0b"), &[400]),
        ("no Host", "GET /health HTTP/1.1\r\n\r\n".to_owned(), &[400]),
        ("two Hosts", get("Host: localhost"), &[400]),
        (
            "a list of Hosts",
            "GET /health HTTP/1.1\r\nHost: localhost, a\r\n\r\n".to_owned(),
            &[400],
        ),
        (
            "a target elsewhere",
            "GET http://a.example/health HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
            &[400],
        ),
        ("bare LF", "GET /health HTTP/1.1\nHost: localhost\n\n".to_owned(), &[400]),
        ("bare LF in a head", get("X-One: 1\nX-Two: 2"), &[400]),
        ("bare LF at a head's end", "GET /health HTTP/1.1\r\nHost: a\r\n\n".to_owned(), &[400]),
        ("bare CR in a head", get("X-One: 1\rX-Two: 2"), &[400]),
        ("DEL in a value", get("X-One: a\u{7f}b"), &[400]),
        ("ESC in a value", get("X-One: a\u{1b}[2Jb"), &[400]),
        ("two origins", get("Origin: http://localhost\r\nOrigin: http://a.example"), &[400]),
        ("a list of origins", get("Origin: http://localhost http://a.example"), &[400]),
        ("two keys", get("Authorization: Bearer a\r\nAuthorization: Bearer b"), &[400]),
        ("two keys of Anthropic's", get("X-Api-Key: a\r\nX-API-KEY: b"), &[400]),
        (
            "two types",
            post("Content-Type: application/json\r\nContent-Type: a/b\r\nContent-Length: 2", "{}"),
            &[400],
        ),
        ("huge header", get(&format!("X-Long: {long}")), &[431]),
        ("very many headers", get("X-Many: 1\r\n".repeat(500).trim_end()), &[431]),
        ("huge path", format!("GET /{long} HTTP/1.1\r\n\r\n"), &[414, 431]),
        ("negative length", post("Content-Length: -1", ""), &[400]),
        ("length with a plus", post("Content-Length: +2", "{}"), &[400]),
        ("length with text", post("Content-Length: 2x", "{}"), &[400]),
        ("length beyond 64 bits", post("Content-Length: 99999999999999999999", "{}"), &[400]),
        ("two lengths", post("Content-Length: 2\r\nContent-Length: 30", "{}"), &[400]),
        ("two equal lengths", post("Content-Length: 2\r\nContent-Length: 2", "{}"), &[400]),
        ("list of equal lengths", post("Content-Length: 2, 2", "{}"), &[400]),
        ("list of lengths", post("Content-Length: 2, 30", "{}"), &[400]),
        ("unknown coding", post("Transfer-Encoding: gzip", "{}"), &[400, 501]),
        ("chunked not last", post("Transfer-Encoding: chunked, gzip", "0\r\n\r\n"), &[400, 501]),
        (
            "chunked, then not",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "0\r\n\r\n"),
            &[400, 501],
        ),
        (
            "chunked twice",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "0\r\n\r\n"),
            &[400],
        ),
        ("a list of codings", post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n"), &[400]),
        ("chunk's line ends in LF", chunked("2\n{}\r\n0\r\n\r\n"), &[400]),
        ("trailer's line ends in LF", chunked("2\r\n{}\r\n0\r\nX-One: 1\n\r\n"), &[400]),
        (
            "chunked in HTTP/1.0",
            "POST /v1/completions HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_owned(),
            &[400],
        ),
        ("chunk size no number", chunked("zz\r\n{}\r\n0\r\n\r\n"), &[400]),
        ("negative chunk size", chunked("-2\r\n{}\r\n0\r\n\r\n"), &[400]),
        ("chunk size beyond 64 bits", chunked("fffffffffffffffff\r\n{}"), &[400]),
        ("chunk longer than its size", chunked("2\r\n{}{}\r\n0\r\n\r\n"), &[400]),
        ("endless chunk extension", chunked(&format!("2;{long}\r\n{{}}\r\n0\r\n\r\n")), &[400]),
    ]
}

#[test]
fn it_gets_one_refusal_and_a_closed_connection() {
    let daemon = Daemon::start();
    let clients = [daemon.tcp(), daemon.unix()];
    // Somebody's answer goes on all the while.
    let endless = json!({
        "prompt": "The", "max_tokens": 4000, "ignore_eos": true, "temperature": 0, "stream": true,
    });
    let headers = [("Content-Type", "application/json")];
    let body = endless.to_string();
    let mut stream = daemon.tcp().send("POST", "/v1/completions", &headers, body.as_bytes());
    stream.read_exact(&mut [0; 400]).unwrap();

    for (name, bytes, statuses) in rows() {
        for client in &clients {
            let answer = exchange(client, format!("{bytes}{SMUGGLED}").as_bytes());
            // A connection that is closed with bytes unread is reset, and the answer may be lost.
            if answer.is_empty() && (statuses.is_empty() || bytes.len() > UNREAD) {
                continue;
            }
            let text = String::from_utf8_lossy(&answer);
            assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{name}: {text:?}");
            let status = Response::parse(&answer).status;
            assert!(statuses.contains(&status), "{name}: {text:?}");
        }
    }
    let health = daemon.health();
    assert_eq!((&health["status"], &health["accepted"]), (&json!("ok"), &json!(1)), "{health}");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    assert!(String::from_utf8_lossy(&rest).contains("data: [DONE]"));
    assert_eq!(daemon.wait_idle()["finished"], 1);
}

/// A proxy may believe either; so the request is refused (RFC 9112, 6.1 and 6.3).
#[test]
fn a_length_beside_chunks_smuggles_no_request() {
    let daemon = Daemon::start();
    let body = json!({ "prompt": "12+7=", "max_tokens": 1 }).to_string();
    let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let (length, coding) = ("Content-Length: 5", "Transfer-Encoding: chunked");
    for headers in [format!("{length}\r\n{coding}"), format!("{coding}\r\n{length}")] {
        for client in [daemon.tcp(), daemon.unix()] {
            let bytes = format!("{}{SMUGGLED}", post(&headers, &chunks));
            let answer = exchange(&client, bytes.as_bytes());
            let text = String::from_utf8_lossy(&answer);
            assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{headers:?}: {text:?}");
            assert_eq!(Response::parse(&answer).status, 400, "{headers:?}: {text:?}");
        }
    }
    assert_eq!(daemon.wait_idle()["accepted"], 0);
}

/// What makes one head ambiguous: a line that is put into it, or a change of its bytes.
#[derive(Debug, Clone)]
enum Fault {
    Line(String),
    /// The CR of the line of this number goes.
    BareLf(usize),
    /// The LF goes.
    BareCr(usize),
    NoHost,
    /// A control character into the value of the line of this number.
    Control(usize, char),
}

fn faults() -> impl Strategy<Value = Fault> {
    let space = prop::sample::select(vec!["", " ", "\t", "  \t "]);
    let length = (0_u32..4000, space.clone()).prop_map(|(n, s)| format!("content-Length:{s}{n}"));
    let coding = prop::sample::select(vec![
        "chunked",
        "Chunked",
        "gzip",
        "identity",
        "gzip, chunked",
        "chunked, chunked",
        "x",
        "",
        "\"a\"",
    ]);
    let coding = (coding, space).prop_map(|(value, s)| format!("transfer-encodinG:{s}{value}"));
    let twice = prop::sample::select(vec![
        "Host: localhost",
        "Host: a.example",
        "Origin: http://a.example",
        "Authorization: Bearer a",
        "X-Api-Key: a",
        "Content-Type: application/json",
        "Content-Encoding: identity",
        "Expect: 100-continue",
        "Traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "X-Request-Id: a",
    ]);
    let twice = twice.prop_map(|line| match line.starts_with("Host") {
        // There is one already.
        true => line.to_owned(),
        false => format!("{line}\r\n{}", line.to_ascii_lowercase()),
    });
    let folded = Just(" folded".to_owned());
    let no_value = Just("no colon".to_owned());
    let spaced = Just("X-Spaced : 1".to_owned());
    let control = (0_u32..32).prop_filter("not tab, LF or CR", |c| ![9, 10, 13].contains(c));
    let control = control.prop_filter_map("a character", char::from_u32);
    prop_oneof![
        prop_oneof![length, coding, twice, folded, no_value, spaced].prop_map(Fault::Line),
        (0_usize..8).prop_map(Fault::BareLf),
        (0_usize..8).prop_map(Fault::BareCr),
        Just(Fault::NoHost),
        (0_usize..8, control).prop_map(|(line, c)| Fault::Control(line, c)),
    ]
}

/// A head of a request with a body, which `fault` makes ambiguous, if there is one.
fn head(lines: &[String], at: usize, chunked: bool, fault: Option<&Fault>) -> String {
    let mut lines: Vec<String> = lines.to_vec();
    let framing = if chunked { "Transfer-Encoding: chunked" } else { "Content-Length: 2" };
    if !matches!(fault, Some(Fault::NoHost)) {
        lines.insert(at % (lines.len() + 1), "Host: localhost".to_owned());
    }
    lines.insert(at % (lines.len() + 1), framing.to_owned());
    if let Some(Fault::Line(line)) = fault {
        // Behind another header, so that a folded line continues one.
        lines.insert(1 + at % lines.len(), line.clone());
    }
    lines.insert(0, "POST /detokenize HTTP/1.1".to_owned());
    if let Some(Fault::Control(line, control)) = fault {
        let line = 1 + line % (lines.len() - 1);
        lines[line].push(*control);
        lines[line].push('a');
    }
    lines.push(String::new());
    let ends: Vec<&str> = (0..lines.len())
        .map(|line| match fault {
            Some(Fault::BareLf(bad)) if line == bad % lines.len() => "\n",
            Some(Fault::BareCr(bad)) if line == bad % lines.len() => "\r",
            _ => "\r\n",
        })
        .collect();
    lines.iter().zip(ends).map(|(line, end)| format!("{line}{end}")).collect()
}

/// Heads of any shape: without a fault they are answered and the connection lives on; with one there is
/// one 400, and what follows is not read as a request.
#[test]
fn a_fault_in_a_head_is_refused_wherever_it_is() {
    let daemon = Daemon::start();
    let clients = [daemon.tcp(), daemon.unix()];
    let line = (
        "[Xx]-[A-Za-z0-9]{1,12}",
        prop::sample::select(vec![":", ": ", ":\t ", ":  "]),
        "[!-~]{0,40}|[!-~]{70,90}",
    )
        .prop_map(|(name, colon, value)| format!("{name}{colon}{value}"));
    let case = (
        prop::collection::vec(line, 1..6),
        0_usize..8,
        any::<bool>(),
        prop::option::weighted(0.8, faults()),
        0_usize..2,
    );
    proptest!(ProptestConfig { cases: 2000, ..ProptestConfig::default() }, |(
        (lines, at, chunked, fault, client) in case
    )| {
        let body = if chunked { "2;a=b\r\n[\n\r\n1\r\n]\r\n0\r\n\r\n" } else { "[\n" };
        let text = head(&lines, at, chunked, fault.as_ref());
        let last = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let answer = exchange(&clients[client], format!("{text}{body}{last}").as_bytes());
        let answer = String::from_utf8_lossy(&answer);
        match &fault {
            None => {
                prop_assert_eq!(answer.matches("HTTP/1.1 ").count(), 2, "{:?}: {}", text, answer);
                prop_assert!(answer.contains("HTTP/1.1 200 "), "{:?}: {}", text, answer);
            }
            Some(_) => {
                prop_assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{:?}: {}", text, answer);
                prop_assert!(answer.starts_with("HTTP/1.1 400 "), "{:?}: {}", text, answer);
            }
        }
    });
    assert_eq!(daemon.wait_idle()["accepted"], 0);
}

/// No browser may take an answer for something else than it says, faults included.
#[test]
fn every_answer_forbids_to_guess_its_type() {
    let daemon = Daemon::start();
    for (method, path) in [
        ("GET", "/health"),
        ("GET", "/"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/nowhere"),
        ("POST", "/tokenize"),
        ("OPTIONS", "/v1/models"),
        ("DELETE", "/"),
    ] {
        let answer = daemon.tcp().request(method, path, &[], b"");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{method} {path}");
    }
}

#[test]
fn what_a_path_holds_does_not_disturb_the_log() {
    for format in ["text", "json"] {
        let daemon = Setup::new().with(&["--log-format", format]).start();
        let path = "/a\u{202e}b\u{2028}c\u{2066}\u{200b}\u{feff}\u{85}d";
        let text = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        exchange(&daemon.unix(), text.as_bytes());
        let log = daemon.log.says("202e");
        for raw in path.chars().filter(|c| !c.is_ascii()) {
            assert!(!log.contains(raw), "{raw:?} in {log:?}");
        }
    }
}

#[test]
fn requests_that_break_off_are_forgotten() {
    let daemon = Daemon::start();
    for bytes in
        ["", "GET /hea", "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 90\r\n\r\n{"]
    {
        for client in [daemon.tcp(), daemon.unix()] {
            client.connect().write_all(bytes.as_bytes()).unwrap();
        }
    }
    let answer = daemon.tcp().chat("Hello!", &json!({ "max_tokens": 1 }));
    assert_eq!(answer["usage"]["completion_tokens"], 1);
    assert_eq!(daemon.wait_idle()["accepted"], 1);
}
