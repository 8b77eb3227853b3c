//! Who gets the web page.

use super::{add_key, keys_file, verdict};
use crate::common::{Client, Daemon, Setup};

const GONE: (u16, &str) = (404, "unknown_url");

fn asked(client: &Client, path: &str) -> (u16, String) {
    verdict(&client.get(path))
}

/// The same daemon by an address that is not loopback's, if this machine has one.
fn from_elsewhere(daemon: &Daemon) -> Option<Client> {
    // A connection to an own address comes from that address.
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("192.0.2.1:9").ok()?;
    let own = socket.local_addr().unwrap().ip();
    (!own.is_loopback() && !own.is_unspecified())
        .then(|| Client::Tcp((own, daemon.address().port()).into()))
}

#[test]
fn every_file_has_the_headers_that_hold_a_browser() {
    let daemon = Daemon::start();
    for client in [daemon.tcp(), daemon.unix()] {
        for (path, kind) in [
            ("/", "text/html; charset=utf-8"),
            ("/page/main.js", "text/javascript; charset=utf-8"),
            ("/page/page.css", "text/css; charset=utf-8"),
            ("/page/icon.svg", "image/svg+xml"),
            ("/page/vendor/katex.min.js", "text/javascript; charset=utf-8"),
            ("/page/vendor/fonts/KaTeX_Main-Regular.woff2", "font/woff2"),
            ("/page/vendor/LICENSE.katex.txt", "text/plain; charset=utf-8"),
        ] {
            let response = client.get(path);
            assert_eq!((response.status, response.header("content-type")), (200, Some(kind)));
            let policy = response.header("content-security-policy").unwrap();
            for part in [
                "default-src 'none'",
                "script-src 'self'",
                "style-src 'self'",
                "frame-ancestors 'none'",
                "require-trusted-types-for 'script'",
            ] {
                assert!(policy.contains(part), "{path}: {policy}");
            }
            assert!(!policy.contains("unsafe"), "{policy}");
            assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
            let tag = response.header("etag").unwrap();
            let again = client.request("GET", path, &[("If-None-Match", tag)], b"");
            assert_eq!((again.status, again.body.len(), again.header("etag")), (304, 0, Some(tag)));
        }
    }
    let head = daemon.tcp().request("HEAD", "/", &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    for path in ["/page/none.js", "/page/../health", "/page/vendor/list.txt", "/index.html"] {
        assert_eq!(asked(&daemon.tcp(), path), (GONE.0, GONE.1.to_owned()), "{path}");
    }
    assert_eq!(daemon.tcp().request("POST", "/", &[], b"{}").status, 405);
}

#[test]
fn other_names_and_pages_do_not_get_it() {
    let daemon = Daemon::start();
    for (headers, code) in [
        ("Host: evil.example\r\n", "host_not_allowed"),
        ("Host: localhost\r\nOrigin: https://evil.example\r\n", "origin_not_allowed"),
    ] {
        let mut connection = daemon.tcp().connect();
        let text = format!("GET /page/main.js HTTP/1.1\r\nConnection: close\r\n{headers}\r\n");
        std::io::Write::write_all(&mut connection, text.as_bytes()).unwrap();
        let response = crate::common::Response::read(&mut connection);
        assert_eq!(verdict(&response), (403, code.to_owned()));
    }
}

#[test]
fn it_is_off_where_the_setting_says_so_and_on_the_network_without_keys() {
    let gone = (GONE.0, GONE.1.to_owned());
    let let_in = (200, String::new());
    let off = Setup::new().with(&["--web-page", "off"]).start();
    for path in ["/", "/page/main.js"] {
        assert_eq!(asked(&off.tcp(), path), gone);
        assert_eq!(asked(&off.unix(), path), gone);
    }
    assert_eq!(off.tcp().request("POST", "/", &[], b"{}").status, 404);

    let lan = ["--allow-unauthenticated-lan", "true"];
    for (more, elsewhere) in [(vec![], &gone), (vec!["--web-page", "on"], &let_in)] {
        let daemon = Setup::new().listen("0.0.0.0:0").with(&lan).with(&more).start();
        let local = Client::Tcp(([127, 0, 0, 1], daemon.address().port()).into());
        assert_eq!(asked(&local, "/"), let_in);
        if let Some(client) = from_elsewhere(&daemon) {
            assert_eq!(&asked(&client, "/"), elsewhere, "{more:?}");
        }
    }
    let setup = Setup::new().listen("0.0.0.0:0");
    let file = keys_file(&setup);
    add_key(&file, &["plain"]);
    let daemon = setup.with(&["--api-keys-file", file.to_str().unwrap()]).start();
    if let Some(client) = from_elsewhere(&daemon) {
        assert_eq!(asked(&client, "/"), let_in);
        assert_eq!(asked(&client, "/v1/models").0, 401);
    }
}

#[test]
fn its_files_are_logged_where_one_is_missing_and_else_only_if_asked_for() {
    let logged = |level: &str| {
        let daemon = Setup::new().with(&["--log-level", level, "--log-format", "json"]).start();
        for path in ["/", "/page/main.js", "/page/none.js", "/health"] {
            daemon.unix().get(path);
        }
        let log = daemon.log.says("GET /health");
        let level_of = |path: &str| {
            let line = log.lines().find(|line| line.contains(&format!("GET {path} ")))?;
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            Some(line["level"].as_str().unwrap().to_lowercase())
        };
        ["/", "/page/main.js", "/page/none.js"].map(level_of)
    };
    let level = |level: &str| Some(level.to_owned());
    assert_eq!(logged("info"), [level("info"), None, level("warn")]);
    assert_eq!(logged("debug"), [level("info"), level("debug"), level("warn")]);
}
