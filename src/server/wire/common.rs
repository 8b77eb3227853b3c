//! What several endpoints share: JSON leaves with plain-spoken type errors, and usage.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::bounds;
use crate::error::{ApiError, shortened};
use phi4d_generate::{Finish, TokenDelta, Usage};

/// Reads the fields that `T` knows from a request's JSON object; others are left alone.
pub(crate) fn read_fields<T: DeserializeOwned>(body: &Value) -> Result<T, ApiError> {
    let Some(fields) = body.as_object() else {
        let reason = format!("{} is not accepted; expected a JSON object", name_of(body));
        return Err(ApiError::invalid_type("", &reason));
    };
    if fields.len() > bounds::FIELDS {
        let (count, most) = (fields.len(), bounds::FIELDS);
        let reason = format!("{count} fields are not accepted; expected at most {most} fields");
        return Err(ApiError::invalid_type("", &reason));
    }
    read_at(body, "")
}

/// Reads a value that stands at `place` in the request.
pub(super) fn read_at<T: DeserializeOwned>(value: &Value, place: &str) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = below(place, &error.path().to_string());
        let inner = error.inner().to_string();
        match inner.strip_prefix(TOO_LONG).and_then(|rest| rest.split_once(", expected ")) {
            Some((count, accepted)) => {
                let noun = accepted.rsplit(' ').next().unwrap_or_default();
                let kind = if noun == ENTRIES { "an object" } else { "a list" };
                let value = format_args!("{kind} of {count} {noun}");
                ApiError::invalid_value(path, value, accepted)
            }
            None => ApiError::invalid_type(&path, &plain(&inner)),
        }
    })
}

/// The path of what `path` leads to from `place` on.
fn below(place: &str, path: &str) -> String {
    match path {
        "." => place.to_owned(),
        path if place.is_empty() => path.to_owned(),
        path if path.starts_with('[') => format!("{place}{path}"),
        path => format!("{place}.{path}"),
    }
}

/// How serde's errors of this kind begin; only lists and maps that are too long make them.
const TOO_LONG: &str = "invalid length ";

/// What lists and maps have.
const ITEMS: &str = "items";
const ENTRIES: &str = "entries";

/// Refuses more than `most` of `noun`.
fn check_length<E: Error>(count: usize, most: usize, noun: &str) -> Result<(), E> {
    if count > most {
        return Err(E::invalid_length(count, &format!("at most {most} {noun}").as_str()));
    }
    Ok(())
}

/// serde's type error with JSON's names for types and long values shortened.
fn plain(error: &str) -> String {
    let error = error.replacen("invalid type: map", "invalid type: an object", 1).replacen(
        "invalid type: sequence",
        "invalid type: a list",
        1,
    );
    match error.rsplit_once(", expected ") {
        Some((found, "a map")) => format!("{}, expected an object", shortened(found)),
        Some((found, expected)) => format!("{}, expected {expected}", shortened(found)),
        None => shortened(&error),
    }
}

/// A value in a message: itself where it is short, else its kind.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::Array(items) if items.is_empty() => "[]".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        other => shortened(&other.to_string()),
    }
}

/// The fault of a list that is longer than its bound, where its type does not have the bound.
pub(super) fn too_long(field: &str, count: usize, most: usize) -> ApiError {
    let value = format_args!("a list of {count} {ITEMS}");
    ApiError::invalid_value(field, value, &format!("at most {most} {ITEMS}"))
}

/// The error for a field that must be one of some words: `given` is another word, or none is given.
pub(super) fn unknown_word(
    field: impl Into<String>,
    given: Option<&str>,
    accepted: &str,
) -> ApiError {
    match given {
        None => ApiError::missing(field, accepted),
        Some(word) => ApiError::invalid_value(field, format_args!("{word:?}"), accepted),
    }
}

/// As [`unknown_word`], for words that have a meaning which this server does not support.
pub(super) fn unsupported_word(
    field: impl Into<String>,
    given: Option<&str>,
    accepted: &str,
) -> ApiError {
    match given {
        Some(word) => ApiError::unsupported(field, format_args!("{word:?}"), accepted),
        None => unknown_word(field, None, accepted),
    }
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A JSON integer of at most 64 bits; `5.0` is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Integer(i128);

impl Integer {
    /// The value as `T`, or a fault that names `field` and what it accepts.
    pub(crate) fn fit<T: TryFrom<i128>>(self, field: &str, accepted: &str) -> Result<T, ApiError> {
        T::try_from(self.0).map_err(|_| self.refused(field, accepted))
    }

    pub(crate) fn is_zero(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// Whether it is the number that stands for no limit.
    pub(crate) fn is_minus_one(self) -> bool {
        self.0 == -1
    }

    pub(crate) fn refused(self, field: &str, accepted: &str) -> ApiError {
        ApiError::invalid_value(field, self.0, accepted)
    }
}

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IntegerVisitor;
        impl Visitor<'_> for IntegerVisitor {
            type Value = Integer;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an integer")
            }

            fn visit_i64<E>(self, value: i64) -> Result<Integer, E> {
                Ok(Integer(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Integer, E> {
                Ok(Integer(value.into()))
            }
        }
        deserializer.deserialize_any(IntegerVisitor)
    }
}

/// A JSON number, with or without a fraction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Number(pub(crate) f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberVisitor;
        impl Visitor<'_> for NumberVisitor {
            type Value = Number;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a number")
            }

            fn visit_i64<E>(self, value: i64) -> Result<Number, E> {
                Ok(Number(value as f64))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Number, E> {
                Ok(Number(value as f64))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Number, E> {
                Ok(Number(value))
            }
        }
        deserializer.deserialize_any(NumberVisitor)
    }
}

/// A JSON list of at most `MOST` items. One that is longer is refused before its items are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct List<T, const MOST: usize>(pub(crate) Vec<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for List<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor<T, const MOST: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for ListVisitor<T, MOST> {
            type Value = List<T, MOST>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, sequence: A) -> Result<Self::Value, A::Error> {
                items(sequence, MOST).map(List)
            }
        }
        deserializer.deserialize_any(ListVisitor(PhantomData))
    }
}

/// A JSON object of the shape `T`. serde's derived structs alone would take a list of the fields'
/// values in order as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_any(ObjectVisitor(PhantomData))
    }
}

/// A JSON object of at most `MOST` entries with any names, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entries<T, const MOST: usize>(pub(crate) Vec<(String, T)>);

impl<T, const MOST: usize> Entries<T, MOST>
where
    Map<String, T>: FromIterator<(String, T)>,
{
    /// As an object.
    pub(crate) fn into_map(self) -> Map<String, T> {
        self.0.into_iter().collect()
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for Entries<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor<T, const MOST: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for EntriesVisitor<T, MOST> {
            type Value = Entries<T, MOST>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                check_length(map.size_hint().unwrap_or(0), MOST, ENTRIES)?;
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    check_length(entries.len() + 1, MOST, ENTRIES)?;
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_any(EntriesVisitor(PhantomData))
    }
}

/// A string, or a list of at most `MOST` of `T`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TextOr<T, const MOST: usize> {
    Text(String),
    List(Vec<T>),
}

impl<const MOST: usize> TextOr<String, MOST> {
    /// The texts, of which there may be one.
    pub(crate) fn into_list(self) -> Vec<String> {
        match self {
            Self::Text(text) => vec![text],
            Self::List(texts) => texts,
        }
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for TextOr<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrVisitor<T, const MOST: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for TextOrVisitor<T, MOST> {
            type Value = TextOr<T, MOST>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string or a list")
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(TextOr::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, sequence: A) -> Result<Self::Value, A::Error> {
                items(sequence, MOST).map(TextOr::List)
            }
        }
        deserializer.deserialize_any(TextOrVisitor(PhantomData))
    }
}

fn items<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(
    mut sequence: A,
    most: usize,
) -> Result<Vec<T>, A::Error> {
    check_length(sequence.size_hint().unwrap_or(0), most, ITEMS)?;
    let mut items = Vec::new();
    while let Some(item) = sequence.next_element()? {
        check_length(items.len() + 1, most, ITEMS)?;
        items.push(item);
    }
    Ok(items)
}

/// How OpenAI's first two endpoints send an answer, and with what beside its text.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct AnswerFields {
    stream: Option<bool>,
    stream_options: Option<Object<StreamOptions>>,
    return_token_ids: Option<bool>,
    return_tokens_as_token_ids: Option<bool>,
    timings_per_token: Option<bool>,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct StreamOptions {
    include_usage: Option<bool>,
    continuous_usage_stats: Option<bool>,
}

/// How the answer is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// As one JSON object.
    Whole,
    /// As server-sent events, with a last chunk of usage if asked for.
    Stream {
        /// Whether chunks have a `usage` field, and the last one is usage alone.
        include_usage: bool,
        /// Whether every chunk has the usage so far.
        continuous: bool,
    },
}

impl Delivery {
    /// Without chunks of usage.
    pub(crate) fn of(stream: bool) -> Self {
        match stream {
            true => Self::Stream { include_usage: false, continuous: false },
            false => Self::Whole,
        }
    }

    pub(crate) fn includes_usage(self) -> bool {
        matches!(self, Self::Stream { include_usage: true, .. })
    }

    /// The `usage` field of a chunk when `usage` is what was used so far.
    pub(crate) fn chunk_usage(self, usage: Usage) -> ChunkUsage {
        match self {
            Self::Stream { continuous: true, .. } => ChunkUsage::Known(usage.into()),
            Self::Stream { include_usage: true, .. } => ChunkUsage::NotYet,
            _ => ChunkUsage::NotAsked,
        }
    }
}

impl AnswerFields {
    /// What answers have, with log-probabilities if `logprobs`.
    pub(crate) fn extras(&self, logprobs: bool) -> Result<Extras, ApiError> {
        Ok(Extras {
            logprobs,
            token_ids: self.return_token_ids.unwrap_or(false),
            names_by_id: self.return_tokens_as_token_ids.unwrap_or(false),
            timings: self.timings_per_token.unwrap_or(false),
            delivery: self.delivery()?,
        })
    }

    fn delivery(&self) -> Result<Delivery, ApiError> {
        let options = &self.stream_options;
        if self.stream == Some(true) {
            let set = |get: fn(&StreamOptions) -> Option<bool>| {
                options.as_ref().is_some_and(|options| get(&options.0) == Some(true))
            };
            let include_usage = set(|options| options.include_usage);
            let continuous = include_usage && set(|options| options.continuous_usage_stats);
            return Ok(Delivery::Stream { include_usage, continuous });
        }
        match options {
            Some(_) => Err(ApiError::invalid_value(
                "stream_options",
                "an object",
                "it only together with \"stream\": true",
            )),
            None => Ok(Delivery::Whole),
        }
    }
}

/// What the answers of OpenAI's first two endpoints have beside their text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extras {
    pub(crate) logprobs: bool,
    /// The token ids of prompts and answers.
    pub(crate) token_ids: bool,
    /// Log-probabilities name tokens by their ids.
    pub(crate) names_by_id: bool,
    pub(crate) timings: bool,
    /// Which chunks have the usage.
    pub(crate) delivery: Delivery,
}

/// OpenAI's usage object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct WireUsage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptTokensDetails,
    completion_tokens_details: CompletionTokensDetails,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct PromptTokensDetails {
    cached_tokens: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct CompletionTokensDetails {
    reasoning_tokens: usize,
}

impl From<Usage> for WireUsage {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.prompt_tokens + usage.completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens: usage.cached_tokens },
            completion_tokens_details: CompletionTokensDetails {
                reasoning_tokens: usage.reasoning_tokens,
            },
        }
    }
}

/// The `usage` field of a chunk: left out, null, or there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChunkUsage {
    NotAsked,
    NotYet,
    Known(WireUsage),
}

impl ChunkUsage {
    pub(crate) fn is_not_asked(&self) -> bool {
        matches!(self, Self::NotAsked)
    }
}

impl Serialize for ChunkUsage {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Known(usage) => usage.serialize(serializer),
            Self::NotAsked | Self::NotYet => serializer.serialize_none(),
        }
    }
}

pub(crate) fn token_ids_of(tokens: &[TokenDelta]) -> Vec<u32> {
    tokens.iter().filter(|token| !token.is_end).map(|token| token.id).collect()
}

pub(crate) fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::ToolCalls => "tool_calls",
        Finish::Length => "length",
    }
}

/// What all chunks and answers of one request say about where they come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Envelope {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) system_fingerprint: &'static str,
}

/// Changes with anything that may change the output for one seed.
pub(crate) const SYSTEM_FINGERPRINT: &str = concat!("fp_phi4d_", env!("CARGO_PKG_VERSION"));

/// The JSON text of an answer's shape.
#[expect(
    clippy::expect_used,
    reason = "serialising to memory fails only on non-string keys or a failing Serialize"
)]
pub(crate) fn to_json<T: Serialize>(shape: &T) -> String {
    serde_json::to_string(shape).expect("answers have string keys and plain fields")
}

#[cfg(test)]
#[path = "common_tests.rs"]
mod tests;
