//! What the server says of itself: `GET /health`, `/ready`, `/v1/models`, `/slots` and
//! `/openapi.json`.

use hyper::StatusCode;

use crate::app::{App, Embeddings, Phase};
use crate::error::ApiError;
use crate::handlers::generation::check_model;
use crate::reply::{Reply, file, json};
use crate::wire::common::to_json;
use crate::wire::models::{Health, Model, ModelList, Readiness, Version};
use crate::wire::slots as wire;
use phi4d_engine::SubmitError;

/// Generated from the wire types; a test compares it with them.
const OPENAPI: &str = include_str!("../../../docs/openapi.json");

/// The daemon's phase and the engine's counters.
pub(crate) fn health(app: &App) -> Reply {
    let status = match app.phase() {
        Phase::Serving => "ok",
        Phase::Draining | Phase::Cutting => "draining",
    };
    let stats = app.generator().stats();
    let options = app.options();
    let health = Health::new(status, &options.model_name, options.idle_exit.is_some(), &stats);
    json(StatusCode::OK, to_json(&health))
}

/// The program's version, as vLLM has it.
pub(crate) fn version() -> Reply {
    json(StatusCode::OK, to_json(&Version { version: env!("CARGO_PKG_VERSION") }))
}

/// Whether requests are taken: 200, or 503 while draining or when the engine has ended.
pub(crate) fn ready(app: &App) -> Reply {
    let (code, status) = match app.phase() {
        Phase::Serving if app.generator().is_ready() => (StatusCode::OK, "ready"),
        Phase::Serving => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
        Phase::Draining | Phase::Cutting => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
    };
    json(code, to_json(&Readiness { status }))
}

/// The list of models: the generating one by each of its names, and the embedding one.
pub(crate) fn models(app: &App) -> Reply {
    let generating = app.names().map(|name| served(app, name));
    let models = ModelList::new(generating.chain(app.embeddings().map(embedding)).collect());
    json(StatusCode::OK, to_json(&models))
}

/// The model named `id`.
pub(crate) fn model(app: &App, id: &str) -> Result<Reply, ApiError> {
    if let Some(embeddings) = app.embedding_model(id) {
        return Ok(json(StatusCode::OK, to_json(&embedding(embeddings))));
    }
    check_model(app, Some(id))?;
    Ok(json(StatusCode::OK, to_json(&served(app, id))))
}

fn served<'a>(app: &App, id: &'a str) -> Model<'a> {
    let limits = app.generator().limits();
    Model::new(id, app.options().created, limits.context_tokens, limits.vocab_size)
}

fn embedding(embeddings: &Embeddings) -> Model<'_> {
    let Embeddings { embedder, name, created } = embeddings;
    let (most, vocabulary) = (embedder.max_tokens(), embedder.vocab_size());
    Model::embedding(name, *created, most, vocabulary, embedder.dimensions())
}

/// What is in each slot, and what waits for one.
pub(crate) async fn slots(app: &App) -> Result<Reply, ApiError> {
    let generator = app.generator();
    let Some(live) = generator.look().await else {
        return Err(SubmitError::Stopped.into());
    };
    let rules = app.rules();
    let (slots, context) = (generator.stats().slots, generator.limits().context_tokens);
    let all = wire::slots(live, slots, context, |id| rules.name_of(id));
    Ok(json(StatusCode::OK, to_json(&all)))
}

/// The OpenAPI document.
pub(crate) fn openapi() -> Reply {
    file("application/json", OPENAPI.as_bytes())
}
