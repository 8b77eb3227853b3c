//! Every route by every kind of caller.

use super::{ask, verdict, with_keys};
use crate::common::{Client, Daemon, Response, Setup};

/// A route's guard.
#[derive(Clone, Copy, PartialEq)]
pub enum Class {
    Open,
    /// With a key or without, by a way that is allowed.
    Page,
    Use,
    Metered,
    Admin,
}

/// Every route there is. A body of `{}` is a bad request wherever a body is wanted, so that being
/// let in shows as 400.
const ROUTES: &[(&str, &str, Class)] = &[
    ("GET", "/health", Class::Open),
    ("GET", "/ready", Class::Open),
    ("GET", "/v1/models", Class::Use),
    ("GET", "/v1/models/demo", Class::Use),
    ("POST", "/v1/chat/completions", Class::Metered),
    ("POST", "/v1/completions", Class::Metered),
    ("POST", "/v1/chat/completions/render", Class::Metered),
    ("POST", "/apply-template", Class::Metered),
    ("POST", "/tokenize", Class::Metered),
    ("POST", "/detokenize", Class::Metered),
    ("POST", "/v1/responses", Class::Metered),
    ("POST", "/v1/embeddings", Class::Metered),
    ("POST", "/api/embed", Class::Metered),
    ("POST", "/api/embeddings", Class::Metered),
    ("POST", "/v1/messages", Class::Metered),
    ("POST", "/v1/messages/count_tokens", Class::Metered),
    ("POST", "/api/chat", Class::Metered),
    ("POST", "/api/generate", Class::Metered),
    ("POST", "/api/show", Class::Use),
    ("GET", "/api/tags", Class::Use),
    ("GET", "/api/ps", Class::Use),
    ("GET", "/api/version", Class::Use),
    ("POST", "/api/pull", Class::Use),
    ("POST", "/v1/responses/input_tokens", Class::Metered),
    ("GET", "/v1/responses/demo/input_items", Class::Use),
    ("POST", "/v1/responses/demo/cancel", Class::Use),
    ("GET", "/v1/responses/demo", Class::Use),
    ("DELETE", "/v1/responses/demo", Class::Use),
    ("POST", "/completion", Class::Metered),
    ("POST", "/infill", Class::Metered),
    ("GET", "/props", Class::Use),
    ("GET", "/tokenizer_info", Class::Use),
    ("GET", "/version", Class::Use),
    ("GET", "/openapi.json", Class::Use),
    ("GET", "/slots", Class::Admin),
    ("GET", "/", Class::Page),
    ("GET", "/page/main.js", Class::Page),
];

/// The OpenAPI document is rendered from the table of routes, in which only the page has no
/// operation.
#[test]
fn every_route_is_in_the_table() {
    let document: serde_json::Value =
        serde_json::from_str(include_str!("../../docs/openapi.json")).unwrap();
    let mut count = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let path = path.replace("{id}", "demo");
        for method in methods.as_object().unwrap().keys().map(|method| method.to_uppercase()) {
            let known = ROUTES.iter().any(|route| (route.0, route.1) == (&method, &path));
            assert!(path == "/metrics" || known, "{method} {path}");
            count += 1;
        }
    }
    let pages = ROUTES.iter().filter(|(_, _, class)| *class == Class::Page).count();
    assert_eq!(count, ROUTES.len() - pages + 1);
}

/// What a caller may do.
#[derive(Debug, Clone, Copy)]
pub enum May {
    /// It has no key.
    Nothing,
    /// It is kept out, whatever key it has.
    Denied,
    Use,
    Administrate,
}

fn check(client: &Client, key: Option<&str>, may: May, metrics: Class) {
    check_by(|method, path| ask(client, method, path, key), may, metrics);
}

/// Checks the answers of all routes to whoever asks by `ask`.
pub fn check_by(ask: impl Fn(&str, &str) -> Response, may: May, metrics: Class) {
    let routes = ROUTES.iter().copied().chain([("GET", "/metrics", metrics)]);
    for (method, path, class) in routes {
        let response = ask(method, path);
        // Ollama's clients have a model loaded by asking nothing.
        let loads = matches!(path, "/api/chat" | "/api/generate");
        let let_in = match method {
            // No response of that name is stored.
            _ if path.starts_with("/v1/responses/demo") => 404,
            // There is no embedding model.
            _ if path.contains("/embed") => 404,
            "POST" if !loads => 400,
            _ => 200,
        };
        let expected = match (class, may) {
            (Class::Open, _) | (_, May::Administrate) => let_in,
            (Class::Page, May::Nothing | May::Use) => 200,
            (_, May::Nothing) => 401,
            (_, May::Denied) => 403,
            (Class::Admin, May::Use) => 403,
            (_, May::Use) => let_in,
        };
        let found = verdict(&response);
        assert_eq!(found.0, expected, "{method} {path} by {may:?}: {}", response.text());
        assert_eq!(response.header("www-authenticate"), (expected == 401).then_some("Bearer"));
        match expected {
            _ if path.starts_with("/api/") || path.starts_with("/v1/messages") => {}
            401 => assert_eq!(found.1, "invalid_api_key"),
            403 => {
                let denied = matches!(may, May::Denied);
                let code = if denied { "user_not_allowed" } else { "insufficient_scope" };
                assert_eq!(found.1, code);
            }
            _ => {}
        }
    }
    // What is not there is no news to anybody.
    assert_eq!(verdict(&ask("GET", "/v1/nothing")), (404, "unknown_url".to_owned()));
}

#[test]
fn with_keys_tcp_needs_one_and_the_unix_socket_does_not() {
    for (access, class) in [("open", Class::Open), ("use", Class::Use), ("admin", Class::Admin)] {
        let (setup, plain, admin) = with_keys();
        let daemon = setup.with(&["--metrics-access", access]).start();
        let wrong = format!("{}0", &plain[..plain.len() - 1]);
        check(&daemon.tcp(), None, May::Nothing, class);
        check(&daemon.tcp(), Some(""), May::Nothing, class);
        check(&daemon.tcp(), Some(wrong.trim_end_matches('0')), May::Nothing, class);
        check(&daemon.tcp(), Some(&plain), May::Use, class);
        check(&daemon.tcp(), Some(&admin), May::Administrate, class);
        // The daemon's own user is an administrator there, whatever it sends.
        check(&daemon.unix(), None, May::Administrate, class);
        check(&daemon.unix(), Some("wrong"), May::Administrate, class);
        check(&daemon.unix(), Some(&plain), May::Administrate, class);
    }
}

#[test]
fn the_unix_socket_may_need_a_key_too() {
    let (setup, plain, admin) = with_keys();
    let daemon = setup.with(&["--socket-require-key", "true"]).start();
    for client in [daemon.tcp(), daemon.unix()] {
        check(&client, None, May::Nothing, Class::Use);
        check(&client, Some("wrong"), May::Nothing, Class::Use);
        check(&client, Some(&plain), May::Use, Class::Use);
        check(&client, Some(&admin), May::Administrate, Class::Use);
    }
}

#[test]
fn without_keys_a_sent_one_is_ignored() {
    let daemon = Setup::new().with(&["--metrics-access", "admin"]).start();
    for key in [None, Some("whatever")] {
        check(&daemon.tcp(), key, May::Use, Class::Admin);
        check(&daemon.unix(), key, May::Administrate, Class::Admin);
    }
}

#[test]
fn anthropics_header_carries_a_key_and_names_callers_in_the_log() {
    let (setup, plain, _) = with_keys();
    let daemon: Daemon = setup.start();
    let response = daemon.tcp().request("GET", "/v1/models", &[("x-api-key", &plain)], b"");
    assert_eq!(response.status, 200);
    crate::common::wait_for("the access line", || {
        let log = daemon.log.text();
        let line = log.lines().find(|line| line.contains("GET /v1/models"))?.to_owned();
        assert!(line.contains("key:plain") && line.contains("127.0.0.1"), "{line}");
        Some(())
    });
    assert!(!daemon.log.text().contains(&plain), "keys are not logged");
}
