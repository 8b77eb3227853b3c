//! JSON Schemas of the leaves whose reading is written by hand, for the OpenAPI document.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::bounds;
use super::common::{ChunkUsage, Entries, Integer, List, Number, Object, TextOr, WireUsage};
use super::completions::PromptShape;
use super::embeddings::InputShape;
use super::logprobs::{PromptEntry, PromptPlace, TopTokens};

/// A schema that stands where it is used.
macro_rules! inline {
    ($(@$parameter:ident $(/ $most:ident)?;)? $type:ty, $generator:ident, $schema:expr) => {
        impl$(<$parameter: JsonSchema $(, const $most: usize)?>)? JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema($generator: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

inline!(Integer, _generator, json_schema!({ "type": "integer" }));
inline!(Number, _generator, json_schema!({ "type": "number" }));
inline!(@T; Object<T>, generator, T::json_schema(generator));
inline!(@T/MOST; List<T, MOST>, generator, json_schema!({
    "type": "array", "items": T::json_schema(generator), "maxItems": MOST
}));
inline!(@T/MOST; TextOr<T, MOST>, generator, json_schema!({
    "anyOf": [{ "type": "string" }, List::<T, MOST>::json_schema(generator)]
}));
inline!(@T/MOST; Entries<T, MOST>, generator, json_schema!({
    "type": "object", "additionalProperties": T::json_schema(generator), "maxProperties": MOST
}));
inline!(
    PromptShape,
    generator,
    json_schema!({ "anyOf": [
    { "type": "string" },
    List::<Integer, { bounds::TOKEN_IDS }>::json_schema(generator),
    List::<TextOr<Integer, { bounds::TOKEN_IDS }>, { bounds::PROMPTS }>::json_schema(generator),
] })
);
inline!(
    InputShape,
    generator,
    json_schema!({ "anyOf": [
    { "type": "string" },
    List::<Integer, { bounds::TOKEN_IDS }>::json_schema(generator),
    List::<TextOr<Integer, { bounds::TOKEN_IDS }>, { bounds::EMBEDDED }>::json_schema(generator),
] })
);
inline!(ChunkUsage, generator, Option::<WireUsage>::json_schema(generator));
inline!(PromptPlace, generator, BTreeMap::<String, PromptEntry>::json_schema(generator));
inline!(TopTokens, generator, BTreeMap::<String, f32>::json_schema(generator));
