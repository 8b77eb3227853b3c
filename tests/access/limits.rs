//! A key's limits: requests at once, tokens a minute.

use serde_json::json;

use super::{add_key, ask, bearer, keys_file, verdict};
use crate::common::{Client, Response, Setup, wait_for};

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
fn a_request_that_asks_for_more_answers_than_its_key_may_have_is_refused() {
    let setup = Setup::new();
    let file = keys_file(&setup);
    let narrow = add_key(&file, &["narrow", "--max-in-flight", "1"]);
    let four = add_key(&file, &["four", "--max-in-flight", "4"]);
    let other = add_key(&file, &["other", "--max-in-flight", "4"]);
    let daemon = setup.with(&["--api-keys-file", file.to_str().unwrap()]).start();
    for body in [
        json!({ "prompt": "a", "max_tokens": 1, "n": 64 }),
        json!({ "prompt": "a", "max_tokens": 1, "n": 1, "best_of": 2 }),
        json!({ "prompt": ["a", "b"], "max_tokens": 1 }),
    ] {
        let refused = post(&daemon.tcp(), &narrow, &body);
        assert_eq!(verdict(&refused), (400, "key_limit_exceeded".to_owned()), "{}", refused.text());
        assert!(refused.text().contains("max_in_flight"), "{}", refused.text());
        assert!(refused.header("retry-after").is_none(), "there is nothing to wait for");
    }
    assert_eq!(daemon.health()["accepted"], 0);
    // Answers count, not requests: two of two, or one of four.
    let body = json!({ "prompt": ["a", "b"], "max_tokens": 1, "n": 2 });
    assert_eq!(post(&daemon.tcp(), &four, &body).status, 200);
    let stream = json!({ "prompt": "a", "max_tokens": 3000, "ignore_eos": true, "stream": true,
        "logprobs": 5, "n": 3 });
    let token = bearer(&other);
    let headers = [("Content-Type", "application/json"), ("Authorization", token.as_str())];
    let stream = stream.to_string();
    let stream = daemon.tcp().send("POST", "/v1/completions", &headers, stream.as_bytes());
    wait_for("the stream to run", || (daemon.health()["running"] == 3).then_some(()));
    let two = json!({ "prompt": "a", "max_tokens": 1, "n": 2 });
    let refused = post(&daemon.tcp(), &other, &two);
    assert_eq!(verdict(&refused), (429, "rate_limit_exceeded".to_owned()), "{}", refused.text());
    let one = json!({ "prompt": "a", "max_tokens": 1 });
    assert_eq!(post(&daemon.tcp(), &other, &one).status, 200);
    drop(stream);
}

#[test]
fn sixty_requests_at_once_get_no_more_than_a_minutes_tokens() {
    let setup = Setup::new();
    let file = keys_file(&setup);
    let metered = add_key(&file, &["metered", "--tokens-per-minute", "60"]);
    let daemon = setup.with(&["--api-keys-file", file.to_str().unwrap()]).start();
    let at_once = |path: &'static str, body: serde_json::Value| -> Vec<Response> {
        let (daemon, body, token) = (&daemon, &body.to_string(), &bearer(&metered));
        std::thread::scope(|scope| {
            let ask = || {
                let headers = [("Content-Type", "application/json"), ("Authorization", token)];
                daemon.tcp().request("POST", path, &headers, body.as_bytes())
            };
            let asking: Vec<_> = (0..60).map(|_| scope.spawn(ask)).collect();
            asking.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    };
    // What can never fit is refused for good.
    let long = json!({ "prompt": "a", "max_tokens": 500, "ignore_eos": true });
    for response in at_once("/v1/completions", long) {
        let found = verdict(&response);
        assert_eq!(found, (400, "key_limit_exceeded".to_owned()), "{}", response.text());
        assert!(response.text().contains("tokens_per_minute"), "{}", response.text());
    }
    let short = json!({ "prompt": "a", "max_tokens": 10, "ignore_eos": true });
    let (mut used, mut refused) = (0, 0);
    for response in at_once("/v1/completions", short) {
        match response.status {
            200 => used += response.json()["usage"]["total_tokens"].as_u64().unwrap(),
            429 => {
                assert!((1..=61).contains(&retry_after(&response)));
                refused += 1;
            }
            other => panic!("{other}: {}", response.text()),
        }
    }
    // Within the same minute, whatever is asked.
    let message = json!([{ "role": "user", "content": "a" }]);
    for response in at_once("/v1/chat/completions", json!({ "messages": message })) {
        if response.status == 200 {
            used += response.json()["usage"]["total_tokens"].as_u64().unwrap();
        }
    }
    for response in at_once("/tokenize", json!({ "prompt": "abcdefgh" })) {
        if response.status == 200 {
            used += response.json()["count"].as_u64().unwrap();
        }
    }
    assert!((10..=60).contains(&used), "{used} tokens");
    assert!(refused > 50, "{refused} of 60");
}

#[test]
fn what_was_not_used_is_given_back() {
    let setup = Setup::new();
    let file = keys_file(&setup);
    let metered = add_key(&file, &["metered", "--tokens-per-minute", "60"]);
    let daemon = setup.with(&["--api-keys-file", file.to_str().unwrap()]).start();
    // Any token ends it, so that one is used of the thirty.
    let all: Vec<u32> = (0..1000).collect();
    let body = json!({ "prompt": "a", "max_tokens": 30, "stop_token_ids": all });
    for _ in 0..4 {
        let answered = wait_for("the rest to be given back", || {
            Some(post(&daemon.tcp(), &metered, &body)).filter(|answer| answer.status == 200)
        });
        assert!(answered.json()["usage"]["total_tokens"].as_u64().unwrap() < 6);
    }
    let refused = wait_for("the charge", || {
        let response = post(&daemon.tcp(), &metered, &body);
        (response.status != 200).then_some(response)
    });
    assert_eq!(verdict(&refused), (429, "rate_limit_exceeded".to_owned()));
    assert_eq!(ask(&daemon.tcp(), "GET", "/v1/models", Some(&metered)).status, 200);
}

#[test]
fn tokens_count_by_whichever_route_they_are_made_or_read() {
    let chat = json!([{ "role": "user", "content": "hello" }]);
    let requests = [
        ("/v1/completions", json!({ "prompt": "hello", "max_tokens": 8 })),
        ("/v1/chat/completions", json!({ "messages": chat, "max_tokens": 8 })),
        ("/v1/responses", json!({ "input": "hello", "max_output_tokens": 16 })),
        ("/v1/messages", json!({ "messages": chat, "max_tokens": 8, "model": "demo" })),
        // Without a number, answers may take a quarter of the minute.
        ("/api/chat", json!({ "model": "demo", "messages": chat })),
        ("/api/generate", json!({ "model": "demo", "prompt": "hello" })),
        ("/tokenize", json!({ "prompt": "hello" })),
        ("/tokenize", json!({ "messages": chat })),
        ("/detokenize", json!({ "tokens": [5, 6, 7] })),
        ("/apply-template", json!({ "messages": chat })),
        ("/v1/chat/completions/render", json!({ "messages": chat })),
        ("/v1/messages/count_tokens", json!({ "messages": chat })),
    ];
    let setup = Setup::new();
    let file = keys_file(&setup);
    let keys: Vec<String> = (0..requests.len())
        .map(|index| add_key(&file, &[&format!("k{index}"), "--tokens-per-minute", "100"]))
        .collect();
    let daemon = setup.with(&["--api-keys-file", file.to_str().unwrap()]).start();
    for (key, (path, body)) in keys.iter().zip(&requests) {
        let token = bearer(key);
        let headers = [("Content-Type", "application/json"), ("Authorization", token.as_str())];
        let ask = || daemon.tcp().request("POST", path, &headers, body.to_string().as_bytes());
        let first = ask();
        assert_eq!(first.status, 200, "{path}: {}", first.text());
        // Each takes a token at least.
        let refused = (0..100).map(|_| ask()).find(|answer| answer.status != 200);
        let refused = refused.unwrap_or_else(|| panic!("{path} costs nothing"));
        assert_eq!(refused.status, 429, "{path}: {}", refused.text());
        assert!(retry_after(&refused) >= 1, "{path}");
    }
}

#[test]
fn the_tokenizers_work_is_paid_even_where_its_answer_is_refused() {
    let setup = Setup::new();
    let file = keys_file(&setup);
    let key = add_key(&file, &["reader", "--tokens-per-minute", "100"]);
    let daemon = setup.with(&["--api-keys-file", file.to_str().unwrap()]).start();
    let token = bearer(&key);
    let headers = [("Content-Type", "application/json"), ("Authorization", token.as_str())];
    let tokenize = |text: &str| {
        let body = json!({ "prompt": text }).to_string();
        daemon.tcp().request("POST", "/tokenize", &headers, body.as_bytes())
    };
    // More text than 16 bytes for each token of a minute is not even begun.
    let refused = tokenize(&"xyz ".repeat(401));
    assert_eq!(verdict(&refused), (400, "key_limit_exceeded".to_owned()), "{}", refused.text());
    assert_eq!(tokenize("a").status, 200);
    let refused = tokenize(&"xyz ".repeat(375));
    assert_eq!(verdict(&refused), (400, "key_limit_exceeded".to_owned()), "{}", refused.text());
    let refused = wait_for("the charge", || {
        Some(tokenize("hello, hello, hello")).filter(|answer| answer.status == 429)
    });
    assert!(retry_after(&refused) > 30, "{}", refused.text());
}

#[test]
fn what_was_made_for_a_client_that_left_counts() {
    let setup = Setup::new();
    let file = keys_file(&setup);
    let key = add_key(&file, &["leaver", "--tokens-per-minute", "3100"]);
    let daemon = setup.with(&["--api-keys-file", file.to_str().unwrap()]).start();
    let token = bearer(&key);
    let headers = [("Content-Type", "application/json"), ("Authorization", token.as_str())];
    let body = json!({ "prompt": "a", "max_tokens": 3000, "ignore_eos": true });
    let whole = daemon.tcp().send("POST", "/v1/completions", &headers, body.to_string().as_bytes());
    let made = || daemon.unix().get("/metrics").text();
    let tokens = |page: &str| {
        let line = page.lines().find(|line| line.starts_with("phi4d_generation_tokens_total"));
        line.and_then(|line| line.split(' ').nth(1)?.parse::<f64>().ok()).unwrap_or_default()
    };
    wait_for("more than a hundred tokens", || (tokens(&made()) > 120.0).then_some(()));
    drop(whole);
    // While it runs, its end may come at any time; then what it made counts for a minute.
    let refused = wait_for("the charge", || {
        let response = post(&daemon.tcp(), &key, &body);
        assert_eq!(response.status, 429, "{}", response.text());
        (retry_after(&response) > 30).then_some(response)
    });
    assert!(refused.text().contains("tokens_per_minute"), "{}", refused.text());
    // What it did not use is there again.
    let short = json!({ "prompt": "a", "max_tokens": 1 });
    assert_eq!(post(&daemon.tcp(), &key, &short).status, 200);
}
