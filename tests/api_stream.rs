//! Streams: their events' shapes on both routes, equal to the plain answer in text, tokens and
//! usage; and connections that serve one request after another.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may stop where something is wrong")]

use std::io::Write;

use serde_json::{Value, json};

use crate::common::{Client, Daemon, Response, Setup, merge};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn chat(text: &str, more: &Value) -> Value {
    let mut body = json!({ "messages": [{ "role": "user", "content": text }], "temperature": 0 });
    merge(&mut body, more);
    body
}

fn completion(prompt: &str, more: &Value) -> Value {
    let mut body = json!({ "prompt": prompt, "temperature": 0, "max_tokens": 24 });
    merge(&mut body, more);
    body
}

fn whole(client: &Client, path: &str, body: &Value) -> Value {
    let response = client.post(path, body);
    assert_eq!(response.status, 200, "{body}: {}", response.text());
    response.json()
}

/// The stream of the same request.
fn streamed(client: &Client, path: &str, body: &Value) -> Vec<Value> {
    let mut body = body.clone();
    merge(&mut body, &json!({ "stream": true, "stream_options": { "include_usage": true } }));
    let response = client.post(path, &body);
    // Not one event, nor the whole, holds half a character.
    std::str::from_utf8(&response.body).unwrap();
    response.chunks()
}

fn text_of(choice: &Value) -> &str {
    let places = ["/message/content", "/delta/content", "/text"];
    places.iter().find_map(|place| choice.pointer(place)?.as_str()).unwrap_or_default()
}

fn joined(chunks: &[Value]) -> String {
    chunks.iter().map(|chunk| text_of(&chunk["choices"][0])).collect()
}

/// The lists under `place` in all chunks' choices as one.
fn listed(chunks: &[Value], place: &str) -> Vec<Value> {
    let lists =
        chunks.iter().filter_map(|chunk| chunk["choices"].get(0)?.pointer(place)?.as_array());
    lists.flatten().cloned().collect()
}

/// What every stream with usage keeps to; returns the reason of its end.
fn check_frame(chunks: &[Value], object: &str, what: &str) -> Value {
    let [middle @ .., usage] = chunks else { panic!("{what}: no chunks") };
    assert_eq!(usage["choices"], json!([]), "{what}");
    for chunk in chunks {
        for same in ["id", "created", "model", "system_fingerprint"] {
            assert_eq!(chunk[same], chunks[0][same], "{what}: {same}");
        }
        assert_eq!(chunk["object"], object, "{what}");
    }
    let (end, before) = middle.split_last().unwrap();
    for chunk in middle {
        assert!(chunk.as_object().unwrap().contains_key("usage"), "{what}: {chunk}");
        assert_eq!((&chunk["usage"], &chunk["choices"][0]["index"]), (&Value::Null, &json!(0)));
    }
    for chunk in before {
        assert_eq!(chunk["choices"][0]["finish_reason"], Value::Null, "{what}: {chunk}");
    }
    end["choices"][0]["finish_reason"].clone()
}

/// The stream says what the whole answer says; the cached part of the prompt may differ.
fn check_same(whole: &Value, chunks: &[Value], reason: &Value, what: &str) {
    let choice = &whole["choices"][0];
    assert_eq!(joined(chunks), text_of(choice), "{what}");
    assert_eq!(*reason, choice["finish_reason"], "{what}");
    let usage = &chunks.last().unwrap()["usage"];
    for count in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(usage[count], whole["usage"][count], "{what}: {count}");
    }
}

/// A daemon that does one request's work the same way each time. Guesses and cached prompts change
/// how many tokens a step takes, by what has been measured; the kernels round otherwise at another
/// width (by up to 0.02 in a log-probability on the demo), which turns near-ties and seeded draws.
fn steady() -> Daemon {
    Setup::new().with(&["--draft-tokens", "0", "--prefix-slots", "0"]).start()
}

/// Answers of many kinds, with emoji and CJK among them.
const TURNS: [&str; 7] = [
    "Show me a family emoji.",
    "Say hello in Japanese.",
    "Say hello in Chinese.",
    "Count to 12.",
    "What is 12+7?",
    "Hello!",
    "Copy: 日本語 🦀 é",
];

#[test]
fn chat_streams_are_the_plain_answer_in_pieces() {
    let daemon = steady();
    let clients = [daemon.tcp(), daemon.unix()];
    for (index, turn) in TURNS.iter().enumerate() {
        let client = &clients[index % 2];
        let body = chat(turn, &json!({ "max_tokens": 40 }));
        let chunks = streamed(client, CHAT, &body);
        let reason = check_frame(&chunks, "chat.completion.chunk", turn);
        check_same(&whole(client, CHAT, &body), &chunks, &reason, turn);
        let choices: Vec<&Value> = chunks.iter().filter_map(|c| c["choices"].get(0)).collect();
        let ([start, middle @ .., end], id) = (choices.as_slice(), &chunks[0]["id"]) else {
            panic!("{chunks:?}")
        };
        assert!(id.as_str().unwrap().starts_with("chatcmpl-"));
        assert_eq!(start["delta"], json!({ "role": "assistant", "content": "" }));
        assert!(middle.iter().all(|choice| choice["delta"].get("role").is_none()), "{turn}");
        assert_eq!(end["delta"], json!({}), "{turn}");
    }
    // The emoji are made of several tokens, or this would not be tried at all.
    let emoji = streamed(&clients[0], CHAT, &chat(TURNS[0], &json!({})));
    assert!(joined(&emoji).chars().any(|c| c > '\u{ffff}'), "{}", joined(&emoji));
    assert!(!joined(&emoji).contains('\u{fffd}'));
    // Usage is sent only on request.
    let mut body = chat("Hello!", &json!({ "stream": true }));
    for chunk in daemon.tcp().post(CHAT, &body).chunks() {
        assert!(chunk.get("usage").is_none(), "{chunk}");
    }
    body["stream_options"] = json!({ "include_usage": false });
    assert!(daemon.unix().post(CHAT, &body).chunks().iter().all(|c| c.get("usage").is_none()));
}

#[test]
fn completion_streams_are_the_plain_answer_in_pieces() {
    let daemon = steady();
    let clients = [daemon.tcp(), daemon.unix()];
    for (index, prompt) in ["12+7=", "The", "日本", "🦀", "{\"a\": "].iter().enumerate() {
        for more in
            [json!({}), json!({ "ignore_eos": true }), json!({ "temperature": 1, "seed": 3 })]
        {
            let client = &clients[index % 2];
            let body = completion(prompt, &more);
            let what = body.to_string();
            let chunks = streamed(client, COMPLETIONS, &body);
            let reason = check_frame(&chunks, "text_completion", &what);
            check_same(&whole(client, COMPLETIONS, &body), &chunks, &reason, &what);
            assert!(chunks[0]["id"].as_str().unwrap().starts_with("cmpl-"), "{what}");
        }
    }
}

#[test]
fn wherever_a_limit_falls_streams_and_answers_agree() {
    let daemon = steady();
    let client = daemon.unix();
    for turn in &TURNS[..3] {
        let full = whole(&client, CHAT, &chat(turn, &json!({})));
        let tokens = full["usage"]["completion_tokens"].as_u64().unwrap();
        for limit in 1..=tokens.min(24) {
            let body = chat(turn, &json!({ "max_tokens": limit }));
            let what = format!("{turn} {limit}");
            let cut = whole(&client, CHAT, &body);
            // Half a character at the end is not shown as if it were one.
            let text = text_of(&cut["choices"][0]).trim_end_matches('\u{fffd}');
            assert!(text_of(&full["choices"][0]).starts_with(text), "{what}: {text:?}");
            let mut body = body;
            body["stream"] = true.into();
            let chunks = client.post(CHAT, &body).chunks();
            assert_eq!(joined(&chunks), text_of(&cut["choices"][0]), "{what}");
        }
    }
}

#[test]
fn log_probabilities_in_streams_are_the_plain_answer_s() {
    let daemon = steady();
    let client = daemon.tcp();
    for turn in &TURNS[..5] {
        let body = chat(turn, &json!({ "logprobs": true, "top_logprobs": 3, "max_tokens": 24 }));
        let plain = whole(&client, CHAT, &body);
        let content = plain["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
        let chunks = streamed(&client, CHAT, &body);
        assert_eq!(listed(&chunks, "/logprobs/content"), content, "{turn}");
        // The tokens' bytes are the text, whatever tokens a character is made of.
        let bytes: Vec<u8> = content.iter().flat_map(|token| bytes_of(&token["bytes"])).collect();
        let text = text_of(&plain["choices"][0]);
        assert!(String::from_utf8_lossy(&bytes).starts_with(text), "{turn}: {bytes:?} {text:?}");
        for token in &content {
            assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 3, "{turn}");
        }
    }
    let body = completion("12+7=", &json!({ "logprobs": 2, "ignore_eos": true }));
    let plain = whole(&client, COMPLETIONS, &body);
    let chunks = streamed(&client, COMPLETIONS, &body);
    for place in ["/logprobs/tokens", "/logprobs/token_logprobs", "/logprobs/text_offset"] {
        let expected = plain["choices"][0].pointer(place).unwrap().as_array().unwrap();
        assert_eq!(listed(&chunks, place), *expected, "{place}");
        assert_eq!(expected.len(), 24, "{place}");
    }
}

fn bytes_of(list: &Value) -> Vec<u8> {
    serde_json::from_value(list.clone()).unwrap()
}

#[test]
fn stop_strings_of_any_length_never_leak() {
    let daemon = Daemon::start();
    let client = daemon.unix();
    let plain = whole(&client, CHAT, &chat("Count to 12.", &json!({})));
    let text = text_of(&plain["choices"][0]).to_owned();
    let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
    for length in [1, 3, 6] {
        for start in (0..places.len().saturating_sub(length)).step_by(3) {
            let stop = &text[places[start]..places[start + length]];
            let expected = &text[..text.find(stop).unwrap()];
            // A second, longer one that begins alike and does not come true.
            let lists = [json!([stop]), json!([format!("{stop}\u{1}"), stop]), json!(stop)];
            for stops in lists {
                let body = chat("Count to 12.", &json!({ "stop": stops }));
                let chunks = streamed(&client, CHAT, &body);
                assert_eq!(joined(&chunks), expected, "{stops}");
                assert_eq!(check_frame(&chunks, "chat.completion.chunk", stop), "stop");
            }
        }
    }
    // What only looked like the beginning of a stop string comes out in the end.
    let body = chat("Count to 12.", &json!({ "stop": format!("{}\u{1}", &text[places[1]..]) }));
    assert_eq!(joined(&streamed(&client, CHAT, &body)), text);
}

/// A request that leaves the connection open.
#[test]
fn the_progress_of_prefill_comes_before_the_same_answer() {
    let daemon = steady();
    let client = daemon.tcp();
    let chat = chat(&"Count to 12. ".repeat(20), &json!({ "max_tokens": 8 }));
    for (path, object, body) in [
        (CHAT, "chat.completion.chunk", chat),
        (COMPLETIONS, "text_completion", completion(&"12+7=".repeat(40), &json!({}))),
    ] {
        let mut asks = body.clone();
        merge(&mut asks, &json!({ "return_progress": true }));
        let chunks = streamed(&client, path, &asks);
        let reason = check_frame(&chunks, object, path);
        check_same(&whole(&client, path, &body), &chunks, &reason, path);
        let text = chunks.iter().position(|chunk| !text_of(&chunk["choices"][0]).is_empty());
        let progress: Vec<(usize, &Value)> = (0..)
            .zip(&chunks)
            .filter_map(|(place, chunk)| Some((place, chunk.get("prompt_progress")?)))
            .collect();
        assert!(progress.iter().all(|(place, _)| Some(*place) < text), "{path}: {chunks:?}");
        let counts = progress.iter().map(|(_, progress)| progress["processed"].as_u64().unwrap());
        let counts: Vec<u64> = counts.collect();
        assert!(counts.len() > 1 && counts.is_sorted_by(|a, b| a < b), "{path}: {counts:?}");
        let first = progress[0].1;
        assert_eq!(first["processed"], first["cache"], "{path}");
        let total = &chunks.last().unwrap()["usage"]["prompt_tokens"];
        assert_eq!((&first["total"], counts.last().copied()), (total, total.as_u64()), "{path}");
    }
}

fn request(method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}")
}

#[test]
fn one_connection_serves_many_requests() {
    let daemon = Daemon::start();
    let plain = daemon.tcp().chat("Count to 12.", &json!({}));
    let answer = text_of(&plain["choices"][0]);
    let body = chat("Count to 12.", &json!({}));
    let mut streaming = body.clone();
    streaming["stream"] = true.into();
    for client in [daemon.tcp(), daemon.unix()] {
        let mut connection = client.connect();
        let mut ask = |method: &str, path: &str, body: &str| {
            connection.write_all(request(method, path, body).as_bytes()).unwrap();
            Response::read_one(&mut connection, method)
        };
        for _ in 0..3 {
            assert_eq!(ask("GET", "/v1/models", "").status, 200);
            assert_eq!(ask("POST", CHAT, "{").status, 400);
            assert_eq!(ask("DELETE", CHAT, "").status, 405);
            assert_eq!(ask("POST", "/nowhere", "{}").status, 404);
            assert_eq!(joined(&ask("POST", CHAT, &streaming.to_string()).chunks()), answer);
            assert_eq!(text_of(&ask("POST", CHAT, &body.to_string()).json()["choices"][0]), answer);
            let head = ask("HEAD", "/v1/models", "");
            assert_eq!((head.status, head.body.len()), (200, 0));
        }
        // Sent at once, they are answered in their order.
        let both = request("GET", "/health", "") + &request("GET", "/v1/models", "");
        connection.write_all(both.as_bytes()).unwrap();
        assert_eq!(Response::read_one(&mut connection, "GET").json()["status"], "ok");
        assert_eq!(Response::read_one(&mut connection, "GET").json()["object"], "list");
    }
    let health = daemon.wait_idle();
    assert_eq!((&health["finished"], &health["accepted"]), (&json!(13), &json!(13)), "{health}");
}
