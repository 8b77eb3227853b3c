//! A client that goes away frees its sequence, whatever it was waiting for.

use serde_json::json;

use super::*;

/// Waits until the engine is idle again and has `cancelled` jobs behind it, no other.
async fn only_cancelled(daemon: &Daemon, cancelled: u64) -> Stats {
    let idle = |stats: &Stats| stats.cancelled == cancelled && stats.running + stats.waiting == 0;
    let stats = daemon.until("the end of all work", idle).await;
    assert_eq!((stats.accepted, stats.finished, stats.failed), (cancelled, 0, 0), "{stats:?}");
    stats
}

#[tokio::test]
async fn in_the_middle_of_a_whole_answer() {
    let daemon = Daemon::start().await;
    daemon.slow_down(Duration::from_millis(2));
    let body = completion(4000, json!({})).to_string();
    for mut client in [daemon.tcp().await, daemon.unix().await] {
        let before = daemon.stats();
        client.send("POST", COMPLETIONS, &[], &body).await;
        daemon
            .until("decoding", |stats| stats.generated_tokens > before.generated_tokens + 3)
            .await;
        drop(client);
        daemon.until("cancelled", |stats| stats.cancelled > before.cancelled).await;
    }
    only_cancelled(&daemon, 2).await;
}

#[tokio::test]
async fn in_the_middle_of_reading_the_prompt() {
    let daemon = Daemon::start().await;
    daemon.slow_down(Duration::from_millis(5));
    for (token, stream) in [(7, false), (8, true)] {
        let before = daemon.stats();
        let mut client = daemon.tcp().await;
        // 250 chunks of prefill, none of them cached.
        let prompt = json!({"prompt": vec![token; 4000], "stream": stream});
        client.send("POST", COMPLETIONS, &[], &prompt.to_string()).await;
        daemon.until("prefill", |stats| stats.prompt_tokens > before.prompt_tokens + 32).await;
        drop(client);
        daemon.until("cancelled", |stats| stats.cancelled > before.cancelled).await;
    }
    let stats = only_cancelled(&daemon, 2).await;
    assert_eq!(stats.generated_tokens, 0);
}

#[tokio::test]
async fn in_the_middle_of_a_stream() {
    let daemon = Daemon::start().await;
    daemon.slow_down(Duration::from_millis(2));
    let mut client = daemon.tcp().await;
    let body = completion(4000, json!({"stream": true})).to_string();
    client.send("POST", COMPLETIONS, &[], &body).await;
    assert_eq!(client.head().await.status, 200);
    client.chunk().await.unwrap();
    drop(client);
    only_cancelled(&daemon, 1).await;
}

#[tokio::test]
async fn while_waiting_for_a_slot() {
    let daemon = Daemon::with(Setup { slots: 1, ..Setup::default() }).await;
    daemon.slow_down(Duration::from_millis(2));
    let body = completion(4000, json!({})).to_string();
    let (mut running, mut waiting) = (daemon.tcp().await, daemon.tcp().await);
    running.send("POST", COMPLETIONS, &[], &body).await;
    daemon.until("running", |stats| stats.running == 1).await;
    waiting.send("POST", COMPLETIONS, &[], &body).await;
    daemon.until("waiting", |stats| stats.waiting == 1).await;
    drop(waiting);
    let left = |stats: &Stats| (stats.cancelled, stats.running, stats.waiting) == (1, 1, 0);
    daemon.until("cancelled", left).await;
    drop(running);
    only_cancelled(&daemon, 2).await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_given_up() {
    let mut setup = Setup::default();
    setup.server.write_timeout = Duration::from_millis(100);
    let daemon = Daemon::with(setup).await;
    let mut client = daemon.unix().await;
    // Far more than the socket and the connection's buffer hold.
    let fields = json!({"stream": true, "logprobs": true, "top_logprobs": 20, "max_tokens": 4000,
                        "ignore_eos": true});
    client.send("POST", CHAT, &[], &chat(fields).to_string()).await;
    only_cancelled(&daemon, 1).await;
}
