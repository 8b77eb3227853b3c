//! `GET /health` and `GET /ready`.

use hyper::StatusCode;

use crate::app::{App, Phase};
use crate::reply::{Reply, json};
use crate::wire::common::to_json;
use crate::wire::models::{Health, Readiness};

/// The daemon's phase and the engine's counters.
pub(crate) fn get(app: &App) -> Reply {
    let status = match app.phase() {
        Phase::Serving => "ok",
        Phase::Draining | Phase::Cutting => "draining",
    };
    let stats = app.generator().stats();
    let health = Health::new(status, &app.options().model_name, &stats);
    json(StatusCode::OK, to_json(&health))
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
