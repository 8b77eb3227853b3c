use super::*;
use crate::generate::Finished;
use crate::server::wire::common::SYSTEM_FINGERPRINT;
use serde_json::{json, to_value};

fn messages(given: &Value) -> Result<Vec<Message>, ApiError> {
    match ChatRequest::parse(&json!({ "messages": given }))?.prompt {
        Prompt::Chat(chat) => Ok(chat.messages),
        other => panic!("{other:?}"),
    }
}

fn message(role: Role, content: &str) -> Message {
    Message { role, content: content.to_owned() }
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
        [message(Role::System, "d"), message(Role::User, "ab"), message(Role::Assistant, "")];
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
        (json!([{"role": "tool", "content": "x"}]), "messages[0].role", feature),
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
            json!([{"role": "assistant", "content": null, "tool_calls": [{}]}]),
            "messages[0].tool_calls",
            feature,
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
        match ChatRequest::parse(&body).map(|request| request.prompt) {
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
        ChatRequest::parse(&body).map(|request| request.parameters.top_logprobs)
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

fn finished() -> Finished {
    Finished {
        reason: Finish::Length,
        usage: Usage { prompt_tokens: 4, cached_tokens: 1, completion_tokens: 2 },
    }
}

#[test]
fn the_answers_shape_is_openais() {
    let answer = Answer { text: "hi".to_owned(), tokens: Vec::new(), finished: finished() };
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
            "prompt_tokens_details": {"cached_tokens": 1}
        }
    });
    let shape = ChatCompletion::new(&envelope, vec![answer], finished().usage, false, None);
    assert_eq!(to_value(shape).unwrap(), expected);
}

#[test]
fn the_chunks_shapes_are_openais() {
    let envelope = envelope(ChatChunk::OBJECT);
    let choice = |chunk: ChatChunk| to_value(chunk).unwrap()["choices"].clone();
    let start = to_value(ChatChunk::start(&envelope, ChunkUsage::NotAsked, 0, None)).unwrap();
    assert_eq!(start["object"], "chat.completion.chunk");
    assert!(start.get("usage").is_none());
    assert_eq!(
        start["choices"],
        json!([{"index": 0, "delta": {"role": "assistant", "content": ""},
                "logprobs": null, "finish_reason": null}])
    );
    let delta = TextDelta { text: "a".to_owned(), tokens: Vec::new() };
    assert_eq!(
        choice(ChatChunk::text(&envelope, ChunkUsage::NotYet, 0, delta, [true, false])),
        json!([{"index": 0, "delta": {"content": "a"},
                "logprobs": {"content": [], "refusal": null}, "finish_reason": null}])
    );
    let end = to_value(ChatChunk::end(&envelope, ChunkUsage::NotYet, 0, Finish::Length)).unwrap();
    assert_eq!(end["usage"], json!(null));
    assert!(end.as_object().unwrap().contains_key("usage"));
    assert_eq!(
        end["choices"],
        json!([{"index": 0, "delta": {}, "logprobs": null, "finish_reason": "length"}])
    );
    let usage = to_value(ChatChunk::usage(&envelope, finished().usage)).unwrap();
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"]["total_tokens"], 6);
}
