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
pub struct Metrics {
    inner: Arc<Inner>,
    /// The model whose answers are timed.
    model: usize,
}

/// A model as labels have it.
#[derive(Debug)]
struct Model {
    /// Labels of phi4d's names: none where there is one model.
    own: Vec<(&'static str, String)>,
    /// Labels of vLLM's names.
    aliased: Vec<(&'static str, String)>,
    answers: Arc<Answers>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    models: Vec<Model>,
    tracer: Tracer,
    http: Family<HttpLabels, Counter<u64, AtomicU64>>,
    http_seconds: Family<RouteLabel, Histogram, fn() -> Histogram>,
    connections: Family<TransportLabel, Gauge<i64, AtomicI64>>,
    shed: Family<ReasonLabel, Counter<u64, AtomicU64>>,
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
    /// An empty registry of a server of `models`, each a name and the tokens of a context. Where there is more
    /// than one, what is one model's has a label `model`. Times are the first one's until [`Self::of`] says
    /// otherwise. Answers are also recorded by `tracer`.
    #[must_use]
    pub fn new(models: &[(&str, usize)], tracer: Tracer) -> Self {
        let is_one = models.len() == 1;
        let model = |&(name, context): &(&str, usize)| Model {
            own: if is_one { Vec::new() } else { vec![("model", page::escaped(name))] },
            aliased: vec![("model_name", page::escaped(name)), ("engine", "0".to_owned())],
            answers: Arc::new(Answers::new(name, context, tracer.clone())),
        };
        let mut inner = Inner {
            registry: Registry::default(),
            models: models.iter().map(model).collect(),
            tracer,
            http: Family::default(),
            http_seconds: Family::new_with_constructor(|| Histogram::new(buckets::HTTP)),
            connections: Family::default(),
            shed: Family::default(),
        };
        inner.register_http();
        for model in 0..models.len() {
            inner.register_answers(model);
        }
        Self { inner: Arc::new(inner), model: 0 }
    }

    /// The same, for the answers of the model `index`.
    #[must_use]
    pub fn of(&self, index: usize) -> Self {
        Self { inner: Arc::clone(&self.inner), model: index }
    }

    /// Times the answer to a request that arrived at `arrived` with a prompt of `prompt_tokens`.
    #[must_use]
    pub fn request(&self, arrived: Instant, prompt_tokens: usize) -> RequestTimer {
        let answers = &self.inner.models[self.model].answers;
        RequestTimer::new(Arc::clone(answers), arrived, prompt_tokens)
    }

    /// Counts an answered request. `route` and `method` are from a fixed set.
    pub fn http(&self, route: &'static str, method: &'static str, status: u16, took: Duration) {
        self.inner.http.get_or_create(&HttpLabels { route, method, status }).inc();
        self.inner.http_seconds.get_or_create(&RouteLabel { route }).observe(took.as_secs_f64());
    }

    /// Where spans go.
    #[must_use]
    pub fn tracer(&self) -> &Tracer {
        &self.inner.tracer
    }

    /// Counts a connection, open as long as the guard lives.
    #[must_use]
    pub fn connection(&self, transport: &'static str) -> OpenConnection {
        let open = self.inner.connections.get_or_create_owned(&TransportLabel { transport });
        open.inc();
        OpenConnection(open)
    }

    /// Counts a connection that was closed although its client wanted it. `reason` is from a fixed set.
    pub fn shed(&self, reason: &'static str) {
        self.inner.shed.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// The page in Prometheus's text format, with `samples` taken now.
    #[must_use]
    pub fn page(&self, samples: Vec<Sample>) -> String {
        page::render(&self.inner.registry, samples, |sample| {
            let Some(model) = sample.model.and_then(|index| self.inner.models.get(index)) else {
                return &[];
            };
            if sample.name.starts_with("vllm:") { &model.aliased } else { &model.own }
        })
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

    /// Registers what is measured of one model's answers. Families of several models have one name; the
    /// page puts them together.
    fn register_answers(&mut self, index: usize) {
        let Model { own, aliased, answers } = &self.models[index];
        let requests = "Answers by how they ended";
        let labels = |labels: &[(&'static str, String)]| {
            let labels = labels.iter();
            labels.map(|(name, value)| ((*name).into(), value.clone().into())).collect::<Vec<_>>()
        };
        for (prefix, labels) in [("phi4d_", labels(own)), ("vllm:", labels(aliased))] {
            let registry = match labels.is_empty() {
                true => &mut self.registry,
                false => self.registry.sub_registry_with_labels(labels.into_iter()),
            };
            for (name, help, histogram) in answers.named() {
                registry.register(format!("{prefix}{name}"), help, histogram.clone());
            }
            registry.register(
                format!("{prefix}request_success"),
                requests,
                answers.endings.clone(),
            );
        }
    }
}
