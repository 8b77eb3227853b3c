//! Streams: order, shapes, and the same text as the whole answer.

use serde_json::json;

use super::*;

fn text_of(chunks: &[Value], field: &str) -> String {
    chunks.iter().filter_map(|chunk| chunk["choices"][0].pointer(field)?.as_str()).collect()
}

#[tokio::test]
async fn a_chat_stream_says_what_the_whole_answer_says() {
    let daemon = Daemon::start().await;
    let fields = json!({"max_tokens": 40, "ignore_eos": true});
    let whole = daemon.post(CHAT, &chat(fields.clone())).await.json();
    let stream = json!({"stream": true, "stream_options": {"include_usage": true}});
    let response = daemon.post(CHAT, &merged(chat(fields), stream)).await;
    assert_eq!(response.header("content-type"), Some("text/event-stream"));
    assert_eq!(response.header("cache-control"), Some("no-cache"));
    assert_eq!(response.header("x-accel-buffering"), Some("no"));
    let chunks = response.chunks();
    let first = &chunks[0]["choices"][0];
    assert_eq!(first["delta"], json!({"role": "assistant", "content": ""}));
    assert_eq!(text_of(&chunks, "/delta/content"), whole["choices"][0]["message"]["content"]);
    let [.., end, usage] = chunks.as_slice() else { panic!("{chunks:?}") };
    assert_eq!(end["choices"][0]["finish_reason"], "length");
    assert_eq!(end["usage"], json!(null));
    assert_eq!(usage["choices"], json!([]));
    for count in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(usage["usage"][count], whole["usage"][count], "{count}");
    }
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(chunk["id"], chunks[0]["id"]);
    }
}

#[tokio::test]
async fn a_completion_stream_says_what_the_whole_answer_says() {
    let daemon = Daemon::start().await;
    let whole = daemon.post(COMPLETIONS, &completion(40, json!({"logprobs": 1}))).await.json();
    let body = completion(40, json!({"logprobs": 1, "stream": true}));
    let chunks = daemon.post(COMPLETIONS, &body).await.chunks();
    let choice = &whole["choices"][0];
    assert_eq!(text_of(&chunks, "/text"), choice["text"]);
    for list in ["tokens", "token_logprobs", "text_offset"] {
        let streamed: Vec<&Value> = chunks
            .iter()
            .filter_map(|chunk| chunk["choices"][0]["logprobs"][list].as_array())
            .flatten()
            .collect();
        let expected: Vec<&Value> = choice["logprobs"][list].as_array().unwrap().iter().collect();
        assert_eq!(streamed, expected, "{list}");
    }
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
}

#[tokio::test]
async fn chat_streams_report_every_token_s_logprobs() {
    let daemon = Daemon::start().await;
    let fields = json!({
        "max_tokens": 30, "ignore_eos": true, "logprobs": true, "top_logprobs": 2, "stream": true
    });
    let chunks = daemon.post(CHAT, &chat(fields)).await.chunks();
    let reported: Vec<&Value> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .collect();
    assert_eq!(reported.len(), 30);
    assert!(reported.iter().all(|token| token["top_logprobs"].as_array().unwrap().len() == 2));
}

/// The `prompt_progress` of answer `index`, all of which comes before its first text.
fn progress_of(chunks: &[Value], index: usize) -> Vec<[u64; 3]> {
    let chunks = chunks.iter().filter(|chunk| {
        let choice = &chunk["choices"][0];
        choice.is_null() || choice["index"] == index
    });
    let text = |chunk: &Value| {
        let places = ["/choices/0/delta/content", "/choices/0/text", "/content"];
        let text = places.iter().find_map(|place| chunk.pointer(place)?.as_str());
        text.is_some_and(|text| !text.is_empty())
    };
    let (before, after): (Vec<&Value>, Vec<&Value>) = {
        let mut begun = false;
        chunks.partition(|chunk| {
            begun |= text(chunk);
            !begun
        })
    };
    assert!(after.iter().all(|chunk| chunk.get("prompt_progress").is_none()), "{after:?}");
    let progress = before.iter().filter_map(|chunk| chunk.get("prompt_progress"));
    let count = |progress: &Value, name: &str| progress[name].as_u64().unwrap();
    progress
        .map(|progress| {
            assert!(progress["time_ms"].is_u64(), "{progress}");
            ["total", "cache", "processed"].map(|name| count(progress, name))
        })
        .collect()
}

#[tokio::test]
async fn the_progress_of_prefill_is_streamed_to_those_who_ask() {
    let daemon = Daemon::start().await;
    let asked = |fields: Value| {
        let more = json!({"ignore_eos": true, "stream": true, "return_progress": true});
        merged(more, fields)
    };
    // llama.cpp's own streams end without `[DONE]`.
    let parsed = |response: &Response| -> Vec<Value> {
        response.events().iter().filter_map(|event| serde_json::from_str(event).ok()).collect()
    };
    // Prompts that have nothing in common; 40 tokens where they are given as ids.
    let ids = |first: usize| -> Vec<usize> { (first..first + 40).collect() };
    let message = json!([{"role": "user", "content": "word ".repeat(40)}]);
    for (path, body) in [
        (CHAT, json!({"messages": message, "max_tokens": 3})),
        (COMPLETIONS, json!({"prompt": ids(100), "max_tokens": 3})),
        ("/completion", json!({"prompt": ids(200), "n_predict": 3})),
    ] {
        let body = asked(body);
        let seen = progress_of(&parsed(&daemon.post(path, &body).await), 0);
        let total = seen[0][0];
        assert!(total >= 40, "{path}: {seen:?}");
        // A step reads up to 16 tokens.
        let steps = (0..total).step_by(16).chain([total]);
        assert_eq!(seen, steps.map(|done| [total, 0, done]).collect::<Vec<_>>(), "{path}");
        // All but the last token are cached now.
        let again = progress_of(&parsed(&daemon.post(path, &body).await), 0);
        assert_eq!(again, [[total, total - 1, total - 1], [total, total - 1, total]], "{path}");
    }
    // Each of several prompts has its own.
    let body = asked(json!({"prompt": [ids(300), ids(400)], "max_tokens": 3}));
    let chunks = daemon.post(COMPLETIONS, &body).await.chunks();
    for index in 0..2 {
        assert_eq!(progress_of(&chunks, index), [0, 16, 32, 40].map(|done| [40, 0, done]));
    }
}

#[tokio::test]
async fn answers_without_progress_are_as_before() {
    let daemon = Daemon::start().await;
    for fields in [
        json!({"stream": true}),
        json!({"stream": true, "return_progress": false}),
        json!({"stream": true, "return_progress": true, "n": 2}),
        json!({"return_progress": true}),
    ] {
        let answer = daemon.post(COMPLETIONS, &completion(3, fields.clone())).await;
        assert_eq!(answer.status, 200, "{fields}");
        assert!(!answer.body.contains("prompt_progress"), "{fields}: {}", answer.body);
    }
    let refused = daemon.post(COMPLETIONS, &completion(3, json!({"return_progress": 1}))).await;
    assert_eq!(refused.failure(), (400, "invalid_type".to_owned()));
}

#[tokio::test]
async fn events_arrive_one_by_one_and_silence_is_filled() {
    let mut setup = Setup::default();
    setup.server.stream_keep_alive = Duration::from_millis(5);
    let daemon = Daemon::with(setup).await;
    daemon.slow_down(Duration::from_millis(50));
    let mut client = daemon.tcp().await;
    let body = completion(3, json!({"stream": true})).to_string();
    client.send("POST", COMPLETIONS, &[], &body).await;
    assert_eq!(client.head().await.status, 200);
    assert_eq!(client.chunk().await.as_deref(), Some(": keep-alive\n\n"));
    // Nothing has been generated yet: the head and the comment did not wait for a token.
    assert_eq!(daemon.stats().generated_tokens, 0);
    let mut events = 0;
    while let Some(chunk) = client.chunk().await {
        events += usize::from(chunk.starts_with("data: "));
    }
    assert!(events >= 3, "{events}");
}

#[tokio::test]
async fn a_fault_after_the_start_ends_the_stream_with_an_error() {
    let daemon = Daemon::start().await;
    daemon.control.fail_next.store(true, Ordering::Release);
    let response = daemon.post(CHAT, &chat(json!({"stream": true}))).await;
    assert_eq!(response.status, 200);
    let events = response.events();
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "model_error");
    assert_eq!(last["error"]["type"], "server_error");
}

#[tokio::test]
async fn faults_before_the_start_are_plain_responses() {
    let daemon = Daemon::start().await;
    let body = chat(json!({"stream": true, "temperature": 9}));
    let response = daemon.post(CHAT, &body).await;
    assert_eq!(response.failure(), (400, "invalid_value".to_owned()));
}
