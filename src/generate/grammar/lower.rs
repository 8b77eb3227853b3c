//! Rewrites a checked schema for the grammar library, which gets some keywords wrong, lacks others,
//! and reads references differently. The result allows no value that the schema refuses:
//!
//! - References become definitions of their own at the root; what nothing refers to is dropped.
//! - Objects with `properties` are closed (see [`Closing`]), as llama.cpp does: a model with an open
//!   object in front of it invents properties.
//! - Bounds, expressions and formats are translated ([`bounds`], [`patterns`], [`formats`]).
//! - A `oneOf` of schemas that can be distinguished becomes an `anyOf` ([`apart`]).
//! - Keywords of older drafts become those of 2020-12; those that ask nothing are dropped.

use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};

use super::closing::Names;
use super::keywords::{COUNTS, IN_PLACE};
use super::steps::Steps;
use super::{apart, bounds, formats, patterns, pointer};

/// Which objects are closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closing {
    /// Those with `properties` or `patternProperties`, if the schema does not say what other
    /// properties may be.
    Listed,
    /// As the standard says: only those that the schema closes.
    Literal,
}

/// The schema for the library. Visits each schema once or twice over a work list, as the check does.
pub(super) fn lowered(schema: &Json, closing: Closing) -> Json {
    let mut lowering = Lowering {
        root: schema,
        closing,
        tasks: Vec::new(),
        definitions: HashMap::new(),
        spent: 0,
        steps: Steps::new(Steps::USUAL),
    };
    let part = lowering.open_part();
    lowering.add(schema, None, part);
    let mut at = 0;
    while at < lowering.tasks.len() {
        lowering.expand(at);
        at += 1;
    }
    lowering.assemble()
}

/// A schema to rewrite.
struct Task<'s> {
    schema: &'s Json,
    /// The schema that it is within and its slot there; `None` for the root and definitions.
    within: Option<(usize, Slot<'s>)>,
    /// It applies beside other schemas, which decide together what properties there may be.
    part: bool,
    /// The definitions' numbers that its own `$ref` leads to.
    target: Option<usize>,
    /// Closes its object beside what it allows itself.
    closure: Option<Json>,
    /// Its own `oneOf` can be an `anyOf`.
    told_apart: bool,
    /// Rewritten parts, last first.
    parts: Vec<(Slot<'s>, Json)>,
}

/// The place of a schema in another.
#[derive(Clone, Copy)]
enum Slot<'s> {
    Keyword(&'s str),
    Index(&'s str),
    Name(&'s str, &'s str),
}

struct Lowering<'s> {
    root: &'s Json,
    closing: Closing,
    tasks: Vec<Task<'s>>,
    /// The tasks of definitions, by what they define and whether it is a part.
    definitions: HashMap<(*const Json, bool), usize>,
    /// Bytes of closures.
    spent: usize,
    steps: Steps,
}

impl<'s> Lowering<'s> {
    /// Whether a schema that stands alone is treated as a part, which nothing closes.
    fn open_part(&self) -> bool {
        self.closing == Closing::Literal
    }

    fn add(&mut self, schema: &'s Json, within: Option<(usize, Slot<'s>)>, part: bool) -> usize {
        let told_apart = schema
            .get("oneOf")
            .and_then(Json::as_array)
            .is_some_and(|schemas| apart::all_apart(schemas, self.root, &self.steps));
        let parts = Vec::new();
        let task = Task { schema, within, part, target: None, closure: None, told_apart, parts };
        self.tasks.push(task);
        self.tasks.len() - 1
    }

    /// Decides how the object is closed, and adds the schemas within.
    fn expand(&mut self, at: usize) {
        let task = &self.tasks[at];
        let (schema, told_apart) = (task.schema, task.told_apart);
        let Some(fields) = schema.as_object() else { return };
        let must = fields.get("unevaluatedProperties") == Some(&Json::Bool(false));
        let closes = !task.part || must;
        let in_place: Vec<&str> =
            IN_PLACE.into_iter().filter(|keyword| fields.contains_key(*keyword)).collect();
        let alone = !must && is_alone(fields, &in_place);
        let alternatives = match in_place.as_slice() {
            [.., "oneOf"] if in_place.contains(&"anyOf") || !told_apart => None,
            [.., list @ ("anyOf" | "oneOf")] => Some(*list),
            _ => None,
        };
        // The names beside the alternatives, each of which is closed with its own.
        let mut beside = None;
        if closes && !alone && !fields.contains_key("additionalProperties") {
            match alternatives {
                Some(list) => beside = Some(Names::of(schema, self.root, list, &self.steps)),
                None => {
                    let names = Names::of(schema, self.root, "", &self.steps);
                    self.tasks[at].closure = names.closure(must, &mut self.spent);
                }
            }
        }
        for keyword in in_place {
            let passes = alone && (keyword != "oneOf" || told_apart);
            let part = !passes || !closes;
            let list = fields.get(keyword).and_then(Json::as_array).into_iter().flatten();
            for schema in list {
                let child = self.add(schema, Some((at, Slot::Index(keyword))), part);
                if let Some(beside) = beside.as_ref().filter(|_| alternatives == Some(keyword)) {
                    let names =
                        beside.and(&Names::of(schema, self.root, "", &self.steps), &self.steps);
                    self.tasks[child].closure = names.closure(must, &mut self.spent);
                }
            }
            if keyword == "$ref" {
                self.tasks[at].target = self.definition(fields, part);
            }
        }
        self.expand_within(at, fields);
    }

    /// Adds the schemas of parts of the value.
    fn expand_within(&mut self, at: usize, fields: &'s Map<String, Json>) {
        let part = self.open_part();
        for (keyword, value) in fields {
            let keyword = keyword.as_str();
            match (keyword, value) {
                ("properties" | "patternProperties", Json::Object(schemas)) => {
                    for (name, schema) in schemas {
                        self.add(schema, Some((at, Slot::Name(keyword, name))), part);
                    }
                }
                // Older drafts don't know it.
                ("prefixItems", _) if self.is_old() => {}
                ("items" | "prefixItems", Json::Array(schemas)) => {
                    for schema in schemas {
                        self.add(schema, Some((at, Slot::Index("prefixItems"))), part);
                    }
                }
                // It counts only behind a list of items, and not in the newest draft.
                ("additionalItems", schema) => {
                    if matches!(fields.get("items"), Some(Json::Array(_))) {
                        self.add(schema, Some((at, Slot::Keyword("items"))), part);
                    }
                }
                ("unevaluatedItems", Json::Bool(false)) if !fields.contains_key("items") => {
                    self.add(value, Some((at, Slot::Keyword("items"))), part);
                }
                ("items" | "additionalProperties", schema) => {
                    self.add(schema, Some((at, Slot::Keyword(keyword))), part);
                }
                _ => {}
            }
        }
    }

    /// Whether the schema says that it is of a draft before 2020-12.
    fn is_old(&self) -> bool {
        let draft = self.root.get("$schema").and_then(Json::as_str).unwrap_or_default();
        ["draft-0", "2019-09"].iter().any(|name| draft.contains(name))
    }

    /// The definition that a reference leads to.
    fn definition(&mut self, fields: &'s Map<String, Json>, part: bool) -> Option<usize> {
        let reference = fields.get("$ref")?.as_str()?;
        let schema = pointer::resolve(self.root, reference)?.schema;
        let key = (std::ptr::from_ref(schema), part);
        if let Some(task) = self.definitions.get(&key) {
            return Some(*task);
        }
        let task = self.add(schema, None, part);
        self.definitions.insert(key, task);
        Some(task)
    }

    /// Builds the result from the innermost schemas outwards, which come later in the list.
    fn assemble(mut self) -> Json {
        let mut definitions = Map::new();
        let mut root = Json::Bool(true);
        while let Some(task) = self.tasks.pop() {
            let within = task.within;
            let schema = task.assemble();
            match within {
                Some((at, slot)) => self.tasks[at].parts.push((slot, schema)),
                None if self.tasks.is_empty() => root = schema,
                None => {
                    definitions.insert(format!("d{}", self.tasks.len()), schema);
                }
            }
        }
        if let (Json::Object(fields), false) = (&mut root, definitions.is_empty()) {
            fields.insert("$defs".into(), Json::Object(definitions));
        }
        root
    }
}

/// Whether a schema is no more than one reference, or one list of alternatives: then each of them
/// decides by itself what properties there may be.
fn is_alone(fields: &Map<String, Json>, in_place: &[&str]) -> bool {
    let [keyword] = in_place else { return false };
    let one = *keyword != "allOf" || fields.get("allOf").is_some_and(|all| all[1].is_null());
    let own = ["properties", "patternProperties", "additionalProperties", "required"];
    one && !own.iter().any(|name| fields.contains_key(*name))
}

impl<'s> Task<'s> {
    fn assemble(mut self) -> Json {
        let Some(fields) = self.schema.as_object() else { return self.schema.clone() };
        let mut out = Map::new();
        for (keyword, value) in fields {
            let value = match keyword.as_str() {
                "type" | "const" | "enum" => value.clone(),
                "required" if value.is_array() => value.clone(),
                count if COUNTS.contains(&count) => whole(value),
                "multipleOf" => value.clone(),
                _ => continue,
            };
            out.insert(keyword.clone(), value);
        }
        bounds::closed(fields, &mut out);
        self.expressions(fields, &mut out);
        if let Some(target) = self.target {
            out.insert("$ref".into(), json!(format!("#/$defs/d{target}")));
        }
        self.place_parts(&mut out);
        match self.closure {
            Some(closure) if self.is_simple() => {
                // Its properties, and what it requires beside them.
                if let Some(Json::Object(names)) = closure.get("properties")
                    && let Json::Object(properties) =
                        out.entry("properties").or_insert_with(|| json!({}))
                {
                    for (name, any) in names {
                        properties.entry(name).or_insert_with(|| any.clone());
                    }
                }
                out.insert("additionalProperties".into(), closure["additionalProperties"].clone());
            }
            Some(closure) => push_all(&mut out, closure),
            None => {}
        }
        Json::Object(out)
    }

    /// Whether the object's own keywords name all that it may have.
    fn is_simple(&self) -> bool {
        let fields = self.schema.as_object();
        fields.is_some_and(|fields| !IN_PLACE.iter().any(|keyword| fields.contains_key(*keyword)))
            && self.within.is_none_or(|(_, slot)| !matches!(slot, Slot::Index(_)) || !self.part)
    }

    /// Puts `pattern` and `format` into `out`.
    fn expressions(&self, fields: &Map<String, Json>, out: &mut Map<String, Json>) {
        let given = fields.get("pattern").and_then(Json::as_str).map(patterns::spelled);
        let format = fields.get("format").and_then(Json::as_str).and_then(formats::pattern);
        match (given, format) {
            (Some(given), Some(format)) => {
                out.insert("pattern".into(), json!(given));
                push_all(out, json!({ "pattern": format }));
            }
            (Some(given), None) => drop(out.insert("pattern".into(), json!(given))),
            (None, Some(format)) => drop(out.insert("pattern".into(), json!(format))),
            (None, None) => {}
        }
    }

    fn place_parts(&mut self, out: &mut Map<String, Json>) {
        let mut lists: Map<String, Json> = Map::new();
        // An empty list or map counts, too.
        for keyword in ["properties", "patternProperties"] {
            if self.schema.get(keyword).is_some_and(Json::is_object) {
                out.insert(keyword.into(), json!({}));
            }
        }
        while let Some((slot, schema)) = self.parts.pop() {
            match slot {
                Slot::Keyword(keyword) => drop(out.insert(keyword.into(), schema)),
                Slot::Index(keyword) => {
                    if let Json::Array(list) = lists.entry(keyword).or_insert_with(|| json!([])) {
                        list.push(schema);
                    }
                }
                Slot::Name("patternProperties", name) => {
                    place_pattern(&mut out["patternProperties"], patterns::spelled(name), schema);
                }
                Slot::Name(keyword, name) => out[keyword][name] = schema,
            }
        }
        for (keyword, schemas) in lists {
            match keyword.as_str() {
                "oneOf" if self.told_apart && out.contains_key("anyOf") => {
                    push_all(out, json!({ "anyOf": schemas }));
                }
                "oneOf" if self.told_apart => drop(out.insert("anyOf".into(), schemas)),
                "allOf" => {
                    let Json::Array(schemas) = schemas else { continue };
                    schemas.into_iter().for_each(|schema| push_all(out, schema));
                }
                _ => drop(out.insert(keyword, schemas)),
            }
        }
    }
}

/// Adds a schema that applies as well.
fn push_all(out: &mut Map<String, Json>, schema: Json) {
    let all = out.entry("allOf").or_insert_with(|| json!([]));
    if let Json::Array(all) = all {
        all.push(schema);
    }
}

/// Two expressions of a schema may become one.
fn place_pattern(all: &mut Json, pattern: String, schema: Json) {
    let place = &mut all[pattern];
    let both = match place.take() {
        Json::Null => schema,
        other => json!({ "allOf": [other, schema] }),
    };
    *place = both;
}

/// A count that was written as a fraction, as the standard permits.
fn whole(value: &Json) -> Json {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole and not negative; a larger count is the largest"
    )]
    match value.as_f64() {
        Some(count) if value.as_u64().is_none() && count >= 0.0 && count.fract() == 0.0 => {
            json!(count as u64)
        }
        _ => value.clone(),
    }
}

#[cfg(test)]
#[path = "lower_tests.rs"]
mod tests;
