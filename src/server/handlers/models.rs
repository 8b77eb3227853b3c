//! `GET /v1/models` and `GET /v1/models/{id}`.

use hyper::StatusCode;

use crate::app::App;
use crate::error::ApiError;
use crate::reply::{Reply, json};
use crate::wire::common::to_json;
use crate::wire::models::{Model, ModelList};

/// All models: the one.
pub(crate) fn list(app: &App) -> Reply {
    let models = ModelList { object: "list", data: [served(app)] };
    json(StatusCode::OK, to_json(&models))
}

/// The model named `id`.
pub(crate) fn get(app: &App, id: &str) -> Result<Reply, ApiError> {
    let model = served(app);
    if id != model.id {
        return Err(ApiError::model_not_found(id, model.id));
    }
    Ok(json(StatusCode::OK, to_json(&model)))
}

fn served(app: &App) -> Model<'_> {
    Model {
        id: &app.options().model_name,
        object: "model",
        created: app.options().created,
        owned_by: "phi4d",
    }
}
