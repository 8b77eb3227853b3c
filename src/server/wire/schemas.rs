//! JSON Schemas of the leaves whose reading is written by hand, for the OpenAPI document.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::common::{ChunkUsage, Integer, List, Number, Object, TextOr, WireUsage};
use super::logprobs::{PromptEntry, PromptPlace, TopTokens};

/// A schema that stands where it is used.
macro_rules! inline {
    ($(@$parameter:ident)? $type:ty, $generator:ident, $schema:expr) => {
        impl$(<$parameter: JsonSchema>)? JsonSchema for $type {
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
inline!(@T List<T>, generator, Vec::<T>::json_schema(generator));
inline!(@T Object<T>, generator, T::json_schema(generator));
inline!(@T TextOr<T>, generator, json_schema!({
    "anyOf": [{ "type": "string" }, Vec::<T>::json_schema(generator)]
}));
inline!(ChunkUsage, generator, Option::<WireUsage>::json_schema(generator));
inline!(PromptPlace, generator, BTreeMap::<String, PromptEntry>::json_schema(generator));
inline!(TopTokens, generator, BTreeMap::<String, f32>::json_schema(generator));
