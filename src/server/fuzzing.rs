//! What must hold of requests, whatever their bytes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::conn::Heads;
use super::error::ApiError;
use super::memory::{self, Measured, measure};
use super::wire::Parsed;
use super::wire::anthropic::{counted, messages};
use super::wire::chat::ChatRequest;
use super::wire::completions::CompletionRequest;
use super::wire::embeddings::EmbedRequest;
use super::wire::error::Dialect;
use super::wire::gbnf;
use super::wire::llama::LlamaRequest;
use super::wire::ollama;
use super::wire::responses::ResponsesRequest;
use super::wire::tokens::{DetokenizeRequest, TokenizeRequest};
use super::{App, ModelEntry, Models, ServerOptions, body, serve};
use phi4d_engine::{self as engine, Engine};
use phi4d_generate::{Constraint, Generator, GeneratorOptions, Prompt, SamplingDefaults};
use phi4d_model::ModelLimits;
use phi4d_model::fake::FakeRunner;
use phi4d_os::Listener;

/// How many values JSON has, the most memory in bytes that they take once they are parsed, and the most that
/// texts among them take if these are parsed, too.
#[must_use]
pub fn measured(json: &[u8]) -> [usize; 3] {
    let Measured { values, bytes, spelt } = measure(json);
    [values, bytes, spelt]
}

/// The longest text in bytes that counts as JSON in the last of these.
pub const MOST_SPELT: usize = memory::MOST_SPELT;

/// A body of every surface: it is read, or refused with a 400 that names a field of the client's.
pub fn bodies(data: &[u8]) {
    let Ok(body) = body::json_of(data).map_err(|error| check_fault(&error)) else { return };
    let faults = [
        ChatRequest::parse(&body).err(),
        CompletionRequest::parse(&body).err(),
        ResponsesRequest::parse(&body).err(),
        messages(&body).err(),
        counted(&body).err(),
        LlamaRequest::completion(&body).err(),
        LlamaRequest::infill(&body).err(),
        ollama::OllamaRequest::chat(&body).err(),
        ollama::OllamaRequest::generate(&body).err(),
        ollama::ShowRequest::parse(&body).err(),
        DetokenizeRequest::parse(&body).err(),
        EmbedRequest::openai(&body).err(),
        EmbedRequest::ollama(&body).err(),
        EmbedRequest::ollama_one(&body).err(),
        TokenizeRequest::parse(body).err(),
    ];
    faults.iter().flatten().for_each(check_fault);
}

/// What a body asks for, by each surface that reads it: its prompt, and what the answer is held to.
pub fn asked(data: &[u8]) -> Vec<(Prompt, Option<Constraint>)> {
    let Ok(body) = body::json_of(data) else { return Vec::new() };
    let ollama = [ollama::OllamaRequest::chat(&body), ollama::OllamaRequest::generate(&body)];
    let works = [
        ChatRequest::parse(&body).map(|request| request.parsed).ok(),
        ResponsesRequest::parse(&body).map(|request| request.parsed).ok(),
        messages(&body).ok(),
        CompletionRequest::parse(&body).map(|request| request.parsed).ok(),
        LlamaRequest::completion(&body).map(|request| request.parsed).ok(),
        LlamaRequest::infill(&body).map(|request| request.parsed).ok(),
    ];
    let ollama = ollama.into_iter().map(|request| request.ok()?.parsed);
    let asked = |mut work: Parsed| {
        let constraint = work.request.parameters.constraint.take();
        (work.into_prompt(), constraint)
    };
    works.into_iter().chain(ollama).flatten().map(asked).collect()
}

/// A grammar in llama.cpp's notation as one in Lark; `None` if it is another, or refused.
pub fn lark(data: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(data).ok()?;
    if !gbnf::is_gbnf(text) {
        return None;
    }
    let lark = gbnf::to_lark(text).ok()?;
    // At most ten bytes for a character, and some for each rule.
    assert!(lark.len() <= 16 * text.len() + 16, "{lark}");
    Some(lark)
}

fn check_fault(error: &ApiError) {
    assert_eq!(error.status, StatusCode::BAD_REQUEST, "{error:?}");
    assert!(error.message.len() < 1000, "{error:?}");
    if let Some(param) = &error.param {
        assert!(error.message.starts_with(param.as_str()), "{error:?}");
    }
    for dialect in [Dialect::OpenAi, Dialect::Ollama, Dialect::Anthropic] {
        check_fault_body(dialect, &dialect.fault(error));
    }
}

/// Whether a failed request's body is what clients of the surface read.
fn check_fault_body(dialect: Dialect, body: &str) {
    let fault: Value = serde_json::from_str(body).unwrap_or_default();
    let message = match dialect {
        Dialect::Ollama => &fault["error"],
        Dialect::OpenAi | Dialect::Anthropic => &fault["error"]["message"],
    };
    assert!(message.as_str().is_some_and(|text| !text.is_empty()), "{body}");
}

/// A server over the fake runner and the demo model's tokenizer.
struct Daemon {
    runtime: Runtime,
    socket: PathBuf,
    app: App,
    _stop: watch::Sender<bool>,
    _engine: Engine,
}

struct Answer {
    /// What was asked for, without its query.
    path: String,
    status: StatusCode,
    /// The content type.
    kind: String,
    body: String,
}

static DAEMON: LazyLock<Option<Mutex<Daemon>>> = LazyLock::new(|| Daemon::start().map(Mutex::new));

impl Daemon {
    fn start() -> Option<Self> {
        let limits = ModelLimits {
            vocab_size: 1024,
            context_tokens: 256,
            max_prefill_tokens: 64,
            ..FakeRunner::small_limits(8)
        };
        let (runner, control) = FakeRunner::new(limits);
        let options = engine::Options { max_running: 4, queue: 16, ..engine::Options::default() };
        let engine = engine::start(Box::new(runner), Arc::clone(&control) as _, options).ok()?;
        let options = GeneratorOptions {
            eos_token_ids: vec![1001, 1009],
            bos_token_id: 1001,
            defaults: SamplingDefaults {
                temperature: 0.0,
                top_p: 1.0,
                ..SamplingDefaults::default()
            },
            close_objects: true,
            request_timeout: Some(Duration::from_secs(5)),
            forms: std::sync::Arc::new(phi4d_generate::ThreadForms::default()),
        };
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
        let generator = Generator::load(&demo, engine.handle(), options).ok()?;
        let entry = ModelEntry {
            name: "phi-4-test".to_owned(),
            aliases: Vec::new(),
            created: 1_700_000_000,
            at_start: true,
        };
        let app = App::new(Models::one(entry, generator), ServerOptions::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
        let socket =
            std::env::temp_dir().join(format!("phi4d-fuzzing-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&socket);
        let (stop, stopped) = watch::channel(false);
        runtime.block_on(async {
            let listener = UnixListener::bind(&socket).ok()?;
            let listeners = vec![Listener::Unix(listener)];
            tokio::spawn(serve(app.clone(), listeners, stopped, Duration::from_secs(1)));
            Some(())
        })?;
        Some(Self { runtime, socket, app, _stop: stop, _engine: engine })
    }

    /// Bytes as they are, and then the end of what the client has to say.
    async fn send_raw(&self, bytes: &[u8]) -> std::io::Result<()> {
        let mut stream = UnixStream::connect(&self.socket).await?;
        // The server may have ended the connection before it has read all.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{answer:?}");
        check_refusal(bytes, &answer);
        Ok(())
    }

    async fn ask(&self, head: &str, body: &str) -> Option<Answer> {
        let mut lines = head.lines();
        let (method, path) = lines.next()?.split_once(' ')?;
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
            // The client's own framing.
            if !["host", "content-length", "transfer-encoding", "connection", "upgrade", "expect"]
                .contains(&name.to_ascii_lowercase().as_str())
            {
                request = request.header(name, value);
            }
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).ok()?;
        if request.method() == hyper::Method::CONNECT {
            return None;
        }
        // A target may be a whole URL; its path is what the server goes by.
        let path = request.uri().path().to_owned();
        let stream = hyper_util::rt::TokioIo::new(UnixStream::connect(&self.socket).await.ok()?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.ok()?;
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request).await.ok()?;
        let (head, body) = answer.into_parts();
        let kind = head.headers.get("content-type").map(|kind| kind.as_bytes().to_vec());
        let kind = String::from_utf8(kind.unwrap_or_default()).ok()?;
        let whole = body.collect().await;
        assert!(whole.is_ok(), "an answer broke off: {whole:?}");
        let body = String::from_utf8(whole.ok()?.to_bytes().to_vec()).ok()?;
        connection.abort();
        Some(Answer { path, status: head.status, kind, body })
    }

    /// Waits until what was asked for has ended in the engine.
    fn settle(&self) {
        loop {
            let stats = self.app.generator().stats();
            if stats.waiting == 0 && stats.running == 0 {
                let ended = stats.finished + stats.cancelled + stats.failed;
                assert_eq!(stats.accepted, ended, "{stats:?}");
                return;
            }
            std::thread::yield_now();
        }
    }
}

/// A first head that can be read in two ways gets no answer but one refusal.
fn check_refusal(bytes: &[u8], answer: &[u8]) {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.map_or(bytes.len(), |end| end + 4);
    let is_refused = Heads::new().scan(bytes).is_err_and(|at| at < end);
    if is_refused && !answer.is_empty() {
        let answer = String::from_utf8_lossy(answer);
        assert!(answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.0 4"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{answer}");
    }
}

/// A request in `METHOD PATH, HEADER LINES ␞ BODY`, or, behind `raw`, a connection's bytes: there is
/// one whole answer of a kind that clients know, never a 500, and the engine counts every end.
pub fn http(data: &[u8]) {
    let Some(daemon) = DAEMON.as_ref() else { unreachable!("the test's daemon starts") };
    let daemon = daemon.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(bytes) = data.strip_prefix(b"raw") {
        assert!(daemon.runtime.block_on(daemon.send_raw(bytes)).is_ok());
        return daemon.settle();
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (head, body) = text.split_once('\u{1e}').unwrap_or((text, ""));
    let answer = daemon.runtime.block_on(daemon.ask(head, body));
    daemon.settle();
    let Some(Answer { path, status, kind, body: answer }) = answer else { return };
    assert_ne!(status, StatusCode::INTERNAL_SERVER_ERROR, "{answer}");
    if head.starts_with("HEAD ") {
        assert_eq!(answer, "");
    } else if status.is_client_error() || status.is_server_error() {
        if kind.starts_with("application/json") {
            check_fault_body(Dialect::of(&path), &answer);
        }
    } else if kind.starts_with("text/event-stream") {
        assert!(answer.ends_with("\n\n"), "{answer}");
        for data in answer.lines().filter_map(|line| line.strip_prefix("data: ")) {
            let whole = data == "[DONE]" || serde_json::from_str::<Value>(data).is_ok();
            assert!(whole, "{data}");
        }
    } else if kind.starts_with("application/x-ndjson") {
        assert!(answer.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{answer}");
    } else if kind.starts_with("application/json") {
        assert!(serde_json::from_str::<Value>(&answer).is_ok(), "{answer}");
    }
}
