//! The metrics registry: what is counted where it happens, and the page that shows it.
//!
//! Names begin with `phi4d_`. What gateways and dashboards made for vLLM look for is shown under
//! vLLM's names, too, with its labels and buckets.

mod answers;
mod buckets;
mod page;
mod timer;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::trace::Tracer;
use answers::Answers;
pub use answers::Ending;
pub use page::{Sample, Value};
pub use timer::{Operation, RequestTimer};

/// The registry and what feeds it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    /// Labels of vLLM's names.
    aliased: Vec<(&'static str, String)>,
    http: Family<HttpLabels, Counter<u64, AtomicU64>>,
    http_seconds: Family<RouteLabel, Histogram, fn() -> Histogram>,
    connections: Family<TransportLabel, Gauge<i64, AtomicI64>>,
    shed: Family<ReasonLabel, Counter<u64, AtomicU64>>,
    answers: Arc<Answers>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HttpLabels {
    route: &'static str,
    method: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabel {
    route: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransportLabel {
    transport: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

impl Metrics {
    /// An empty registry of a server of `model`, whose contexts hold `context_tokens`. Answers are
    /// also recorded by `tracer`.
    #[must_use]
    pub fn new(model: &str, context_tokens: usize, tracer: Tracer) -> Self {
        let mut inner = Inner {
            registry: Registry::default(),
            aliased: vec![("model_name", page::escaped(model)), ("engine", "0".to_owned())],
            http: Family::default(),
            http_seconds: Family::new_with_constructor(|| Histogram::new(buckets::HTTP)),
            connections: Family::default(),
            shed: Family::default(),
            answers: Arc::new(Answers::new(model, context_tokens, tracer)),
        };
        inner.register_http();
        inner.register_answers();
        Self(Arc::new(inner))
    }

    /// Times the answer to a request that arrived at `arrived` with a prompt of `prompt_tokens`.
    #[must_use]
    pub fn request(&self, arrived: Instant, prompt_tokens: usize) -> RequestTimer {
        RequestTimer::new(Arc::clone(&self.0.answers), arrived, prompt_tokens)
    }

    /// Counts an answered request. `route` and `method` are from a fixed set.
    pub fn http(&self, route: &'static str, method: &'static str, status: u16, took: Duration) {
        self.0.http.get_or_create(&HttpLabels { route, method, status }).inc();
        self.0.http_seconds.get_or_create(&RouteLabel { route }).observe(took.as_secs_f64());
    }

    /// Where spans go.
    #[must_use]
    pub fn tracer(&self) -> &Tracer {
        &self.0.answers.tracer
    }

    /// Counts a connection, open as long as the guard lives.
    #[must_use]
    pub fn connection(&self, transport: &'static str) -> OpenConnection {
        let open = self.0.connections.get_or_create_owned(&TransportLabel { transport });
        open.inc();
        OpenConnection(open)
    }

    /// Counts a connection that was closed although its client wanted it. `reason` is from a fixed set.
    pub fn shed(&self, reason: &'static str) {
        self.0.shed.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// The page in Prometheus's text format, with `samples` taken now.
    #[must_use]
    pub fn page(&self, samples: Vec<Sample>) -> String {
        page::render(&self.0.registry, samples, &self.0.aliased)
    }
}

/// An open connection, counted until it is dropped.
#[derive(Debug)]
pub struct OpenConnection(Gauge<i64, AtomicI64>);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Inner {
    fn register_http(&mut self) {
        let registry = &mut self.registry;
        registry.register("phi4d_http_requests", "Requests answered", self.http.clone());
        registry.register(
            "phi4d_http_request_duration_seconds",
            "Time from a request's head to the end of its answer",
            self.http_seconds.clone(),
        );
        registry.register("phi4d_connections", "Open connections", self.connections.clone());
        registry.register(
            "phi4d_connections_shed",
            "Connections closed for what their address holds, for slow heads, or for others' sake",
            self.shed.clone(),
        );
    }

    fn register_answers(&mut self) {
        let histograms = self.answers.named();
        let requests = "Answers by how they ended";
        for (name, help, histogram) in histograms {
            self.registry.register(format!("phi4d_{name}"), help, histogram.clone());
        }
        self.registry.register("phi4d_request_success", requests, self.answers.endings.clone());
        let labels =
            self.aliased.iter().map(|(name, value)| ((*name).into(), value.clone().into()));
        let aliased = self.registry.sub_registry_with_labels(labels);
        for (name, help, histogram) in histograms {
            aliased.register(format!("vllm:{name}"), help, histogram.clone());
        }
        aliased.register("vllm:request_success", requests, self.answers.endings.clone());
    }
}
