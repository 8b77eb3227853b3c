//! Several models in one daemon: loaded at the first request or at the start, kept within a memory budget,
//! unloaded when idle, and never under a request. Every model answers as it does alone.

#![allow(clippy::unwrap_used, reason = "an end-to-end test")]

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::stat::Mode;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
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
        let mut pipe = OpenOptions::new().write(true).open(&self.path).unwrap();
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
fn start_long(daemon: &Daemon, model: &str) -> Connection {
    let more = json!({"stream": true, "max_tokens": 3500});
    let mut connection = send(&daemon.unix(), &completion(model, &[5, 6, 7], &more));
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
    line.unwrap_or_else(|| panic!("{begin} in {page}")).parse().unwrap()
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

#[test]
fn the_least_recently_used_model_makes_room() {
    let stock = Stock::new();
    let tables = [
        stock.table("long", "long", "kv_cache_type = 'f32'"),
        stock.table("twin", "twin", "kv_cache_type = 'f32'\nkv_cache_bytes = 67108864"),
    ];
    // Two of them fit, by their caches and weights.
    let daemon = stock.start(&tables, &["--models-memory-bytes", "94000000"]);
    let client = daemon.unix();
    ask(&client, "twin", &[1, 2, 3]);
    wait_state(&daemon, "demo", "loaded");
    ask(&client, "demo", &[1, 2, 3]);
    // What it holds shows in the daemon's memory, and is given back.
    for n in 1..5 {
        let prompt: Vec<u32> = (0..3900).map(|id| (id * n) % 997 + 1).collect();
        ask(&client, "twin", &prompt);
    }
    ask(&client, "demo", &[1, 2, 4]);
    let before = resident_kib(&daemon);
    ask(&client, "long", &[1, 2, 3]);
    let states = ["demo", "long", "twin"].map(|model| short(&daemon, model)["state"].clone());
    assert_eq!(states, ["loaded", "loaded", "unloaded"]);
    let fell = before.saturating_sub(resident_kib(&daemon));
    assert!(fell > 12 << 10, "it fell by {fell} KiB of {before}");
    let bytes: f64 = ["demo", "long", "twin"]
        .map(|model| metric(&daemon, "phi4d_model_memory_bytes", model))
        .into_iter()
        .sum();
    assert!(bytes > 20e6 && bytes <= 94e6, "{bytes}");
    // The first model goes, too, and comes back by its name or by none.
    ask(&client, "twin", &[1, 2, 3]);
    wait_state(&daemon, "demo", "unloaded");
    assert_eq!(client.get("/ready").status, 200);
    assert_eq!(client.get("/props").status, 200);
    wait_state(&daemon, "demo", "loaded");
    let counts = daemon.ends();
    assert_eq!(counts[0], 10, "counters outlive their engines");
}

#[test]
fn a_model_that_never_fits_is_an_error_of_its_requests() {
    let stock = Stock::new();
    let tables = [stock.table("huge", "twin", "kv_cache_bytes = 60000000")];
    let daemon = stock.start(&tables, &["--models-memory-bytes", "50000000"]);
    let refused = daemon.unix().post("/v1/completions", &completion("huge", &[1], &json!({})));
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("models_memory_bytes allows 50000000"), "{}", refused.text());
    ask(&daemon.unix(), "demo", &[1, 2, 3]);
}

#[test]
fn a_model_with_a_request_stays_and_the_next_in_line_gets_the_room() {
    let stock = Stock::new();
    let tables = [stock.table("long", "long", ""), stock.table("twin", "twin", "")];
    let daemon = stock.start(&tables, &["--models-memory-bytes", "22000000"]);
    let client = daemon.unix();
    let mut running = start_long(&daemon, "demo");
    let mut next = send(&client, &completion("long", &[1, 2, 3], &json!({})));
    wait_for("it waits", || (short(&daemon, "long")["waiting"] == 1).then_some(()));
    // Those that come later for the model that is to go wait behind.
    let mut behind = send(&client, &completion("demo", &[1, 2, 3], &json!({})));
    wait_for("it waits", || (short(&daemon, "demo")["waiting"] == 1).then_some(()));
    assert_eq!(short(&daemon, "demo")["state"], "loaded");
    let mut rest = Vec::new();
    running.read_to_end(&mut rest).unwrap();
    assert!(String::from_utf8_lossy(&rest).contains("data: [DONE]"), "the answer is whole");
    tokens(&Response::read(&mut next));
    tokens(&Response::read(&mut behind));
    assert_eq!(short(&daemon, "long")["state"], "unloaded");
    assert_eq!(metric(&daemon, "phi4d_model_loads_total", "demo"), 2.0);
    // One that leaves gives way at once.
    let running = start_long(&daemon, "demo");
    let mut next = send(&client, &completion("twin", &[1, 2, 3], &json!({})));
    wait_for("it waits", || (short(&daemon, "twin")["waiting"] == 1).then_some(()));
    drop(running);
    tokens(&Response::read(&mut next));
    daemon.ends();
}

#[test]
fn keep_alive_and_empty_prompts_load_and_unload_as_ollama_does() {
    let stock = Stock::new();
    let daemon = stock.start(&[stock.table("long", "long", "")], &["--idle-unload", "3600"]);
    let client = daemon.unix();
    let expires = || {
        let running = client.get("/api/ps").json();
        let models = running["models"].as_array().unwrap().clone();
        let found = models.into_iter().find(|model| model["name"] == "long");
        found.map(|model| model["expires_at"].as_str().unwrap()[..4].parse::<u32>().unwrap())
    };
    let load = |keep: Value| {
        let body = json!({"model": "long:latest", "keep_alive": keep, "stream": false});
        let answer = client.post("/api/generate", &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    assert_eq!(expires(), None);
    assert_eq!(load(json!("5m"))["done_reason"], "load");
    wait_state(&daemon, "long", "loaded");
    assert!(expires().is_some_and(|year| year < 2900));
    for forever in [json!(-1), json!("-1m"), json!("-1")] {
        load(forever);
        assert_eq!(expires(), Some(2999));
    }
    for zero in [json!(0), json!("0"), json!("0s")] {
        load(json!("1h30m"));
        assert_eq!(load(zero)["done_reason"], "unload");
        wait_state(&daemon, "long", "unloaded");
    }
    for soon in [json!(0.3), json!("300ms")] {
        load(soon);
        wait_state(&daemon, "long", "unloaded");
    }
    // A chat with it answers first.
    let chat = json!({"model": "long", "stream": false, "keep_alive": 0, "messages": [
        {"role": "user", "content": "x"}], "options": {"num_predict": 4, "temperature": 0}});
    let answer = client.post("/api/chat", &chat).json();
    assert_eq!((&answer["done"], &answer["eval_count"]), (&json!(true), &json!(4)), "{answer}");
    assert!(answer["load_duration"].as_u64().unwrap() > 0);
    wait_state(&daemon, "long", "unloaded");
    // The next request without it goes by the setting again.
    load(json!(-1));
    ask(&client, "long", &[1]);
    assert!(expires().is_some_and(|year| year < 2900));
    for wrong in [json!("soon"), json!([]), json!("5x"), json!(true)] {
        let body = json!({"model": "long", "keep_alive": wrong});
        assert_eq!(client.post("/api/generate", &body).status, 400, "{wrong}");
    }
}

#[test]
fn idle_models_are_unloaded_and_come_back() {
    let stock = Stock::new();
    let daemon = stock.start(&[stock.table("long", "long", "")], &["--idle-unload", "0.2"]);
    let client = daemon.unix();
    let first = ask(&client, "long", &[4, 5, 6]);
    for model in ["long", "demo"] {
        wait_state(&daemon, model, "unloaded");
    }
    assert_eq!(client.get("/slots").json(), json!([]));
    assert_eq!(ask(&client, "long", &[4, 5, 6]), first);
    // Of one model, too.
    let daemon = stock.start(&[], &["--idle-unload", "0.2"]);
    let first = ask(&daemon.unix(), "demo", &[4, 5, 6]);
    wait_state(&daemon, "demo", "unloaded");
    assert_eq!(ask(&daemon.unix(), "demo", &[4, 5, 6]), first);
}

#[test]
fn a_folder_that_is_broken_is_an_error_of_its_requests_until_it_is_mended() {
    let stock = Stock::new();
    let (file, away) = (stock.path("twin").join("model.onnx"), stock.path("away"));
    std::fs::rename(&file, &away).unwrap();
    let tables =
        [stock.table("twin", "twin", "load = 'start'"), stock.table("none", "nowhere", "")];
    let daemon = stock.start(&tables, &[]);
    let client = daemon.unix();
    for (model, part) in [("twin", "model.onnx"), ("none", "nowhere")] {
        let refused = client.post("/v1/completions", &completion(model, &[1], &json!({})));
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert_eq!(refused.json()["error"]["code"], "model_unavailable");
        assert!(refused.text().contains(part), "{}", refused.text());
    }
    ask(&client, "demo", &[1, 2, 3]);
    std::fs::rename(&away, &file).unwrap();
    let answer = wait_for("it is mended", || {
        let response = client.post("/v1/completions", &completion("twin", &[1, 2, 3], &json!({})));
        (response.status == 200).then(|| tokens(&response))
    });
    assert_eq!(answer, ask(&client, "demo", &[1, 2, 3]));
    assert!(metric(&daemon, "phi4d_model_load_failures_total", "twin") >= 1.0);
    // A load that fails half-way leaves the model and its waiting requests no worse.
    let unload = json!({"model": "twin", "keep_alive": 0});
    client.post("/api/generate", &unload);
    wait_state(&daemon, "twin", "unloaded");
    let gate = stock.gate("twin");
    let body = completion("twin", &[1, 2, 3], &json!({}));
    let mut sent = [send(&client, &body), send(&client, &body)];
    wait_for("both wait", || (short(&daemon, "twin")["waiting"] == 2).then_some(()));
    Gate { text: b"{".to_vec(), ..gate }.open();
    for connection in &mut sent {
        let refused = Response::read(connection);
        assert!(refused.status == 503 && refused.text().contains("tokenizer.json"));
    }
    daemon.ends();
}

#[test]
fn keys_hold_for_every_model() {
    let stock = Stock::new();
    let keys = stock.path("keys");
    let added = Command::new(env!("CARGO_BIN_EXE_phi4d"))
        .args(["key", "add", "small", "--tokens-per-minute", "40", "--api-keys-file"])
        .arg(&keys)
        .output()
        .unwrap();
    let key = String::from_utf8(added.stdout).unwrap();
    let tables = [stock.table("long", "long", "")];
    let file = keys.to_str().unwrap();
    let daemon = stock.start(&tables, &["--api-keys-file", file]);
    let body = completion("long", &[1, 2, 3], &json!({})).to_string();
    let ask = |headers: &[(&str, &str)]| {
        let headers = [headers, &[("Content-Type", "application/json")]].concat();
        daemon.tcp().request("POST", "/v1/completions", &headers, body.as_bytes()).status
    };
    assert_eq!(ask(&[]), 401);
    // Nobody without a key makes the daemon load.
    assert_eq!(short(&daemon, "long")["state"], "unloaded");
    let bearer = format!("Bearer {}", key.trim());
    let key = [("Authorization", bearer.as_str())];
    assert_eq!((ask(&key), ask(&key), ask(&key)), (200, 200, 429));
}

#[test]
fn the_daemon_stops_whatever_its_models_do() {
    let stock = Stock::new();
    let tables = [stock.table("long", "long", ""), stock.table("twin", "twin", "load = 'start'")];
    let store = stock.path("store");
    let arguments = ["--prefix-store", store.to_str().unwrap(), "--drain-timeout-s", "0"];
    let mut daemon = stock.start(&tables, &arguments);
    wait_state(&daemon, "twin", "loaded");
    let prompt: Vec<u32> = (3..300).collect();
    for model in ["demo", "twin"] {
        ask(&daemon.unix(), model, &prompt);
    }
    let gate = stock.gate("long");
    let mut waits = send(&daemon.unix(), &completion("long", &[1], &json!({})));
    wait_state(&daemon, "long", "loading");
    daemon.signal("TERM");
    let refused = Response::read(&mut waits);
    assert_eq!(refused.status, 503, "{}", refused.text());
    gate.open();
    assert!(daemon.wait_end().success());
    // Each model has kept its prompts in a folder of its own.
    let daemon = stock.start(&tables, &arguments);
    wait_state(&daemon, "twin", "loaded");
    for model in ["demo", "twin"] {
        let body = completion(model, &prompt, &json!({}));
        let usage = daemon.unix().post("/v1/completions", &body).json()["usage"].clone();
        assert!(usage["prompt_tokens_details"]["cached_tokens"].as_u64() > Some(200), "{usage}");
    }
}

/// Hundreds of requests in any order, some of which load, unload or leave: each gets its model's answer,
/// and nothing is left of it.
#[test]
fn every_request_gets_its_models_answer_whatever_comes_and_goes() {
    let seed = 20_261_201;
    println!("seed {seed}");
    let stock = Stock::new();
    let prompts: Vec<Vec<u32>> =
        (1..6).map(|n| (2..9 * n).map(|id| id * 3 + n).collect()).collect();
    let expected = [alone(&demo_folder(), &prompts), alone(&stock.path("long"), &prompts)];
    let names = [("demo", 0), ("twin", 0), ("long", 1), ("again", 1)];
    let tables = [
        stock.table("twin", "twin", ""),
        stock.table("long", "long", ""),
        stock.table("again", "long", ""),
    ];
    // A large and a small one fit.
    let daemon = stock.start(&tables, &["--models-memory-bytes", "24000000"]);
    let client = daemon.unix();
    let run = |seed: u64, count: usize| {
        let mut random = StdRng::seed_from_u64(seed);
        let mut right = 0;
        for _ in 0..count {
            let (model, kind) = names[random.random_range(0..names.len())];
            let which = random.random_range(0..prompts.len());
            let body = completion(model, &prompts[which], &json!({}));
            match random.random_range(0..12) {
                0 => drop(send(&client, &body)),
                1 => {
                    let keep =
                        [json!(0), json!("1ms"), json!(-1)][random.random_range(0..3)].clone();
                    let unload = json!({"model": model, "keep_alive": keep, "stream": false});
                    assert_eq!(client.post("/api/generate", &unload).status, 200);
                }
                _ => {
                    assert_eq!(ask(&client, model, &prompts[which]), expected[kind][which]);
                    right += 1;
                }
            }
        }
        right
    };
    // The first round is for what stays: threads' stacks, the allocator's memory.
    let mut sizes = Vec::new();
    for round in 0..3 {
        let seeds: Vec<u64> = (0..4).map(|worker| seed + 10 * round + worker).collect();
        let right: usize = std::thread::scope(|scope| {
            let run = &run;
            let workers: Vec<_> = seeds.iter().map(|seed| scope.spawn(|| run(*seed, 25))).collect();
            workers.into_iter().map(|worker| worker.join().unwrap()).sum()
        });
        assert!(right > 50);
        for (model, _) in names {
            client.post("/api/generate", &json!({"model": model, "keep_alive": 0}));
            wait_state(&daemon, model, "unloaded");
        }
        daemon.ends();
        sizes.push((resident_kib(&daemon), descriptors(&daemon)));
    }
    println!("KiB and descriptors after each round: {sizes:?}");
    let ((first, files), (last, files_now)) = (sizes[0], sizes[2]);
    assert_eq!(files, files_now);
    assert!(last < first + (8 << 10), "{sizes:?}");
}
