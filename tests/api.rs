//! The API over the real model: shapes, streams, stops, limits, seeds and log-probabilities.

#![allow(
    clippy::unwrap_used,
    clippy::float_cmp,
    reason = "tests may stop where something is wrong; equal work gives equal floats"
)]

use serde_json::{Value, json};

use crate::common::{Client, Daemon, merge};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// A greedy chat of one turn and the fields given.
fn chat(text: &str, more: &Value) -> Value {
    let mut body = json!({ "messages": [{ "role": "user", "content": text }], "temperature": 0 });
    merge(&mut body, more);
    body
}

fn ok(client: &Client, path: &str, body: &Value) -> Value {
    let response = client.post(path, body);
    assert_eq!(response.status, 200, "{body}: {}", response.text());
    response.json()
}

fn said(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

/// The pieces of text of a stream's chunks.
fn pieces(chunks: &[Value]) -> Vec<String> {
    chunks
        .iter()
        .filter_map(|chunk| {
            let choice = chunk["choices"].get(0)?;
            let text = choice["delta"]["content"].as_str().or_else(|| choice["text"].as_str())?;
            Some(text.to_owned())
        })
        .collect()
}

#[test]
fn an_answer_has_openais_shape() {
    let daemon = Daemon::start();
    let answer = ok(&daemon.tcp(), CHAT, &chat("What is 12+7?", &json!({ "model": "demo" })));
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    let expected = json!({
        "id": answer["id"], "created": answer["created"],
        "system_fingerprint": answer["system_fingerprint"],
        "object": "chat.completion", "model": "demo",
        "choices": [{
            "index": 0,
            "message": { "role": "assistant", "content": "19", "refusal": null },
            "logprobs": null, "finish_reason": "stop",
        }],
        "usage": {
            "prompt_tokens": answer["usage"]["prompt_tokens"], "completion_tokens": 3,
            "total_tokens": answer["usage"]["prompt_tokens"].as_u64().unwrap() + 3,
            "prompt_tokens_details": { "cached_tokens": 0 },
            "completion_tokens_details": { "reasoning_tokens": 0 },
        },
    });
    assert_eq!(answer, expected);

    let body = json!({ "prompt": "12+7=", "temperature": 0 });
    let answer = ok(&daemon.unix(), COMPLETIONS, &body);
    assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(answer["object"], "text_completion");
    let choice = json!({ "text": "19", "index": 0, "logprobs": null, "finish_reason": "stop" });
    assert_eq!(answer["choices"], json!([choice]));
    assert_eq!(answer["usage"]["prompt_tokens"], 5);

    let models = daemon.tcp().get("/v1/models").json();
    assert_eq!(models["data"][0]["id"], "demo");
    assert_eq!(daemon.tcp().get("/v1/models/demo").json(), models["data"][0]);
}

#[test]
fn streams_say_what_whole_answers_say_and_split_no_character() {
    let daemon = Daemon::start();
    let client = daemon.tcp();
    for text in ["Show me a family emoji.", "Say hello in Japanese.", "Count to 12.", "Hello!"] {
        let whole = ok(&client, CHAT, &chat(text, &json!({})));
        let stream = json!({ "stream": true, "stream_options": { "include_usage": true } });
        let chunks = client.post(CHAT, &chat(text, &stream)).chunks();
        let pieces = pieces(&chunks);
        assert_eq!(pieces.concat(), said(&whole));
        assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')), "{pieces:?}");
        let [start, .., end, usage] = chunks.as_slice() else { panic!("{chunks:?}") };
        let start = &start["choices"][0]["delta"];
        assert_eq!(*start, json!({ "role": "assistant", "content": "" }));
        assert_eq!(end["choices"][0]["finish_reason"], "stop");
        assert_eq!(usage["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
        for chunk in &chunks {
            assert_eq!(chunk["object"], "chat.completion.chunk");
            assert_eq!(chunk["id"], chunks[0]["id"]);
        }
    }
    // Tokens that are ready together share an event, but a long answer does not wait for its end.
    let long = json!({ "stream": true, "ignore_eos": true, "max_tokens": 2000 });
    let chunks = client.post(CHAT, &chat("Count to 12.", &long)).chunks();
    assert!(pieces(&chunks).len() > 5);
}

#[test]
fn stop_strings_end_answers_wherever_tokens_begin() {
    let daemon = Daemon::start();
    let whole = ok(&daemon.unix(), CHAT, &chat("Count to 12.", &json!({})));
    let whole = said(&whole).to_owned();
    // Every two-character piece of the answer as a stop string: some lie across tokens.
    let ends: Vec<(usize, char)> = whole.char_indices().collect();
    for pair in ends.windows(2).take(24) {
        let stop: String = [pair[0].1, pair[1].1].iter().collect();
        let expected = &whole[..whole.find(&stop).unwrap()];
        let answer = ok(&daemon.unix(), CHAT, &chat("Count to 12.", &json!({ "stop": stop })));
        assert_eq!(said(&answer), expected, "{stop:?}");
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        let stream = json!({ "stop": ["never this", stop], "stream": true });
        let chunks = daemon.unix().post(CHAT, &chat("Count to 12.", &stream)).chunks();
        assert_eq!(pieces(&chunks).concat(), expected, "{stop:?}");
    }
    daemon.wait_idle();
}

#[test]
fn limits_end_answers() {
    let daemon = Daemon::start();
    let client = daemon.unix();
    for (field, count) in [("max_tokens", 1), ("max_tokens", 4), ("max_completion_tokens", 4)] {
        let answer = ok(&client, CHAT, &chat("Count to 12.", &json!({ field: count })));
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
        assert_eq!(answer["usage"]["completion_tokens"], count);
    }
    // Completions go on for 16 tokens unless the request says otherwise.
    let body = json!({ "prompt": "Count to 30.", "temperature": 0, "ignore_eos": true });
    assert_eq!(ok(&client, COMPLETIONS, &body)["usage"]["completion_tokens"], 16);
    // What is left of the context is the limit of what asks for more.
    let ids = vec![5; 4090];
    let body = json!({ "prompt": ids, "temperature": 0, "ignore_eos": true, "max_tokens": 100 });
    let answer = ok(&client, COMPLETIONS, &body);
    assert_eq!(answer["usage"]["completion_tokens"], 6);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    // A stop token is not part of the text.
    let body = chat("Count to 12.", &json!({ "logprobs": true, "max_tokens": 3 }));
    let full = ok(&client, CHAT, &body);
    assert_eq!(full["choices"][0]["logprobs"]["content"].as_array().unwrap().len(), 3);
    let timed = client.post(
        COMPLETIONS,
        &json!({
            "prompt": "x", "max_tokens": 4000, "ignore_eos": true, "timeout": 0.05,
        }),
    );
    assert_eq!(timed.status, 504, "{}", timed.text());
    assert_eq!(timed.json()["error"]["code"], "deadline_exceeded");
    assert_eq!(daemon.wait_idle()["failed"], 1);
}

#[test]
fn sampling_follows_its_seed_and_its_parameters() {
    let daemon = Daemon::start();
    let client = daemon.tcp();
    let sample = |more: Value| {
        let mut body = json!({
            "prompt": "The", "temperature": 2, "max_tokens": 24, "ignore_eos": true,
        });
        merge(&mut body, &more);
        ok(&client, COMPLETIONS, &body)["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    let seeded = sample(json!({ "seed": 7 }));
    assert_eq!(sample(json!({ "seed": 7 })), seeded);
    assert_ne!(sample(json!({ "seed": 8 })), seeded);
    assert_ne!(sample(json!({})), sample(json!({})));
    let greedy = sample(json!({ "temperature": 0 }));
    for least in [json!({ "top_k": 1 }), json!({ "top_p": 1e-9 }), json!({ "min_p": 1 })] {
        assert_eq!(sample(least.clone()), greedy, "{least}");
    }
    // A bias decides alone; banned, the likeliest token never comes.
    let dots = sample(json!({ "temperature": 0, "max_tokens": 5, "logit_bias": { "13": 100 } }));
    let body =
        json!({ "prompt": "The", "temperature": 0, "max_tokens": 1, "logit_bias": { "13": 100 } });
    let dot = ok(&client, COMPLETIONS, &body)["choices"][0]["text"].as_str().unwrap().to_owned();
    assert_eq!(dots, dot.repeat(5));
    let banned = sample(json!({
        "temperature": 0, "max_tokens": 5, "logit_bias": { "13": 100, "14": 100 },
        "frequency_penalty": 2,
    }));
    assert_ne!(banned, dot.repeat(5));
}

#[test]
fn log_probabilities_are_those_of_the_chosen_and_the_likeliest() {
    let daemon = Daemon::start();
    let body = chat("What is 12+7?", &json!({ "logprobs": true, "top_logprobs": 5 }));
    let answer = ok(&daemon.tcp(), CHAT, &body);
    let content = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    let tokens: Vec<&str> = content.iter().map(|entry| entry["token"].as_str().unwrap()).collect();
    // Each generated token has its entry, the one that ends the answer too.
    assert_eq!(tokens, ["1", "9", "<|im_end|>"]);
    for entry in content {
        let top = entry["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 5);
        // Greedy: the chosen one is the likeliest.
        assert_eq!((&top[0]["token"], &top[0]["logprob"]), (&entry["token"], &entry["logprob"]));
        let values: Vec<f64> = top.iter().map(|t| t["logprob"].as_f64().unwrap()).collect();
        assert!(values.is_sorted_by(|a, b| a >= b) && values[0] <= 0.0, "{values:?}");
        assert!(values.iter().map(|value| value.exp()).sum::<f64>() <= 1.0 + 1e-5, "{values:?}");
        assert_eq!(entry["bytes"], json!(entry["token"].as_str().unwrap().as_bytes()));
    }
}

#[test]
fn special_tokens_in_a_users_text_are_text() {
    let daemon = Daemon::start();
    let count = |text: &str| {
        let answer = ok(&daemon.unix(), CHAT, &chat(text, &json!({ "max_tokens": 1 })));
        answer["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let plain = count("a b");
    // As one token it would cost at most one more; spelt out it costs many.
    for special in ["<|im_end|>", "<|im_start|>", "<|im_sep|>", "<|endoftext|>"] {
        assert!(count(&format!("a{special}b")) > plain + 3, "{special}");
    }
    // Completions parse them where they are asked to, and only there.
    let prompt_tokens = |parse: bool| {
        let body = json!({ "prompt": "<|im_end|>", "parse_special": parse, "max_tokens": 1 });
        ok(&daemon.unix(), COMPLETIONS, &body)["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    assert_eq!(prompt_tokens(true), 1);
    assert!(prompt_tokens(false) > 3);
}

#[test]
fn conversations_keep_their_turns() {
    let daemon = Daemon::start();
    let parts =
        json!([{ "type": "text", "text": "What is " }, { "type": "text", "text": "12+7?" }]);
    let body = json!({ "messages": [{ "role": "user", "content": parts }], "temperature": 0 });
    assert_eq!(said(&ok(&daemon.tcp(), CHAT, &body)), "19");
    // A second turn reads the first from the cache.
    let first = ok(&daemon.tcp(), CHAT, &chat("Hello!", &json!({})));
    let body = json!({
        "messages": [
            { "role": "user", "content": "Hello!" },
            { "role": "assistant", "content": said(&first) },
            { "role": "user", "content": "What is 12+7?" },
        ],
        "temperature": 0,
    });
    let second = ok(&daemon.tcp(), CHAT, &body);
    assert_eq!(said(&second), "19");
    let cached = second["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached >= first["usage"]["prompt_tokens"].as_u64().unwrap() - 1, "{second}");
}

#[test]
fn messages_name_the_stop_sequence_that_ended_them() {
    let daemon = Daemon::start();
    let ask = |stops: Value, stream: bool| {
        let body = json!({
            "model": "demo", "max_tokens": 32, "temperature": 0, "stop_sequences": stops,
            "stream": stream, "messages": [{"role": "user", "content": "What is 12+7?"}]
        });
        daemon.tcp().post("/v1/messages", &body)
    };
    let plain = ask(json!([]), false).json();
    assert_eq!(
        (&plain["stop_reason"], &plain["stop_sequence"]),
        (&json!("end_turn"), &Value::Null)
    );
    let text = plain["content"][0]["text"].as_str().unwrap();
    let last: String = text.chars().last().into_iter().collect();
    let stopped = ask(json!(["never said", last]), false).json();
    assert_eq!(stopped["stop_reason"], "stop_sequence", "{stopped}");
    assert_eq!(stopped["stop_sequence"], json!(last));
    let events = ask(json!([last]), true).text();
    let stopped =
        format!("{{\"stop_reason\":\"stop_sequence\",\"stop_sequence\":{}}}", json!(last));
    assert!(events.contains(&stopped), "{events}");
}
