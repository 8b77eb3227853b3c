//! `GET /slots`.

use hyper::StatusCode;

use crate::app::App;
use crate::error::ApiError;
use crate::reply::{Reply, json};
use crate::wire::common::to_json;
use crate::wire::slots::slots;
use phi4d_engine::SubmitError;

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
