//! `GET /openapi.json`.

use hyper::StatusCode;

use crate::reply::{Reply, json};

/// Generated from the wire types; a test holds it to them.
const DOCUMENT: &str = include_str!("../../../docs/openapi.json");

/// The OpenAPI document.
pub(crate) fn get() -> Reply {
    json(StatusCode::OK, DOCUMENT.to_owned())
}
