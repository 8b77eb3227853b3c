//! `GET /slots`.

use hyper::StatusCode;

use crate::engine::SubmitError;
use crate::server::app::App;
use crate::server::error::ApiError;
use crate::server::reply::{Reply, json};
use crate::server::wire::common::to_json;
use crate::server::wire::slots::slots;

/// What is in each slot, and what waits for one.
pub(crate) async fn get(app: &App) -> Result<Reply, ApiError> {
    let generator = app.generator();
    let Some(live) = generator.look().await else {
        return Err(SubmitError::Stopped.into());
    };
    let rules = app.rules();
    let all = slots(live, generator.stats().slots, generator.limits().context_tokens, |id| {
        rules.name_of(id)
    });
    Ok(json(StatusCode::OK, to_json(&all)))
}
