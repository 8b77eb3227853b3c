//! What all requests share: the generator, the fixed options, and the daemon's phase.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::auth::{QUOTA_MINUTE, Rules};
use super::error::{ApiError, Fault};
use super::idle::Demand;
use super::memory::RequestMemory;
use super::models::{ModelEntry, Models};
use super::store::Store;
use phi4d_generate::{Embedder, Pool};
use phi4d_telemetry::{Metrics, Tracer};

/// Longest name of any that is repeated in answers.
const LONGEST_ALIAS: usize = 256;

/// The embedding model beside the generating one.
#[derive(Debug, Clone)]
pub struct Embeddings {
    /// Turns texts into vectors.
    pub embedder: Embedder,
    /// The model's name in requests and answers.
    pub name: String,
    /// When the model was made, in seconds since 1970.
    pub created: u64,
}

/// Fixed choices of the server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The largest request body; a larger one is refused with 413.
    pub max_body_bytes: usize,
    /// Memory that requests may take, all together: bodies, what they are parsed into, and answers.
    pub request_memory_bytes: usize,
    /// Most connections at once, over all listeners; further ones wait in the system's backlog.
    /// TCP can't have those that are kept for the Unix socket.
    pub max_connections: usize,
    /// Of TCP's connections, the most of one remote address; 0: a quarter.
    pub connections_per_address: usize,
    /// Of these, the most of one loopback address or one user of the Unix socket; 0: three
    /// quarters.
    pub connections_per_local: usize,
    /// How long a connection's first head may take, and a later one from its first byte. Less while
    /// nearly all connections are taken.
    pub first_head_timeout: Duration,
    /// How long an open connection may take until a request's head has arrived. This includes the
    /// idle time between two requests, so it is also how long an idle connection is kept.
    pub header_timeout: Duration,
    /// How long a request's body may take to arrive; 408 afterwards.
    pub body_timeout: Duration,
    /// How long a client may leave an answer unread before its connection is closed.
    pub write_timeout: Duration,
    /// How often a silent stream sends a comment, so that proxies keep it open.
    pub stream_keep_alive: Duration,
    /// After how long without a request the server ends by itself; `None`: never.
    pub idle_exit: Option<Duration>,
    /// Most JSON text of finished responses that are kept for `/v1/responses`; 0 keeps none.
    pub response_store_bytes: usize,
    /// The embedding model, if there is one.
    pub embeddings: Option<Embeddings>,
    /// Where spans of requests go.
    pub tracer: Tracer,
}

impl Default for ServerOptions {
    /// This program's defaults for all limits.
    fn default() -> Self {
        Self {
            max_body_bytes: 8 << 20,
            request_memory_bytes: 256 << 20,
            max_connections: 512,
            connections_per_address: 0,
            connections_per_local: 0,
            first_head_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            stream_keep_alive: Duration::from_secs(15),
            idle_exit: None,
            response_store_bytes: 32 << 20,
            embeddings: None,
            tracer: Tracer::default(),
        }
    }
}

/// Where the daemon is in its life, as requests see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// New requests are taken.
    Serving,
    /// Running requests go on; new ones get 503.
    Draining,
    /// Running requests end now, with an error.
    Cutting,
}

/// The server's shared state. Cheap to clone.
#[derive(Debug, Clone)]
pub struct App {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    models: Models,
    options: ServerOptions,
    phase: watch::Sender<Phase>,
    /// Connections without a request yet.
    unasked: watch::Sender<usize>,
    demand: Arc<Demand>,
    /// How often idle connections were asked to close.
    partings: watch::Sender<u64>,
    rules: watch::Sender<Arc<Rules>>,
    metrics: Metrics,
    request_memory: RequestMemory,
    responses: Store,
}

impl App {
    /// A server of `models` that anyone may use; [`super::serve`] runs it.
    #[must_use]
    pub fn new(models: Models, options: ServerOptions) -> Self {
        let contexts = models.views().into_iter().map(|view| view.sizes().0);
        let names = models.entries().iter().map(|entry| entry.name.as_str());
        let named: Vec<(&str, usize)> = names.zip(contexts).collect();
        let metrics = Metrics::new(&named, options.tracer.clone());
        Self {
            inner: Arc::new(Inner {
                models,
                metrics,
                request_memory: RequestMemory::new(options.request_memory_bytes),
                responses: Store::new(options.response_store_bytes),
                options,
                phase: watch::Sender::new(Phase::Serving),
                unasked: watch::Sender::default(),
                demand: Arc::default(),
                partings: watch::Sender::default(),
                rules: watch::Sender::default(),
            }),
        }
    }

    /// Puts `rules` in force. What keys have used so far still counts.
    pub fn enforce(&self, rules: Rules) {
        self.inner.rules.send_modify(|now| *now = Arc::new(rules.counting_on_from(now)));
    }

    /// The rules in force.
    pub(super) fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.inner.rules.borrow())
    }

    pub(super) fn request_memory(&self) -> &RequestMemory {
        &self.inner.request_memory
    }

    /// The embedding model, if there is one.
    pub(super) fn embeddings(&self) -> Option<&Embeddings> {
        self.options().embeddings.as_ref()
    }

    /// The embedding model, if `name` is its own. Ollama's clients write its only tag behind it.
    pub(super) fn embedding_model(&self, name: &str) -> Option<&Embeddings> {
        let plain = name.strip_suffix(":latest").unwrap_or(name);
        self.embeddings().filter(|embeddings| [name, plain].contains(&embeddings.name.as_str()))
    }

    /// Whether requests may call the embedding model so.
    pub(super) fn embeds_as(&self, name: &str) -> bool {
        let any = || self.first().aliases.iter().any(|alias| alias == "*");
        self.embedding_model(name).is_some() || any() && name.len() <= LONGEST_ALIAS
    }

    /// The model that a request means; no name means the first one.
    ///
    /// # Errors
    /// If there is none of that name.
    pub(super) fn model_of(&self, asked: Option<&str>) -> Result<usize, ApiError> {
        let Some(name) = asked else { return Ok(0) };
        let models = &self.inner.models;
        models.find(name).ok_or_else(|| {
            let names: Vec<&str> = models.entries().iter().map(|e| e.name.as_str()).collect();
            Fault::ModelNotFound { asked: name, served: &names }.into()
        })
    }

    /// What an answer calls the model of a request for `asked`: as the request did.
    pub(super) fn name_for(&self, asked: Option<String>) -> String {
        asked.unwrap_or_else(|| self.first().name.clone())
    }

    /// The first model, which requests mean that name none.
    pub(super) fn first(&self) -> &ModelEntry {
        &self.models().entries()[0]
    }

    /// The models.
    pub(super) fn models(&self) -> &Models {
        &self.inner.models
    }

    /// Threads for work that grows with requests.
    pub(super) fn pool(&self) -> &Arc<Pool> {
        self.inner.models.pool()
    }

    /// The finished responses that are kept.
    pub(super) fn responses(&self) -> &Store {
        &self.inner.responses
    }

    /// The first model, which tests have loaded.
    #[cfg(all(unix, any(test, feature = "testing")))]
    #[expect(clippy::expect_used, reason = "tests load it before the server")]
    pub(super) fn generator(&self) -> phi4d_generate::Generator {
        let resident = self.inner.models.view(0).resident.expect("tests load the first model");
        resident.generator().clone()
    }

    pub(super) fn options(&self) -> &ServerOptions {
        &self.inner.options
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    pub(super) fn phase(&self) -> Phase {
        *self.inner.phase.borrow()
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.inner.phase.send_replace(phase);
    }

    /// Takes no more requests, and ends those that run with an error: nothing can answer them any
    /// more.
    pub fn cut(&self) {
        self.enter(Phase::Cutting);
    }

    /// The requests that keep the daemon awake.
    pub(super) fn demand(&self) -> &Arc<Demand> {
        &self.inner.demand
    }

    /// After how long without a request the server ends now. A daemon that starts again has forgotten what
    /// its keys used in the minute before, so with quotas it is at least that minute.
    pub(super) fn idle_exit(&self) -> Option<Duration> {
        let least = if self.rules().have_quotas() { QUOTA_MINUTE } else { Duration::ZERO };
        self.options().idle_exit.map(|limit| limit.max(least))
    }

    /// Asks the connections that are idle to close.
    pub(super) fn part_with_idle(&self) {
        self.inner.partings.send_modify(|count| *count += 1);
    }

    /// Changes each time when idle connections are to close.
    pub(super) fn partings(&self) -> watch::Receiver<u64> {
        self.inner.partings.subscribe()
    }

    /// Counts a connection without a request, until the returned guard is dropped.
    pub(super) fn unasked(&self) -> Unasked {
        self.inner.unasked.send_modify(|count| *count += 1);
        Unasked(self.clone())
    }

    /// Waits until `wanted` connections are without a request.
    pub(super) async fn until_unasked(&self, wanted: usize) {
        let mut watched = self.inner.unasked.subscribe();
        // The sender lives as long as `self`, so waiting can't fail.
        let _ = watched.wait_for(|now| *now == wanted).await;
    }

    /// Waits until the daemon has reached `phase` or a later one.
    pub(super) async fn reached(&self, phase: Phase) {
        let mut watched = self.inner.phase.subscribe();
        // The sender lives as long as `self`, so waiting can't fail.
        let _ = watched.wait_for(|now| *now >= phase).await;
    }
}

/// A connection without a request yet.
#[derive(Debug)]
pub(super) struct Unasked(App);

impl Drop for Unasked {
    fn drop(&mut self) {
        self.0.inner.unasked.send_modify(|count| *count -= 1);
    }
}
