//! Whatever JSON comes in, parsing ends in a request or in a 400 that says what is wrong.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::chat::ChatRequest;
use super::completions::CompletionRequest;
use super::error::error_json;
use crate::error::ApiError;

const FIELDS: &[&str] = &[
    "messages",
    "model",
    "prompt",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "stop",
    "stop_token_ids",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "seed",
    "stream",
    "stream_options",
    "timeout",
    "n",
    "tools",
    "suffix",
    "role",
    "content",
    "type",
    "text",
    "include_usage",
    "parse_special",
    "ignore_eos",
    "unknown",
    "0",
    "17",
];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(&["user", "text", "assistant", "", "é\n\u{0}", "1"][..])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            fields(inner).prop_map(Value::Object),
        ]
    })
}

fn fields(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    let name = prop::sample::select(FIELDS).prop_map(str::to_owned);
    prop::collection::hash_map(name, value, 0..6).prop_map(|map| map.into_iter().collect())
}

fn check_fault(error: &ApiError) -> Result<(), TestCaseError> {
    prop_assert_eq!(error.status.as_u16(), 400);
    prop_assert!(error.message.len() < 1000, "{}", error.message);
    let shape: Value = serde_json::from_str(&error_json(error)).unwrap();
    prop_assert_eq!(&shape["error"]["type"], "invalid_request_error");
    if let Some(param) = &error.param {
        prop_assert!(error.message.starts_with(param.as_str()), "{}", error.message);
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_chat_is_read_or_refused(body in any_json()) {
        if let Err(error) = ChatRequest::parse(&body) {
            check_fault(&error)?;
        }
    }

    #[test]
    fn any_completion_is_read_or_refused(body in any_json()) {
        if let Err(error) = CompletionRequest::parse(&body) {
            check_fault(&error)?;
        }
    }

    #[test]
    fn one_wrong_field_is_named(
        field in prop::sample::select(&FIELDS[..18]),
        value in any_json(),
    ) {
        let mut body = json!({
            "messages": [{"role": "user", "content": "x"}], "prompt": "x", "stream": true
        });
        body[field] = value;
        for fault in [ChatRequest::parse(&body).err(), CompletionRequest::parse(&body).err()] {
            let Some(error) = fault else { continue };
            check_fault(&error)?;
            // Both names of one limit, the switch of log-probabilities and the stream's options
            // speak about each other; all other faults are the field's own.
            let param = error.param.clone().unwrap_or_default();
            let own = param.starts_with(field) || param == "stream_options";
            prop_assert!(own, "{} for {}", error.message, field);
        }
    }
}
