//! OpenAI's responses API says what its chats say.

use serde_json::json;

use super::*;

const RESPONSES: &str = "/v1/responses";

fn asked(fields: Value) -> Value {
    merged(json!({"input": "What is 1+1?", "max_output_tokens": 20}), fields)
}

async fn chat_text(daemon: &Daemon, more: Value) -> Value {
    let body = merged(chat(json!({"max_tokens": 20})), more);
    daemon.post(CHAT, &body).await.json()["choices"][0]["message"]["content"].clone()
}

fn named(response: &Response) -> Vec<Value> {
    assert_eq!(response.header("content-type"), Some("text/event-stream"), "{response:?}");
    let event = |event: &str| {
        let (name, data) = event.split_once('\n').unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
        data
    };
    response.body.split_terminator("\n\n").map(event).collect()
}

#[tokio::test]
async fn whole_and_streamed_responses_say_what_chats_say() {
    let daemon = Daemon::start().await;
    let text = chat_text(&daemon, json!({})).await;
    let body = asked(json!({"store": true, "metadata": {"a": "b"}}));
    let whole = daemon.post(RESPONSES, &body).await.json();
    let part = json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []});
    let item = &whole["output"][0];
    assert_eq!((&item["type"], &item["role"]), (&json!("message"), &json!("assistant")));
    assert_eq!(item["content"], json!([part]));
    assert_eq!((&whole["object"], &whole["status"]), (&json!("response"), &json!("incomplete")));
    assert_eq!(whole["incomplete_details"], json!({"reason": "max_output_tokens"}));
    assert_eq!(whole["metadata"], json!({"a": "b"}));
    assert_eq!((&whole["store"], &whole["tools"]), (&json!(true), &json!([])));
    assert_eq!(whole["usage"]["output_tokens"], 20);

    let events = named(&daemon.post(RESPONSES, &asked(json!({"stream": true}))).await);
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
    }
    let mut names: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    names.dedup();
    assert_eq!(
        names,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.incomplete"
        ]
    );
    let deltas: String = events.iter().filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!(json!(deltas), text);
    let last = &events.last().unwrap()["response"];
    assert_eq!(last["output"][0]["content"], json!([part]));
    assert_eq!(last["usage"]["output_tokens"], 20);
    assert_eq!(events[0]["response"]["status"], "in_progress");
}

#[tokio::test]
async fn items_read_as_their_chat() {
    let daemon = Daemon::start().await;
    let function = json!({"name": "f", "parameters": {"type": "object"}});
    let tools = json!([merged(function.clone(), json!({"type": "function"}))]);
    let body = asked(json!({
        "instructions": "Be terse.", "tools": tools,
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "What is 1+1?"}]},
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "message", "role": "assistant",
             "content": [{"type": "output_text", "text": "Let me see.", "annotations": []}]},
            {"type": "function_call", "call_id": "call_a", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "call_b", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_a", "output": "2"},
            {"type": "function_call_output", "call_id": "call_b", "output": "3"}
        ]
    }));
    let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let same = json!({
        "tools": [{"type": "function", "function": function}],
        "messages": [
            {"role": "system", "content": "Be terse."},
            {"role": "user", "content": "What is 1+1?"},
            {"role": "assistant", "content": "Let me see.",
             "tool_calls": [call("call_a"), call("call_b")]},
            {"role": "tool", "tool_call_id": "call_a", "content": "2"},
            {"role": "tool", "tool_call_id": "call_b", "content": "3"}
        ]
    });
    let answer = daemon.post(RESPONSES, &body).await.json();
    assert_eq!(answer["output"][0]["content"][0]["text"], chat_text(&daemon, same).await);
}

#[tokio::test]
async fn faults_are_reported_under_this_api_s_names() {
    let daemon = Daemon::start().await;
    let item = |item: Value| asked(json!({"input": [item]}));
    let format = json!({"format": {"type": "json_schema", "name": "a", "schema": {"type": "x"}}});
    for (body, status, param) in [
        (asked(json!({"previous_response_id": "resp_1"})), 400, "previous_response_id"),
        (asked(json!({"conversation": "c"})), 400, "conversation"),
        (asked(json!({"background": true})), 400, "background"),
        (asked(json!({"truncation": "all"})), 400, "truncation"),
        (asked(json!({"include": ["file_search_call.results"]})), 400, "include[0]"),
        (asked(json!({"input": null})), 400, "input"),
        (asked(json!({"input": []})), 400, "messages"),
        (asked(json!({"max_output_tokens": 0})), 400, "max_output_tokens"),
        (asked(json!({"text": format})), 400, "text.format.schema.type"),
        (asked(json!({"tools": [{"type": "web_search"}], "strict": true})), 400, "tools[0]"),
        (asked(json!({"tools": [{"name": "f"}]})), 400, "tools[0].type"),
        (
            asked(json!({"tools": [{"type": "namespace", "name": "n", "tools": [{}]}]})),
            400,
            "tools[0].tools[0].type",
        ),
        (item(json!({"type": "item_reference", "id": "msg_1"})), 400, "input[0].id"),
        (asked(json!({"tools": [{"type": "function"}]})), 400, "tools[0].name"),
        (asked(json!({"reasoning": {"effort": "x"}})), 400, "reasoning.effort"),
        (item(json!({"type": "item_reference"})), 400, "input[0].type"),
        (item(json!({"role": "x", "content": "a"})), 400, "input[0].content.role"),
        (
            item(json!({"role": "user", "content": [{"type": "input_image"}]})),
            400,
            "input[0].content[0].type",
        ),
        (asked(json!({"model": "x"})), 404, "model"),
        (asked(json!({"zz": 1, "strict": true})), 400, "zz"),
    ] {
        let response = daemon.post(RESPONSES, &body).await;
        let error = response.json();
        assert_eq!(response.status, status, "{body}: {error}");
        assert_eq!(error["error"]["param"], param, "{body}: {error}");
    }
}

#[tokio::test]
async fn a_fault_in_a_stream_fails_the_response() {
    let daemon = Daemon::start().await;
    daemon.slow_down(Duration::from_millis(1));
    let mut client = daemon.tcp().await;
    let body = asked(json!({"stream": true, "max_output_tokens": 4000}));
    client.send("POST", RESPONSES, &[], &body.to_string()).await;
    assert_eq!(client.head().await.status, 200);
    for _ in 0..6 {
        client.chunk().await.unwrap();
    }
    daemon.control.fail_next.store(true, Ordering::Release);
    let mut last = String::new();
    while let Some(chunk) = client.chunk().await {
        last = chunk;
    }
    let data = last.rsplit("data: ").next().unwrap();
    let data: Value = serde_json::from_str(data.trim()).unwrap();
    assert_eq!(
        (&data["type"], &data["response"]["status"]),
        (&json!("response.failed"), &json!("failed"))
    );
    assert_eq!(data["response"]["error"]["code"], "server_error");
    assert_eq!(data["response"]["output"][0]["status"], "incomplete");
}
