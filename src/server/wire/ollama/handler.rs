//! Handlers of Ollama's API.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use serde_json::Value;

use super::calls::CallCollector;
use super::{
    Details, Figures, Kind, Line, LoadedModel, Models, OllamaRequest, Progress, ShowFacts,
    ShowRequest, Shown, TaggedModel, Version, done_reason,
};
use crate::access::Call;
use crate::app::{App, Embeddings};
use crate::body::read;
use crate::error::ApiError;
use crate::handlers::generation::{Renderer, answer};
use crate::models::KeepAlive;
use crate::reply::{Format, Reply, json, telling_ignored};
use crate::served::{Asks, Served};
use crate::wire::common::to_json;
use crate::wire::error::Dialect;
use phi4d_generate::{Answer, Finished, TextDelta, Usage};
use phi4d_telemetry::timestamp;

/// The version of Ollama's API that is spoken; clients look at it to know what there is.
const API_VERSION: &str = "0.12.0";

/// When a model is unloaded that never is.
const NEVER: &str = "2999-12-31T23:59:59Z";

/// `POST /api/chat` and `/api/generate`, whose requests `parse` reads.
pub(crate) async fn create(
    call: Call<'_>,
    parse: fn(&Value) -> Result<OllamaRequest, ApiError>,
) -> Result<Reply, ApiError> {
    let Call { app, request, exchange, .. } = call;
    let parse = move |app: &App, body| {
        let asked = parse(&body)?;
        Ok((model_of(app, asked.model.as_deref())?, asked))
    };
    let (index, asked) = read(request, app, exchange, parse).await?;
    let (name, kind) = (app.name_for(asked.model), asked.kind);
    if asked.parsed.is_none() && asked.keep == KeepAlive::For(Duration::ZERO) {
        app.models().unload(index).await;
        return Ok(OllamaRenderer::new(name, kind, Duration::ZERO).loaded("unload"));
    }
    let asks = Asks { keep: asked.keep, ..Asks::default() };
    let served = Served::with(app, exchange, index, &asks).await?;
    let renderer = OllamaRenderer::new(name, kind, served.waited());
    match asked.parsed {
        None => Ok(renderer.loaded("load")),
        Some(parsed) => answer(&served, parsed, exchange, renderer).await,
    }
}

/// `GET /api/version`.
pub(crate) fn version() -> Reply {
    let version = Version { version: API_VERSION, phi4d: env!("CARGO_PKG_VERSION") };
    json(StatusCode::OK, to_json(&version))
}

/// `GET /api/tags`.
pub(crate) fn tags(app: &App) -> Reply {
    let generating = app.models().names().map(|(index, name)| tagged(app, index, name));
    let models = generating.chain(app.embeddings().map(tagged_embedding)).collect();
    json(StatusCode::OK, to_json(&Models { models }))
}

/// `GET /api/ps`: the models in memory. The embedding model always is.
pub(crate) fn ps(app: &App) -> Reply {
    let loaded = |model, expires_at: Option<SystemTime>, context_length| LoadedModel {
        model,
        expires_at: expires_at.map_or_else(|| NEVER.to_owned(), timestamp),
        size_vram: 0,
        context_length,
    };
    let views = app.models().views();
    let there = views.iter().enumerate().filter(|(_, view)| view.resident.is_some());
    let generating = there.map(|(index, view)| {
        let tagged = tagged(app, index, &app.models().entries()[index].name);
        let model = TaggedModel { size: view.bytes, ..tagged };
        loaded(model, view.expires(), view.sizes().0)
    });
    let mut models: Vec<_> = generating.collect();
    let embedding = app.embeddings();
    models.extend(embedding.map(|e| loaded(tagged_embedding(e), None, e.embedder.max_tokens())));
    json(StatusCode::OK, to_json(&Models { models }))
}

/// `POST /api/show`.
pub(crate) async fn show(call: Call<'_>) -> Result<Reply, ApiError> {
    let app = call.app;
    let (model, ignored) = named(call).await?;
    if let Some(Embeddings { embedder, created, .. }) = app.embedding_model(&model) {
        let (context, dimensions) = (embedder.max_tokens(), embedder.dimensions());
        let shown = Shown::embedding(time_of(*created), context, dimensions);
        return Ok(telling_ignored(json(StatusCode::OK, to_json(&shown)), &ignored));
    }
    let index = model_of(app, Some(&model))?;
    let view = app.models().view(index);
    let (context_tokens, vocabulary) = view.sizes();
    // A model that is not in memory is not loaded to be shown.
    let (template, inserts) = match (&view.resident, &view.facts) {
        (Some(there), _) => {
            (there.generator().template().to_owned(), there.generator().fills_gaps())
        }
        (None, Some(facts)) => (facts.template.clone(), facts.inserts),
        (None, None) => Default::default(),
    };
    let facts = ShowFacts { context_tokens, vocabulary, inserts };
    let shown = Shown::new(time_of(app.models().entries()[index].created), template, facts);
    Ok(telling_ignored(json(StatusCode::OK, to_json(&shown)), &ignored))
}

/// The model that a request names, which is one of those served, and the names of its fields that nobody
/// read.
async fn named(call: Call<'_>) -> Result<(String, Vec<String>), ApiError> {
    let Call { app, request, exchange, .. } = call;
    let parse = |app: &App, body: Value| {
        let (model, ignored) = ShowRequest::parse(&body)?;
        if app.embedding_model(&model).is_none() {
            model_of(app, Some(&model))?;
        }
        Ok((model, ignored))
    };
    read(request, app, exchange, parse).await
}

/// Models' names may have a tag, of which there is only the usual one.
fn model_of(app: &App, model: Option<&str>) -> Result<usize, ApiError> {
    let plain = model.and_then(|name| app.models().find(name.strip_suffix(":latest")?));
    plain.map_or_else(|| app.model_of(model), Ok)
}

fn tagged<'a>(app: &App, index: usize, name: &'a str) -> TaggedModel<'a> {
    let entry = &app.models().entries()[index];
    TaggedModel {
        name,
        model: name,
        modified_at: time_of(entry.created),
        size: 0,
        digest: digest(&entry.name, entry.created),
        details: Details::default(),
    }
}

fn tagged_embedding(embeddings: &Embeddings) -> TaggedModel<'_> {
    let Embeddings { name, created, .. } = embeddings;
    TaggedModel {
        name,
        model: name,
        modified_at: time_of(*created),
        size: 0,
        digest: digest(name, *created),
        details: Details::of_embeddings(),
    }
}

/// What clients distinguish models by. The weights are not hashed: they may have 10 GB.
fn digest(name: &str, created: u64) -> String {
    let facts = format!("{name}\n{created}");
    blake3::hash(facts.as_bytes()).to_hex().to_string()
}

/// `POST /api/pull`: the model that is served is there; others are installed by `phi4d pull`.
pub(crate) async fn pull(call: Call<'_>) -> Result<Reply, ApiError> {
    let (_, ignored) = named(call).await?;
    let done = json(StatusCode::OK, to_json(&Progress { status: "success" }));
    Ok(telling_ignored(done, &ignored))
}

fn time_of(seconds: u64) -> String {
    timestamp(UNIX_EPOCH + Duration::from_secs(seconds))
}

struct OllamaRenderer {
    kind: Kind,
    model: String,
    begun: Instant,
    read: Option<Instant>,
    calls: CallCollector,
    /// How long the model was waited for.
    load: Duration,
}

impl OllamaRenderer {
    fn new(model: String, kind: Kind, load: Duration) -> Self {
        let (begun, calls) = (Instant::now(), CallCollector::default());
        Self { kind, model, begun, read: None, calls, load }
    }

    fn line(&self, text: String, thinking: String) -> Line<'_> {
        Line::more(self.kind, &self.model, text, thinking, Vec::new())
    }

    /// The answer to a request that only loads or unloads the model.
    fn loaded(&self, reason: &'static str) -> Reply {
        let line = self.line(String::new(), String::new()).ended(reason, None);
        json(StatusCode::OK, to_json(&line))
    }

    fn figures(&self, usage: Usage) -> Figures {
        let now = Instant::now();
        let reading = self.read.unwrap_or(now).duration_since(self.begun);
        Figures::new(usage, self.load, reading, self.load + now.duration_since(self.begun))
    }
}

fn framed(line: &Line<'_>) -> String {
    to_json(line) + "\n"
}

impl Renderer for OllamaRenderer {
    const FORMAT: Format = Format::Lines;
    const DIALECT: Dialect = Dialect::Ollama;

    fn prompt_read(&mut self) {
        self.read = Some(Instant::now());
    }

    fn complete(&mut self, answers: Vec<Answer>, usage: Usage) -> String {
        let figures = self.figures(usage);
        // Requests of this API have one answer.
        let lines = answers.into_iter().map(|answer| {
            let calls = answer.calls.into_iter().enumerate().collect();
            Line::more(self.kind, &self.model, answer.text, answer.reasoning, calls)
                .ended(done_reason(answer.finished.reason), Some(figures))
        });
        lines.map(|line| to_json(&line)).collect()
    }

    fn piece(&mut self, _index: usize, delta: TextDelta, _usage: Usage) -> String {
        let done = delta.call.and_then(|piece| self.calls.add(piece));
        let calls: Vec<_> = done.into_iter().collect();
        if delta.text.is_empty() && delta.reasoning.is_empty() && calls.is_empty() {
            return String::new();
        }
        framed(&Line::more(self.kind, &self.model, delta.text, delta.reasoning, calls))
    }

    fn end(&mut self, _index: usize, finished: Finished, usage: Usage) -> String {
        let rest = self.calls.finish().into_iter().collect::<Vec<_>>();
        let mut lines = String::new();
        if !rest.is_empty() {
            let line = Line::more(self.kind, &self.model, String::new(), String::new(), rest);
            lines = framed(&line);
        }
        let last = self
            .line(String::new(), String::new())
            .ended(done_reason(finished.reason), Some(self.figures(usage)));
        lines + &framed(&last)
    }
}
