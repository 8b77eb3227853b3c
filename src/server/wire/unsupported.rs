//! Fields of OpenAI's API and of its peers' that this server knows but can't honour. They are
//! refused by name: leaving them out silently would answer another question than was asked.

use serde_json::{Value, json};

use super::common::shown;
use crate::error::ApiError;

/// A field, and the values that ask for nothing (null always is one).
struct Unsupported {
    field: &'static str,
    asks_nothing: fn(&Value) -> bool,
    accepted: &'static str,
}

const fn field(
    field: &'static str,
    asks_nothing: fn(&Value) -> bool,
    accepted: &'static str,
) -> Unsupported {
    Unsupported { field, asks_nothing, accepted }
}

fn never(_: &Value) -> bool {
    false
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn is_zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

fn is_one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

fn is_false(value: &Value) -> bool {
    value == false
}

fn is_none_word(value: &Value) -> bool {
    value == "none"
}

/// Refused by every endpoint that generates.
const EVERYWHERE: &[Unsupported] = &[
    field("service_tier", |v| v == "auto" || v == "default", "\"auto\" or \"default\""),
    field("dynatemp_range", is_zero, "0"),
    field("mirostat", is_zero, "0"),
    field("use_beam_search", is_false, "false"),
    field("length_penalty", is_one, "1"),
];

const CHAT: &[Unsupported] = &[
    field("best_of", is_one, "1"),
    field("echo", is_false, "false"),
    field("suffix", is_empty, "null"),
    field("functions", is_empty, "an empty list"),
    field("function_call", is_none_word, "\"none\""),
    field("modalities", |v| *v == json!(["text"]), "[\"text\"]"),
    field("audio", never, "null"),
    field("prediction", never, "null"),
    field("verbosity", |v| v == "medium", "\"medium\""),
    field("web_search_options", never, "null"),
    field("chat_template", never, "null"),
    field("documents", is_empty, "an empty list"),
];

const COMPLETIONS: &[Unsupported] = &[];

/// Refuses a chat request that asks for what isn't there.
pub(super) fn check_chat(body: &Value) -> Result<(), ApiError> {
    check(body, CHAT)
}

/// Refuses a completion request that asks for what isn't there.
pub(super) fn check_completions(body: &Value) -> Result<(), ApiError> {
    check(body, COMPLETIONS)
}

/// Whether a field is one of those that some endpoint refuses.
pub(super) fn is_known(name: &str) -> bool {
    EVERYWHERE.iter().chain(CHAT).any(|known| known.field == name)
}

fn check(body: &Value, own: &[Unsupported]) -> Result<(), ApiError> {
    for known in EVERYWHERE.iter().chain(own) {
        let Some(value) = body.get(known.field) else {
            continue;
        };
        if !value.is_null() && !(known.asks_nothing)(value) {
            return Err(ApiError::unsupported(known.field, shown(value), known.accepted));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_refused_by_name() {
        let table = [
            (json!({"functions": [{"name": "f"}]}), "functions"),
            (json!({"function_call": "auto"}), "function_call"),
            (json!({"best_of": 2}), "best_of"),
            (json!({"echo": true}), "echo"),
            (json!({"modalities": ["text", "audio"]}), "modalities"),
            (json!({"verbosity": "low"}), "verbosity"),
        ];
        for (body, name) in table {
            let error = check_chat(&body).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(name));
            assert_eq!(error.code, "unsupported_parameter");
            assert!(error.message.starts_with(&format!("{name}: ")), "{}", error.message);
        }
        let error = check_completions(&json!({"mirostat": 2})).unwrap_err();
        assert_eq!(error.message, "mirostat: 2 is not supported; accepted: 0");
    }

    #[test]
    fn values_that_ask_for_nothing_pass() {
        let body = json!({
            "functions": [], "function_call": "none", "n": 1,
            "modalities": ["text"], "audio": null, "echo": false, "suffix": null, "best_of": 1,
            "store": true, "metadata": {"a": "b"}, "user": "u", "parallel_tool_calls": true,
        });
        check_chat(&body).unwrap();
        check_completions(&body).unwrap();
    }

    #[test]
    fn null_asks_for_nothing_anywhere() {
        for known in EVERYWHERE.iter().chain(CHAT).chain(COMPLETIONS) {
            let body = json!({ known.field: null });
            check_chat(&body).unwrap();
            check_completions(&body).unwrap();
        }
    }
}
