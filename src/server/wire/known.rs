//! Which fields of a body this server reads. The others are told to the client, or refused.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;

use super::common::read_fields;
use super::unsupported;
use crate::error::ApiError;

/// Fields that are accepted and change nothing, as their meaning allows.
const NOTED: &[&str] = &[
    "model",
    "strict",
    "user",
    "metadata",
    "store",
    "safety_identifier",
    "prompt_cache_key",
    "cache_prompt",
    "service_tier",
];

/// Most names of unread fields that are kept: more than a header tells.
const MOST_TOLD: usize = 64;

#[derive(Debug, serde::Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct StrictField {
    strict: Option<bool>,
}

/// The names of `body`'s fields that are in none of `known` and are not refused elsewhere.
///
/// # Errors
/// If there are any and the body has `"strict": true`.
pub(super) fn ignored(
    body: &Value,
    known: &[&'static [&'static str]],
) -> Result<Vec<String>, ApiError> {
    let is_read = |name: &str| {
        NOTED.contains(&name)
            || known.iter().any(|names| names.contains(&name))
            || unsupported::is_known(name)
    };
    left_over(body, is_read)
}

/// As [`ignored`], for surfaces with names of their own.
pub(super) fn unread(
    body: &Value,
    known: &[&'static [&'static str]],
) -> Result<Vec<String>, ApiError> {
    left_over(body, |name| name == "strict" || known.iter().any(|names| names.contains(&name)))
}

fn left_over(body: &Value, is_read: impl Fn(&str) -> bool) -> Result<Vec<String>, ApiError> {
    let StrictField { strict } = read_fields(body)?;
    let fields = body.as_object().into_iter().flat_map(|fields| fields.keys());
    let left: Vec<String> = fields.filter(|name| !is_read(name)).take(MOST_TOLD).cloned().collect();
    match left.first() {
        Some(name) if strict == Some(true) => {
            Err(ApiError::unsupported(name, "a field that this server does not know", "null"))
        }
        _ => Ok(left),
    }
}

/// The names of the fields that `T` reads: what its derived implementation asks for.
pub(super) fn names_of<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut names: &'static [&'static str] = &[];
    // Ends in `Asked` in any case.
    let _ = T::deserialize(Names(&mut names));
    names
}

struct Names<'n>(&'n mut &'static [&'static str]);

#[derive(Debug)]
struct Asked;

impl fmt::Display for Asked {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("only the names were wanted")
    }
}

impl std::error::Error for Asked {}

impl Error for Asked {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

impl<'de> Deserializer<'de> for Names<'_> {
    type Error = Asked;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Asked> {
        Err(Asked)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Asked> {
        *self.0 = fields;
        Err(Asked)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::super::chat::ChatRequest;
    use super::super::completions::CompletionRequest;
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_those_of_the_type() {
        assert_eq!(names_of::<StrictField>(), ["strict"]);
        assert_eq!(names_of::<String>(), [""; 0]);
    }

    #[test]
    fn fields_that_nobody_reads_are_told_or_refused() {
        let body = json!({
            "messages": [{"role": "user", "content": "x"}], "prompt": "x", "temperature": 1,
            "min_tokens": 1, "n": 1, "stream": true, "user": "u", "tools": [], "strict": false,
            "temprature": 2, "zz": null
        });
        let chat = ChatRequest::parse(&body).unwrap().parsed.ignored;
        assert_eq!(chat, ["prompt", "temprature", "zz"]);
        let completion = CompletionRequest::parse(&body).unwrap().parsed.ignored;
        assert_eq!(completion, ["messages", "tools", "temprature", "zz"]);
        let strict = json!({"prompt": "x", "temprature": 2, "strict": true});
        let error = CompletionRequest::parse(&strict).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("temprature"));
        let strict = json!({"prompt": "x", "temperature": 2, "strict": true});
        assert_eq!(CompletionRequest::parse(&strict).unwrap().parsed.ignored, [""; 0]);
    }
}
