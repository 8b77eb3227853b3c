//! A key's limits: requests at once, tokens a minute.

use serde_json::json;

use super::common::{Client, Response, Setup, wait_for};
use super::{add_key, ask, bearer, keys_file, verdict};

fn post(client: &Client, key: &str, body: &serde_json::Value) -> Response {
    let token = bearer(key);
    let headers = [("Content-Type", "application/json"), ("Authorization", token.as_str())];
    client.request("POST", "/v1/completions", &headers, body.to_string().as_bytes())
}

fn retry_after(response: &Response) -> u64 {
    response.header("retry-after").unwrap().parse().unwrap()
}

#[test]
fn no_more_requests_at_once_than_a_key_may_have() {
    let setup = Setup::new();
    let file = keys_file(&setup);
    let narrow = add_key(&file, &["narrow", "--max-in-flight", "1"]);
    let wide = add_key(&file, &["wide"]);
    let daemon = setup.with(&["--api-keys-file", file.to_str().unwrap()]).start();
    let long = json!({ "prompt": "a", "max_tokens": 3000, "ignore_eos": true, "stream": true,
        "logprobs": 5 });
    let token = bearer(&narrow);
    let headers = [("Content-Type", "application/json"), ("Authorization", token.as_str())];
    let stream =
        daemon.tcp().send("POST", "/v1/completions", &headers, long.to_string().as_bytes());
    wait_for("the stream to run", || (daemon.health()["running"] == 1).then_some(()));

    let short = json!({ "prompt": "a", "max_tokens": 1 });
    let second = post(&daemon.tcp(), &narrow, &short);
    assert_eq!(verdict(&second), (429, "rate_limit_exceeded".to_owned()), "{}", second.text());
    assert!(second.text().contains("narrow") && second.text().contains("max_in_flight"));
    assert!(retry_after(&second) >= 1);
    // Only generating counts, and only this key's.
    assert_eq!(ask(&daemon.tcp(), "GET", "/v1/models", Some(&narrow)).status, 200);
    assert_eq!(post(&daemon.tcp(), &wide, &short).status, 200);
    // The place is given back when the client goes.
    drop(stream);
    wait_for("the place", || (post(&daemon.tcp(), &narrow, &short).status == 200).then_some(()));
}

#[test]
fn a_minutes_tokens_are_counted_by_usage() {
    let setup = Setup::new();
    let file = keys_file(&setup);
    let metered = add_key(&file, &["metered", "--tokens-per-minute", "30"]);
    let daemon = setup.with(&["--api-keys-file", file.to_str().unwrap()]).start();
    for streamed in [false, true] {
        // The first spends ten of thirty tokens; both together more than there are.
        let body = json!({ "prompt": "a", "max_tokens": 28 * u32::from(streamed) + 4,
            "ignore_eos": true, "stream": streamed });
        let response = post(&daemon.tcp(), &metered, &body);
        assert_eq!(response.status, 200, "{}", response.text());
    }
    // The record ends with the last byte, of which the client may know first.
    let refused = wait_for("the charge", || {
        let response = post(&daemon.tcp(), &metered, &json!({ "prompt": "a", "max_tokens": 1 }));
        (response.status != 200).then_some(response)
    });
    assert_eq!(verdict(&refused), (429, "rate_limit_exceeded".to_owned()));
    assert!(refused.text().contains("tokens_per_minute"), "{}", refused.text());
    let wait = retry_after(&refused);
    assert!((1..=60).contains(&wait), "{wait} s");
    assert_eq!(ask(&daemon.tcp(), "GET", "/v1/models", Some(&metered)).status, 200);
}

#[test]
fn tokens_count_by_whichever_api_they_were_made() {
    let chat = json!([{ "role": "user", "content": "hello" }]);
    let requests = [
        ("/v1/completions", json!({ "prompt": "hello", "max_tokens": 8 })),
        ("/v1/chat/completions", json!({ "messages": chat, "max_tokens": 8 })),
        ("/v1/responses", json!({ "input": "hello", "max_output_tokens": 16 })),
        ("/v1/messages", json!({ "messages": chat, "max_tokens": 8, "model": "demo" })),
        ("/api/chat", json!({ "model": "demo", "messages": chat })),
        ("/api/generate", json!({ "model": "demo", "prompt": "hello" })),
    ];
    let setup = Setup::new();
    let file = keys_file(&setup);
    let keys: Vec<String> = (0..requests.len())
        .map(|index| add_key(&file, &[&format!("k{index}"), "--tokens-per-minute", "1"]))
        .collect();
    let daemon = setup.with(&["--api-keys-file", file.to_str().unwrap()]).start();
    for (key, (path, body)) in keys.iter().zip(&requests) {
        let token = bearer(key);
        let headers = [("Content-Type", "application/json"), ("Authorization", token.as_str())];
        let ask = || daemon.tcp().request("POST", path, &headers, body.to_string().as_bytes());
        let first = ask();
        assert_eq!(first.status, 200, "{path}: {}", first.text());
        let second = wait_for("the charge", || Some(ask()).filter(|answer| answer.status != 200));
        assert_eq!(second.status, 429, "{path}: {}", second.text());
        assert!(retry_after(&second) >= 60, "{path}");
    }
}

#[test]
fn what_was_made_for_a_client_that_left_counts() {
    let setup = Setup::new();
    let file = keys_file(&setup);
    let key = add_key(&file, &["leaver", "--tokens-per-minute", "60"]);
    let daemon = setup.with(&["--api-keys-file", file.to_str().unwrap()]).start();
    let token = bearer(&key);
    let headers = [("Content-Type", "application/json"), ("Authorization", token.as_str())];
    let body = json!({ "prompt": "a", "max_tokens": 3000, "ignore_eos": true }).to_string();
    let whole = daemon.tcp().send("POST", "/v1/completions", &headers, body.as_bytes());
    let made = || daemon.unix().get("/metrics").text();
    let tokens = |page: &str| {
        let line = page.lines().find(|line| line.starts_with("phi4d_generation_tokens_total"));
        line.and_then(|line| line.split(' ').nth(1)?.parse::<f64>().ok()).unwrap_or_default()
    };
    wait_for("more than a minute's tokens", || (tokens(&made()) > 120.0).then_some(()));
    drop(whole);
    let short = json!({ "prompt": "a", "max_tokens": 1 });
    let refused = wait_for("the charge", || {
        Some(post(&daemon.tcp(), &key, &short)).filter(|answer| answer.status == 429)
    });
    assert!(retry_after(&refused) > 30, "{}", refused.text());
}
