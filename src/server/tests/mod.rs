//! The server over real sockets, with the engine's fake runner and the demo model's tokenizer.

mod anthropic;
mod client;
mod disconnect;
mod faults;
mod http;
mod lifecycle;
mod metrics;
mod ollama;
mod parameters;
mod peers;
mod responses;
mod sleep;
mod stored;
mod stream;
mod tokens;
mod tools;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::client::{Client, Response};
use super::{App, DrainOutcome, Ended, ModelEntry, Models, ServerOptions, serve};
use phi4d_engine::{self as engine, Engine, Stats};
use phi4d_generate::{Generator, GeneratorOptions, SamplingDefaults};
use phi4d_model::ModelLimits;
use phi4d_model::fake::{FakeControl, FakeRunner};
use phi4d_os::Listener;

const MODEL: &str = "phi-4-test";
const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// What a test may choose.
struct Setup {
    slots: usize,
    queue: usize,
    context_tokens: usize,
    drain: Duration,
    /// Further names of the model.
    aliases: Vec<String>,
    server: ServerOptions,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            slots: 4,
            queue: 16,
            context_tokens: 4096,
            drain: Duration::from_secs(30),
            aliases: Vec::new(),
            server: ServerOptions::default(),
        }
    }
}

/// A server of its own for one test.
struct Daemon {
    tcp: SocketAddr,
    unix: PathBuf,
    app: App,
    control: Arc<FakeControl>,
    stop: watch::Sender<bool>,
    served: JoinHandle<Ended>,
    _engine: Engine,
    _folder: tempfile::TempDir,
}

impl Daemon {
    async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    async fn with(setup: Setup) -> Self {
        let limits = ModelLimits {
            vocab_size: 1024,
            context_tokens: setup.context_tokens,
            max_prefill_tokens: 16,
            // Rows for cached prefixes beside those that run.
            ..FakeRunner::small_limits(setup.slots + 4)
        };
        let (runner, control) = FakeRunner::new(limits);
        let options = engine::Options {
            max_running: setup.slots,
            queue: setup.queue,
            slow_client_timeout: Duration::from_secs(600),
            draft_tokens: 0,
            ..engine::Options::default()
        };
        let engine = engine::start(Box::new(runner), Arc::clone(&control) as _, options).unwrap();
        let options = GeneratorOptions {
            eos_token_ids: vec![1001, 1009],
            bos_token_id: 1001,
            defaults: SamplingDefaults {
                temperature: 0.0,
                top_p: 1.0,
                ..SamplingDefaults::default()
            },
            close_objects: true,
            request_timeout: None,
            forms: std::sync::Arc::new(phi4d_generate::ThreadForms::default()),
        };
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
        let generator = Generator::load(&demo, engine.handle(), options).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let unix = folder.path().join("api.sock");
        let tcp_listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = tcp_listener.local_addr().unwrap();
        let listeners =
            vec![Listener::Tcp(tcp_listener), Listener::Unix(UnixListener::bind(&unix).unwrap())];
        let entry = ModelEntry {
            name: MODEL.to_owned(),
            aliases: setup.aliases,
            created: 1_700_000_000,
            at_start: true,
        };
        let app = App::new(Models::one(entry, generator), setup.server);
        let (stop, stopped) = watch::channel(false);
        let served = tokio::spawn(serve(app.clone(), listeners, stopped, setup.drain));
        Self { tcp, unix, app, control, stop, served, _engine: engine, _folder: folder }
    }

    async fn tcp(&self) -> Client {
        Client::new(TcpStream::connect(self.tcp).await.unwrap())
    }

    async fn unix(&self) -> Client {
        Client::new(UnixStream::connect(&self.unix).await.unwrap())
    }

    /// One request on a connection of its own.
    async fn ask(&self, method: &str, path: &str, body: &str) -> Response {
        let mut client = self.tcp().await;
        client.send(method, path, &[], body).await;
        client.response().await
    }

    async fn post(&self, path: &str, body: &Value) -> Response {
        self.ask("POST", path, &body.to_string()).await
    }

    /// Makes each model step take this long.
    fn slow_down(&self, step: Duration) {
        let micros = u64::try_from(step.as_micros()).unwrap();
        self.control.step_us.store(micros, Ordering::Release);
    }

    fn stats(&self) -> Stats {
        self.app.generator().stats()
    }

    /// Waits until the engine's counters satisfy `condition`; the wait is bounded.
    async fn until(&self, what: &str, condition: impl Fn(&Stats) -> bool) -> Stats {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            let stats = self.stats();
            if condition(&stats) {
                return stats;
            }
            assert!(Instant::now() < limit, "{what} did not happen: {stats:?}");
            tokio::task::yield_now().await;
        }
    }

    async fn stop(self) -> DrainOutcome {
        self.stop.send(true).unwrap();
        match self.served.await.unwrap() {
            Ended::Drained(outcome) => outcome,
            Ended::Idle => panic!("it ended as idle"),
        }
    }
}

/// A chat request of one user turn with `fields` added.
fn chat(fields: Value) -> Value {
    merged(json!({"messages": [{"role": "user", "content": "What is 1+1?"}]}), fields)
}

/// A completion that runs to exactly `max_tokens`, with `fields` added.
fn completion(max_tokens: usize, fields: Value) -> Value {
    let body = json!({"prompt": [5, 6, 7], "max_tokens": max_tokens, "ignore_eos": true});
    merged(body, fields)
}

fn merged(mut body: Value, fields: Value) -> Value {
    let Value::Object(fields) = fields else {
        panic!("{fields} is no object");
    };
    body.as_object_mut().unwrap().extend(fields);
    body
}
