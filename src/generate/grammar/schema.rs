//! What can be said about a JSON Schema before it is compiled, each fault with its place.
//!
//! The keywords are those of <https://json-schema.org/draft/2020-12>. Keywords that no draft knows
//! say nothing, as the standard has it.

use serde_json::{Map, Value as Json, json};

use super::super::error::GenerateError;
use super::super::validate::invalid;

/// Keywords that narrow what fits and that can't be kept to.
const NOT_KEPT: [&str; 17] = [
    "$dynamicRef",
    "$recursiveRef",
    "contains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "else",
    "if",
    "maxContains",
    "minContains",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
    "contentSchema",
];

const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

/// Keywords that hold a schema, a list of schemas, or schemas by name.
const ONE: [&str; 3] = ["additionalItems", "additionalProperties", "items"];
const LISTS: [&str; 5] = ["allOf", "anyOf", "items", "oneOf", "prefixItems"];
const NAMED: [&str; 2] = ["patternProperties", "properties"];

/// Settings of the grammar library that a schema may carry; a client's are left out.
const SETTINGS: &str = "x-guidance";

/// White space between JSON's parts: a model must not go on with it for ever.
const WHITE_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,40}";

/// Parts of a faulty schema that are compiled to find the fault's place.
const MOST_TRIALS: usize = 64;

/// The schema as it is compiled.
pub(super) fn prepared(schema: &Json) -> Json {
    let mut schema = match schema {
        Json::Object(fields) => fields.clone(),
        Json::Bool(true) => Map::new(),
        other => return other.clone(),
    };
    schema.remove(SETTINGS);
    if schema.get("uniqueItems") == Some(&Json::Bool(false)) {
        schema.remove("uniqueItems");
    }
    schema.insert(SETTINGS.into(), json!({ "whitespace_pattern": WHITE_SPACE }));
    Json::Object(schema)
}

/// Refuses what can't be kept to, naming the place below `field`.
pub(super) fn check(schema: &Json, field: &str) -> Result<(), GenerateError> {
    let mut walk = Walk { root: schema, seen: Vec::new() };
    walk.schema(schema, field)
}

struct Walk<'s> {
    root: &'s Json,
    /// References that were followed.
    seen: Vec<&'s str>,
}

impl<'s> Walk<'s> {
    fn schema(&mut self, schema: &'s Json, place: &str) -> Result<(), GenerateError> {
        let fields = match schema {
            Json::Bool(_) => return Ok(()),
            Json::Object(fields) => fields,
            other => return Err(invalid(place, other, "a JSON Schema: an object or a boolean")),
        };
        keywords(fields, place)?;
        if let Some(reference) = fields.get("$ref") {
            self.reference(reference, &format!("{place}.$ref"))?;
        }
        for (keyword, value) in fields {
            let place = format!("{place}.{keyword}");
            let keyword = keyword.as_str();
            match value {
                Json::Array(parts) if LISTS.contains(&keyword) => {
                    for (index, part) in parts.iter().enumerate() {
                        self.schema(part, &format!("{place}[{index}]"))?;
                    }
                }
                Json::Object(parts) if NAMED.contains(&keyword) => {
                    for (name, part) in parts {
                        self.schema(part, &format!("{place}.{name}"))?;
                    }
                }
                value if ONE.contains(&keyword) => self.schema(value, &place)?,
                value if LISTS.contains(&keyword) => {
                    return Err(invalid(place, value, "a list of schemas"));
                }
                value if NAMED.contains(&keyword) => {
                    return Err(invalid(place, value, "an object with a schema for each name"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn reference(&mut self, reference: &'s Json, place: &str) -> Result<(), GenerateError> {
        const ACCEPTED: &str = "\"#\", or \"#/…\" that points into this schema";
        let text = reference.as_str().ok_or_else(|| invalid(place, reference, ACCEPTED))?;
        if self.seen.contains(&text) {
            return Ok(());
        }
        let target = text.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
        let target = target.ok_or_else(|| invalid(place, reference, ACCEPTED))?;
        self.seen.push(text);
        self.schema(target, &format!("{place}({text})"))
    }
}

/// Checks the keywords of one schema that hold no schemas.
fn keywords(fields: &Map<String, Json>, place: &str) -> Result<(), GenerateError> {
    for (keyword, value) in fields {
        let asks_nothing = keyword == "uniqueItems" && value == false;
        if NOT_KEPT.contains(&keyword.as_str()) && !asks_nothing {
            return Err(invalid(
                format!("{place}.{keyword}"),
                value,
                "a schema without this keyword, which can't be kept to",
            ));
        }
    }
    if let Some(kinds) = fields.get("type") {
        let known = |kind: &Json| kind.as_str().is_some_and(|kind| TYPES.contains(&kind));
        let fits = match kinds {
            Json::Array(kinds) => !kinds.is_empty() && kinds.iter().all(known),
            kind => known(kind),
        };
        if !fits {
            let accepted = format!("one of {}, or a list of them", TYPES.join(", "));
            return Err(invalid(format!("{place}.type"), kinds, accepted));
        }
    }
    if let Some(format) = fields.get("format").filter(|_| may_be_text(fields))
        && !format.as_str().is_some_and(|format| FORMATS.contains(&format))
    {
        let accepted = format!("one of {}", FORMATS.join(", "));
        return Err(invalid(format!("{place}.format"), format, accepted));
    }
    Ok(())
}

/// Formats speak of strings only.
fn may_be_text(fields: &Map<String, Json>) -> bool {
    match fields.get("type") {
        None => true,
        Some(Json::Array(kinds)) => kinds.iter().any(|kind| kind == "string"),
        Some(kind) => kind == "string",
    }
}

/// Where a schema fails.
pub(super) struct Fault<'s> {
    /// Below the schema, as `.properties.x`; empty at its root.
    pub(super) place: String,
    /// The schema there.
    pub(super) part: &'s Json,
    /// What is wrong.
    pub(super) reason: String,
}

/// The innermost part of `schema` that fails by itself, where `schema` fails for `reason`.
/// `fails` compiles a part and tells why it can't be.
pub(super) fn fault<'s>(
    schema: &'s Json,
    reason: String,
    fails: impl Fn(&Json) -> Option<String>,
) -> Fault<'s> {
    let mut fault = Fault { place: String::new(), part: schema, reason };
    let mut left = MOST_TRIALS;
    loop {
        let parts = parts(fault.part);
        let found = parts.into_iter().find_map(|(place, part)| {
            left = left.checked_sub(1)?;
            Some((place, part, fails(&with_definitions(part, schema)?)?))
        });
        let Some((place, part, reason)) = found else { return fault };
        fault.place.push_str(&place);
        fault.part = part;
        fault.reason = reason;
    }
}

/// The schemas within a schema, with their places.
fn parts(schema: &Json) -> Vec<(String, &Json)> {
    let mut all = Vec::new();
    for (keyword, value) in schema.as_object().into_iter().flatten() {
        match value {
            Json::Array(parts) if LISTS.contains(&keyword.as_str()) => {
                let numbered = parts.iter().enumerate();
                all.extend(numbered.map(|(index, part)| (format!(".{keyword}[{index}]"), part)));
            }
            Json::Object(parts) if NAMED.contains(&keyword.as_str()) => {
                all.extend(parts.iter().map(|(name, part)| (format!(".{keyword}.{name}"), part)));
            }
            value if ONE.contains(&keyword.as_str()) => all.push((format!(".{keyword}"), value)),
            _ => {}
        }
    }
    all
}

/// `part` as a schema of its own; `None` if it points to something that it would lose by that.
fn with_definitions(part: &Json, root: &Json) -> Option<Json> {
    let text = part.to_string();
    let kept =
        |pointer: &str| pointer.starts_with("/$defs/") || pointer.starts_with("/definitions/");
    let pointers = text.split("\"$ref\":\"#").skip(1);
    if !pointers.clone().all(kept) {
        return None;
    }
    let mut whole = part.as_object()?.clone();
    for name in ["$schema", "$defs", "definitions"] {
        if let Some(value) = root.get(name) {
            whole.entry(name).or_insert_with(|| value.clone());
        }
    }
    Some(Json::Object(whole))
}
