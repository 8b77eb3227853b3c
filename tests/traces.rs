//! Traces and access lines of the real daemon: a collector gets the spans, and no prompt is in them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::common::{Daemon, Setup, wait_for};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A collector that keeps what it gets, or is out of order.
struct Collector {
    address: SocketAddr,
    bodies: Arc<Mutex<Vec<String>>>,
    status: Arc<Mutex<u16>>,
    asked: Arc<Mutex<usize>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let status = Arc::new(Mutex::new(200));
        let asked = Arc::new(Mutex::new(0));
        let (sink, code, count) = (Arc::clone(&bodies), Arc::clone(&status), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut reader = BufReader::new(stream);
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                assert_eq!(line.trim(), "POST /base/v1/traces HTTP/1.1");
                let mut length = 0;
                while line.trim() != "" {
                    line.clear();
                    reader.read_line(&mut line).unwrap();
                    if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
                        length = value.trim().parse().unwrap();
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let status = *code.lock().unwrap();
                if status == 200 {
                    sink.lock().unwrap().push(String::from_utf8(body).unwrap());
                }
                *count.lock().unwrap() += 1;
                let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\n{{}}");
                let _ = reader.get_mut().write_all(answer.as_bytes());
            }
        });
        Self { address, bodies, status, asked }
    }

    fn daemon(&self, more: &[&str]) -> Daemon {
        let endpoint = format!("http://{}/base/", self.address);
        Setup::new().with(&["--otlp-endpoint", &endpoint]).with(more).start()
    }

    /// All spans so far.
    fn spans(&self) -> Vec<Value> {
        let bodies = self.bodies.lock().unwrap();
        let read = |body: &String| serde_json::from_str::<Value>(body).unwrap();
        let spans = bodies.iter().map(read).flat_map(|body| {
            body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().clone()
        });
        spans.collect()
    }

    fn wait_for_spans(&self, count: usize) -> Vec<Value> {
        wait_for("spans", || Some(self.spans()).filter(|spans| spans.len() >= count))
    }
}

/// An attribute's value, whatever its kind.
fn attribute(span: &Value, key: &str) -> Value {
    let all = span["attributes"].as_array().unwrap();
    let found = all.iter().find(|attribute| attribute["key"] == key);
    let value = &found.unwrap_or_else(|| panic!("no {key} in {span}"))["value"];
    value.as_object().unwrap().values().next().unwrap().clone()
}

fn ask(daemon: &Daemon, path: &str, body: &Value, traceparent: Option<&str>) -> u16 {
    let mut headers = vec![("Content-Type", "application/json"), ("X-Request-Id", "job-7")];
    headers.extend(traceparent.map(|value| ("traceparent", value)));
    daemon.tcp().request("POST", path, &headers, body.to_string().as_bytes()).status
}

fn chat(text: &str) -> Value {
    json!({ "messages": [{ "role": "user", "content": text }], "max_tokens": 5,
            "ignore_eos": true, "temperature": 0 })
}

#[test]
fn a_collector_gets_a_requests_spans_in_the_clients_trace() {
    let collector = Collector::start();
    let daemon = collector.daemon(&[]);
    let parent = format!("00-{TRACE}-{PARENT}-01");
    assert_eq!(ask(&daemon, "/v1/chat/completions", &chat("secret words"), Some(&parent)), 200);
    let spans = collector.wait_for_spans(2);
    assert_eq!(spans.len(), 2, "{spans:?}");
    let of_kind = |kind: u64| spans.iter().find(|span| span["kind"] == kind).unwrap();
    let (server, answer) = (of_kind(2), of_kind(1));
    for span in [server, answer] {
        assert_eq!(span["traceId"], TRACE);
        let time = |key: &str| span[key].as_str().unwrap().parse::<u128>().unwrap();
        assert!(time("startTimeUnixNano") <= time("endTimeUnixNano"), "{span}");
        assert_eq!(span["status"], Value::Null);
    }
    assert_eq!(server["parentSpanId"], PARENT);
    assert_eq!(server["name"], "POST /v1/chat/completions");
    assert_eq!(attribute(server, "http.response.status_code"), "200");
    assert_eq!(attribute(server, "phi4d.request_id"), "job-7");
    assert_eq!(answer["parentSpanId"], server["spanId"]);
    assert_eq!(answer["name"], "chat demo");
    assert_eq!(attribute(answer, "gen_ai.operation.name"), "chat");
    assert_eq!(attribute(answer, "gen_ai.usage.output_tokens"), "5");
    assert_ne!(attribute(answer, "gen_ai.usage.input_tokens"), "0");
    assert_eq!(
        attribute(answer, "gen_ai.response.finish_reasons")["values"][0]["stringValue"],
        "length"
    );
    let first = attribute(answer, "gen_ai.latency.time_to_first_token").as_f64().unwrap();
    assert!(first > 0.0 && first < 60.0, "{first}");
    // What was asked is nobody's business.
    assert!(!collector.bodies.lock().unwrap().concat().contains("secret words"));
    let log = daemon.log.says("POST /v1/chat/completions");
    assert!(!log.contains("secret words"), "{log}");
    let line = log.lines().find(|line| line.contains("POST /v1/chat/completions")).unwrap();
    for field in [
        "request_id=job-7",
        "caller=127.0.0.1",
        "status=200",
        "end=complete",
        "model=demo",
        "completion_tokens=5",
        &format!("trace_id={TRACE}"),
    ] {
        assert!(line.contains(field), "{field}: {line}");
    }
    wait_for("the count of exported spans", || {
        let page = daemon.unix().get("/metrics").text();
        page.contains("\nphi4d_trace_spans_exported_total 2\n").then_some(())
    });
}

#[test]
fn what_is_not_sampled_or_no_work_makes_no_span_and_faults_are_reported() {
    let collector = Collector::start();
    let daemon = collector.daemon(&[]);
    let not = format!("00-{TRACE}-{PARENT}-00");
    assert_eq!(
        ask(&daemon, "/v1/completions", &json!({ "prompt": "a", "max_tokens": 1 }), Some(&not)),
        200
    );
    assert_eq!(daemon.tcp().get("/health").status, 200);
    assert_eq!(ask(&daemon, "/v1/completions", &json!({ "prompt": 5.5 }), None), 400);
    // One that starts its own trace, of more tokens than there is time for.
    let late = json!({ "prompt": "a", "max_tokens": 3000, "ignore_eos": true, "timeout": 0.001,
                       "temperature": 0 });
    let status = ask(&daemon, "/v1/completions", &late, None);
    assert!(status >= 400, "{status}");
    let is_server = |span: &&Value| span["kind"] == 2;
    let spans = wait_for("the request's span", || {
        Some(collector.spans()).filter(|spans| spans.iter().any(|span| is_server(&span)))
    });
    let server: Vec<&Value> = spans.iter().filter(is_server).collect();
    assert_eq!(server.len(), 1, "{spans:?}");
    assert_eq!(attribute(server[0], "http.response.status_code"), status.to_string());
    assert_ne!(server[0]["traceId"], TRACE);
    assert_eq!(server[0]["parentSpanId"], Value::Null);
}

#[test]
fn a_collector_that_is_out_of_order_gets_the_spans_later_and_the_last_ones_at_the_end() {
    let collector = Collector::start();
    *collector.status.lock().unwrap() = 503;
    let mut daemon = collector.daemon(&[]);
    assert_eq!(ask(&daemon, "/v1/chat/completions", &chat("2+2="), None), 200);
    wait_for("an attempt", || (*collector.asked.lock().unwrap() > 0).then_some(()));
    assert_eq!(collector.spans().len(), 0);
    *collector.status.lock().unwrap() = 200;
    collector.wait_for_spans(2);
    // Of a request right before the end.
    assert_eq!(ask(&daemon, "/v1/chat/completions", &chat("3+3="), None), 200);
    daemon.signal("TERM");
    assert!(daemon.wait_end().success());
    assert_eq!(collector.spans().len(), 4);
    let log = daemon.log.text();
    assert_eq!(log.matches("traces cannot be exported: status 503").count(), 1, "{log}");
    assert!(log.contains("traces are exported again"), "{log}");
}
