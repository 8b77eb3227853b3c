//! Texts or their token ids: what is continued, and what is embedded.

use serde_json::Value;

use super::bounds;
use super::common::{Integer, TextOr, shown, too_long};
use super::parameters::token_ids;
use crate::error::ApiError;

/// What the field may hold.
const ACCEPTED: &str = "a string, a list of token ids, or a list of either";

/// A text or its token ids.
pub(super) type TextOrIds = TextOr<u32, { bounds::TOKEN_IDS }>;

/// What `field` holds: one of them, or a list of at most `most`, and whether it is a list.
pub(super) fn texts(
    field: &str,
    given: Option<Value>,
    most: usize,
) -> Result<(bool, Vec<TextOrIds>), ApiError> {
    let items = match given {
        None => return Err(ApiError::missing(field, ACCEPTED)),
        Some(Value::Array(items)) => items,
        Some(one) => return Ok((false, vec![single(field, one)?])),
    };
    match items.as_slice() {
        [Value::String(_) | Value::Array(_), ..] if items.len() > most => {
            Err(too_long(field, items.len(), most))
        }
        [Value::String(_) | Value::Array(_), ..] => {
            let items = items.into_iter().enumerate();
            let texts = items.map(|(index, item)| single(&format!("{field}[{index}]"), item));
            Ok((true, texts.collect::<Result<_, _>>()?))
        }
        _ => Ok((false, vec![single(field, Value::Array(items))?])),
    }
}

fn single(field: &str, given: Value) -> Result<TextOrIds, ApiError> {
    match given {
        Value::String(text) => Ok(TextOr::Text(text)),
        Value::Array(items) if items.is_empty() => {
            Err(ApiError::invalid_value(field, "[]", ACCEPTED))
        }
        Value::Array(items) if items.len() > bounds::TOKEN_IDS => {
            Err(too_long(field, items.len(), bounds::TOKEN_IDS))
        }
        Value::Array(items) => {
            let integer = |(index, item): (usize, Value)| {
                serde_json::from_value::<Integer>(item).map_err(|error| {
                    ApiError::invalid_type(&format!("{field}[{index}]"), &error.to_string())
                })
            };
            let ids = items.into_iter().enumerate().map(integer).collect::<Result<Vec<_>, _>>()?;
            token_ids(field, ids).map(TextOr::List)
        }
        other => {
            let reason = format!("{} is not accepted; expected {ACCEPTED}", shown(&other));
            Err(ApiError::invalid_type(field, &reason))
        }
    }
}
