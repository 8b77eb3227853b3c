//! Error objects: OpenAI's, Ollama's and Anthropic's.

use serde::Serialize;

use super::common::to_json;
use crate::error::ApiError;

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct ErrorEnvelope<'a> {
    error: ErrorObject<'a>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct ErrorObject<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: &'a str,
    /// llama.cpp's: tokens of a prompt that does not fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    n_prompt_tokens: Option<usize>,
    /// llama.cpp's: tokens that prompt and answer may have together.
    #[serde(skip_serializing_if = "Option::is_none")]
    n_ctx: Option<usize>,
}

/// Whose API a route belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    OpenAi,
    Ollama,
    Anthropic,
}

impl Dialect {
    /// That of a path, whether it is a route or not.
    pub(crate) fn of(path: &str) -> Self {
        match path {
            _ if path.starts_with("/api/") => Self::Ollama,
            "/v1/messages" => Self::Anthropic,
            _ if path.starts_with("/v1/messages/") => Self::Anthropic,
            _ => Self::OpenAi,
        }
    }

    /// The body of a failed request, and the last event's data in a failed stream.
    pub(crate) fn fault(self, error: &ApiError) -> String {
        match self {
            Self::OpenAi => error_json(error),
            Self::Ollama => to_json(&OllamaError { error: &error.message }),
            Self::Anthropic => to_json(&AnthropicError {
                kind: "error",
                error: AnthropicErrorObject {
                    kind: anthropic_kind(error),
                    message: &error.message,
                },
            }),
        }
    }
}

/// The shape of a fault, for the OpenAPI document.
#[cfg(test)]
impl Dialect {
    pub(crate) fn schema(self, generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        match self {
            Self::OpenAi => generator.subschema_for::<ErrorEnvelope<'_>>(),
            Self::Ollama => generator.subschema_for::<OllamaError<'_>>(),
            Self::Anthropic => generator.subschema_for::<AnthropicError<'_>>(),
        }
    }
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct OllamaError<'a> {
    error: &'a str,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct AnthropicError<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    error: AnthropicErrorObject<'a>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct AnthropicErrorObject<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    message: &'a str,
}

fn anthropic_kind(error: &ApiError) -> &'static str {
    match error.status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        504 => "timeout_error",
        400..500 => "invalid_request_error",
        _ => "api_error",
    }
}

/// OpenAI's.
pub(super) fn error_json(error: &ApiError) -> String {
    to_json(&ErrorEnvelope {
        error: ErrorObject {
            message: &error.message,
            kind: error.kind(),
            param: error.param.as_deref(),
            code: error.code,
            n_prompt_tokens: error.context.as_ref().map(|context| context[0]),
            n_ctx: error.context.as_ref().map(|context| context[1]),
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
        for (path, expected) in [
            ("/v1/chat/completions", expected),
            ("/api/chat", json!({"error": error.message})),
            (
                "/v1/messages/count_tokens",
                json!({"type": "error", "error": {
                    "type": "invalid_request_error", "message": error.message
                }}),
            ),
        ] {
            let shape: Value = serde_json::from_str(&Dialect::of(path).fault(&error)).unwrap();
            assert_eq!(shape, expected, "{path}");
        }
    }
}
