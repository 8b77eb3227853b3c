//! Bad input: every fault gets its status, and a message that names the field, the value and what
//! would be accepted. A refused request never reaches the engine.

#![allow(clippy::unwrap_used, reason = "tests may stop where something is wrong")]

use std::io::Write;

use serde_json::{Value, json};

use crate::common::{Client, Daemon, Response, Setup, merge};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// A request that is right but for the fields given.
fn body(path: &str, more: &Value) -> Value {
    let mut body = match path {
        CHAT => json!({ "messages": [{ "role": "user", "content": "Hello!" }], "max_tokens": 1 }),
        _ => json!({ "prompt": "Hello!", "max_tokens": 1 }),
    };
    merge(&mut body, more);
    body
}

fn check_error(response: &Response, status: u16, param: &Value, code: &str, what: &str) -> String {
    assert_eq!(response.status, status, "{what}: {}", response.text());
    assert_eq!(response.header("content-type"), Some("application/json"), "{what}");
    assert!(response.header("x-request-id").is_some(), "{what}");
    let json = response.json();
    let error = &json["error"];
    let kind = if status < 500 { "invalid_request_error" } else { "server_error" };
    assert_eq!(error["type"], kind, "{what}: {json}");
    assert_eq!(error["code"], code, "{what}: {json}");
    assert_eq!(&error["param"], param, "{what}: {json}");
    error["message"].as_str().unwrap().to_owned()
}

/// What a row says: the fields put into a good request, the field at fault, the code, and what the
/// message must hold: the value and what is accepted.
type Row = (Value, &'static str, &'static str, &'static [&'static str]);

fn check_rows(path: &str, rows: &[Row]) {
    let daemon = Daemon::start();
    let clients = [daemon.tcp(), daemon.unix()];
    for (index, (fields, param, code, parts)) in rows.iter().enumerate() {
        let client: &Client = &clients[index % 2];
        let response = client.post(path, &body(path, fields));
        let what = format!("{path} {fields}");
        let message = check_error(&response, 400, &json!(param), code, &what);
        assert!(message.contains(param), "{what}: {message}");
        for part in *parts {
            assert!(message.contains(part), "{what}: {part:?} is not in {message:?}");
        }
    }
    let health = daemon.health();
    assert_eq!(health["accepted"], 0, "{health}");
    // The request that the rows vary is itself right.
    assert_eq!(clients[0].post(path, &body(path, &json!({}))).status, 200);
}

const VALUE: &str = "invalid_value";
const TYPE: &str = "invalid_type";
const UNSUPPORTED: &str = "unsupported_parameter";
const MISSING: &str = "missing_required_parameter";

/// Faults of fields that both routes have.
fn shared_rows() -> Vec<Row> {
    [number_rows(), stop_rows(), other_rows()].concat()
}

/// How tokens are chosen, and how many.
fn number_rows() -> Vec<Row> {
    vec![
        (json!({"max_tokens": 0}), "max_tokens", VALUE, &["0", "1 or more"]),
        (json!({"max_tokens": -3}), "max_tokens", VALUE, &["-3", "1 or more"]),
        (json!({"max_tokens": 1.5}), "max_tokens", TYPE, &["1.5", "integer"]),
        (json!({"max_tokens": "5"}), "max_tokens", TYPE, &["\"5\"", "integer"]),
        (
            json!({"max_tokens": null, "max_completion_tokens": 0}),
            "max_completion_tokens",
            VALUE,
            &["0", "1 or more"],
        ),
        (
            json!({"max_tokens": 4, "max_completion_tokens": 5}),
            "max_completion_tokens",
            VALUE,
            &["5", "max_tokens", "4"],
        ),
        (json!({"temperature": -0.1}), "temperature", VALUE, &["-0.1", "from 0 to 2"]),
        (json!({"temperature": 2.01}), "temperature", VALUE, &["2.01", "from 0 to 2"]),
        (json!({"temperature": "hot"}), "temperature", TYPE, &["hot", "number"]),
        (json!({"temperature": [1]}), "temperature", TYPE, &["list", "number"]),
        (json!({"top_p": 0}), "top_p", VALUE, &["0", "above 0", "1"]),
        (json!({"top_p": 1.0001}), "top_p", VALUE, &["1.0001", "1"]),
        (json!({"top_p": true}), "top_p", TYPE, &["true", "number"]),
        (json!({"top_k": -2}), "top_k", VALUE, &["-2", "at least 1", "0 or -1"]),
        (json!({"top_k": 2.5}), "top_k", TYPE, &["2.5", "integer"]),
        (json!({"min_p": -0.5}), "min_p", VALUE, &["-0.5", "from 0 to 1"]),
        (json!({"min_p": 1.5}), "min_p", VALUE, &["1.5", "from 0 to 1"]),
        (json!({"repetition_penalty": 0}), "repetition_penalty", VALUE, &["0", "above 0", "10"]),
        (json!({"repetition_penalty": 11}), "repetition_penalty", VALUE, &["11", "10"]),
        (json!({"repeat_penalty": -1}), "repeat_penalty", VALUE, &["-1", "above 0", "10"]),
        (
            json!({"repeat_penalty": 1.1, "repetition_penalty": 1.2}),
            "repeat_penalty",
            VALUE,
            &["1.1", "repetition_penalty", "1.2"],
        ),
        (json!({"presence_penalty": 2.5}), "presence_penalty", VALUE, &["2.5", "from -2 to 2"]),
        (json!({"presence_penalty": {}}), "presence_penalty", TYPE, &["object", "number"]),
        (json!({"frequency_penalty": -3}), "frequency_penalty", VALUE, &["-3", "from -2 to 2"]),
        (json!({"typical_p": 0}), "typical_p", VALUE, &["0", "above 0"]),
        (json!({"top_n_sigma": 101}), "top_n_sigma", VALUE, &["101", "from 0 to 100"]),
        (json!({"xtc_probability": 1.1}), "xtc_probability", VALUE, &["1.1", "from 0 to 1"]),
        (json!({"xtc_threshold": 0.6}), "xtc_threshold", VALUE, &["0.6", "from 0 to 0.5"]),
        (json!({"dry_multiplier": 11}), "dry_multiplier", VALUE, &["11", "from 0 to 10"]),
        (json!({"dry_base": 0.5}), "dry_base", VALUE, &["0.5", "from 1 to 10"]),
    ]
}

/// Fields that name tokens or texts.
fn stop_rows() -> Vec<Row> {
    let stops: Vec<String> = (0..17).map(|n| format!("stop{n}")).collect();
    vec![
        (json!({"logit_bias": [1]}), "logit_bias", TYPE, &["list", "object"]),
        (
            json!({"logit_bias": {"99999999999": 1}}),
            "logit_bias",
            VALUE,
            &["99999999999", "digits"],
        ),
        (json!({"logit_bias": {"5": 101}}), "logit_bias[5]", VALUE, &["101", "from -100 to 100"]),
        (json!({"logit_bias": {"1024": 1}}), "logit_bias", VALUE, &["1024", "below"]),
        (json!({"logit_bias": {"5": "big"}}), "logit_bias.5", TYPE, &["big", "number"]),
        (json!({"seed": 1.25}), "seed", TYPE, &["1.25", "integer"]),
        (
            json!({"seed": 9_300_000_000_000_000_000_u64}),
            "seed",
            VALUE,
            &["9300000000000000000", "64 bits"],
        ),
        (json!({"stop": 5}), "stop", TYPE, &["5", "string or a list"]),
        (json!({"stop": ["a", 5]}), "stop[1]", TYPE, &["5", "string"]),
        (json!({"stop": ["a", ""]}), "stop[1]", VALUE, &["\"\"", "not empty"]),
        (json!({ "stop": stops }), "stop", VALUE, &["17", "16"]),
        (json!({"stop_token_ids": 7}), "stop_token_ids", TYPE, &["7", "list"]),
        (json!({"stop_token_ids": [7, 1024]}), "stop_token_ids[1]", VALUE, &["1024", "below"]),
        (json!({"stop_token_ids": [-7]}), "stop_token_ids[0]", VALUE, &["-7", "0 or more"]),
    ]
}

/// The rest.
fn other_rows() -> Vec<Row> {
    vec![
        (json!({"allowed_token_ids": []}), "allowed_token_ids", VALUE, &["[]", "at least one"]),
        (json!({"allowed_token_ids": [1024]}), "allowed_token_ids[0]", VALUE, &["1024", "below"]),
        (json!({"ignore_eos": "yes"}), "ignore_eos", TYPE, &["yes", "boolean"]),
        (json!({"timeout": 0}), "timeout", VALUE, &["0", "seconds above 0"]),
        (json!({"timeout": "1m"}), "timeout", TYPE, &["1m", "number"]),
        (json!({"stream": 1}), "stream", TYPE, &["1", "boolean"]),
        (
            json!({"stream_options": {"include_usage": true}}),
            "stream_options",
            VALUE,
            &["\"stream\": true"],
        ),
        (
            json!({"stream": true, "stream_options": {"include_usage": "yes"}}),
            "stream_options.include_usage",
            TYPE,
            &["yes", "boolean"],
        ),
        (
            json!({"stream": true, "stream_options": true}),
            "stream_options",
            TYPE,
            &["true", "object"],
        ),
        (json!({"model": 4}), "model", TYPE, &["4", "string"]),
        (json!({"n": 0}), "n", VALUE, &["0", "1"]),
        (json!({"n": 129}), "n", VALUE, &["129", "128"]),
        (json!({"n": "2"}), "n", TYPE, &["2", "integer"]),
        (json!({"priority": 1.5}), "priority", TYPE, &["1.5", "integer"]),
        (json!({"cache_salt": 5}), "cache_salt", TYPE, &["5", "string"]),
        (
            json!({"truncate_prompt_tokens": 0}),
            "truncate_prompt_tokens",
            VALUE,
            &["0", "at least 1"],
        ),
        (json!({"truncation_side": "middle"}), "truncation_side", VALUE, &["middle", "left"]),
        (json!({"use_beam_search": true}), "use_beam_search", UNSUPPORTED, &["true", "false"]),
        (json!({"min_tokens": 3}), "min_tokens", VALUE, &["3", "at most max_tokens", "1"]),
        (
            json!({"response_format": {"type": "xml"}}),
            "response_format.type",
            UNSUPPORTED,
            &["xml", "json_schema"],
        ),
        (json!({"guided_json": 5}), "guided_json", VALUE, &["5", "a JSON Schema"]),
        (json!({"guided_json": {"not": {}}}), "guided_json.not", VALUE, &["without it"]),
        (json!({"guided_regex": "("}), "guided_regex", VALUE, &["(", "regular expression"]),
        (
            json!({"guided_choice": ["a"], "ignore_eos": true}),
            "ignore_eos",
            VALUE,
            &["guided_choice"],
        ),
    ]
}

#[test]
fn shared_fields_in_chat() {
    check_rows(CHAT, &shared_rows());
}

#[test]
fn shared_fields_in_completions() {
    check_rows(COMPLETIONS, &shared_rows());
}

/// Messages.
fn message_rows() -> Vec<Row> {
    let user = |content: Value| json!([{ "role": "user", "content": content }]);
    let image = json!([{ "type": "image_url", "image_url": { "url": "data:," } }]);
    vec![
        (json!({"messages": null}), "messages", MISSING, &["at least one message"]),
        (json!({"messages": []}), "messages", VALUE, &["[]", "at least one message"]),
        (json!({"messages": "Hello"}), "messages", TYPE, &["Hello", "list"]),
        (json!({"messages": ["Hello"]}), "messages[0]", TYPE, &["Hello", "object"]),
        (json!({"messages": [{"content": "x"}]}), "messages[0].role", MISSING, &["user"]),
        (
            json!({"messages": [{"role": "king", "content": "x"}]}),
            "messages[0].role",
            VALUE,
            &["king", "assistant"],
        ),
        (
            json!({"messages": [{"role": 3, "content": "x"}]}),
            "messages[0].role",
            TYPE,
            &["3", "string"],
        ),
        (
            json!({"messages": [{"role": "function", "content": "x"}]}),
            "messages[0].role",
            UNSUPPORTED,
            &["function", "tool"],
        ),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content", MISSING, &["string"]),
        (
            json!({"messages": user(json!(7))}),
            "messages[0].content",
            TYPE,
            &["7", "string or a list"],
        ),
        (
            json!({"messages": user(image)}),
            "messages[0].content[0].type",
            UNSUPPORTED,
            &["image_url", "text"],
        ),
        (
            json!({"messages": user(json!([{"type": "input_audio", "input_audio": {}}]))}),
            "messages[0].content[0].type",
            UNSUPPORTED,
            &["input_audio", "text"],
        ),
        (
            json!({"messages": user(json!([{"type": "text", "text": 5}]))}),
            "messages[0].content[0].text",
            TYPE,
            &["5", "string"],
        ),
        (json!({"messages": user(json!(null))}), "messages[0].content", MISSING, &["string"]),
        (json!({"messages": [null]}), "messages[0]", TYPE, &["null", "object"]),
        (
            json!({"messages": [{"role": "user", "content": "x"}, {"role": "", "content": "y"}]}),
            "messages[1].role",
            VALUE,
            &["\"\"", "user"],
        ),
        (
            json!({"messages": user(json!([{"type": "text"}]))}),
            "messages[0].content[0].text",
            MISSING,
            &["string"],
        ),
        (
            json!({"messages": user(json!([{"text": "x"}]))}),
            "messages[0].content[0].type",
            MISSING,
            &["text"],
        ),
        (json!({"messages": user(json!(["x"]))}), "messages[0].content[0]", TYPE, &["x", "object"]),
    ]
}

/// Calls in messages, and their results.
fn call_rows() -> Vec<Row> {
    vec![
        (
            json!({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}),
            "messages[0].tool_call_id",
            VALUE,
            &["1", "id", "earlier message"],
        ),
        (
            json!({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}),
            "messages[0].tool_calls[0].function",
            MISSING,
            &["name"],
        ),
    ]
}

/// Fields of chat beside its messages.
fn chat_field_rows() -> Vec<Row> {
    let tool = json!([{ "type": "function", "function": { "name": "f g" } }]);
    vec![
        (json!({"best_of": 3}), "best_of", UNSUPPORTED, &["3", "1"]),
        (json!({"echo": true}), "echo", UNSUPPORTED, &["true", "false"]),
        (json!({"suffix": "end"}), "suffix", UNSUPPORTED, &["end", "null"]),
        (json!({ "tools": tool }), "tools[0].function.name", VALUE, &["f g", "letters"]),
        (json!({"tools": [{"type": "code"}]}), "tools[0].type", UNSUPPORTED, &["code", "function"]),
        (json!({"tool_choice": "required"}), "tool_choice", VALUE, &["required", "tools"]),
        (json!({"functions": [{"name": "f"}]}), "functions", UNSUPPORTED, &["list", "empty"]),
        (json!({"function_call": "auto"}), "function_call", UNSUPPORTED, &["auto", "none"]),
        (json!({"function_call": {"name": "f"}}), "function_call", UNSUPPORTED, &["object"]),
        (json!({"audio": {"voice": "alloy"}}), "audio", UNSUPPORTED, &["object", "null"]),
        (
            json!({"web_search_options": {"search_context_size": "low"}}),
            "web_search_options",
            UNSUPPORTED,
            &["object", "empty"],
        ),
        (json!({"modalities": ["text", "audio"]}), "modalities", UNSUPPORTED, &["list", "text"]),
        (json!({"reasoning_effort": "most"}), "reasoning_effort", VALUE, &["most", "high"]),
        (json!({"thinking_token_budget": -2}), "thinking_token_budget", VALUE, &["-2", "0"]),
        (json!({"reasoning_format": "xml"}), "reasoning_format", VALUE, &["xml", "none"]),
        (json!({"logprobs": 3}), "logprobs", TYPE, &["3", "boolean"]),
        (json!({"top_logprobs": 3}), "top_logprobs", VALUE, &["3", "\"logprobs\": true"]),
        (
            json!({"logprobs": true, "top_logprobs": 21}),
            "top_logprobs",
            VALUE,
            &["21", "from 0 to 20"],
        ),
        (
            json!({"logprobs": true, "top_logprobs": -1}),
            "top_logprobs",
            VALUE,
            &["-1", "from 0 to 20"],
        ),
    ]
}

#[test]
fn fields_of_chat() {
    check_rows(CHAT, &[message_rows(), call_rows(), chat_field_rows()].concat());
}

fn completion_rows() -> Vec<Row> {
    vec![
        (json!({"prompt": null}), "prompt", MISSING, &["string", "token ids"]),
        (json!({"prompt": 7}), "prompt", TYPE, &["7", "string", "token ids"]),
        (json!({"prompt": []}), "prompt", VALUE, &["[]", "token ids"]),
        (json!({"n": 3, "best_of": 2}), "best_of", VALUE, &["2", "3"]),
        (json!({"best_of": 2, "stream": true}), "best_of", VALUE, &["2", "stream"]),
        (
            json!({"echo": true, "logprobs": 1, "stream": true}),
            "echo",
            UNSUPPORTED,
            &["true", "logprobs"],
        ),
        (json!({"prompt": [5, "b"]}), "prompt[1]", TYPE, &["b", "integer"]),
        (json!({"prompt": [5, 1024]}), "prompt[1]", VALUE, &["1024", "below"]),
        (json!({"prompt": [5, -1]}), "prompt[1]", VALUE, &["-1", "0 or more"]),
        (json!({"prompt": [[]]}), "prompt[0]", VALUE, &["[]", "token ids"]),
        (json!({"prompt": {"text": "x"}}), "prompt", TYPE, &["object", "string"]),
        (json!({"parse_special": "no"}), "parse_special", TYPE, &["no", "boolean"]),
        (
            json!({"suffix": "end", "prompt": [5]}),
            "suffix",
            UNSUPPORTED,
            &["token ids", "plain text"],
        ),
        (json!({"logprobs": 6}), "logprobs", VALUE, &["6", "from 0 to 5"]),
        (json!({"logprobs": -1}), "logprobs", VALUE, &["-1", "from 0 to 5"]),
        (json!({"logprobs": true}), "logprobs", TYPE, &["true", "integer"]),
    ]
}

#[test]
fn fields_of_completions() {
    check_rows(COMPLETIONS, &completion_rows());
}

#[test]
fn the_tables_are_long_enough_to_mean_something() {
    assert!(
        shared_rows().len()
            + message_rows().len()
            + call_rows().len()
            + chat_field_rows().len()
            + completion_rows().len()
            >= 60
    );
}

#[test]
fn bodies_that_are_no_json_object() {
    let daemon = Daemon::start();
    let rows: [(&[u8], &str, &str); 9] = [
        (b"", "invalid_json", "empty"),
        (b"   ", "invalid_json", "empty"),
        (b"{", "invalid_json", "line 1 column 1"),
        (b"{\"messages\": [}", "invalid_json", "line 1 column 15"),
        (b"{\"temperature\": NaN}", "invalid_json", "line 1 column 17"),
        (b"{\"temperature\": 1e999}", "invalid_json", "number out of range"),
        (b"{} {}", "invalid_json", "line 1 column 4"),
        (b"{\"messages\": \"\xff\"}", "invalid_json", "unicode"),
        (b"[1, 2]", "invalid_type", "a list is not accepted; expected a JSON object"),
    ];
    for (body, code, part) in rows {
        for path in [CHAT, COMPLETIONS] {
            let headers = [("Content-Type", "application/json")];
            let response = daemon.tcp().request("POST", path, &headers, body);
            let what = String::from_utf8_lossy(body);
            let message = check_error(&response, 400, &Value::Null, code, &what);
            assert!(message.contains(part), "{what}: {message}");
        }
    }
    // Nesting without an end must not end the program's stack.
    let deep = "[".repeat(200_000);
    let response = daemon.tcp().request("POST", CHAT, &[], deep.as_bytes());
    check_error(&response, 400, &Value::Null, "invalid_json", "deep nesting");
    assert_eq!(daemon.health()["status"], "ok");
}

#[test]
fn routes_methods_and_media_types() {
    let daemon = Daemon::start();
    let client = daemon.tcp();
    let good = body(CHAT, &json!({})).to_string();
    for path in ["/v1", "/v1/chat", "/v1/chat/completions/x", "/v2/models", "/v1/rerank"] {
        let response = client.get(path);
        let message = check_error(&response, 404, &Value::Null, "unknown_url", path);
        assert!(message.contains(path) && message.contains("/v1/chat/completions"), "{message}");
    }
    for (method, path, allow) in [
        ("GET", CHAT, "POST"),
        ("PUT", COMPLETIONS, "POST"),
        ("DELETE", "/v1/models", "GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
    ] {
        let response = client.request(method, path, &[], b"");
        let message = check_error(&response, 405, &Value::Null, "method_not_allowed", path);
        assert_eq!(response.header("allow"), Some(allow), "{method} {path}");
        assert!(message.contains(method) && message.contains(allow), "{message}");
    }
    for (header, value) in [
        ("content-type", "text/plain"),
        ("content-type", "application/x-www-form-urlencoded"),
        ("content-encoding", "gzip"),
    ] {
        let response = client.request("POST", CHAT, &[(header, value)], good.as_bytes());
        let message = check_error(&response, 415, &json!(header), "unsupported_media_type", value);
        assert!(message.contains(value) && message.contains("expected"), "{message}");
    }
    for content_type in ["application/json", "application/json; charset=utf-8"] {
        let headers = [("Content-Type", content_type)];
        assert_eq!(client.request("POST", CHAT, &headers, good.as_bytes()).status, 200);
    }
}

#[test]
fn models_that_are_not_here() {
    let daemon = Daemon::start();
    let response = daemon.tcp().post(CHAT, &body(CHAT, &json!({ "model": "gpt-4o" })));
    let message = check_error(&response, 404, &json!("model"), "model_not_found", "chat");
    assert!(message.contains("gpt-4o") && message.contains("demo"), "{message}");
    let response = daemon.tcp().get("/v1/models/phi-5");
    let message = check_error(&response, 404, &json!("model"), "model_not_found", "models");
    assert!(message.contains("phi-5") && message.contains("demo"), "{message}");
}

#[test]
fn bodies_and_prompts_that_are_too_long() {
    let daemon = Setup::new().with(&["--max-body-bytes", "65536"]).start();
    let large = body(CHAT, &json!({ "user": "x".repeat(70_000) }));
    let response = daemon.tcp().post(CHAT, &large);
    let message = check_error(&response, 413, &Value::Null, "request_too_large", "large body");
    assert!(message.contains("65536"), "{message}");

    // 5,000 digits are 5,000 tokens of the demo's vocabulary; its context holds 4,096.
    let long = "7".repeat(5000);
    let turn = json!([{ "role": "user", "content": long }]);
    for (path, fields) in
        [(CHAT, json!({ "messages": turn })), (COMPLETIONS, json!({ "prompt": long }))]
    {
        let response = daemon.unix().post(path, &body(path, &fields));
        let message =
            check_error(&response, 400, &Value::Null, "context_length_exceeded", "long prompt");
        assert!(message.contains("4096"), "{message}");
    }
    let ids = vec![5; 4096];
    let response = daemon.unix().post(COMPLETIONS, &body(COMPLETIONS, &json!({ "prompt": ids })));
    let message = check_error(&response, 400, &Value::Null, "context_length_exceeded", "4,096 ids");
    assert!(message.matches("4096").count() == 2, "{message}");
    // One less leaves room for one token.
    let ids = vec![5; 4095];
    let response = daemon.unix().post(COMPLETIONS, &body(COMPLETIONS, &json!({ "prompt": ids })));
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(daemon.wait_idle()["accepted"], 1);
}

#[test]
fn a_body_that_does_not_tell_its_length_is_counted_as_it_comes() {
    let daemon = Setup::new().with(&["--max-body-bytes", "65536"]).start();
    for client in [daemon.tcp(), daemon.unix()] {
        let mut connection = client.connect();
        let head = format!(
            "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        let chunk = format!("1000\r\n{}\r\n", " ".repeat(0x1000));
        let sent = head + &chunk.repeat(17) + "0\r\n\r\n";
        // The daemon may refuse before it has read all.
        let _ = connection.write_all(sent.as_bytes());
        let response = Response::read(&mut connection);
        let message = check_error(&response, 413, &Value::Null, "request_too_large", "chunks");
        assert!(message.contains("65536"), "{message}");
        assert_eq!(response.header("connection"), Some("close"));
    }
    assert_eq!(daemon.health()["accepted"], 0);
}
