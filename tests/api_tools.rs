//! Functions and thought over the real model: a small one, which calls only where it is made to.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may stop where something is wrong")]

use serde_json::{Value, json};

use crate::common::{Client, Daemon, merge};

const CHAT: &str = "/v1/chat/completions";

fn body(more: &Value) -> Value {
    let parameters = json!({
        "type": "object",
        "properties": {
            "a": { "type": "integer", "minimum": 0, "maximum": 99 },
            "words": { "type": "array", "items": { "type": "string", "maxLength": 5 }, "maxItems": 2 }
        },
        "required": ["a", "words"],
        "additionalProperties": false
    });
    let mut body = json!({
        "messages": [{ "role": "user", "content": "What is 12+7?" }],
        "tools": [
            { "type": "function", "function": { "name": "add", "parameters": parameters, "strict": true } },
            { "type": "function", "function": { "name": "now" } }
        ],
        "max_tokens": 400
    });
    merge(&mut body, more);
    body
}

fn ask(client: &Client, more: &Value) -> Value {
    let response = client.post(CHAT, &body(more));
    assert_eq!(response.status, 200, "{more}: {}", response.text());
    response.json()["choices"][0].clone()
}

/// Name and arguments of each call, which must fit.
fn calls(calls: &Value) -> Vec<(String, String)> {
    let each = |call: &Value| {
        let function = &call["function"];
        let (name, text) =
            (function["name"].as_str().unwrap(), function["arguments"].as_str().unwrap());
        let arguments: Value = serde_json::from_str(text).unwrap();
        match name {
            "add" => {
                assert!(arguments["a"].as_u64().unwrap() < 100, "{call}");
                let words = arguments["words"].as_array().unwrap();
                let short = |word: &Value| word.as_str().unwrap().chars().count() <= 5;
                assert!(words.len() <= 2 && words.iter().all(short), "{call}");
            }
            "now" => assert_eq!(arguments, json!({})),
            other => panic!("{other}"),
        }
        (name.to_owned(), text.to_owned())
    };
    calls.as_array().unwrap().iter().map(each).collect()
}

/// The calls of a stream, put together.
fn streamed(client: &Client, more: &Value) -> Vec<(String, String)> {
    let mut asked = body(more);
    merge(&mut asked, &json!({ "stream": true }));
    let mut all = json!([]);
    for chunk in client.post(CHAT, &asked).chunks() {
        for piece in chunk["choices"][0]["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let all = all.as_array_mut().unwrap();
            match all.get_mut(usize::try_from(piece["index"].as_u64().unwrap()).unwrap()) {
                None => all.push(piece.clone()),
                Some(call) => {
                    let arguments = &mut call["function"]["arguments"];
                    let more = piece["function"]["arguments"].as_str().unwrap();
                    *arguments = json!(arguments.as_str().unwrap().to_owned() + more);
                }
            }
        }
    }
    calls(&all)
}

#[test]
fn forced_calls_fit_at_every_temperature() {
    let daemon = Daemon::start();
    let client = daemon.tcp();
    for seed in 0..12 {
        let more = json!({
            "tool_choice": "required", "temperature": 1.5, "seed": seed,
            "parallel_tool_calls": seed % 3 == 0
        });
        let choice = ask(&client, &more);
        let mut made = choice["message"]["tool_calls"].clone();
        // Of several calls, the small model makes as many as it can.
        let cut = choice["finish_reason"] == "length";
        assert!(!cut || seed % 3 == 0, "{choice}");
        if cut {
            made.as_array_mut().unwrap().pop();
        } else {
            assert_eq!(choice["finish_reason"], "tool_calls");
            assert_eq!(streamed(&client, &more), calls(&made));
        }
        assert!(!calls(&made).is_empty(), "{choice}");
    }
    for name in ["add", "now"] {
        let choice = json!({ "type": "function", "function": { "name": name } });
        let more = json!({ "tool_choice": choice, "parallel_tool_calls": false, "temperature": 0 });
        let made = calls(&ask(&client, &more)["message"]["tool_calls"]);
        assert_eq!(made.len(), 1);
        assert_eq!(made[0].0, name);
    }
}

#[test]
fn a_model_that_may_call_may_as_well_answer() {
    let daemon = Daemon::start();
    for seed in 0..4 {
        let more = json!({ "temperature": 1, "seed": seed, "max_tokens": 40 });
        let choice = ask(&daemon.unix(), &more);
        let message = &choice["message"];
        match message.get("tool_calls") {
            None => assert!(message["content"].is_string(), "{choice}"),
            Some(made) => drop(calls(made)),
        }
    }
    let more = json!({ "tool_choice": "none", "temperature": 0 });
    let untold =
        json!({ "messages": body(&json!({}))["messages"], "temperature": 0, "max_tokens": 400 });
    let untold = daemon.tcp().post(CHAT, &untold).json();
    assert_eq!(ask(&daemon.tcp(), &more)["message"], untold["choices"][0]["message"]);
}

/// Wherever a stop string or `max_tokens` meets a call, no surface gives its markup as text, and only
/// `max_tokens` cuts it.
#[test]
fn calls_are_whole_or_cut_but_never_text() {
    let daemon = Daemon::start();
    let client = daemon.tcp();
    for stop in ["{", "\"", "}", "[", "<", "name", "\n", ":"] {
        let forced = json!({ "tool_choice": "required", "parallel_tool_calls": false, "temperature": 0, "stop": [stop] });
        let choice = ask(&client, &forced);
        assert_eq!(choice["finish_reason"], "tool_calls", "{stop:?}: {choice}");
        assert!(!calls(&choice["message"]["tool_calls"]).is_empty(), "{stop:?}: {choice}");
        assert!(choice["message"]["content"].as_str().unwrap_or_default().is_empty(), "{choice}");
    }
    for most in 1..30 {
        let cut = json!({ "tool_choice": "required", "temperature": 0, "max_tokens": most });
        let choice = ask(&client, &cut);
        assert!(choice["message"]["content"].as_str().unwrap_or_default().is_empty(), "{choice}");
        let mut asked = body(&cut);
        merge(&mut asked, &json!({ "stream": true }));
        for chunk in client.post(CHAT, &asked).chunks() {
            let text = &chunk["choices"][0]["delta"]["content"];
            assert!(text.as_str().unwrap_or_default().is_empty(), "{most}: {chunk}");
        }
    }
    let tool = json!({ "name": "now", "description": "", "input_schema": { "type": "object" } });
    let message = json!({
        "messages": [{ "role": "user", "content": "x" }], "max_tokens": 4, "model": "demo",
        "tools": [tool], "tool_choice": { "type": "any" }, "stop_sequences": ["{"]
    });
    let answer = client.post("/v1/messages", &message).json();
    let parts = answer["content"].as_array().unwrap();
    assert!(parts.iter().all(|part| part["type"] != "text" || part["text"] == ""), "{answer}");
    let tool = json!({ "type": "function", "name": "now", "parameters": { "type": "object" } });
    let response = json!({
        "input": "x", "max_output_tokens": 16, "tools": [tool], "tool_choice": "required"
    });
    let answer = client.post("/v1/responses", &response).json();
    for item in answer["output"].as_array().unwrap() {
        assert!(item["type"] != "message" || item["content"][0]["text"] == "", "{answer}");
    }
}
