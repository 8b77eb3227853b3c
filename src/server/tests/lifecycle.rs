//! Limits on connections, and stopping.

use serde_json::json;

use super::super::app::Phase;
use super::*;

/// Nothing in these tests takes longer, unless it hangs.
const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let mut setup = Setup::default();
    setup.server.max_connections = 1;
    let daemon = Daemon::with(setup).await;
    daemon.slow_down(Duration::from_millis(5));
    let mut first = daemon.tcp().await;
    first.send("POST", COMPLETIONS, &[], &completion(100, json!({})).to_string()).await;
    daemon.until("running", |stats| stats.running == 1).await;
    let mut second = daemon.unix().await;
    second.send("GET", "/health", &[], "").await;
    let early = tokio::time::timeout(Duration::from_millis(50), second.is_closed()).await;
    assert!(early.is_err(), "answered beyond the limit");
    // Once it has its answer, its place is for who waits.
    assert_eq!(first.response().await.status, 200);
    assert_eq!(second.response().await.status, 200);
    assert!(first.is_closed().await);
}

#[tokio::test]
async fn stopping_closes_idle_connections_at_once() {
    let daemon = Daemon::start().await;
    let mut used = daemon.tcp().await;
    used.send("GET", "/health", &[], "").await;
    used.response().await;
    let mut fresh = daemon.unix().await;
    let address = daemon.tcp;
    let outcome = tokio::time::timeout(LIMIT, daemon.stop()).await.unwrap();
    assert!(outcome.is_clean());
    assert!(used.is_closed().await);
    assert!(fresh.is_closed().await);
    assert!(TcpStream::connect(address).await.is_err(), "still listening");
}

#[tokio::test]
async fn who_was_let_in_before_a_stop_is_answered() {
    let daemon = Daemon::start().await;
    let (mut tcp, mut unix) = (daemon.tcp().await, daemon.unix().await);
    daemon.app.until_unasked(2).await;
    let address = daemon.tcp;
    let stopping = tokio::spawn(daemon.stop());
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    for client in [&mut tcp, &mut unix] {
        client.send("POST", COMPLETIONS, &[], &completion(3, json!({})).to_string()).await;
    }
    for client in [&mut tcp, &mut unix] {
        assert_eq!(client.response().await.status, 200);
        assert!(client.is_closed().await);
    }
    assert!(stopping.await.unwrap().is_clean());
}

#[tokio::test]
async fn running_requests_end_while_draining() {
    let daemon = Daemon::start().await;
    daemon.slow_down(Duration::from_millis(2));
    let (mut whole, mut streamed) = (daemon.tcp().await, daemon.unix().await);
    let body = completion(30, json!({}));
    whole.send("POST", COMPLETIONS, &[], &body.to_string()).await;
    let body = merged(body, json!({"stream": true}));
    streamed.send("POST", COMPLETIONS, &[], &body.to_string()).await;
    daemon.until("running", |stats| stats.running == 2).await;
    let stopping = tokio::spawn(daemon.stop());
    let response = whole.response().await;
    assert_eq!(response.status, 200);
    assert_eq!(response.header("connection"), Some("close"));
    assert_eq!(response.json()["usage"]["completion_tokens"], 30);
    assert!(whole.is_closed().await);
    assert_eq!(streamed.response().await.chunks().last().unwrap()["choices"][0]["text"], "");
    assert!(stopping.await.unwrap().is_clean());
}

#[tokio::test]
async fn new_requests_are_refused_while_draining() {
    let daemon = Daemon::start().await;
    daemon.slow_down(Duration::from_millis(2));
    let mut running = daemon.tcp().await;
    running.send("POST", COMPLETIONS, &[], &completion(500, json!({})).to_string()).await;
    let (mut late, mut health) = (daemon.tcp().await, daemon.tcp().await);
    late.write("GET /v1/models HTTP/1.1\r\n").await;
    health.write("GET /health HTTP/1.1\r\n").await;
    // By the time that this is answered, the heads begun before it have been seen.
    daemon.until("running", |stats| stats.running == 1).await;
    daemon.ask("GET", "/health", "").await;
    let app = daemon.app.clone();
    let stopping = tokio::spawn(daemon.stop());
    app.reached(Phase::Draining).await;
    late.write("Host: t\r\n\r\n").await;
    let response = late.response().await;
    assert_eq!(response.failure(), (503, "shutting_down".to_owned()));
    assert_eq!(response.header("connection"), Some("close"));
    assert_eq!(response.header("retry-after"), Some("2"));
    health.write("Host: t\r\n\r\n").await;
    assert_eq!(health.response().await.json()["status"], "draining");
    assert_eq!(running.response().await.status, 200);
    assert!(stopping.await.unwrap().is_clean());
}

#[tokio::test]
async fn what_outlasts_the_drain_limit_is_cut_with_an_error() {
    let daemon = Daemon::with(Setup { drain: Duration::from_millis(50), ..Setup::default() }).await;
    daemon.slow_down(Duration::from_millis(5));
    let app = daemon.app.clone();
    let (mut whole, mut streamed) = (daemon.tcp().await, daemon.tcp().await);
    let body = completion(4000, json!({}));
    whole.send("POST", COMPLETIONS, &[], &body.to_string()).await;
    let body = merged(body, json!({"stream": true}));
    streamed.send("POST", COMPLETIONS, &[], &body.to_string()).await;
    daemon.until("running", |stats| stats.running == 2).await;
    let stopping = tokio::spawn(daemon.stop());
    let response = whole.response().await;
    assert_eq!(response.failure(), (503, "shutting_down".to_owned()));
    let events = streamed.response().await.events();
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "shutting_down");
    assert_eq!(stopping.await.unwrap(), DrainOutcome { cut_connections: 2 });
    drop(app);
}
