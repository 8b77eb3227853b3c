//! Calls and thought. The fake model says anything; what it may say is held to calls and to
//! thoughts by grammars, as a request can ask for.

use serde_json::json;

use super::*;

fn tools() -> Value {
    let parameters = json!({
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "s": {"enum": ["a", "b\n"]}},
        "required": ["n", "s"],
        "additionalProperties": false
    });
    json!([
        {"type": "function", "function": {"name": "set", "description": "d", "parameters": parameters}},
        {"type": "function", "function": {"name": "get"}}
    ])
}

/// A chat whose answer is a call. At temperature 0 the fake model goes on with calls for long.
fn calling(fields: Value) -> Value {
    let body = json!({"tools": tools(), "tool_choice": "required", "parallel_tool_calls": false});
    merged(chat(body), fields)
}

/// The calls and the rest of a stream's answer `index`, put together as clients do.
fn gathered(chunks: &[Value], index: usize) -> (Value, String, Vec<String>, String) {
    let (mut calls, mut content, mut thought) = (json!([]), String::new(), String::new());
    let mut finishes = Vec::new();
    for choice in chunks.iter().filter_map(|chunk| chunk["choices"].get(0)) {
        if choice["index"] != index {
            continue;
        }
        let delta = &choice["delta"];
        content.push_str(delta["content"].as_str().unwrap_or(""));
        thought.push_str(delta["reasoning_content"].as_str().unwrap_or(""));
        finishes.extend(choice["finish_reason"].as_str().map(str::to_owned));
        for piece in delta["tool_calls"].as_array().into_iter().flatten() {
            let at = usize::try_from(piece["index"].as_u64().unwrap()).unwrap();
            let calls = calls.as_array_mut().unwrap();
            if at == calls.len() {
                assert_eq!(piece["function"]["arguments"], "");
                let mut first = piece.clone();
                first.as_object_mut().unwrap().remove("index");
                calls.push(first);
                continue;
            }
            assert!(piece.get("id").is_none() && piece["function"].get("name").is_none());
            let whole = calls[at]["function"]["arguments"].as_str().unwrap().to_owned();
            let more = piece["function"]["arguments"].as_str().unwrap();
            calls[at]["function"]["arguments"] = json!(whole + more);
        }
    }
    (calls, content, finishes, thought)
}

/// Calls without their ids, which are all different.
fn without_ids(calls: &Value) -> Value {
    let mut calls = calls.clone();
    for call in calls.as_array_mut().unwrap() {
        let id = call.as_object_mut().unwrap().remove("id").unwrap();
        assert!(id.as_str().unwrap().starts_with("call_"), "{id}");
    }
    calls
}

fn check_call(call: &Value) {
    assert_eq!(call["type"], "function");
    let arguments: Value =
        serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    match call["function"]["name"].as_str().unwrap() {
        "set" => {
            assert!(arguments["n"].as_u64().unwrap() < 100, "{arguments}");
            assert!(["a", "b\n"].contains(&arguments["s"].as_str().unwrap()), "{arguments}");
        }
        "get" => assert_eq!(arguments, json!({})),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_forced_call_is_a_call_streamed_and_not() {
    let daemon = Daemon::start().await;
    for seed in 0..6 {
        let fields = json!({"seed": seed, "temperature": 1, "logprobs": true, "n": 2});
        let whole = daemon.post(CHAT, &calling(fields.clone())).await.json();
        let stream = json!({"stream": true, "stream_options": {"include_usage": true}});
        let chunks = daemon.post(CHAT, &merged(calling(fields), stream)).await.chunks();
        for index in 0..2 {
            let choice = &whole["choices"][index];
            assert_eq!(choice["finish_reason"], "tool_calls");
            assert_eq!(choice["message"]["content"], json!(null));
            let calls = &choice["message"]["tool_calls"];
            assert_eq!(calls.as_array().unwrap().len(), 1);
            check_call(&calls[0]);
            let (streamed, content, finishes, _) = gathered(&chunks, index);
            assert_eq!(without_ids(&streamed), without_ids(calls));
            assert_eq!(
                (content.as_str(), finishes.as_slice()),
                ("", &["tool_calls".to_owned()][..])
            );
            let logprobs = choice["logprobs"]["content"].as_array().unwrap();
            let streamed: Vec<&Value> = chunks
                .iter()
                .filter(|chunk| chunk["choices"][0]["index"] == index)
                .filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array())
                .flatten()
                .collect();
            assert_eq!(streamed.len(), logprobs.len());
            let said: String = logprobs.iter().map(|t| t["token"].as_str().unwrap()).collect();
            assert!(said.starts_with("<tool_call>[{\"name\": \""), "{said}");
        }
        let usage = &chunks.last().unwrap()["usage"];
        assert_eq!(usage["completion_tokens"], whole["usage"]["completion_tokens"]);
    }
}

#[tokio::test]
async fn a_named_function_is_the_one_that_is_called() {
    let daemon = Daemon::start().await;
    for name in ["set", "get"] {
        let choice = json!({"type": "function", "function": {"name": name}});
        let answer = daemon.post(CHAT, &calling(json!({"tool_choice": choice}))).await.json();
        let calls = &answer["choices"][0]["message"]["tool_calls"];
        assert_eq!(calls[0]["function"]["name"], name);
        check_call(&calls[0]);
    }
}

#[tokio::test]
async fn a_call_that_is_cut_short_gives_what_there_is() {
    let daemon = Daemon::start().await;
    let whole = daemon.post(CHAT, &calling(json!({"logprobs": true}))).await.json();
    let tokens = whole["choices"][0]["logprobs"]["content"].as_array().unwrap().len();
    for most in 1..tokens {
        let fields = json!({"max_tokens": most});
        let cut = daemon.post(CHAT, &calling(fields)).await.json();
        let choice = &cut["choices"][0];
        assert_eq!(cut["usage"]["completion_tokens"], most);
        let arguments = |choice: &Value| {
            let calls = choice["message"]["tool_calls"].as_array().cloned().unwrap_or_default();
            calls.first().map_or(String::new(), |call| {
                call["function"]["arguments"].as_str().unwrap().to_owned()
            })
        };
        assert!(arguments(&whole["choices"][0]).starts_with(&arguments(choice)), "{choice}");
        assert_eq!(choice["finish_reason"], "length");
    }
}

#[tokio::test]
async fn a_conversation_goes_on_with_results() {
    let daemon = Daemon::start().await;
    let mut body = calling(json!({}));
    let first = daemon.post(CHAT, &body).await.json();
    let message = &first["choices"][0]["message"];
    let id = &message["tool_calls"][0]["id"];
    body["messages"].as_array_mut().unwrap().extend([
        message.clone(),
        json!({"role": "tool", "tool_call_id": id, "content": "<|im_end|>7"}),
    ]);
    body["tool_choice"] = json!("auto");
    body["max_tokens"] = json!(5);
    let second = daemon.post(CHAT, &body).await;
    assert_eq!(second.status, 200, "{}", second.json());
    let cached = second.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached >= first["usage"]["prompt_tokens"].as_u64().unwrap(), "{cached}");
    let rendered = daemon.post("/v1/chat/completions/render", &body).await.json();
    let text = rendered["prompt"].as_str().unwrap();
    let call = &message["tool_calls"][0]["function"];
    let (name, arguments) = (&call["name"], call["arguments"].as_str().unwrap());
    let call = format!("<tool_call>[{{\"name\": {name}, \"arguments\": {arguments}}}]</tool_call>");
    assert!(text.contains(&call), "{text}");
    assert!(text.contains("<tool_response>\n{\"name\": \""), "{text}");
    body["messages"][2]["tool_call_id"] = json!("call_other");
    assert_eq!(daemon.post(CHAT, &body).await.failure(), (400, "invalid_value".to_owned()));
}

#[tokio::test]
async fn schemas_that_can_t_be_kept_to_are_named() {
    let daemon = Daemon::start().await;
    let mut body = calling(json!({}));
    body["tools"][0]["function"]["parameters"]["properties"]["n"] = json!({"not": {}});
    let refused = daemon.post(CHAT, &body).await.json();
    let param = "tools[0].function.parameters.properties.n.not";
    assert_eq!(refused["error"]["param"], param);
    // Where calls are not held to it, the schema is only shown to the model.
    body["tool_choice"] = json!("auto");
    body["max_tokens"] = json!(1);
    assert_eq!(daemon.post(CHAT, &body).await.status, 200);
}

/// A chat whose answer is a thought of letters and then `yes`.
fn thinking(fields: Value) -> Value {
    let grammar = "start: thought REST\nthought[suffix=\"</think>\"]: /<think>[a-c ]{40,}/\n\
                   REST: /[\\n]*yes/";
    merged(
        chat(json!({"grammar": grammar, "max_tokens": 400, "temperature": 1, "seed": 1})),
        fields,
    )
}

#[tokio::test]
async fn a_thought_is_distinguished_streamed_and_not() {
    let daemon = Daemon::start().await;
    let budget = json!({"thinking_token_budget": 60});
    let whole = daemon.post(CHAT, &thinking(budget.clone())).await.json();
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["content"], "yes");
    let thought = message["reasoning_content"].as_str().unwrap();
    assert!(thought.trim().len() > 20 && !thought.contains('<'), "{thought:?}");
    assert_eq!(message["reasoning"], thought);
    let usage = &whole["usage"];
    let count = usage["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap();
    assert!(count > 20 && count < usage["completion_tokens"].as_u64().unwrap(), "{usage}");
    let stream =
        merged(budget.clone(), json!({"stream": true, "stream_options": {"include_usage": true}}));
    let chunks = daemon.post(CHAT, &thinking(stream)).await.chunks();
    let (_, content, finishes, streamed) = gathered(&chunks, 0);
    assert_eq!((content.as_str(), streamed.as_str()), ("yes", thought));
    assert_eq!(finishes, ["stop"]);
    assert_eq!(
        &chunks.last().unwrap()["usage"]["completion_tokens_details"],
        &usage["completion_tokens_details"]
    );
    let hidden = merged(budget.clone(), json!({"include_reasoning": false}));
    let hidden = daemon.post(CHAT, &thinking(hidden)).await.json();
    let message = &hidden["choices"][0]["message"];
    assert_eq!(*message, json!({"role": "assistant", "content": "yes", "refusal": null}));
    let plain = merged(budget, json!({"reasoning_format": "none"}));
    let plain = daemon.post(CHAT, &thinking(plain)).await.json();
    let message = &plain["choices"][0]["message"];
    let text = message["content"].as_str().unwrap();
    assert!(text.starts_with("<think>") && text.ends_with("</think>\n\nyes"), "{text}");
    assert!(message.get("reasoning_content").is_none());
    assert_eq!(plain["usage"]["completion_tokens_details"]["reasoning_tokens"], 0);
}

#[tokio::test]
async fn a_budget_ends_the_thought() {
    let daemon = Daemon::start().await;
    let count = |answer: &Value| {
        answer["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap()
    };
    let free =
        "start: thought REST\nthought[suffix=\"</think>\"]: /<think>[a-c ]+/\nREST: /[\\n]*yes/";
    let mut ended = 0;
    for seed in 0..30 {
        let with = |budget: i64| {
            thinking(json!({"grammar": free, "seed": seed, "thinking_token_budget": budget}))
        };
        let whole = count(&daemon.post(CHAT, &with(-1)).await.json());
        let mut counts = Vec::new();
        for budget in 1..4 {
            let answer = daemon.post(CHAT, &with(budget)).await.json();
            assert_eq!(answer["choices"][0]["message"]["content"], "yes");
            counts.push(count(&answer));
        }
        if whole > counts[2] + 8 {
            ended += 1;
            assert_eq!(counts, [counts[0], counts[0] + 1, counts[0] + 2]);
        }
    }
    assert!(ended > 3, "{ended}");
    let beside = json!({"thinking_token_budget": 9, "bad_words": ["x"]});
    assert_eq!(daemon.post(CHAT, &chat(beside)).await.failure(), (400, "invalid_value".to_owned()));
}

#[tokio::test]
async fn an_answer_may_have_thought_text_and_calls() {
    let daemon = Daemon::start().await;
    let said = "<think>hm</think>I set it.<tool_call>[{\"name\": \"set\", \"arguments\": {\"n\": 1}}]</tool_call>";
    let grammar = format!("start: {}", json!(said));
    let body = json!({"grammar": grammar, "tools": tools()});
    let answer = daemon.post(CHAT, &chat(body.clone())).await.json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    let message = &choice["message"];
    assert_eq!((&message["content"], &message["reasoning"]), (&json!("I set it."), &json!("hm")));
    assert_eq!(message["tool_calls"][0]["function"]["arguments"], "{\"n\": 1}");
    // Of a function that was not offered, it is text; so it is without tools.
    for tools in [json!([{"type": "function", "function": {"name": "other"}}]), json!([])] {
        let answer = daemon.post(CHAT, &chat(merged(body.clone(), json!({"tools": tools})))).await;
        let choice = answer.json()["choices"][0].clone();
        assert_eq!(choice["finish_reason"], "stop");
        let content = choice["message"]["content"].as_str().unwrap();
        assert_eq!(content, &said["<think>hm</think>".len()..]);
    }
}
