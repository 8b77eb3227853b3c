//! Requests that can't be answered, and an engine that can't answer.

use serde_json::json;

use super::*;

#[tokio::test]
async fn bodies_that_cannot_be_read_are_refused() {
    let daemon = Daemon::start().await;
    let table = [
        ("{", 400, "invalid_json"),
        ("", 400, "invalid_json"),
        ("[]", 400, "invalid_type"),
        ("{\"messages\": 5}", 400, "invalid_type"),
        ("{\"temperature\": 1e999}", 400, "invalid_json"),
        ("{}", 400, "missing_required_parameter"),
    ];
    for (body, status, code) in table {
        let response = daemon.ask("POST", CHAT, body).await;
        assert_eq!(response.failure(), (status, code.to_owned()), "{body}");
    }
    let mut client = daemon.tcp().await;
    client.send("POST", CHAT, &["Content-Type: text/plain"], "{}").await;
    let response = client.response().await;
    assert_eq!(response.failure(), (415, "unsupported_media_type".to_owned()));
    // A refusal of a request that was read whole leaves the connection open.
    client.send("GET", "/health", &[], "").await;
    assert_eq!(client.response().await.status, 200);
}

#[tokio::test]
async fn ranges_are_refused_under_the_client_s_name() {
    let daemon = Daemon::start().await;
    for (fields, param) in [
        (json!({"temperature": 2.5}), "temperature"),
        (json!({"top_p": 0}), "top_p"),
        (json!({"repeat_penalty": -1}), "repeat_penalty"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (json!({"logit_bias": {"999999": 1}}), "logit_bias"),
    ] {
        let response = daemon.post(CHAT, &chat(fields.clone())).await;
        assert_eq!(response.failure(), (400, "invalid_value".to_owned()), "{fields}");
        let found = response.json()["error"]["param"].clone();
        assert!(found.as_str().unwrap().starts_with(param), "{fields}: {found}");
    }
    assert_eq!(daemon.stats().accepted, 0);
}

#[tokio::test]
async fn a_prompt_beyond_the_context_is_refused() {
    let daemon = Daemon::with(Setup { context_tokens: 64, ..Setup::default() }).await;
    let response = daemon.post(COMPLETIONS, &json!({"prompt": vec![5; 64]})).await;
    assert_eq!(response.failure(), (400, "context_length_exceeded".to_owned()));
    let response = daemon.post(COMPLETIONS, &json!({"prompt": vec![5; 63]})).await;
    assert_eq!(response.status, 200);
}

fn small_bodies() -> Setup {
    let mut setup = Setup::default();
    setup.server.max_body_bytes = 1000;
    setup.server.body_timeout = Duration::from_millis(100);
    setup
}

#[tokio::test]
async fn bodies_too_large_are_refused() {
    let daemon = Daemon::with(small_bodies()).await;
    let too_large = (413, "request_too_large".to_owned());
    let mut client = daemon.tcp().await;
    client.send("POST", CHAT, &[], &"x".repeat(1001)).await;
    let response = client.response().await;
    assert_eq!(response.failure(), too_large);
    assert_eq!(response.header("connection"), Some("close"));
    assert!(client.is_closed().await);

    // A client that asks first is answered before it sends anything.
    let mut client = daemon.tcp().await;
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: t\r\nContent-Length: 5000000\r\nExpect: 100-continue\r\n\r\n"
    );
    client.write(&head).await;
    assert_eq!(client.response().await.failure(), too_large);

    let mut client = daemon.tcp().await;
    let head = format!("POST {CHAT} HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.write(&head).await;
    for _ in 0..3 {
        client.write(&format!("190\r\n{}\r\n", " ".repeat(400))).await;
    }
    client.write("0\r\n\r\n").await;
    assert_eq!(client.response().await.failure(), too_large);
}

#[tokio::test]
async fn a_body_of_just_the_limit_is_read() {
    let daemon = Daemon::with(small_bodies()).await;
    let mut body = completion(1, json!({})).to_string();
    body.push_str(&" ".repeat(1000 - body.len()));
    assert_eq!(daemon.ask("POST", COMPLETIONS, &body).await.status, 200);
}

#[tokio::test]
async fn a_body_that_does_not_come_times_out() {
    let daemon = Daemon::with(small_bodies()).await;
    let mut client = daemon.tcp().await;
    client
        .write(&format!("POST {CHAT} HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\n{{"))
        .await;
    let response = client.response().await;
    assert_eq!(response.failure(), (408, "request_timeout".to_owned()));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_head_that_does_not_come_closes_the_connection() {
    let mut setup = Setup::default();
    setup.server.header_timeout = Duration::from_millis(50);
    let daemon = Daemon::with(setup).await;
    let mut client = daemon.tcp().await;
    client.write("GET /health HTTP/1.1\r\nHost:").await;
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let daemon = Daemon::with(Setup { slots: 1, queue: 1, ..Setup::default() }).await;
    daemon.slow_down(Duration::from_millis(5));
    let body = completion(4000, json!({"stream": true})).to_string();
    let (mut running, mut waiting) = (daemon.tcp().await, daemon.tcp().await);
    running.send("POST", COMPLETIONS, &[], &body).await;
    daemon.until("running", |stats| stats.running == 1).await;
    waiting.send("POST", COMPLETIONS, &[], &body).await;
    daemon.until("waiting", |stats| stats.waiting == 1).await;
    let response = daemon.post(CHAT, &chat(json!({}))).await;
    assert_eq!(response.failure(), (503, "queue_full".to_owned()));
    assert_eq!(response.header("retry-after"), Some("2"));
}

#[tokio::test]
async fn the_engine_s_faults_have_their_status() {
    let daemon = Daemon::start().await;
    daemon.control.fail_next.store(true, Ordering::Release);
    let response = daemon.post(COMPLETIONS, &completion(5, json!({}))).await;
    assert_eq!(response.failure(), (500, "model_error".to_owned()));
    daemon.slow_down(Duration::from_millis(20));
    let body = completion(4000, json!({"timeout": 0.05}));
    let response = daemon.post(COMPLETIONS, &body).await;
    assert_eq!(response.failure(), (504, "deadline_exceeded".to_owned()));
    let stats = daemon.stats();
    assert_eq!((stats.accepted, stats.failed, stats.running), (2, 2, 0));
}

#[tokio::test]
async fn a_crashed_engine_fails_its_requests_and_refuses_more() {
    let daemon = Daemon::start().await;
    daemon.control.panic_next.store(true, Ordering::Release);
    let response = daemon.post(COMPLETIONS, &completion(5, json!({}))).await;
    assert_eq!(response.failure(), (500, "engine_stopped".to_owned()));
    let response = daemon.post(COMPLETIONS, &completion(5, json!({}))).await;
    assert_eq!(response.failure(), (503, "engine_stopped".to_owned()));
    assert_eq!(daemon.ask("GET", "/health", "").await.status, 200);
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    let daemon = Daemon::start().await;
    let long = format!("GET /health HTTP/1.1\r\nX-Long: {}", "x".repeat(66_000));
    let table = [
        ("nonsense\r\n\r\n", 400),
        ("POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        ("POST /v1/completions HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (long.as_str(), 431),
    ];
    for (head, status) in table {
        let mut client = daemon.tcp().await;
        client.write(head).await;
        assert_eq!(client.head().await.status, status, "{}", &head[..16.min(head.len())]);
    }
}
