//! Which fields of a body this server reads. Others are reported to the client in a header, or refused.
//! Fields of OpenAI's API and of its peers' whose feature this server lacks are refused by name: the
//! answer would otherwise be to another question.

use std::fmt;

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Value, json};

use super::common::{read_fields, shown};
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
    "verbosity",
    "prediction",
];

/// The most names of unread fields that are kept: more than fit the header.
const MOST_NAMES: usize = 64;

#[derive(Debug, serde::Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct StrictField {
    strict: Option<bool>,
}

/// What of a request nobody reads. A request with `"strict": true` may have nothing of the kind.
#[derive(Debug, Default)]
pub(super) struct Ignored {
    /// Names of fields, for the client.
    pub(super) names: Vec<String>,
    strict: bool,
}

impl Ignored {
    /// Notes that the value at `field`, which is `what`, is left out.
    ///
    /// # Errors
    /// If the request is strict.
    pub(super) fn leave_out(
        &mut self,
        field: impl Into<String>,
        what: &str,
        accepted: &str,
    ) -> Result<(), ApiError> {
        if self.strict {
            return Err(ApiError::unsupported(field, what, accepted));
        }
        if self.names.len() < MOST_NAMES {
            self.names.push(field.into());
        }
        Ok(())
    }
}

/// What an endpoint does with a body, which says what it refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// It answers a conversation.
    Chat,
    /// It continues a text.
    Text,
    /// It generates nothing.
    Tokens,
}

impl Endpoint {
    fn refused(self) -> impl Iterator<Item = &'static Unsupported> {
        let [everywhere, own]: [&[Unsupported]; 2] = match self {
            Self::Chat => [EVERYWHERE, CHAT],
            Self::Text => [EVERYWHERE, &[]],
            Self::Tokens => [&[], &[]],
        };
        everywhere.iter().chain(own)
    }
}

/// The names of `body`'s fields that are in none of `known` and that `endpoint` does not refuse.
///
/// # Errors
/// If there are any and the body has `"strict": true`.
pub(super) fn ignored(
    body: &Value,
    known: &[&str],
    endpoint: Endpoint,
) -> Result<Ignored, ApiError> {
    let is_refused = |name: &str| endpoint.refused().any(|one| one.field == name);
    left_over(body, |name| NOTED.contains(&name) || known.contains(&name) || is_refused(name))
}

/// As [`ignored`], for APIs that share no field names with OpenAI's first two endpoints.
pub(super) fn unread(body: &Value, known: &[&str]) -> Result<Ignored, ApiError> {
    left_over(body, |name| name == "strict" || known.contains(&name))
}

fn left_over(body: &Value, is_read: impl Fn(&str) -> bool) -> Result<Ignored, ApiError> {
    let StrictField { strict } = read_fields(body)?;
    let mut ignored = Ignored { names: Vec::new(), strict: strict == Some(true) };
    let fields = body.as_object().into_iter().flat_map(|fields| fields.keys());
    for name in fields.filter(|name| !is_read(name)).take(MOST_NAMES) {
        ignored.leave_out(name, "a field that this server does not know", "null")?;
    }
    Ok(ignored)
}

/// Groups of fields that are read from one object.
pub(super) trait Groups: Sized {
    fn read(body: &Value) -> Result<Self, ApiError>;
    /// The names of all fields.
    fn names() -> Vec<&'static str>;
    /// The groups' schemas, for the OpenAPI document.
    #[cfg(test)]
    fn schemas(generator: &mut schemars::SchemaGenerator) -> Vec<schemars::Schema>;
}

#[cfg(test)]
use schemars::JsonSchema as Described;

/// What has a schema; only tests need it.
#[cfg(not(test))]
pub(super) trait Described {}

#[cfg(not(test))]
impl<T> Described for T {}

macro_rules! groups {
    ($($group:ident)+) => {
        impl<$($group: DeserializeOwned + Described),+> Groups for ($($group,)+) {
            fn read(body: &Value) -> Result<Self, ApiError> {
                Ok(($(read_fields::<$group>(body)?,)+))
            }

            fn names() -> Vec<&'static str> {
                [$(names_of::<$group>()),+].concat()
            }

            #[cfg(test)]
            fn schemas(generator: &mut schemars::SchemaGenerator) -> Vec<schemars::Schema> {
                vec![$(generator.subschema_for::<$group>()),+]
            }
        }
    };
}

groups!(A B);
groups!(A B C);
groups!(A B C D);
groups!(A B C D E);
groups!(A B C D E F G);

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

/// A field, and the values that ask for nothing (null always is one).
#[derive(Debug)]
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
    field("web_search_options", is_empty, "an empty object"),
    field("chat_template", never, "null"),
    field("documents", is_empty, "an empty list"),
];

/// Refuses a request that asks for what `endpoint` lacks.
///
/// # Errors
/// A 400 that names the field.
pub(super) fn refuse(body: &Value, endpoint: Endpoint) -> Result<(), ApiError> {
    for known in endpoint.refused() {
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
    use crate::wire::chat::ChatRequest;
    use crate::wire::completions::CompletionRequest;
    use crate::wire::llama::LlamaRequest;
    use crate::wire::tokens::TokenizeRequest;
    use serde_json::json;

    #[test]
    fn names_are_those_of_the_type() {
        assert_eq!(names_of::<StrictField>(), ["strict"]);
        assert_eq!(names_of::<String>(), [""; 0]);
    }

    #[test]
    fn fields_that_nobody_reads_are_reported_or_refused() {
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

    /// A field that one endpoint refuses is unknown to another one, unless that refuses it, too.
    #[test]
    fn no_field_of_another_endpoint_goes_unseen() {
        let body = json!({
            "prompt": "x", "messages": [{"role": "user", "content": "x"}], "input_prefix": "x",
            "input_suffix": "x", "functions": [{"name": "f"}], "modalities": ["audio"]
        });
        let completion = CompletionRequest::parse(&body).unwrap().parsed.ignored;
        let llama = LlamaRequest::infill(&body).unwrap().parsed.ignored;
        for ignored in [completion, llama] {
            for name in ["functions", "modalities"] {
                assert!(ignored.iter().any(|one| one == name), "{name}: {ignored:?}");
            }
        }
        for known in EVERYWHERE {
            let body = json!({
                "prompt": "x", "input_prefix": "x", "input_suffix": "x", known.field: 2
            });
            let [completion, continued, filled] = [
                CompletionRequest::parse(&body).map(|_| ()),
                LlamaRequest::completion(&body).map(|_| ()),
                LlamaRequest::infill(&body).map(|_| ()),
            ];
            for result in [completion, continued, filled] {
                assert_eq!(result.unwrap_err().param.as_deref(), Some(known.field));
            }
            let tokens = json!({"prompt": "x", known.field: 2});
            assert_eq!(TokenizeRequest::parse(tokens).unwrap().ignored, [known.field]);
        }
    }
}

#[cfg(test)]
mod unsupported_tests {
    use super::*;

    #[test]
    fn features_are_refused_by_name() {
        let table = [
            (json!({"functions": [{"name": "f"}]}), "functions"),
            (json!({"function_call": "auto"}), "function_call"),
            (json!({"best_of": 2}), "best_of"),
            (json!({"echo": true}), "echo"),
            (json!({"modalities": ["text", "audio"]}), "modalities"),
            (json!({"web_search_options": {"search_context_size": "low"}}), "web_search_options"),
        ];
        for (body, name) in table {
            let error = refuse(&body, Endpoint::Chat).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(name));
            assert_eq!(error.code, "unsupported_parameter");
            assert!(error.message.starts_with(&format!("{name}: ")), "{}", error.message);
        }
        let error = refuse(&json!({"mirostat": 2}), Endpoint::Text).unwrap_err();
        assert_eq!(error.message, "mirostat: 2 is not supported; accepted: 0");
    }

    #[test]
    fn values_that_ask_for_nothing_pass() {
        let body = json!({
            "functions": [], "function_call": "none", "n": 1,
            "modalities": ["text"], "audio": null, "echo": false, "suffix": null, "best_of": 1,
            "store": true, "metadata": {"a": "b"}, "user": "u", "parallel_tool_calls": true,
            "verbosity": "low", "service_tier": "flex", "web_search_options": {},
            "prediction": {"type": "content", "content": "x"},
        });
        refuse(&body, Endpoint::Chat).unwrap();
        refuse(&body, Endpoint::Text).unwrap();
    }

    #[test]
    fn null_asks_for_nothing_anywhere() {
        for known in Endpoint::Chat.refused() {
            let body = json!({ known.field: null });
            refuse(&body, Endpoint::Chat).unwrap();
            refuse(&body, Endpoint::Text).unwrap();
        }
    }
}
