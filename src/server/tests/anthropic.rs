//! Anthropic's messages API says what OpenAI's says.

use serde_json::json;

use super::*;

const MESSAGES: &str = "/v1/messages";
const COUNT: &str = "/v1/messages/count_tokens";

fn message(fields: Value) -> Value {
    merged(chat(json!({"model": MODEL, "max_tokens": 20})), fields)
}

/// Names and data of a stream's events.
fn named(response: &Response) -> Vec<(String, Value)> {
    assert_eq!(response.header("content-type"), Some("text/event-stream"), "{response:?}");
    let text = response.body.as_str();
    let event = |event: &str| {
        let (name, data) = event.split_once('\n').unwrap();
        let data = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        (name.strip_prefix("event: ").unwrap().to_owned(), data)
    };
    text.split_terminator("\n\n").map(event).collect()
}

#[tokio::test]
async fn whole_and_streamed_messages_say_what_chats_say() {
    let daemon = Daemon::start().await;
    let answer = daemon.post(CHAT, &chat(json!({"max_tokens": 20}))).await.json();
    let text = &answer["choices"][0]["message"]["content"];
    let whole = daemon.post(MESSAGES, &message(json!({}))).await.json();
    assert_eq!(whole["content"], json!([{"type": "text", "text": text}]));
    assert_eq!((&whole["type"], &whole["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!(
        (&whole["stop_reason"], &whole["stop_sequence"]),
        (&json!("max_tokens"), &json!(null))
    );
    let usage = &whole["usage"];
    let read = usage["input_tokens"].as_u64().unwrap()
        + usage["cache_read_input_tokens"].as_u64().unwrap();
    assert_eq!(Some(read), answer["usage"]["prompt_tokens"].as_u64());
    assert_eq!(usage["output_tokens"], 20);

    let events = named(&daemon.post(MESSAGES, &message(json!({"stream": true}))).await);
    assert!(events.iter().all(|(name, data)| data["type"] == *name), "{events:?}");
    let mut names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    assert_eq!(
        names,
        [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop"
        ]
    );
    let streamed: String =
        events.iter().filter_map(|(_, data)| data["delta"]["text"].as_str()).collect();
    assert_eq!(&json!(streamed), text);
    let (_, end) = &events[events.len() - 2];
    assert_eq!(end["delta"], json!({"stop_reason": "max_tokens", "stop_sequence": null}));
    assert_eq!(end["usage"]["output_tokens"], 20);
}

#[tokio::test]
async fn turns_of_blocks_read_as_their_chat() {
    let daemon = Daemon::start().await;
    let tool = json!({"name": "f", "description": "d", "input_schema": {"type": "object"}});
    let body = message(json!({
        "system": [{"type": "text", "text": "Be", "cache_control": {"type": "ephemeral"}},
                   {"type": "text", "text": "terse."}],
        "tools": [tool],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "What is 1+1?"}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "call_a", "name": "f", "input": {"x": 1}}
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "call_a",
                 "content": [{"type": "text", "text": "2"}]},
                {"type": "text", "text": "So?"}
            ]}
        ]
    }));
    let function = json!({"name": "f", "description": "d", "parameters": {"type": "object"}});
    let call = json!({"name": "f", "arguments": "{\"x\":1}"});
    let same = json!({
        "tools": [{"type": "function", "function": function}],
        "messages": [
            {"role": "system", "content": "Be\nterse."},
            {"role": "user", "content": "What is 1+1?"},
            {"role": "assistant", "content": "Let me see.",
             "tool_calls": [{"id": "call_a", "type": "function", "function": call}]},
            {"role": "tool", "tool_call_id": "call_a", "content": "2"},
            {"role": "user", "content": "So?"}
        ]
    });
    let counted = daemon.post(COUNT, &body).await.json();
    let tokens = daemon.post("/tokenize", &same).await.json();
    assert!(tokens["count"].as_u64().unwrap() > 20, "{tokens}");
    assert_eq!(counted, json!({"input_tokens": tokens["count"]}));
    let answer = daemon.post(MESSAGES, &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test]
async fn an_answer_that_was_begun_goes_on() {
    let daemon = Daemon::start().await;
    let messages = json!([
        {"role": "user", "content": "What is 1+1?"}, {"role": "assistant", "content": "It is"}
    ]);
    let body = message(json!({ "messages": messages }));
    let same = json!({"messages": messages, "continue_final_message": true, "max_tokens": 20});
    let expected = daemon.post(CHAT, &same).await.json();
    let whole = daemon.post(MESSAGES, &body).await.json();
    assert_eq!(whole["content"][0]["text"], expected["choices"][0]["message"]["content"]);
}

#[tokio::test]
async fn faults_are_reported_under_anthropic_s_names() {
    let daemon = Daemon::start().await;
    let user =
        |content: Value| message(json!({"messages": [{"role": "user", "content": content}]}));
    let image = json!([{"type": "image", "source": {}}]);
    let lost = json!([{"type": "tool_result", "tool_use_id": "x", "content": "y"}]);
    for (body, status, kind, start) in [
        (message(json!({"model": "x"})), 404, "not_found_error", "model: \"x\""),
        (message(json!({"max_tokens": null})), 400, "invalid_request_error", "max_tokens: missing"),
        (message(json!({"max_tokens": 0})), 400, "invalid_request_error", "max_tokens: 0"),
        (message(json!({"messages": []})), 400, "invalid_request_error", "messages: []"),
        (message(json!({"temperature": 9})), 400, "invalid_request_error", "temperature: 9"),
        (
            message(json!({"stop_sequences": [""]})),
            400,
            "invalid_request_error",
            "stop_sequences[0]",
        ),
        (user(image), 400, "invalid_request_error", "messages[0].content[0].type: \"image\""),
        (user(lost), 400, "invalid_request_error", "messages[0].content[0]"),
        (user(json!(7)), 400, "invalid_request_error", "messages[0].content: invalid type"),
        (
            message(json!({"system": [{"type": "x"}]})),
            400,
            "invalid_request_error",
            "system[0].type",
        ),
        (
            message(json!({"tool_choice": {"type": "x"}})),
            400,
            "invalid_request_error",
            "tool_choice.type",
        ),
        (
            message(json!({"thinking": {"type": "x"}})),
            400,
            "invalid_request_error",
            "thinking.type",
        ),
        (message(json!({"mcp_servers": [{}]})), 400, "invalid_request_error", "mcp_servers"),
        (message(json!({"zz": 1, "strict": true})), 400, "invalid_request_error", "zz: "),
    ] {
        let response = daemon.post(MESSAGES, &body).await;
        let error = response.json();
        assert_eq!(response.status, status, "{body}: {error}");
        assert_eq!((&error["type"], &error["error"]["type"]), (&json!("error"), &json!(kind)));
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.starts_with(start), "{body}: {message}");
    }
    let get = daemon.ask("GET", MESSAGES, "").await;
    assert_eq!(
        (get.status, get.json()["error"]["type"].as_str()),
        (405, Some("invalid_request_error"))
    );
}

#[tokio::test]
async fn a_fault_in_a_stream_is_an_event() {
    let daemon = Daemon::start().await;
    daemon.slow_down(Duration::from_millis(1));
    let mut client = daemon.tcp().await;
    let body = message(json!({"stream": true, "max_tokens": 4000}));
    client.send("POST", MESSAGES, &[], &body.to_string()).await;
    assert_eq!(client.head().await.status, 200);
    client.chunk().await.unwrap();
    daemon.control.fail_next.store(true, Ordering::Release);
    let mut last = String::new();
    while let Some(chunk) = client.chunk().await {
        last = chunk;
    }
    assert!(last.starts_with("event: error\ndata: {\"type\":\"error\",\"error\":{"), "{last}");
}

#[tokio::test]
async fn a_silent_stream_is_pinged() {
    let mut setup = Setup::default();
    setup.server.stream_keep_alive = Duration::from_millis(10);
    let daemon = Daemon::with(setup).await;
    daemon.slow_down(Duration::from_millis(60));
    let body = message(json!({"stream": true, "max_tokens": 2}));
    let events = named(&daemon.post(MESSAGES, &body).await);
    assert!(events.contains(&("ping".to_owned(), json!({"type": "ping"}))), "{events:?}");
}
