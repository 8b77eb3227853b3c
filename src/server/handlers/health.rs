//! `GET /health`.

use hyper::StatusCode;

use crate::server::app::{App, Phase};
use crate::server::reply::{Reply, json};
use crate::server::wire::common::to_json;
use crate::server::wire::models::Health;

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
