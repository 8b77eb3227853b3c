//! The record of one request: its id, caller, tokens and memory. When the request ends, the record
//! becomes one line of the access log, a sample of the metrics and, if it is traced, a span.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{HeaderMap, Method, Request, StatusCode};
use log::kv::Value;

use super::app::App;
use super::auth::Admission;
use super::caller::Caller;
use super::idle::Wanted;
use super::memory::{NoRoom, Share, kept_bytes};
use phi4d_telemetry::{
    Attribute, Metrics, OpenSpan, Operation, Span, SpanKind, TraceContext, time_of,
};

/// The header that carries a request's id, both ways.
pub(super) const REQUEST_ID: &str = "x-request-id";

/// The header that says which trace a request is a part of.
pub(super) const TRACEPARENT: &str = "traceparent";

/// Routes that complete a text; all others answer a conversation.
pub(super) const COMPLETION_ROUTES: [&str; 4] =
    ["/v1/completions", "/api/generate", "/completion", "/infill"];

/// The web page's files; one visit loads some 25.
pub(super) const PAGE_FILES: &str = "/page/{id}";

/// Longest id that is accepted from a client.
const MAX_ID_BYTES: usize = 128;

/// Most bytes of a path that are logged.
const MAX_LOGGED_PATH_BYTES: usize = 200;

/// Status in the log if the client disconnected before an answer; nginx's code for it.
const CLIENT_GONE: u16 = 499;

/// An admitted request on its way to a handler.
pub(super) struct Call<'a> {
    pub(super) app: &'a App,
    pub(super) request: Request<Incoming>,
    pub(super) exchange: &'a Arc<Exchange>,
    /// The name in the path, if its route has one, as it was sent.
    pub(super) name: &'a str,
}

/// One request and its answer. Logs itself when the last holder drops it: the handler's future
/// or, once there is an answer, the answer's body.
#[derive(Debug)]
pub(super) struct Exchange {
    id: String,
    /// The caller by its address or user, without regard to a key.
    origin: Caller,
    /// Set once it is admitted. Holds its share of the key's limits until the record is dropped.
    admission: OnceLock<Admission>,
    method: Method,
    path: String,
    started: Instant,
    status: AtomicU16,
    prompt_tokens: AtomicUsize,
    completion_tokens: AtomicUsize,
    end: OnceLock<&'static str>,
    route: OnceLock<&'static str>,
    metrics: Metrics,
    /// Its span, if it is traced.
    span: Option<OpenSpan>,
    /// The model that answers, if one does.
    model: OnceLock<String>,
    /// Bytes of its body.
    weight: AtomicUsize,
    /// Its share of the memory budget.
    share: Mutex<Option<Share>>,
    /// Keeps the daemon awake, if requests of its kind do.
    wanted: OnceLock<Wanted>,
}

impl Exchange {
    pub(super) fn new(
        metrics: Metrics,
        origin: Caller,
        method: Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Self {
        let path = &path[..path.floor_char_boundary(MAX_LOGGED_PATH_BYTES)];
        let traceparent = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
        Self {
            span: metrics.tracer().begin(traceparent),
            model: OnceLock::new(),
            weight: AtomicUsize::new(0),
            share: Mutex::new(None),
            wanted: OnceLock::new(),
            id: request_id(headers),
            origin,
            admission: OnceLock::new(),
            method,
            path: path.to_owned(),
            started: Instant::now(),
            status: AtomicU16::new(CLIENT_GONE),
            prompt_tokens: AtomicUsize::new(0),
            completion_tokens: AtomicUsize::new(0),
            end: OnceLock::new(),
            route: OnceLock::new(),
            metrics,
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Notes that access control has admitted it.
    pub(super) fn admitted(&self, admission: Admission) {
        let _ = self.admission.set(admission);
    }

    /// Its share of its key's limits; without limits if it was not admitted.
    pub(super) fn admission(&self) -> &Admission {
        self.admission.get_or_init(|| Admission::anonymous(self.origin.clone()))
    }

    /// Holds `wanted` until the request ends.
    pub(super) fn keeps_awake(&self, wanted: Wanted) {
        let _ = self.wanted.set(wanted);
    }

    /// The caller: the key's holder if it was admitted by a key, else its address or user.
    pub(super) fn caller(&self) -> &Caller {
        self.admission.get().map_or(&self.origin, Admission::caller)
    }

    /// Notes the model that answers; only such requests are traced.
    pub(super) fn asks(&self, model: &str) {
        let _ = self.model.set(model.to_owned());
    }

    /// The parent of the spans of its answers, and what these do; `None` if it is not traced.
    pub(super) fn trace(&self) -> Option<(TraceContext, Operation)> {
        let is_completion = self.route.get().is_some_and(|route| COMPLETION_ROUTES.contains(route));
        let operation = if is_completion { Operation::TextCompletion } else { Operation::Chat };
        Some((self.span?.context, operation))
    }

    /// The id as a header; ids are made of characters that fit.
    pub(super) fn id_header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.id).unwrap_or_else(|_| HeaderValue::from_static("invalid"))
    }

    /// Notes its route, which metrics use as a label.
    pub(super) fn routed(&self, route: &'static str) {
        let _ = self.route.set(route);
    }

    /// Its body has so many bytes.
    pub(super) fn weighs(&self, bytes: usize) {
        self.weight.store(bytes, Ordering::Relaxed);
    }

    /// Bytes of its body.
    pub(super) fn weight(&self) -> usize {
        self.weight.load(Ordering::Relaxed)
    }

    /// Holds `share` until the request ends.
    pub(super) fn holds(&self, share: Share) {
        *self.lock_share() = Some(share);
    }

    /// Once it is prepared: shrinks its memory to what it keeps of its body, and adds `more` bytes.
    ///
    /// # Errors
    /// If there is no room for them.
    pub(super) fn keeps(&self, more: usize) -> Result<(), NoRoom> {
        let mut share = self.lock_share();
        let Some(share) = share.as_mut() else { return Ok(()) };
        let kept = share.bytes().min(kept_bytes(self.weight()));
        share.shrink_to(kept);
        share.grow_to(kept.saturating_add(more))
    }

    /// Takes `more` bytes.
    ///
    /// # Errors
    /// If there is no room for them.
    pub(super) fn takes(&self, more: usize) -> Result<(), NoRoom> {
        let mut share = self.lock_share();
        let Some(share) = share.as_mut() else { return Ok(()) };
        let bytes = share.bytes().saturating_add(more);
        share.grow_to(bytes)
    }

    /// Ignores poison: a share is consistent at any moment.
    fn lock_share(&self) -> MutexGuard<'_, Option<Share>> {
        self.share.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn answered(&self, status: StatusCode) {
        self.status.store(status.as_u16(), Ordering::Relaxed);
    }

    pub(super) fn read_prompt(&self, tokens: usize) {
        self.prompt_tokens.store(tokens, Ordering::Relaxed);
    }

    /// Tokens of its prompts.
    pub(super) fn prompt_tokens(&self) -> usize {
        self.prompt_tokens.load(Ordering::Relaxed)
    }

    pub(super) fn made_tokens(&self, tokens: usize) {
        self.completion_tokens.store(tokens, Ordering::Relaxed);
    }

    /// Notes how the answer ended: `complete`, or an error code. The first call counts.
    pub(super) fn ended(&self, end: &'static str) {
        let _ = self.end.set(end);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let status = self.status.load(Ordering::Relaxed);
        let end = self.end.get().copied().unwrap_or("aborted");
        let took = self.started.elapsed();
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let route = self.route.get().copied().unwrap_or("other");
        self.metrics.http(route, method_name(&self.method), status, took);
        let prompt_tokens = self.prompt_tokens.load(Ordering::Relaxed);
        let completion_tokens = self.completion_tokens.load(Ordering::Relaxed);
        if let Some(admission) = self.admission.get() {
            admission.charge(prompt_tokens + completion_tokens);
        }
        let line = Line { exchange: self, status, end, duration_ms };
        let level = level_of(route, status);
        if log::max_level() >= level {
            line.write(level, prompt_tokens, completion_tokens);
        }
        // Only what the model answers: health checks and scrapes would bury the rest.
        if let Some(span) = self.span
            && let Some(model) = self.model.get()
        {
            self.metrics.tracer().end(line.span(span, route, model));
        }
    }
}

/// What the log and the trace get at the end.
struct Line<'a> {
    exchange: &'a Exchange,
    status: u16,
    end: &'static str,
    duration_ms: u64,
}

impl Line<'_> {
    /// Writes the line of the access log; fields without a value are left out.
    fn write(&self, level: log::Level, prompt_tokens: usize, completion_tokens: usize) {
        let Self { exchange, status, end, duration_ms } = self;
        let caller = exchange.caller();
        let trace = exchange.span.map(|span| span.context.trace_hex());
        let mut fields: Vec<(&str, Value<'_>)> = vec![
            ("request_id", Value::from(exchange.id.as_str())),
            ("caller", Value::from_display(caller)),
            ("from", Value::from_display(&exchange.origin)),
            ("status", Value::from(*status)),
            ("end", Value::from(*end)),
            ("duration_ms", Value::from(*duration_ms)),
        ];
        if let Some(model) = exchange.model.get() {
            fields.push(("model", Value::from(model.as_str())));
            fields.push(("prompt_tokens", Value::from(prompt_tokens)));
            fields.push(("completion_tokens", Value::from(completion_tokens)));
        }
        if let Some(trace) = &trace {
            fields.push(("trace_id", Value::from(trace.as_str())));
        }
        let (method, path) = (&exchange.method, &exchange.path);
        log::logger().log(
            &log::Record::builder()
                .level(level)
                .target("phi4d::access")
                .key_values(&fields)
                .args(format_args!("{method} {path} {status} {duration_ms} ms"))
                .build(),
        );
    }

    fn span(&self, span: OpenSpan, route: &'static str, model: &str) -> Span {
        let exchange = self.exchange;
        let text = |text: &str| Attribute::Text(text.to_owned());
        let method = method_name(&exchange.method);
        let mut attributes = vec![
            ("http.request.method", text(method)),
            ("http.route", text(route)),
            ("url.path", text(&exchange.path)),
            ("http.response.status_code", Attribute::Whole(self.status.into())),
            ("gen_ai.request.model", text(model)),
            ("phi4d.request_id", text(&exchange.id)),
            ("phi4d.caller", Attribute::Text(exchange.caller().to_string())),
        ];
        // OpenTelemetry: a span of a server fails by the server's errors, not by a client's.
        let failed = (self.status >= 499 || self.end != "complete").then_some(self.end);
        if let Some(failed) = failed {
            attributes.push(("error.type", text(failed)));
        }
        Span {
            context: span.context,
            parent: span.parent,
            kind: SpanKind::Server,
            name: format!("{method} {route}"),
            began: time_of(exchange.started),
            ended: time_of(Instant::now()),
            attributes,
            error: failed,
        }
    }
}

/// The page's files log at debug, and at warn on errors; all else at info.
fn level_of(route: &str, status: u16) -> log::Level {
    match (route == PAGE_FILES, status) {
        (false, _) => log::Level::Info,
        (true, ..400 | CLIENT_GONE) => log::Level::Debug,
        (true, _) => log::Level::Warn,
    }
}

/// The method as a label: one of a fixed set, so that clients can't create time series.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::OPTIONS => "OPTIONS",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// The client's id if it is safe in headers and logs, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| is_sane(id))
        .map_or_else(|| format!("req_{}", random_hex()), ToOwned::to_owned)
}

fn is_sane(id: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(&byte))
}

/// 128 bits as hexadecimal digits, different for each call. Names, not secrets: the standard
/// library's hasher keys are random enough for that.
pub(super) fn random_hex() -> String {
    let draw = |salt: u8| RandomState::new().hash_one(salt);
    format!("{:016x}{:016x}", draw(0), draw(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(given: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_str(given).unwrap());
        request_id(&headers)
    }

    #[test]
    fn sane_ids_are_kept_and_others_replaced() {
        for kept in ["a", "4bf92f35-77b3", "trace:1/2", &"x".repeat(128)] {
            assert_eq!(id_of(kept), kept);
        }
        for replaced in ["", "a b", "a\tb", "a\"b", &"x".repeat(129)] {
            assert!(id_of(replaced).starts_with("req_"), "{replaced:?}");
        }
        assert!(request_id(&HeaderMap::new()).starts_with("req_"));
    }

    #[test]
    fn random_names_differ() {
        let names: std::collections::HashSet<_> = (0..1000).map(|_| random_hex()).collect();
        assert_eq!(names.len(), 1000);
        assert!(names.iter().all(|name| name.len() == 32));
    }
}
