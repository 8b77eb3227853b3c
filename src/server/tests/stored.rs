//! Responses that are kept, and tools of the kinds that only the responses API has.

use serde_json::json;

use super::*;

const RESPONSES: &str = "/v1/responses";

fn asked(fields: Value) -> Value {
    merged(json!({"input": "What is 1+1?", "max_output_tokens": 12}), fields)
}

fn text_of(response: &Value) -> &Value {
    &response["output"][0]["content"][0]["text"]
}

/// The response that a stream ends with.
fn last_of(stream: &Response) -> Value {
    let data = stream.body.rsplit("data: ").next().unwrap();
    serde_json::from_str::<Value>(data.trim()).unwrap()["response"].clone()
}

#[tokio::test]
async fn a_response_goes_on_from_one_that_is_stored() {
    let daemon = Daemon::start().await;
    let first = daemon.post(RESPONSES, &asked(json!({"instructions": "Be terse."}))).await.json();
    assert_eq!(first["store"], true);
    let next = json!({"input": "And 2+2?", "previous_response_id": first["id"]});
    let second =
        daemon.post(RESPONSES, &asked(merged(next.clone(), json!({"stream": true})))).await;
    let second = last_of(&second);
    assert_eq!(second["previous_response_id"], first["id"]);
    let third = json!({"input": "And 3+3?", "previous_response_id": second["id"]});
    let third = daemon.post(RESPONSES, &asked(third)).await.json();

    // Instructions are a request's own; they are not taken over.
    let say = |role: &str, text: &Value| json!({"role": role, "content": text});
    let mut messages = vec![
        say("user", &json!("What is 1+1?")),
        say("assistant", text_of(&first)),
        say("user", &json!("And 2+2?")),
    ];
    for (response, question) in [(&second, "And 3+3?"), (&third, "")] {
        let body = json!({"messages": messages, "max_tokens": 12});
        let chat = daemon.post(CHAT, &body).await.json();
        assert_eq!(chat["choices"][0]["message"]["content"], *text_of(response));
        messages.push(say("assistant", text_of(response)));
        messages.push(say("user", &json!(question)));
    }

    // The same by a reference to the item.
    let item = json!({"type": "item_reference", "id": first["output"][0]["id"]});
    let input = json!([say("user", &json!("What is 1+1?")), item, say("user", &json!("And 2+2?"))]);
    let named = daemon.post(RESPONSES, &asked(json!({"input": input}))).await.json();
    assert_eq!(text_of(&named), text_of(&second));
    let counted = daemon.post("/v1/responses/input_tokens", &asked(json!({"input": input}))).await;
    assert_eq!(counted.json()["input_tokens"], named["usage"]["input_tokens"]);
}

#[tokio::test]
async fn stored_responses_are_found_listed_and_dropped() {
    let daemon = Daemon::start().await;
    let get = async |path: String| daemon.ask("GET", &path, "").await;
    let whole = daemon.post(RESPONSES, &asked(json!({}))).await.json();
    let streamed = last_of(&daemon.post(RESPONSES, &asked(json!({"stream": true}))).await);
    for response in [&whole, &streamed] {
        let path = format!("{RESPONSES}/{}", response["id"].as_str().unwrap());
        assert_eq!(get(path.clone()).await.json(), *response);
        let items = get(format!("{path}/input_items")).await.json();
        assert_eq!((&items["object"], &items["has_more"]), (&json!("list"), &json!(false)));
        assert_eq!(items["data"][0]["content"][0]["text"], "What is 1+1?");
        assert_eq!(items["data"][0]["id"], items["first_id"]);
        let refused = daemon.ask("POST", &format!("{path}/cancel"), "").await;
        assert_eq!(refused.failure(), (400, "not_cancellable".to_owned()));
        // Another caller: there it does not exist.
        for (method, path) in [
            ("GET", path.clone()),
            ("DELETE", path.clone()),
            ("GET", format!("{path}/input_items")),
            ("POST", format!("{path}/cancel")),
        ] {
            let mut other = daemon.unix().await;
            other.send(method, &path, &[], "").await;
            assert_eq!(other.response().await.failure(), (404, "response_not_found".to_owned()));
        }
        let mut other = daemon.unix().await;
        let body = asked(json!({"previous_response_id": response["id"]})).to_string();
        other.send("POST", RESPONSES, &[], &body).await;
        assert_eq!(other.response().await.failure(), (400, "not_stored".to_owned()));

        let deleted = daemon.ask("DELETE", &path, "").await.json();
        assert_eq!((&deleted["id"], &deleted["deleted"]), (&response["id"], &json!(true)));
        assert_eq!(get(path).await.failure(), (404, "response_not_found".to_owned()));
    }
    let unstored = daemon.post(RESPONSES, &asked(json!({"store": false}))).await.json();
    assert_eq!(unstored["store"], false);
    let path = format!("{RESPONSES}/{}", unstored["id"].as_str().unwrap());
    assert_eq!(get(path).await.status, 404);
}

#[tokio::test]
async fn a_daemon_may_keep_nothing() {
    let mut setup = Setup::default();
    setup.server.response_store_bytes = 0;
    let daemon = Daemon::with(setup).await;
    let response = daemon.post(RESPONSES, &asked(json!({}))).await.json();
    assert_eq!(response["store"], false);
    let path = format!("{RESPONSES}/{}", response["id"].as_str().unwrap());
    assert_eq!(daemon.ask("GET", &path, "").await.status, 404);
}

#[tokio::test]
async fn tools_of_other_kinds_are_functions_for_the_model() {
    let daemon = Daemon::start().await;
    let parameters = json!({"type": "object", "additionalProperties": false, "required": ["n"],
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}});
    let inner = json!({"type": "function", "name": "close", "parameters": parameters});
    let space = json!({"type": "namespace", "name": "agents", "tools": [inner]});
    let grammar = json!({"type": "grammar", "syntax": "lark", "definition": "start: /x/"});
    let custom = json!({"type": "custom", "name": "patch", "description": "d", "format": grammar});
    let hosted = json!({"type": "web_search", "external_web_access": false});
    let forced = json!({"tool_choice": "required", "parallel_tool_calls": false});
    let ignored = "x-phi4d-ignored-fields";

    let body = merged(forced.clone(), json!({"tools": [hosted, space], "max_output_tokens": 80}));
    let response = daemon.post(RESPONSES, &asked(body.clone())).await;
    assert_eq!(response.header(ignored), Some("tools[0]"));
    let whole = response.json();
    let call = &whole["output"][0];
    assert_eq!(
        (&call["type"], &call["name"], &call["namespace"]),
        (&json!("function_call"), &json!("close"), &json!("agents")),
        "{whole}"
    );
    let streamed = daemon.post(RESPONSES, &asked(merged(body, json!({"stream": true})))).await;
    assert_eq!(last_of(&streamed)["output"][0]["arguments"], call["arguments"]);

    // A custom tool's text: any, so it may be cut, which leaves a beginning of it.
    let body = merged(forced, json!({"tools": [custom], "max_output_tokens": 40}));
    let response = daemon.post(RESPONSES, &asked(body.clone())).await;
    assert_eq!(response.header(ignored), Some("tools[0].format"));
    let whole = response.json();
    let call = &whole["output"][0];
    assert_eq!((&call["type"], &call["name"]), (&json!("custom_tool_call"), &json!("patch")));
    assert!(!call["input"].as_str().unwrap().contains("\"input\""), "{whole}");
    let streamed =
        daemon.post(RESPONSES, &asked(merged(body.clone(), json!({"stream": true})))).await;
    assert_eq!(last_of(&streamed)["output"][0]["input"], call["input"]);
    assert!(streamed.body.contains("event: response.custom_tool_call_input.done\n"));

    // What it called is read again, and so is its result.
    let mut second = call.clone();
    second["call_id"] = json!("call_2");
    let input = json!([
        {"role": "user", "content": "a"}, call, second,
        {"type": "custom_tool_call_output", "call_id": call["call_id"], "output": "b"},
        {"type": "local_shell_call", "call_id": "c", "action": {"type": "exec", "command": ["ls"]}},
        {"type": "local_shell_call_output", "id": "c", "output": "d"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    ]);
    let more = merged(body, json!({"input": input, "tool_choice": "auto"}));
    let response = daemon.post(RESPONSES, &asked(more.clone())).await;
    assert_eq!(response.status, 200, "{}", response.body);
    assert_eq!(response.header(ignored), Some("input[6], tools[0].format"));
    let strict = daemon.post(RESPONSES, &asked(merged(more, json!({"strict": true})))).await;
    assert_eq!(strict.json()["error"]["param"], "input[6]");
}
