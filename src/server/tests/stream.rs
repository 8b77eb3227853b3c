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
