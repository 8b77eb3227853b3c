//! `/metrics` of the real daemon: the endpoint picker's gauges under a scripted load, and that what
//! dashboards and alerts ask for is there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_precision_loss,
    reason = "a test"
)]

use std::collections::BTreeSet;

use serde_json::json;

use crate::common::{Client, Connection, Daemon, Setup, wait_for};

/// A metrics page.
struct Page(String);

impl Page {
    fn of(client: &Client) -> Self {
        let response = client.get("/metrics");
        assert_eq!(response.status, 200);
        Self(response.text())
    }

    /// The sum of all series of `name`.
    fn value(&self, name: &str) -> f64 {
        let series = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next().unwrap())
        });
        let values: Vec<f64> = series.map(|value| value.parse().unwrap()).collect();
        assert!(!values.is_empty(), "no {name}");
        values.iter().sum()
    }

    /// Running, waiting, and the share of the KV cache, as a gateway reads them.
    fn gauges(&self) -> (f64, f64, f64) {
        (
            self.value("vllm:num_requests_running"),
            self.value("vllm:num_requests_waiting"),
            self.value("vllm:kv_cache_usage_perc"),
        )
    }

    /// Names of all samples.
    fn names(&self) -> BTreeSet<&str> {
        let samples = self.0.lines().filter(|line| !line.starts_with('#'));
        samples.map(|line| line.split(['{', ' ']).next().unwrap()).collect()
    }
}

/// An answer that goes on as long as it is read, which nobody does: its sequence stays in its slot.
fn unread_stream(daemon: &Daemon, name: &str) -> Connection {
    let body = json!({
        "messages": [{ "role": "user", "content": format!("copy {name}") }],
        "max_tokens": 3000, "ignore_eos": true, "stream": true, "temperature": 0,
        "logprobs": true, "top_logprobs": 20,
    });
    let json = [("Content-Type", "application/json")];
    daemon.unix().send("POST", "/v1/chat/completions", &json, body.to_string().as_bytes())
}

fn wait_for_depth(client: &Client, running: f64, waiting: f64) -> Page {
    wait_for(&format!("{running} running and {waiting} waiting"), || {
        let page = Page::of(client);
        let (now_running, now_waiting, _) = page.gauges();
        (now_running == running && now_waiting == waiting).then_some(page)
    })
}

#[test]
fn the_endpoint_pickers_gauges_are_exact_under_a_scripted_load() {
    let daemon = Setup::new()
        .with(&["--slots", "2", "--prefix-slots", "0", "--slow-client-timeout-s", "600"])
        .start();
    let client = daemon.unix();
    assert_eq!(Page::of(&client).gauges(), (0.0, 0.0, 0.0));

    // One whose client takes nothing more: what it holds is what was read and made.
    let first = unread_stream(&daemon, "first");
    let mut made = -1.0;
    let page = wait_for("a stream that is full", || {
        let page = Page::of(&client);
        let now = page.value("phi4d_generation_tokens_total");
        let stopped = now > 0.0 && now == std::mem::replace(&mut made, now);
        let step = page.value("phi4d_kv_cache_capacity_tokens") * page.gauges().2;
        // The last token that was made is not in the cache before the next step.
        let held = page.value("phi4d_prompt_tokens_total") + now - 1.0;
        let config =
            page.0.lines().find(|line| line.starts_with("vllm:cache_config_info")).unwrap();
        let block = config.split("block_size=\"").nth(1).unwrap().split('"').next().unwrap();
        let block: f64 = block.parse().unwrap();
        (stopped && (step - (held / block).ceil() * block).abs() < 1e-3).then_some(page)
    });
    assert_eq!((page.gauges().0, page.gauges().1), (1.0, 0.0));

    // One more runs, four wait.
    let mut others: Vec<Connection> =
        ["a", "b", "c", "d", "e"].iter().map(|name| unread_stream(&daemon, name)).collect();
    let page = wait_for_depth(&client, 2.0, 4.0);
    assert_eq!(page.value("phi4d_requests_waiting"), 4.0);
    // Two that wait leave; the first to run leaves and the next takes its place.
    others.truncate(3);
    wait_for_depth(&client, 2.0, 2.0);
    drop(first);
    let page = wait_for_depth(&client, 2.0, 1.0);
    assert!(page.gauges().2 > 0.0);
    drop(others);
    let page = wait_for_depth(&client, 0.0, 0.0);
    assert_eq!(page.gauges().2, 0.0, "{}", page.0);
    assert_eq!(page.value("phi4d_requests_cancelled_total"), 6.0);
}

/// Names of metrics in a text.
fn asked_for(text: &str) -> BTreeSet<String> {
    let name = regex::Regex::new(r"\b(?:phi4d_|vllm:)[a-z0-9_]+\b").unwrap();
    name.find_iter(text).map(|found| found.as_str().to_owned()).collect()
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_metrics_that_are_there() {
    let daemon = Daemon::start();
    daemon.unix().chat("2+2=", &json!({ "max_tokens": 4 }));
    let page = Page::of(&daemon.unix());
    let names = page.names();
    for file in ["packaging/grafana/phi4d.json", "packaging/prometheus/phi4d.rules.yml"] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let asked = asked_for(&std::fs::read_to_string(path).unwrap());
        assert!(asked.len() > 5, "{file}: {asked:?}");
        let missing: Vec<&String> =
            asked.iter().filter(|name| !names.contains(name.as_str())).collect();
        assert!(missing.is_empty(), "{file} asks for {missing:?}");
    }
}

/// What conversations have in common, as a system prompt, is in the cache once: eight of them run in memory for
/// fewer tokens than they have, and the gauges count it once.
#[test]
fn eight_conversations_over_one_system_prompt_hold_its_blocks_once() {
    const SYSTEM: u64 = 2000;
    // 1 KiB a token. Without shared blocks seven would fit; with them all, up to the end of their answers.
    let memory = ["--kv-cache-bytes", "16777216", "--slots", "8", "--slow-client-timeout-s", "600"];
    let daemon = Setup::new().with(&memory).start();
    let client = daemon.unix();
    let capacity = Page::of(&client).value("phi4d_kv_cache_capacity_tokens");
    assert_eq!(capacity, 16384.0, "the KV cache has another size of token");
    let prompt = |number: u64| -> Vec<u64> {
        let system = (0..SYSTEM).map(|index| 20 + index * index % 700);
        system.chain((0..20).map(|index| 20 + (number * 31 + index * 7) % 700)).collect()
    };
    let first = client.post("/v1/completions", &json!({ "prompt": prompt(0), "max_tokens": 1 }));
    assert_eq!(first.status, 200, "{}", first.text());
    // Nobody reads the answers, so their sequences stay in their slots.
    let stream = |number: u64| {
        let body = json!({
            "prompt": prompt(number), "max_tokens": 1700, "ignore_eos": true, "stream": true, "temperature": 0,
            "logprobs": 5,
        });
        let json = [("Content-Type", "application/json")];
        client.send("POST", "/v1/completions", &json, body.to_string().as_bytes())
    };
    let _streams: Vec<Connection> = (1..=8).map(stream).collect();
    let page = wait_for("eight that generate", || {
        let page = Page::of(&client);
        let all_run = page.gauges() == (8.0, 0.0, page.gauges().2);
        (all_run && page.value("phi4d_generation_tokens_total") > 16.0).then_some(page)
    });
    assert_eq!(page.value("phi4d_preemptions_total"), 0.0);
    // Each has blocks of its own for what is not in common and for its answer.
    let generated = page.value("phi4d_generation_tokens_total");
    let held = page.value("phi4d_kv_cache_tokens");
    let most = SYSTEM as f64 + generated + 9.0 * (20.0 + 2.0 * 64.0);
    assert!((SYSTEM as f64..most).contains(&held), "{held} of at most {most}");
}
