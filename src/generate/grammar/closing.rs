//! The properties that an object may have by a schema and everything that applies beside it
//! (`allOf`, `anyOf`, `oneOf`, `$ref`), which closes the object where it would be open.

use std::collections::HashSet;

use serde_json::{Map, Value as Json, json};

use super::steps::Steps;
use super::{patterns, pointer};

/// Bytes of names in all that is added to close a schema's objects. Where they don't suffice,
/// objects stay open.
const MOST_BYTES: usize = 1 << 20;

/// Names of properties.
#[derive(Debug, Default)]
pub(super) struct Names<'s> {
    properties: Vec<&'s str>,
    patterns: Vec<&'s str>,
    /// Whether `properties` or `patternProperties` is given at all.
    listed: bool,
    /// Whether a schema says itself what other properties may be.
    opened: bool,
    /// Whether there are names of alternatives among them.
    alternatives: bool,
}

impl<'s> Names<'s> {
    /// Those of `schema` without its keyword `skipped`. If `steps` do not suffice to read them all,
    /// they are as of an open object, and depend on alternatives.
    pub(super) fn of(schema: &'s Json, root: &'s Json, skipped: &str, steps: &Steps) -> Self {
        let mut names = Self::default();
        let mut seen = HashSet::new();
        let mut left = vec![schema];
        while let Some(member) = left.pop() {
            let Some(fields) = member.as_object() else { continue };
            let before = names.count();
            names.add(fields);
            if !steps.may(1 + names.count() - before) {
                (names.opened, names.alternatives) = (true, true);
                break;
            }
            let skipped = |name: &str| std::ptr::eq(member, schema) && name == skipped;
            for list in ["allOf", "anyOf", "oneOf"] {
                let parts = fields.get(list).and_then(Json::as_array).filter(|_| !skipped(list));
                names.alternatives |= parts.is_some() && list != "allOf";
                left.extend(parts.into_iter().flatten());
            }
            let reference = fields.get("$ref").and_then(Json::as_str);
            if let Some(reference) = reference.filter(|reference| seen.insert(*reference)) {
                left.extend(pointer::resolve(root, reference).map(|target| target.schema));
            }
        }
        names
    }

    fn add(&mut self, fields: &'s Map<String, Json>) {
        if let Some(Json::Object(properties)) = fields.get("properties") {
            self.listed = true;
            self.properties.extend(properties.keys().map(String::as_str));
        }
        if let Some(Json::Object(patterns)) = fields.get("patternProperties") {
            self.listed = true;
            self.patterns.extend(patterns.keys().map(String::as_str));
        }
        let required = fields.get("required").and_then(Json::as_array);
        self.properties.extend(required.into_iter().flatten().filter_map(Json::as_str));
        let says = |name| fields.get(name).is_some_and(|value: &Json| value != &Json::Bool(false));
        self.opened |= says("additionalProperties") || says("unevaluatedProperties");
    }

    fn count(&self) -> usize {
        self.properties.len() + self.patterns.len()
    }

    /// Both together; none if `steps` do not suffice.
    pub(super) fn and(&self, other: &Self, steps: &Steps) -> Self {
        if !steps.may(self.count()) {
            return Self::default();
        }
        let both = |a: &[&'s str], b: &[&'s str]| [a, b].concat();
        Self {
            properties: both(&self.properties, &other.properties),
            patterns: both(&self.patterns, &other.patterns),
            listed: self.listed || other.listed,
            opened: self.opened || other.opened,
            alternatives: self.alternatives || other.alternatives,
        }
    }

    /// Whether the names depend on which alternative of an `anyOf` or `oneOf` a value fits.
    pub(super) fn has_alternatives(&self) -> bool {
        self.alternatives
    }

    /// A schema that allows these names and no others; `None` if the object is to stay open, which
    /// a schema that closes it itself (`must`) does not permit. `spent` counts the bytes of all
    /// such schemas.
    pub(super) fn closure(&self, must: bool, spent: &mut usize) -> Option<Json> {
        if !must && (self.opened || !self.listed) {
            return None;
        }
        let bytes: usize =
            self.properties.iter().chain(&self.patterns).map(|name| name.len() + 8).sum();
        *spent = spent.saturating_add(bytes);
        if *spent > MOST_BYTES {
            return must.then(|| json!({ "additionalProperties": false }));
        }
        let any = |names: &[&str], name: fn(&str) -> String| -> Map<String, Json> {
            names.iter().map(|text| (name(text), Json::Bool(true))).collect()
        };
        let mut closure = json!({
            "properties": any(&self.properties, str::to_owned), "additionalProperties": false
        });
        if !self.patterns.is_empty() {
            let patterns = any(&self.patterns, patterns::spelled);
            closure["patternProperties"] = Json::Object(patterns);
        }
        Some(closure)
    }
}
