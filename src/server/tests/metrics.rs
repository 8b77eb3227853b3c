//! `/metrics` as a scraper sees it, and `/ready`.

use prometheus_parse::{Scrape, Value as Parsed};
use serde_json::json;

use super::super::app::Phase;
use super::*;

async fn scrape(daemon: &Daemon) -> Scrape {
    let response = daemon.ask("GET", "/metrics", "").await;
    assert_eq!(response.status, 200);
    let kind = response.header("content-type").unwrap();
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    // The parser takes no colons, which names may have.
    let lines = response.body.lines().map(|line| Ok(line.replace("vllm:", "vllm_")));
    Scrape::parse(lines).unwrap()
}

/// The value of the one series of `name` that has all `labels`.
fn value(scrape: &Scrape, name: &str, labels: &[(&str, &str)]) -> f64 {
    let matches = |sample: &&prometheus_parse::Sample| {
        sample.metric == name
            && labels.iter().all(|(key, value)| sample.labels.get(key) == Some(*value))
    };
    let found: Vec<_> = scrape.samples.iter().filter(matches).collect();
    let [sample] = found[..] else { panic!("{name} {labels:?}: {found:?}") };
    match &sample.value {
        Parsed::Counter(value) | Parsed::Gauge(value) => *value,
        other => panic!("{name}: {other:?}"),
    }
}

/// How many observations a histogram has, after a check of its buckets.
fn observations(scrape: &Scrape, name: &str) -> f64 {
    let sample = scrape.samples.iter().find(|sample| sample.metric == name).expect(name);
    let Parsed::Histogram(buckets) = &sample.value else { panic!("{name}: {sample:?}") };
    assert!(
        buckets.windows(2).all(|pair| {
            pair[0].less_than < pair[1].less_than && pair[0].count <= pair[1].count
        })
    );
    let last = buckets.last().unwrap();
    assert!(last.less_than.is_infinite());
    last.count
}

const MODEL_LABEL: [(&str, &str); 2] = [("model_name", MODEL), ("engine", "0")];

#[tokio::test]
async fn the_endpoint_pickers_gauges_follow_the_load() {
    let daemon = Daemon::with(Setup { slots: 2, ..Setup::default() }).await;
    daemon.slow_down(Duration::from_millis(2));
    let gauge = |scrape: &Scrape, name| value(scrape, name, &MODEL_LABEL);
    let idle = scrape(&daemon).await;
    for name in
        ["vllm_num_requests_running", "vllm_num_requests_waiting", "vllm_kv_cache_usage_perc"]
    {
        assert_eq!(gauge(&idle, name), 0.0, "{name}");
    }
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = daemon.tcp().await;
        let body = completion(100_000, json!({"max_tokens": 3000}));
        client.send("POST", COMPLETIONS, &[], &body.to_string()).await;
        clients.push(client);
    }
    let full = |stats: &Stats| {
        (stats.running, stats.waiting) == (2, 3) && stats.kv_tokens > stats.kv_cached_tokens
    };
    daemon.until("a full house", full).await;
    let busy = scrape(&daemon).await;
    assert_eq!(gauge(&busy, "vllm_num_requests_running"), 2.0);
    assert_eq!(gauge(&busy, "vllm_num_requests_waiting"), 3.0);
    let usage = gauge(&busy, "vllm_kv_cache_usage_perc");
    let stats = daemon.stats();
    let most = stats.kv_tokens as f64 / stats.kv_budget_tokens as f64;
    assert!(usage > 0.0 && usage <= most, "{usage} of {most}");
    drop(clients);
    let empty = |stats: &Stats| {
        stats.running + stats.waiting == 0 && stats.kv_tokens == stats.kv_cached_tokens
    };
    daemon.until("an empty house", empty).await;
    let after = scrape(&daemon).await;
    assert_eq!(gauge(&after, "vllm_num_requests_running"), 0.0);
    assert_eq!(gauge(&after, "vllm_num_requests_waiting"), 0.0);
    assert_eq!(gauge(&after, "vllm_kv_cache_usage_perc"), 0.0);
    assert_eq!(value(&after, "phi4d_requests_cancelled_total", &[]), 5.0);
}

#[tokio::test]
async fn answers_are_counted_and_timed_under_both_names() {
    let daemon = Daemon::start().await;
    let response = daemon.post(COMPLETIONS, &completion(7, json!({}))).await;
    assert_eq!(response.status, 200);
    let body = completion(5, json!({"stream": true}));
    assert!(!daemon.post(COMPLETIONS, &body).await.chunks().is_empty());
    assert_eq!(daemon.ask("GET", "/nothing", "").await.status, 404);
    let scrape = scrape(&daemon).await;
    let count = |name, labels: &[_]| value(&scrape, name, labels);
    assert_eq!(count("vllm_generation_tokens_total", &MODEL_LABEL), 12.0);
    assert_eq!(count("phi4d_generation_tokens_total", &[]), 12.0);
    assert_eq!(count("vllm_prompt_tokens_total", &MODEL_LABEL), 6.0);
    assert_eq!(count("vllm_prefix_cache_queries_total", &MODEL_LABEL), 6.0);
    let ended = [MODEL_LABEL[0], ("finished_reason", "length")];
    assert_eq!(count("vllm_request_success_total", &ended), 2.0);
    for (name, expected) in [
        ("time_to_first_token_seconds", 2.0),
        ("inter_token_latency_seconds", 10.0),
        ("e2e_request_latency_seconds", 2.0),
        ("request_queue_time_seconds", 2.0),
        ("request_inference_time_seconds", 2.0),
        ("request_prefill_time_seconds", 2.0),
        ("request_decode_time_seconds", 2.0),
        ("request_time_per_output_token_seconds", 2.0),
        ("request_prompt_tokens", 2.0),
        ("request_generation_tokens", 2.0),
    ] {
        assert_eq!(observations(&scrape, &format!("vllm_{name}")), expected, "{name}");
        assert_eq!(observations(&scrape, &format!("phi4d_{name}")), expected, "{name}");
    }
    let http = [("route", COMPLETIONS), ("method", "POST"), ("status", "200")];
    assert_eq!(count("phi4d_http_requests_total", &http), 2.0);
    assert_eq!(count("phi4d_http_requests_total", &[("route", "other")]), 1.0);
    assert_eq!(count("phi4d_connections", &[("transport", "tcp")]), 1.0);
    let config = scrape.samples.iter().find(|s| s.metric == "vllm_cache_config_info").unwrap();
    let number = |label| config.labels.get(label).unwrap().parse::<usize>().unwrap();
    let stats = daemon.stats();
    assert_eq!(number("num_gpu_blocks") * number("block_size"), stats.kv_budget_tokens);
}

#[tokio::test]
async fn readiness_ends_with_draining() {
    let daemon = Daemon::start().await;
    let response = daemon.ask("GET", "/ready", "").await;
    assert_eq!((response.status, response.json()), (200, json!({"status": "ready"})));
    // Draining closes connections that have not begun a request.
    let mut client = daemon.tcp().await;
    client.write("GET /ready HTTP/1.1\r\n").await;
    daemon.ask("GET", "/ready", "").await;
    daemon.app.enter(Phase::Draining);
    client.write("Host: t\r\n\r\n").await;
    let response = client.response().await;
    assert_eq!((response.status, response.json()), (503, json!({"status": "draining"})));
}

#[tokio::test]
async fn readiness_ends_with_the_engine() {
    let daemon = Daemon::start().await;
    daemon.control.panic_next.store(true, Ordering::Release);
    let response = daemon.post(COMPLETIONS, &completion(3, json!({}))).await;
    assert_eq!(response.status, 500);
    // The client hears of the end before the thread has ended.
    let limit = Instant::now() + Duration::from_secs(20);
    let response = loop {
        let response = daemon.ask("GET", "/ready", "").await;
        if response.status != 200 || Instant::now() > limit {
            break response;
        }
    };
    assert_eq!((response.status, response.json()), (503, json!({"status": "not ready"})));
}
