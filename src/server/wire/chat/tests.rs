use super::*;
use crate::wire::common::SYSTEM_FINGERPRINT;
use phi4d_generate::{CallStart, Finish, Message, Role};
use serde_json::{json, to_value};

fn messages(given: &Value) -> Result<Vec<Message>, ApiError> {
    match ChatRequest::parse(&json!({ "messages": given }))?.parsed.into_prompt() {
        Prompt::Chat(chat) => Ok(chat.messages),
        other => panic!("{other:?}"),
    }
}

fn message(role: Role, content: &str) -> Message {
    Message::text(role, content)
}

fn call(fields: &Value) -> Value {
    let mut call = json!({"id": "c", "type": "function", "function": {
        "name": "f", "arguments": "{}"
    }});
    call.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    call
}

fn calling(calls: &Value) -> Value {
    json!([{"role": "assistant", "tool_calls": calls}])
}

#[test]
fn calls_and_their_results_arrive() {
    let given = json!([
        {"role": "assistant", "content": null, "tool_calls": [call(&json!({"id": "call_1"}))]},
        {"role": "tool", "content": "7", "tool_call_id": "call_1"},
    ]);
    let calls = vec![ToolCall {
        id: "call_1".to_owned(),
        name: "f".to_owned(),
        arguments: "{}".to_owned(),
    }];
    let expected = [
        Message { calls, ..message(Role::Assistant, "") },
        Message { answers: Some("call_1".to_owned()), ..message(Role::Tool, "7") },
    ];
    assert_eq!(messages(&given).unwrap(), expected);
    let body =
        json!({"messages": calling(&json!([call(&json!({}))])), "continue_final_message": true});
    let error = ChatRequest::parse(&body).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("continue_final_message"));
}

#[test]
fn conversations_arrive() {
    let given = json!([
        {"role": "developer", "content": "d"},
        {"role": "user", "content": [
            {"type": "text", "text": "a"}, {"type": "text", "text": "b"}
        ], "name": "ignored"},
        {"role": "assistant", "content": "", "refusal": null, "tool_calls": []},
    ]);
    let expected =
        [message(Role::System, "d"), message(Role::User, "a\nb"), message(Role::Assistant, "")];
    assert_eq!(messages(&given).unwrap(), expected);
}

#[test]
fn faulty_conversations_name_the_place() {
    let missing = "missing_required_parameter";
    let (value, feature) = ("invalid_value", "unsupported_parameter");
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    let table = [
        (json!(null), "messages", missing),
        (json!([]), "messages", value),
        (json!("hi"), "messages", "invalid_type"),
        (json!([["user", "hi"]]), "messages[0]", "invalid_type"),
        (json!([{"content": "x"}]), "messages[0].role", missing),
        (json!([{"role": 5, "content": "x"}]), "messages[0].role", "invalid_type"),
        (json!([{"role": "robot", "content": "x"}]), "messages[0].role", value),
        (json!([{"role": "function", "content": "x"}]), "messages[0].role", feature),
        (json!([{"role": "tool", "content": "x"}]), "messages[0].tool_call_id", missing),
        (
            json!([{"role": "tool", "content": "x", "tool_call_id": "c"}]),
            "messages[0].tool_call_id",
            value,
        ),
        (json!([{"role": "user"}]), "messages[0].content", missing),
        (user(json!(null)), "messages[0].content", missing),
        (user(json!(7)), "messages[0].content", "invalid_type"),
        (user(json!(["x"])), "messages[0].content[0]", "invalid_type"),
        (user(json!([{"text": "x"}])), "messages[0].content[0].type", missing),
        (user(json!([{"type": "text"}])), "messages[0].content[0].text", missing),
        (
            user(json!([{"type": "text", "text": "x"}, {"type": "image_url"}])),
            "messages[0].content[1].type",
            feature,
        ),
        (
            json!([{"role": "user", "content": "x", "tool_calls": [call(&json!({}))]}]),
            "messages[0].tool_calls",
            value,
        ),
        (calling(&json!([{}])), "messages[0].tool_calls[0].function", missing),
        (
            calling(&json!([call(&json!({})), call(&json!({"id": null}))])),
            "messages[0].tool_calls[1].id",
            missing,
        ),
        (
            calling(&json!([call(&json!({"type": "custom"}))])),
            "messages[0].tool_calls[0].type",
            feature,
        ),
        (
            calling(&json!([call(&json!({"function": {"arguments": "{}"}}))])),
            "messages[0].tool_calls[0].function.name",
            missing,
        ),
        (
            calling(&json!([call(&json!({"function": {"name": "f", "arguments": {}}}))])),
            "messages[0].tool_calls[0].function.arguments",
            "invalid_type",
        ),
    ];
    for (given, param, code) in table {
        let error = messages(&given).unwrap_err();
        assert_eq!(error.param.as_deref(), Some(param), "{given}: {}", error.message);
        assert_eq!(error.code, code, "{given}: {}", error.message);
    }
}

#[test]
fn the_ending_and_the_template_s_variables_arrive() {
    let parse = |fields: Value| {
        let mut body = json!({"messages": [{"role": "user", "content": "x"}]});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        match ChatRequest::parse(&body).map(|request| request.parsed.into_prompt()) {
            Ok(Prompt::Chat(chat)) => Ok(chat),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error),
        }
    };
    let open = json!({"continue_final_message": true, "add_generation_prompt": false});
    assert_eq!(parse(open).unwrap().ending, Ending::Open);
    let closed = json!({"add_generation_prompt": false});
    assert_eq!(parse(closed).unwrap().ending, Ending::Closed);
    let both = json!({"continue_final_message": true, "add_generation_prompt": true});
    let error = parse(both).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("continue_final_message"));
    let chat = parse(json!({"chat_template_kwargs": {"a": [1]}})).unwrap();
    assert_eq!((chat.ending, &chat.variables["a"]), (Ending::ModelTurn, &json!([1])));
    let error = parse(json!({"chat_template_kwargs": [1]})).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("chat_template_kwargs"));
}

#[test]
fn logprobs_need_their_switch() {
    let top = |fields: Value| {
        let mut body = json!({"messages": [{"role": "user", "content": "x"}]});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        ChatRequest::parse(&body).map(|chat| chat.parsed.request.parameters.top_logprobs)
    };
    assert_eq!(top(json!({})).unwrap(), None);
    assert_eq!(top(json!({"logprobs": false})).unwrap(), None);
    assert_eq!(top(json!({"logprobs": true})).unwrap(), Some(0));
    assert_eq!(top(json!({"logprobs": true, "top_logprobs": 3})).unwrap(), Some(3));
    for fields in [json!({"top_logprobs": 3}), json!({"logprobs": true, "top_logprobs": -1})] {
        assert_eq!(top(fields).unwrap_err().param.as_deref(), Some("top_logprobs"));
    }
}

fn envelope(object: &'static str) -> Envelope {
    Envelope {
        id: "chatcmpl-1".to_owned(),
        object,
        created: 5,
        model: "phi-4".to_owned(),
        system_fingerprint: SYSTEM_FINGERPRINT,
    }
}

/// What renders a stream that counts usage in its last chunk, if at all.
fn renderer(include_usage: bool, logprobs: bool) -> ChatRenderer {
    let delivery = Delivery::Stream { include_usage, continuous: false };
    let (token_ids, names_by_id, timings) = (false, false, false);
    let extras = Extras { logprobs, token_ids, names_by_id, timings, delivery };
    let envelope = envelope(ChatChunk::OBJECT);
    ChatRenderer { envelope, extras, reasoning: true, prompt: None }
}

/// The JSON of the first of some events.
fn first(events: &str) -> Value {
    let event = events.strip_prefix("data: ").unwrap().split("\n\n").next().unwrap();
    serde_json::from_str(event).unwrap()
}

fn finished() -> Finished {
    Finished {
        reason: Finish::Length,
        stop: None,
        usage: Usage {
            prompt_tokens: 4,
            cached_tokens: 1,
            completion_tokens: 2,
            reasoning_tokens: 1,
            ..Usage::default()
        },
    }
}

fn answer(text: &str, reasoning: &str, calls: Vec<ToolCall>) -> Answer {
    Answer {
        text: text.to_owned(),
        reasoning: reasoning.to_owned(),
        calls,
        prompt: Vec::new(),
        tokens: Vec::new(),
        finished: finished(),
    }
}

#[test]
fn calls_and_thought_have_the_shapes_that_clients_read() {
    let envelope = envelope(ChatCompletion::OBJECT);
    let call = ToolCall { id: "call_1".into(), name: "f".into(), arguments: "{}".into() };
    let answers = vec![answer("", "hm", vec![call])];
    let shape = ChatCompletion::new(&envelope, answers, finished().usage, false, None);
    assert_eq!(
        to_value(shape).unwrap()["choices"][0]["message"],
        json!({
            "role": "assistant", "content": null, "refusal": null,
            "reasoning_content": "hm", "reasoning": "hm",
            "tool_calls": [{
                "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}
            }]
        })
    );
    let delta = |delta: TextDelta| {
        let chunk = first(&renderer(false, false).piece(0, delta, Usage::default()));
        chunk["choices"][0]["delta"].clone()
    };
    let begun = Some(CallStart { id: "call_1".into(), name: "f".into() });
    let piece = CallDelta { index: 1, begun, arguments: String::new() };
    assert_eq!(
        delta(TextDelta { call: Some(piece), ..TextDelta::default() }),
        json!({"tool_calls": [{
            "index": 1, "id": "call_1", "type": "function",
            "function": {"name": "f", "arguments": ""}
        }]})
    );
    let piece = CallDelta { index: 1, begun: None, arguments: "{}".into() };
    assert_eq!(
        delta(TextDelta { call: Some(piece), ..TextDelta::default() }),
        json!({"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]})
    );
    assert_eq!(
        delta(TextDelta { reasoning: "hm".into(), ..TextDelta::default() }),
        json!({"reasoning_content": "hm", "reasoning": "hm"})
    );
}

#[test]
fn the_answers_shape_is_openais() {
    let answer = answer("hi", "", Vec::new());
    let envelope = envelope(ChatCompletion::OBJECT);
    let expected = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 5, "model": "phi-4",
        "system_fingerprint": SYSTEM_FINGERPRINT,
        "choices": [{
            "index": 0, "logprobs": null, "finish_reason": "length",
            "message": {"role": "assistant", "content": "hi", "refusal": null}
        }],
        "usage": {
            "prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 1},
            "completion_tokens_details": {"reasoning_tokens": 1}
        }
    });
    let shape = ChatCompletion::new(&envelope, vec![answer], finished().usage, false, None);
    assert_eq!(to_value(shape).unwrap(), expected);
}

#[test]
fn the_chunks_shapes_are_openais() {
    let usage = Usage::default();
    let start = first(&renderer(false, false).start(0, usage));
    assert_eq!(start["object"], "chat.completion.chunk");
    assert!(start.get("usage").is_none());
    assert_eq!(
        start["choices"],
        json!([{"index": 0, "delta": {"role": "assistant", "content": ""},
                "logprobs": null, "finish_reason": null}])
    );
    let delta = TextDelta { text: "a".to_owned(), ..TextDelta::default() };
    assert_eq!(
        first(&renderer(true, true).piece(0, delta, usage))["choices"],
        json!([{"index": 0, "delta": {"content": "a"},
                "logprobs": {"content": [], "refusal": null}, "finish_reason": null}])
    );
    let end = first(&renderer(true, false).end(0, finished(), usage));
    assert_eq!(end["usage"], json!(null));
    assert!(end.as_object().unwrap().contains_key("usage"));
    assert_eq!(
        end["choices"],
        json!([{"index": 0, "delta": {}, "logprobs": null, "finish_reason": "length"}])
    );
    let usage = first(&renderer(true, false).close(finished().usage));
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["total_tokens"], 6);
}
