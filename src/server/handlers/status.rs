//! What the server says of itself: `GET /health`, `/ready`, `/v1/models`, `/slots` and
//! `/openapi.json`.

use std::ops::Add as _;

use hyper::StatusCode;

use crate::app::{App, Embeddings, Phase};
use crate::error::ApiError;
use crate::models::{ModelEntry, ModelView};
use crate::reply::{Reply, file, json};
use crate::wire::common::to_json;
use crate::wire::loading::Loading;
use crate::wire::models::{Health, HealthModel, Model, ModelList, Readiness, Version};
use crate::wire::slots as wire;
use phi4d_engine::{Stats, SubmitError};

/// Generated from the wire types; a test compares it with them.
const OPENAPI: &str = include_str!("../../../docs/openapi.json");

/// The daemon's phase and the engine's counters.
pub(crate) fn health(app: &App) -> Reply {
    let status = match app.phase() {
        Phase::Serving => "ok",
        Phase::Draining | Phase::Cutting => "draining",
    };
    let views = app.models().views();
    let stats = views.iter().map(ModelView::stats).fold(Stats::default(), Stats::add);
    let sleeps = app.options().idle_exit.is_some();
    let mut health = Health::new(status, &app.first().name, sleeps, &stats);
    if app.models().change() {
        let named = app.models().entries().iter().zip(&views);
        health.models = named.map(|(entry, view)| in_short(entry, view)).collect();
    }
    json(StatusCode::OK, to_json(&health))
}

/// The program's version, as vLLM has it.
pub(crate) fn version() -> Reply {
    json(StatusCode::OK, to_json(&Version { version: env!("CARGO_PKG_VERSION") }))
}

fn in_short<'a>(entry: &'a ModelEntry, view: &ModelView) -> HealthModel<'a> {
    let stats = view.stats();
    HealthModel {
        model: &entry.name,
        state: view.phase.as_str(),
        load_progress: Loading::of(view),
        running: stats.running,
        waiting: stats.waiting + view.waiting,
    }
}

/// Whether requests are taken: 200, or 503 while draining or when the engine has ended.
pub(crate) fn ready(app: &App) -> Reply {
    let (code, status) = match app.phase() {
        Phase::Serving if app.models().are_ready() => (StatusCode::OK, "ready"),
        Phase::Serving => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
        Phase::Draining | Phase::Cutting => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
    };
    json(code, to_json(&Readiness { status }))
}

/// The list of models: the generating one by each of its names, and the embedding one.
pub(crate) fn models(app: &App) -> Reply {
    let views = app.models().views();
    let generating = app.models().names().map(|(index, name)| served(app, &views, index, name));
    let models = ModelList::new(generating.chain(app.embeddings().map(embedding)).collect());
    json(StatusCode::OK, to_json(&models))
}

/// The model named `id`.
pub(crate) fn model(app: &App, id: &str) -> Result<Reply, ApiError> {
    if let Some(embeddings) = app.embedding_model(id) {
        return Ok(json(StatusCode::OK, to_json(&embedding(embeddings))));
    }
    let index = app.model_of(Some(id))?;
    Ok(json(StatusCode::OK, to_json(&served(app, &app.models().views(), index, id))))
}

fn served<'a>(app: &App, views: &[ModelView], index: usize, id: &'a str) -> Model<'a> {
    let (context, vocabulary) = views[index].sizes();
    let created = app.models().entries()[index].created;
    let model = Model::new(id, created, context, vocabulary);
    if app.models().change() { model.seen(&views[index]) } else { model }
}

fn embedding(embeddings: &Embeddings) -> Model<'_> {
    let Embeddings { embedder, name, created } = embeddings;
    let (most, vocabulary) = (embedder.max_tokens(), embedder.vocab_size());
    Model::embedding(name, *created, most, vocabulary, embedder.dimensions())
}

/// What is in each slot of the loaded models, and what waits for one.
pub(crate) async fn slots(app: &App) -> Result<Reply, ApiError> {
    let mut all = Vec::new();
    let changes = app.models().change();
    for (entry, view) in app.models().entries().iter().zip(app.models().views()) {
        let Some(resident) = view.resident else { continue };
        let generator = resident.generator();
        let Some(live) = generator.look().await else {
            // It was unloaded meanwhile.
            if changes {
                continue;
            }
            return Err(SubmitError::Stopped.into());
        };
        let rules = app.rules();
        let (slots, context) = (generator.stats().slots, generator.limits().context_tokens);
        let name = changes.then_some(entry.name.as_str());
        all.extend(wire::slots(live, slots, context, name, |id| rules.name_of(id)));
    }
    Ok(json(StatusCode::OK, to_json(&all)))
}

/// The OpenAPI document.
pub(crate) fn openapi() -> Reply {
    file("application/json", OPENAPI.as_bytes())
}
