//! Streams that say how far the load of their model is, for clients that ask.

use std::io::Read as _;

use serde_json::{Value, json};

use super::{Gate, Stock, ask, completion, metric, send, short, start_long, wait_state};
use crate::common::{Client, Connection, Daemon, Response, merge, wait_for};

/// A stream that asks for progress, and what came of it.
struct Asked {
    connection: Connection,
    bytes: Vec<u8>,
}

impl Asked {
    fn new(client: &Client, path: &str, body: &Value) -> Self {
        let mut body = body.clone();
        merge(&mut body, &json!({"stream": true, "return_progress": true}));
        let headers = [("Content-Type", "application/json")];
        let connection = client.send("POST", path, &headers, body.to_string().as_bytes());
        Self { connection, bytes: Vec::new() }
    }

    /// Reads until `text` has come.
    fn until(&mut self, text: &str) {
        while !String::from_utf8_lossy(&self.bytes).contains(text) {
            let mut byte = [0];
            let read = self.connection.read(&mut byte).unwrap();
            assert_eq!(read, 1, "no {text} in {}", String::from_utf8_lossy(&self.bytes));
            self.bytes.extend(byte);
        }
    }

    /// Its events, `[DONE]` as a text.
    fn rest(mut self) -> Vec<Value> {
        self.connection.read_to_end(&mut self.bytes).unwrap();
        let response = Response::parse(&self.bytes);
        assert_eq!(response.status, 200, "{}", response.text());
        let events = response.events();
        events
            .iter()
            .map(|event| serde_json::from_str(event).unwrap_or_else(|_| event.as_str().into()))
            .collect()
    }

    /// The code of the error that it ends with.
    fn fault(self) -> Value {
        let events = self.rest();
        assert!(events[0].get("load_progress").is_some(), "{events:?}");
        events.last().unwrap()["error"]["code"].clone()
    }
}

/// What the events say of the load: states, stages and places, without repetitions.
fn said(events: &[Value]) -> Vec<Value> {
    let said = events.iter().filter_map(|event| event.get("load_progress"));
    let mut said: Vec<Value> = said
        .map(|progress| {
            assert!(progress["time_ms"].is_u64(), "{progress}");
            if progress["state"] == "waiting" {
                progress["place"].clone()
            } else {
                progress["stage"].clone()
            }
        })
        .collect();
    said.dedup();
    said
}

fn chat(model: &str) -> Value {
    json!({"model": model, "temperature": 0, "max_tokens": 8,
        "messages": [{"role": "user", "content": "Count."}]})
}

fn waits(daemon: &Daemon, model: &str, count: u64) {
    wait_for("requests wait", || (short(daemon, model)["waiting"] == count).then_some(()));
}

#[test]
fn a_stream_that_asks_says_what_it_waits_for_and_then_answers() {
    let stock = Stock::new();
    let tables = [stock.table("long", "long", ""), stock.table("twin", "twin", "")];
    let daemon = stock.start(&tables, &[]);
    let client = daemon.unix();
    let gate = stock.gate("long");
    let prompt = completion("long", &[9, 8, 7], &json!({}));
    let llama = json!({"model": "long", "prompt": [9, 8, 7], "n_predict": 5, "temperature": 0});
    let asks = [
        ("/v1/completions", prompt.clone()),
        ("/v1/chat/completions", chat("long")),
        ("/completion", llama),
        ("/v1/completions", completion("long", &[9, 8, 7], &json!({"n": 2}))),
    ];
    let mut streams = Vec::new();
    for (path, body) in &asks {
        let mut stream = Asked::new(&client, path, body);
        // The head and the first events come while the model loads.
        stream.until(r#""load_progress":{"state":"loading","stage":"tokenizer","time_ms":"#);
        streams.push(stream);
    }
    let mut behind = Asked::new(&client, "/v1/chat/completions", &chat("twin"));
    behind.until(r#""load_progress":{"state":"waiting","place":5,"time_ms":"#);
    // Others say the same of the load, and those that do not ask get nothing new.
    let plain = send(&client, &completion("long", &[9, 8, 7], &json!({"stream": true})));
    let whole = send(&client, &completion("long", &[9, 8, 7], &json!({"return_progress": true})));
    waits(&daemon, "long", 6);
    let stage = json!({"stage": "tokenizer"});
    let seen = client.get("/v1/models/long").json();
    assert_eq!((&seen["state"], &seen["load_progress"]), (&json!("loading"), &stage));
    let seen = short(&daemon, "long");
    assert_eq!((&seen["state"], &seen["load_progress"]), (&json!("loading"), &stage));
    assert!((0.0..=1.0).contains(&metric(&daemon, "phi4d_model_load_progress_ratio", "long")));
    assert_eq!(metric(&daemon, "phi4d_model_loaded", "long"), 0.0);
    for path in ["/slots", "/api/ps"] {
        assert!(!client.get(path).text().contains("long"), "{path}");
    }
    gate.open();
    let ends: Vec<Vec<Value>> = streams.into_iter().map(Asked::rest).collect();
    for (events, (path, _)) in ends.iter().zip(&asks) {
        let last = events.iter().rposition(|event| event.get("load_progress").is_some()).unwrap();
        let rest = &events[last + 1..];
        assert!(
            rest.len() > 1 && rest.iter().all(|event| event.get("error").is_none()),
            "{path}: {events:?}"
        );
        for event in &events[..last] {
            assert!(event.get("load_progress").is_some(), "{path}: {event} is no progress");
            assert_eq!(event["id"], events[last + 1]["id"], "{path}");
        }
        assert!(said(events).ends_with(&["tokenizer".into()]), "{path}: {events:?}");
    }
    let ids: Vec<Value> = ends[0]
        .iter()
        .filter_map(|event| event["choices"].get(0)?["token_ids"].as_array().cloned())
        .flatten()
        .collect();
    assert_eq!(Value::from(ids), ask(&client, "long", &[9, 8, 7]));
    let places = said(&behind.rest());
    assert!(
        places.windows(2).all(|two| !two[1].is_u64() || two[1].as_u64() < two[0].as_u64()),
        "{places:?}"
    );
    for mut connection in [plain, whole] {
        let response = Response::read(&mut connection);
        assert_eq!(response.status, 200);
        assert!(!response.text().contains("load_progress"), "{}", response.text());
    }
    // Of a model that is there nothing is said.
    let there = Asked::new(&client, "/v1/completions", &prompt).rest();
    assert!(said(&there).is_empty(), "{there:?}");
    assert_eq!(client.get("/v1/models/long").json().get("load_progress"), None);
    daemon.ends();
}

#[test]
fn what_is_refused_at_once_gets_its_status_and_later_faults_end_the_stream() {
    let stock = Stock::new();
    let daemon = stock.start(&[stock.table("long", "long", "")], &["--queue", "4"]);
    let client = daemon.unix();
    let gate = stock.gate("long");
    let mut first = Asked::new(&client, "/v1/chat/completions", &chat("long"));
    first.until("load_progress");
    // Faults that can be found without the model are found before the stream begins.
    for (field, value) in [
        ("temperature", json!(9)),
        ("logit_bias", json!({"99999": 1})),
        ("n", json!(1000)),
        ("min_tokens", json!(9)),
        ("messages", json!([])),
        ("chat_template_kwargs", json!({"messages": 1})),
    ] {
        let mut body = chat("long");
        merge(&mut body, &json!({field: value, "stream": true, "return_progress": true}));
        let refused = client.post("/v1/chat/completions", &body);
        assert_eq!(refused.status, 400, "{field}: {}", refused.text());
        assert!(refused.text().contains(field), "{}", refused.text());
    }
    waits(&daemon, "long", 1);
    // Its time, its client, and the end of the line.
    let timed = json!({"timeout": 0.2});
    let mut body = chat("long");
    merge(&mut body, &timed);
    assert_eq!(Asked::new(&client, "/v1/chat/completions", &body).fault(), "deadline_exceeded");
    let mut leaves = Asked::new(&client, "/v1/chat/completions", &chat("long"));
    leaves.until("load_progress");
    waits(&daemon, "long", 2);
    drop(leaves);
    waits(&daemon, "long", 1);
    let mut long = chat("long");
    long["messages"][0]["content"] = "word ".repeat(9000).into();
    let mut too_long = Asked::new(&client, "/v1/chat/completions", &long);
    too_long.until("load_progress");
    long.as_object_mut()
        .unwrap()
        .extend([("stream".to_owned(), true.into()), ("return_progress".to_owned(), true.into())]);
    let refused = client.post("/v1/chat/completions", &long);
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("2")));
    gate.open();
    // What needs the tokenizer.
    assert_eq!(too_long.fault(), "context_length_exceeded");
    assert_eq!(first.rest().last().unwrap(), "[DONE]");
    daemon.ends();
}

#[test]
fn a_load_that_fails_ends_the_stream_with_an_error() {
    let stock = Stock::new();
    let daemon = stock.start(&[stock.table("twin", "twin", "")], &[]);
    let client = daemon.unix();
    let gate = stock.gate("twin");
    let stream = Asked::new(&client, "/completion", &completion("twin", &[1], &json!({})));
    wait_state(&daemon, "twin", "loading");
    Gate { text: b"{".to_vec(), ..gate }.open();
    assert_eq!(stream.fault(), "model_unavailable");
    // While the failure is remembered, it is known at once.
    let mut body = completion("twin", &[1], &json!({}));
    merge(&mut body, &json!({"stream": true, "return_progress": true}));
    let refused = client.post("/v1/completions", &body);
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.text().contains("tokenizer.json"), "{}", refused.text());
    daemon.ends();
}

#[test]
fn a_daemon_that_stops_ends_the_streams_that_wait() {
    let stock = Stock::new();
    let arguments = ["--drain-timeout-s", "0", "--models-memory-bytes", "22000000"];
    let tables = [stock.table("long", "long", ""), stock.table("twin", "twin", "")];
    let mut daemon = stock.start(&tables, &arguments);
    let client = daemon.unix();
    // The first waits for room, the second for its turn.
    let running = start_long(&daemon.unix(), "demo");
    let mut streams: Vec<Asked> = ["long", "twin"]
        .into_iter()
        .zip(["1", "2"])
        .map(|(model, place)| {
            let body = completion(model, &[1], &json!({}));
            let mut stream = Asked::new(&client, "/v1/completions", &body);
            stream.until(&format!(r#""load_progress":{{"state":"waiting","place":{place},"#));
            stream
        })
        .collect();
    // With the room, the load begins.
    let gate = stock.gate("long");
    drop(running);
    streams[0].until(r#""state":"loading","#);
    streams[1].until(r#""place":2,"#);
    daemon.signal("TERM");
    for stream in streams {
        assert_eq!(stream.fault(), "shutting_down");
    }
    gate.open();
    assert!(daemon.wait_end().success());
}
