//! Checks the keywords of one schema: that each is what the standard says, and that what it asks can
//! be kept to. Unknown keywords are ignored, as the standard demands.

use serde_json::{Map, Value as Json};

use super::super::error::{GenerateError, invalid};
use super::bounds;
use super::closing::Names;
use super::patterns;
use super::steps::Steps;

/// Keywords that restrict values and are kept to only where they ask nothing. Ignoring them would
/// return answers that don't match the schema.
pub(super) const NOT_KEPT: [&str; 16] = [
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
];

const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

/// Lengths and counts.
pub(super) const COUNTS: [&str; 6] =
    ["maxItems", "maxLength", "maxProperties", "minItems", "minLength", "minProperties"];

/// Keywords that apply to the same value as the schema around them.
pub(super) const IN_PLACE: [&str; 4] = ["$ref", "allOf", "anyOf", "oneOf"];

/// Refuses a keyword whose value is not accepted, with its place below `place`. `steps` are for the
/// whole schema.
///
/// # Errors
/// [`GenerateError::InvalidField`].
pub(super) fn check(
    schema: &Json,
    root: &Json,
    steps: &Steps,
    place: impl Fn() -> String,
) -> Result<(), GenerateError> {
    let Some(fields) = schema.as_object() else { return Ok(()) };
    for (keyword, value) in fields {
        let at = |below: &str| format!("{}.{keyword}{below}", place());
        let keyword = keyword.as_str();
        if NOT_KEPT.contains(&keyword) {
            if asks_nothing(keyword, schema, fields) || is_kept(keyword, schema, root, steps) {
                continue;
            }
            let accepted = format!("a schema without it: {} can't be enforced", what(keyword));
            return Err(invalid(at(""), value, accepted));
        }
        let refused = |accepted: &str| Err(invalid(at(""), value, accepted));
        match keyword {
            "type" if !is_type(value) => {
                return refused(&format!("one of {}, or a list of them", TYPES.join(", ")));
            }
            "required" if !is_required(value, fields) => return refused("a list of names"),
            "pattern" => expression(value, || at(""))?,
            "patternProperties" => {
                for pattern in value.as_object().into_iter().flat_map(Map::keys) {
                    let shown = Json::from(pattern.as_str());
                    expression(&shown, || at(&format!(".{pattern}")))?;
                }
            }
            "const" => literal(value, || at(""))?,
            "enum" => match value {
                Json::Array(values) if !values.is_empty() => {
                    for (index, value) in values.iter().enumerate() {
                        literal(value, || at(&format!("[{index}]")))?;
                    }
                }
                _ => return refused("a list of at least one value"),
            },
            count if COUNTS.contains(&count) && !is_count(value) => {
                return refused("an integer of at least 0");
            }
            "minimum" | "maximum" if !value.is_number() => return refused("a number"),
            "exclusiveMinimum" | "exclusiveMaximum"
                if !value.is_number() && !value.is_boolean() =>
            {
                return refused("a number");
            }
            "multipleOf" if value.as_f64().is_none_or(|step| step <= 0.0) => {
                return refused("a number above 0");
            }
            _ => {}
        }
    }
    distinct(fields, place)
}

/// Whether a keyword restricts nothing here.
fn asks_nothing(keyword: &str, schema: &Json, fields: &Map<String, Json>) -> bool {
    let value = &schema[keyword];
    let given = |name: &str| fields.get(name).filter(|schema| !is_any(schema)).is_some();
    match keyword {
        "contains" => schema["minContains"] == 0 && !fields.contains_key("maxContains"),
        "minContains" | "maxContains" => {
            !fields.contains_key("contains") || asks_nothing("contains", schema, fields)
        }
        "dependencies" | "dependentRequired" | "dependentSchemas" => {
            let empty = |value: &Json| is_any(value) || value.as_array().is_some_and(Vec::is_empty);
            value.as_object().is_some_and(|parts| parts.values().all(empty))
        }
        "if" | "then" | "else" => !fields.contains_key("if") || !given("then") && !given("else"),
        "not" => value == false,
        "propertyNames" => {
            let is_type = |(name, kinds): (&String, &Json)| {
                let any = |kinds: &Vec<Json>| kinds.iter().any(|kind| kind == "string");
                name == "type" && (kinds == "string" || kinds.as_array().is_some_and(any))
            };
            is_any(value) || value.as_object().is_some_and(|fields| fields.iter().all(is_type))
        }
        "unevaluatedItems" | "unevaluatedProperties" => is_any(value),
        "uniqueItems" => {
            value == false || schema["maxItems"].as_f64().is_some_and(|count| count <= 1.0)
        }
        _ => false,
    }
}

/// Whether a keyword is kept to here, though not everywhere.
fn is_kept(keyword: &str, schema: &Json, root: &Json, steps: &Steps) -> bool {
    let has = |name: &&str| schema.get(*name).is_some();
    match keyword {
        "unevaluatedItems" => {
            schema[keyword] == false && !IN_PLACE.iter().any(has) && !schema["items"].is_array()
        }
        "unevaluatedProperties" => {
            // What is evaluated must not depend on the alternative beyond one list of them.
            let list = ["anyOf", "oneOf"].into_iter().find(has).unwrap_or_default();
            let plain =
                |schema, skipped| !Names::of(schema, root, skipped, steps).has_alternatives();
            schema[keyword] == false
                && plain(schema, list)
                && schema[list].as_array().into_iter().flatten().all(|part| plain(part, ""))
        }
        _ => false,
    }
}

/// Whether a schema restricts nothing.
fn is_any(schema: &Json) -> bool {
    schema == true || schema.as_object().is_some_and(Map::is_empty)
}

/// What a keyword that is not kept to would demand.
fn what(keyword: &str) -> &'static str {
    match keyword {
        "$dynamicRef" | "$recursiveRef" => "a reference by a dynamic name",
        "contains" | "minContains" | "maxContains" => "what one of the items must be",
        "uniqueItems" => "that items differ",
        "propertyNames" => "what names must be",
        "unevaluatedItems" | "unevaluatedProperties" => "a rule for what other schemas leave over",
        "not" => "what a value must not be",
        _ => "a condition",
    }
}

fn is_type(value: &Json) -> bool {
    let known = |kind: &Json| kind.as_str().is_some_and(|kind| TYPES.contains(&kind));
    match value {
        Json::Array(kinds) => !kinds.is_empty() && kinds.iter().all(known),
        kind => known(kind),
    }
}

/// Null is none, as clients write it. A boolean, as draft 3 had it, belongs to values that are no
/// objects.
fn is_required(value: &Json, fields: &Map<String, Json>) -> bool {
    match value {
        Json::Null => true,
        Json::Array(names) => names.iter().all(Json::is_string),
        Json::Bool(_) => fields.get("type").is_some_and(|kind| kind != "object"),
        _ => false,
    }
}

fn is_count(value: &Json) -> bool {
    value.as_f64().is_some_and(|count| count >= 0.0 && count.fract() == 0.0)
}

fn expression(value: &Json, place: impl Fn() -> String) -> Result<(), GenerateError> {
    let accepted = "a regular expression of ECMAScript";
    let Some(pattern) = value.as_str() else { return Err(invalid(place(), value, accepted)) };
    let fault = |fault| invalid(place(), value, format!("{accepted}, without {fault}"));
    patterns::translated(pattern).map(drop).map_err(fault)
}

/// Refuses a value that would not come out as it is. Iterates, as values may nest.
fn literal(value: &Json, place: impl Fn() -> String) -> Result<(), GenerateError> {
    let mut left = vec![value];
    while let Some(value) = left.pop() {
        match value {
            Json::Number(number) if !bounds::is_exact(number) => {
                return Err(invalid(place(), value, bounds::EXACT_NUMBERS));
            }
            Json::String(text) if text.contains(patterns::is_never) => {
                let accepted = "a text without control characters but for \\b, \\f, \\n, \\r, \\t";
                return Err(invalid(place(), value, accepted));
            }
            Json::Array(values) => left.extend(values),
            Json::Object(values) => left.extend(values.values()),
            _ => {}
        }
    }
    Ok(())
}

/// Refuses a least number of properties that an output could reach by giving one name twice, which
/// no grammar can notice.
fn distinct(fields: &Map<String, Json>, place: impl Fn() -> String) -> Result<(), GenerateError> {
    let Some(least) = fields.get("minProperties").and_then(Json::as_f64) else { return Ok(()) };
    let listed = fields.get("properties").is_some_and(|properties| !properties.is_null());
    let others = fields.get("additionalProperties");
    let closed = others.map_or(listed, |others| others == false);
    let free = !closed || fields.contains_key("patternProperties");
    let names = fields.get("required").and_then(Json::as_array).map_or(0, Vec::len);
    #[expect(clippy::cast_precision_loss, reason = "a list in memory is shorter than 2^53")]
    let most = names as f64 + 1.0;
    if free && least > most {
        let accepted = format!("at most {most}: one more than the required names");
        return Err(invalid(format!("{}.minProperties", place()), least, accepted));
    }
    Ok(())
}
