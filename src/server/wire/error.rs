//! OpenAI's error object.

use serde::Serialize;

use super::common::to_json;
use crate::server::error::ApiError;

#[derive(Debug, Serialize)]
struct ErrorEnvelope<'a> {
    error: ErrorObject<'a>,
}

#[derive(Debug, Serialize)]
struct ErrorObject<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: &'a str,
}

/// The body of a failed request, and the last event of a failed stream.
pub(crate) fn error_json(error: &ApiError) -> String {
    to_json(&ErrorEnvelope {
        error: ErrorObject {
            message: &error.message,
            kind: error.kind(),
            param: error.param.as_deref(),
            code: error.code,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn the_shape_is_openais() {
        let error = ApiError::invalid_value("top_p", 7, "a number above 0, up to 1");
        let shape: Value = serde_json::from_str(&error_json(&error)).unwrap();
        let expected = json!({"error": {
            "message": "top_p: 7 is not accepted; expected a number above 0, up to 1",
            "type": "invalid_request_error", "param": "top_p", "code": "invalid_value"
        }});
        assert_eq!(shape, expected);
    }
}
