//! Names and web pages: what a browser on this machine is kept from.

use super::{verdict, with_keys};
use crate::common::{Client, Daemon, Response, Setup};

fn with(client: &Client, method: &str, headers: &str) -> Response {
    use std::io::Write;
    let mut connection = client.connect();
    let body = if method == "POST" { "Content-Length: 2\r\n\r\n{}" } else { "\r\n" };
    let path = if method == "GET" { "/v1/models" } else { "/v1/chat/completions" };
    let text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n{headers}{body}");
    connection.write_all(text.as_bytes()).unwrap();
    Response::read(&mut connection)
}

#[test]
fn only_our_names_are_answered_over_tcp() {
    let daemon = Setup::new().with(&["--allowed-hosts", "ai.example.org"]).start();
    let refused = (403, "host_not_allowed".to_owned());
    for ours in ["localhost", "127.0.0.1:8484", "[::1]", "10.0.0.9", "AI.example.org:443"] {
        assert_eq!(with(&daemon.tcp(), "GET", &format!("Host: {ours}\r\n")).status, 200, "{ours}");
    }
    for other in ["evil.example", "localhost.evil.example:8484", "127.0.0.1.evil.example", "@"] {
        let host = format!("Host: {other}\r\n");
        assert_eq!(verdict(&with(&daemon.tcp(), "GET", &host)), refused, "{other}");
        // Never on the Unix socket, which no browser reaches.
        assert_eq!(with(&daemon.unix(), "GET", &host).status, 200, "{other}");
    }
    // Probes call by whatever name they have.
    let mut connection = daemon.tcp().connect();
    std::io::Write::write_all(&mut connection, b"GET /ready HTTP/1.0\r\nHost: pod-7\r\n\r\n")
        .unwrap();
    assert_eq!(Response::read(&mut connection).status, 200);
}

#[test]
fn with_keys_or_a_star_any_name_will_do() {
    let (setup, plain, _) = with_keys();
    let daemon = setup.start();
    let headers = format!("Host: any.example\r\nAuthorization: Bearer {plain}\r\n");
    assert_eq!(with(&daemon.tcp(), "GET", &headers).status, 200);
    let daemon = Setup::new().with(&["--allowed-hosts", "*"]).start();
    assert_eq!(with(&daemon.tcp(), "GET", "Host: any.example\r\n").status, 200);
}

#[test]
fn pages_of_others_may_not_ask_unless_they_are_named() {
    let page = "https://chat.example";
    let headers = format!("Host: localhost\r\nOrigin: {page}\r\n");
    let ask_first = format!(
        "{headers}Access-Control-Request-Method: POST\r\n\
        Access-Control-Request-Headers: authorization,content-type\r\n"
    );

    let closed = Daemon::start();
    let refused = (403, "origin_not_allowed".to_owned());
    assert_eq!(verdict(&with(&closed.tcp(), "POST", &headers)), refused);
    assert_eq!(
        verdict(&with(&closed.tcp(), "GET", "Host: localhost\r\nOrigin: null\r\n")),
        refused
    );
    let preflight = with(&closed.tcp(), "OPTIONS", &ask_first);
    assert_eq!(preflight.status, 405);
    assert!(!preflight.headers.iter().any(|(name, _)| name.starts_with("access-control")));
    let own = "Host: localhost:8484\r\nOrigin: http://localhost:8484\r\n";
    assert_eq!(with(&closed.tcp(), "GET", own).status, 200);

    let open = Setup::new().with(&["--cors-origins", page]).start();
    let preflight = with(&open.tcp(), "OPTIONS", &ask_first);
    assert_eq!(preflight.status, 204, "{}", preflight.text());
    for (name, value) in [
        ("access-control-allow-origin", page),
        ("access-control-allow-methods", "POST"),
        ("access-control-allow-headers", "authorization,content-type"),
        ("vary", "origin"),
    ] {
        assert_eq!(preflight.header(name), Some(value));
    }
    let answer = with(&open.tcp(), "GET", &headers);
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some(page)));
    // Faults can be read, too.
    let answer = with(&open.tcp(), "POST", &headers);
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (400, Some(page)));
    let other = "Host: localhost\r\nOrigin: https://evil.example\r\n";
    let answer = with(&open.tcp(), "GET", other);
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (403, None));
}
