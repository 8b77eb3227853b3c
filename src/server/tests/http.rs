//! Routes, headers and whole answers.

use serde_json::json;

use super::*;

#[tokio::test]
async fn health_and_models_over_both_sockets() {
    let daemon = Daemon::start().await;
    for mut client in [daemon.tcp().await, daemon.unix().await] {
        client.send("GET", "/health", &[], "").await;
        let response = client.response().await;
        assert_eq!(response.status, 200);
        let health = response.json();
        assert_eq!(health["status"], "ok");
        assert_eq!(health["model"], MODEL);
        assert_eq!(health["slots"], 4);
        for counter in ["running", "waiting", "accepted", "finished", "cancelled", "failed"] {
            assert_eq!(health[counter], 0, "{counter}");
        }
        // The connection is kept.
        client.send("GET", "/v1/models", &[], "").await;
        let model = json!({
            "id": MODEL, "object": "model", "created": 1_700_000_000, "owned_by": "phi4d",
            "type": "model", "display_name": MODEL, "created_at": "2023-11-14T22:13:20.000Z",
            "capabilities": ["completion"], "max_model_len": 4096,
            "meta": {"n_vocab": 1024, "n_ctx": 4096, "n_ctx_train": 4096}
        });
        let list = json!({
            "object": "list", "data": [model], "first_id": MODEL, "last_id": MODEL, "has_more": false
        });
        assert_eq!(client.response().await.json(), list);
        client.send("GET", &format!("/v1/models/{MODEL}?x=1"), &[], "").await;
        assert_eq!(client.response().await.json(), model);
    }
}

#[tokio::test]
async fn head_has_the_length_and_no_body() {
    let daemon = Daemon::start().await;
    let length = daemon.ask("GET", "/v1/models", "").await.body.len();
    let mut client = daemon.tcp().await;
    client.send("HEAD", "/v1/models", &[], "").await;
    let head = client.head().await;
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-length"), Some(length.to_string().as_str()));
    client.send("GET", "/health", &[], "").await;
    assert_eq!(client.response().await.status, 200);
}

#[tokio::test]
async fn unknown_urls_methods_and_models_are_refused() {
    let daemon = Daemon::start().await;
    let unknown_model = format!("/v1/models/{MODEL}x");
    let table = [
        ("GET", "/nothing", 404, "unknown_url", None),
        ("POST", "/v1/rerank", 404, "unknown_url", None),
        ("GET", unknown_model.as_str(), 404, "model_not_found", None),
        ("GET", CHAT, 405, "method_not_allowed", Some("POST")),
        ("DELETE", "/v1/models", 405, "method_not_allowed", Some("GET, HEAD")),
        ("POST", "/health", 405, "method_not_allowed", Some("GET, HEAD")),
    ];
    for (method, path, status, code, allow) in table {
        let response = daemon.ask(method, path, "").await;
        assert_eq!(response.failure(), (status, code.to_owned()), "{method} {path}");
        assert_eq!(response.header("allow"), allow, "{method} {path}");
        assert_eq!(response.header("content-type"), Some("application/json"));
    }
    let response = daemon.post(CHAT, &chat(json!({"model": "gpt-4"}))).await;
    assert_eq!(response.failure(), (404, "model_not_found".to_owned()));
    assert_eq!(response.json()["error"]["param"], "model");
}

#[tokio::test]
async fn every_response_has_a_request_id() {
    let daemon = Daemon::start().await;
    let mut client = daemon.tcp().await;
    for path in ["/health", "/nowhere"] {
        client.send("GET", path, &["X-Request-Id: trace-42"], "").await;
        assert_eq!(client.response().await.header("x-request-id"), Some("trace-42"));
        client.send("GET", path, &["X-Request-Id: no good"], "").await;
        let made = client.response().await;
        assert!(made.header("x-request-id").unwrap().starts_with("req_"));
    }
}

#[tokio::test]
async fn a_chat_is_answered_whole() {
    let daemon = Daemon::start().await;
    let body = chat(json!({"model": MODEL, "max_completion_tokens": 6, "ignore_eos": true}));
    let answer = daemon.post(CHAT, &body).await;
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], MODEL);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
    assert!(answer["choices"][0]["message"]["content"].is_string());
    let usage = &answer["usage"];
    assert_eq!(usage["completion_tokens"], 6);
    assert_eq!(usage["total_tokens"], usage["prompt_tokens"].as_u64().unwrap() + 6);
    let stats = daemon.stats();
    assert_eq!((stats.accepted, stats.finished), (1, 1));
}

#[tokio::test]
async fn a_completion_is_answered_whole_with_logprobs() {
    let daemon = Daemon::start().await;
    let answer = daemon.post(COMPLETIONS, &completion(5, json!({"logprobs": 2}))).await.json();
    assert!(answer["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(answer["object"], "text_completion");
    assert_eq!(answer["usage"]["prompt_tokens"], 3);
    let logprobs = &answer["choices"][0]["logprobs"];
    for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(logprobs[list].as_array().unwrap().len(), 5, "{list}");
    }
}

#[tokio::test]
async fn requests_on_one_connection_may_be_sent_ahead() {
    let daemon = Daemon::start().await;
    let mut client = daemon.tcp().await;
    let body = completion(3, json!({})).to_string();
    for _ in 0..3 {
        client.send("POST", COMPLETIONS, &[], &body).await;
    }
    let first = client.response().await.json();
    for _ in 0..2 {
        assert_eq!(client.response().await.json()["choices"], first["choices"]);
    }
}
