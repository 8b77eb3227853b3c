//! Several models in one daemon: loaded at the first request or at the start, kept within a memory budget,
//! unloaded when idle, and never under a request. Every model answers as it does alone.

#![allow(clippy::unwrap_used, reason = "an end-to-end test")]

mod ends;
mod memory;
mod progress;
mod sleep;

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use serde_json::{Value, json};

use crate::common::{
    Client, Connection, Daemon, Response, Setup, connect_from, copy_demo, demo_folder, wait_for,
};

/// Bytes of each model's KV cache in these tests.
const CACHE: &str = "kv_cache_bytes = 16777216\nslots = 4\nprefix_slots = 4\n";

/// A folder of models: `twin` is the demo model, `long` has two rotary tables and other weights.
struct Stock {
    folder: tempfile::TempDir,
}

impl Stock {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let twin = copy_demo(folder.path());
        std::fs::rename(twin, folder.path().join("twin")).unwrap();
        let stock = Self { folder };
        let models = demo_folder().parent().unwrap().to_path_buf();
        std::fs::create_dir(stock.path("long")).unwrap();
        for (from, name) in [
            ("longrope", "genai_config.json"),
            ("longrope", "model.onnx"),
            ("longrope", "model.onnx.data"),
            ("demo", "tokenizer.json"),
            ("demo", "tokenizer_config.json"),
        ] {
            std::fs::copy(models.join(from).join(name), stock.path("long").join(name)).unwrap();
        }
        stock
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A table of a further model `name` in the folder `of`.
    fn table(&self, name: &str, of: &str, more: &str) -> String {
        format!("[models.{name}]\nmodel = {:?}\n{more}\n", self.path(of))
    }

    /// A daemon of the demo model and of the models in `tables`.
    fn setup(&self, tables: &[String], arguments: &[&str]) -> Setup {
        let file = self.path("test.toml");
        std::fs::write(&file, format!("{CACHE}{}", tables.concat())).unwrap();
        Setup::new().with(&["--config", file.to_str().unwrap()]).with(arguments)
    }

    fn start(&self, tables: &[String], arguments: &[&str]) -> Daemon {
        self.setup(tables, arguments).start()
    }

    /// Puts a pipe in the place of a model's tokenizer: its load waits until [`Gate::open`].
    fn gate(&self, of: &str) -> Gate {
        let path = self.path(of).join("tokenizer.json");
        let text = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        Gate { path, text }
    }
}

/// A load that waits.
struct Gate {
    path: PathBuf,
    text: Vec<u8>,
}

impl Gate {
    /// Lets the load that waits go on, and later ones pass.
    fn open(self) {
        // For reading, too: that does not wait for a reader, which a load that was cancelled is not.
        let mut pipe = OpenOptions::new().read(true).write(true).open(&self.path).unwrap();
        pipe.write_all(&self.text).unwrap();
        std::fs::remove_file(&self.path).unwrap();
        std::fs::write(&self.path, &self.text).unwrap();
    }
}

/// A greedy completion of some tokens.
fn completion(model: &str, prompt: &[u32], more: &Value) -> Value {
    let mut body = json!({
        "model": model, "prompt": prompt, "max_tokens": 12, "temperature": 0, "ignore_eos": true,
        "return_token_ids": true,
    });
    crate::common::merge(&mut body, more);
    body
}

fn tokens(response: &Response) -> Value {
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()["choices"][0]["token_ids"].clone()
}

fn ask(client: &Client, model: &str, prompt: &[u32]) -> Value {
    tokens(&client.post("/v1/completions", &completion(model, prompt, &json!({}))))
}

/// What a daemon of this model alone answers.
fn alone(folder: &Path, prompts: &[Vec<u32>]) -> Vec<Value> {
    let daemon = Setup::new().model(folder).with(&["--model-name", "only"]).start();
    prompts.iter().map(|prompt| ask(&daemon.unix(), "only", prompt)).collect()
}

/// Sends a completion and leaves the connection unread.
fn send(client: &Client, body: &Value) -> Connection {
    let headers = [("Content-Type", "application/json")];
    client.send("POST", "/v1/completions", &headers, body.to_string().as_bytes())
}

/// Sends a chat that answers as long as the context allows, and returns once it runs.
fn start_long(client: &Client, model: &str) -> Connection {
    let more = json!({"stream": true, "max_tokens": 3500});
    let mut connection = send(client, &completion(model, &[5, 6, 7], &more));
    let mut head = [0; 400];
    connection.read_exact(&mut head).unwrap();
    connection
}

/// What `/health` says of a model.
fn short(daemon: &Daemon, model: &str) -> Value {
    let health = daemon.health();
    let models = health["models"].as_array().unwrap().clone();
    models.into_iter().find(|found| found["model"] == model).unwrap()
}

fn wait_state(daemon: &Daemon, model: &str, state: &str) {
    wait_for(&format!("{model} is {state}"), || {
        (short(daemon, model)["state"] == state).then_some(())
    });
}

/// A model's metric.
fn metric(daemon: &Daemon, name: &str, model: &str) -> f64 {
    let page = daemon.unix().get("/metrics").text();
    let begin = format!("{name}{{model=\"{model}\"}} ");
    let line = page.lines().find_map(|line| line.strip_prefix(&begin));
    line.unwrap().parse().unwrap()
}

fn resident_kib(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn descriptors(daemon: &Daemon) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.id())).unwrap().count()
}

#[test]
fn both_answer_at_once_each_as_if_it_were_alone() {
    let stock = Stock::new();
    let prompts: Vec<Vec<u32>> = (0..4).map(|n| (3..30).map(|id| id * 7 + n).collect()).collect();
    let expected = [alone(&demo_folder(), &prompts), alone(&stock.path("long"), &prompts)];
    assert_ne!(expected[0], expected[1]);
    let daemon = stock.start(&[stock.table("long", "long", "model_aliases = 'l'")], &[]);
    assert_eq!(short(&daemon, "long")["state"], "unloaded");
    let client = daemon.unix();
    let sent: Vec<_> = prompts
        .iter()
        .flat_map(|prompt| ["demo", "long"].map(|model| completion(model, prompt, &json!({}))))
        .map(|body| send(&client, &body))
        .collect();
    for (index, mut connection) in sent.into_iter().enumerate() {
        let given = tokens(&Response::read(&mut connection));
        assert_eq!(given, expected[index % 2][index / 2], "request {index}");
    }
    // By no name the first one answers; answers repeat the name that was given.
    let by_alias = client.post("/v1/completions", &completion("l", &prompts[0], &json!({})));
    assert_eq!(
        (&by_alias.json()["model"], tokens(&by_alias)),
        (&json!("l"), expected[1][0].clone())
    );
    let mut unnamed = completion("", &prompts[0], &json!({}));
    unnamed.as_object_mut().unwrap().remove("model");
    assert_eq!(tokens(&client.post("/v1/completions", &unnamed)), expected[0][0]);
    // Structured output has each model's own vocabulary.
    for model in ["demo", "long"] {
        let body = json!({"model": model, "max_tokens": 60, "messages": [{"role": "user",
            "content": "x"}], "response_format": {"type": "json_object"}, "temperature": 0});
        let response = client.post("/v1/chat/completions", &body);
        assert_eq!(response.status, 200, "{}", response.text());
        let text = response.json()["choices"][0]["message"]["content"].to_string();
        assert!(
            text.starts_with("\"{") || text.starts_with("\"\\n") || text.starts_with("\" "),
            "{text}"
        );
    }
    assert_eq!(metric(&daemon, "phi4d_model_loads_total", "long"), 1.0);
    daemon.ends();
}

#[test]
fn models_are_listed_and_unknown_names_refused() {
    let stock = Stock::new();
    let tables = [
        stock.table("long", "long", "model_aliases = ['l:1', 'l:2']\ncontext_tokens = 64"),
        stock.table("twin", "twin", "load = 'start'"),
    ];
    let daemon = stock.start(&tables, &["--model-aliases", "gpt"]);
    wait_state(&daemon, "twin", "loaded");
    let client = daemon.unix();
    let listed = client.get("/v1/models").json();
    let ids: Vec<&str> =
        listed["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["demo", "gpt", "long", "l:1", "l:2", "twin"]);
    assert_eq!(listed["data"][2]["max_model_len"], 64);
    assert_eq!(client.get("/v1/models/l:1").json()["state"], "unloaded");
    let tags = client.get("/api/tags").json();
    assert_eq!(tags["models"].as_array().unwrap().len(), 6);
    let running = client.get("/api/ps").json();
    let running: Vec<&str> =
        running["models"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(running, ["demo", "twin"]);
    // Shown without being loaded.
    let shown = client.post("/api/show", &json!({"model": "long:latest"})).json();
    assert_eq!(shown["model_info"]["phi4.context_length"], 64);
    assert!(!shown["template"].as_str().unwrap().is_empty());
    assert_eq!(short(&daemon, "long")["state"], "unloaded");
    for path in ["/v1/completions", "/v1/chat/completions", "/tokenize", "/api/chat"] {
        let body = json!({"model": "other", "prompt": "x", "content": "x", "messages": [
            {"role": "user", "content": "x"}]});
        let refused = client.post(path, &body);
        assert_eq!(refused.status, 404, "{path}");
        let text = refused.text();
        assert!(["demo", "long", "twin"].iter().all(|name| text.contains(name)), "{text}");
    }
    let slots = client.get("/slots").json();
    let of = |model: &str| slots.as_array().unwrap().iter().filter(|s| s["model"] == model).count();
    assert_eq!((of("demo"), of("twin"), of("long")), (4, 4, 0), "{slots}");
}

#[test]
fn requests_wait_in_order_within_bounds_while_a_model_loads() {
    let stock = Stock::new();
    let daemon = stock.start(&[stock.table("long", "long", "")], &["--queue", "4"]);
    let gate = stock.gate("long");
    let (client, address) = (daemon.unix(), daemon.address());
    let body = completion("long", &[9, 8, 7], &json!({}));
    let first = send(&client, &body);
    wait_state(&daemon, "long", "loading");
    let mut waiting = vec![first, send(&client, &body)];
    let waits = |count: u64| {
        wait_for("requests wait", || (short(&daemon, "long")["waiting"] == count).then_some(()));
    };
    waits(2);
    // A caller gets no more places than it leaves free; others get the rest.
    let refused = client.post("/v1/completions", &body);
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("2")));
    let from = |last: u8, body: &Value| post_from(last, address, body);
    let mut others = vec![from(2, &body), from(3, &body)];
    waits(4);
    let refused = Response::read(&mut from(4, &body));
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("2")));
    // The wait ends with the client and with the request's time; other models answer meanwhile.
    drop(others.pop());
    waits(3);
    let timed = completion("long", &[9], &json!({"timeout": 0.2}));
    let late = Response::read(&mut from(5, &timed));
    assert_eq!(late.status, 504, "{}", late.text());
    ask(&client, "demo", &[1, 2, 3]);
    gate.open();
    waiting.append(&mut others);
    let answers: Vec<Value> =
        waiting.iter_mut().map(|connection| tokens(&Response::read(connection))).collect();
    assert!(answers.windows(2).all(|two| two[0] == two[1]), "{answers:?}");
    assert_eq!(metric(&daemon, "phi4d_model_loads_total", "long"), 1.0);
    daemon.ends();
}

/// Sends a completion as another machine would, from 127.0.0.LAST.
fn post_from(last: u8, to: SocketAddr, body: &Value) -> Connection {
    let mut stream = connect_from([127, 0, 0, last].into(), to);
    let text = body.to_string();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    Connection::Tcp(stream)
}
