//! Whether two schemas can be distinguished: whether no value fits both. A `oneOf` of such schemas is
//! an `anyOf`, which the grammar library can follow.

use serde_json::{Map, Value as Json};

use super::pointer;
use super::steps::Steps;

/// References and compositions followed to see what a schema is, and levels of properties.
const MOST_DEPTH: u32 = 8;

/// Kinds of values, one bit for each.
type Kinds = u8;
const ALL: Kinds = 0x7F;
const OBJECT: Kinds = 1 << 6;

/// Whether each two of `schemas` are certain to have no value in common. If `steps` do not suffice
/// to see it, they are not.
pub(super) fn all_apart(schemas: &[Json], root: &Json, steps: &Steps) -> bool {
    let judge = Judge { root, steps };
    let rest = |index: usize| schemas.iter().skip(index + 1);
    schemas
        .iter()
        .enumerate()
        .all(|(index, one)| rest(index).all(|other| judge.apart(one, other, MOST_DEPTH)))
}

struct Judge<'s> {
    root: &'s Json,
    steps: &'s Steps,
}

impl<'s> Judge<'s> {
    fn apart(&self, one: &'s Json, other: &'s Json, depth: u32) -> bool {
        let Some(depth) = depth.checked_sub(1).filter(|_| self.steps.may(1)) else { return false };
        let common = self.kinds(one, depth) & self.kinds(other, depth);
        if common == 0 {
            return true;
        }
        if let (Some(values), Some(others)) = (self.values(one, depth), self.values(other, depth)) {
            let same = |a: &&Json| others.iter().any(|b| is_same(a, b));
            return self.steps.may(values.len() * others.len()) && !values.iter().any(same);
        }
        for list in ["anyOf", "oneOf"] {
            for (split, whole) in [(one, other), (other, one)] {
                let parts = split.get(list).and_then(Json::as_array);
                if parts.is_some_and(|parts| parts.iter().all(|p| self.apart(p, whole, depth))) {
                    return true;
                }
            }
        }
        common == OBJECT && self.differ_by_property(one, other, depth)
    }

    /// Whether a property that objects of one must have differs from what the other allows there.
    fn differ_by_property(&self, one: &'s Json, other: &'s Json, depth: u32) -> bool {
        let (one, other) = (self.members(one, depth), self.members(other, depth));
        let required = one.iter().chain(&other).filter_map(|fields| fields.get("required"));
        let names: Vec<&str> =
            required.filter_map(Json::as_array).flatten().filter_map(Json::as_str).collect();
        let property = |fields: &&'s Map<String, Json>, name: &str| {
            fields.get("properties").and_then(|properties| properties.get(name))
        };
        if !self.steps.may(names.len() * (one.len() + other.len())) {
            return false;
        }
        names.into_iter().any(|name| {
            let of = |members: &[&'s Map<String, Json>]| -> Vec<&'s Json> {
                members.iter().filter_map(|fields| property(fields, name)).collect()
            };
            let (ours, theirs) = (of(&one), of(&other));
            ours.iter().any(|a| theirs.iter().any(|b| self.apart(a, b, depth)))
                || refuses(&one, name)
                || refuses(&other, name)
        })
    }

    /// The objects that a value must fit all of: the schema, what it refers to, its `allOf`.
    fn members(&self, schema: &'s Json, depth: u32) -> Vec<&'s Map<String, Json>> {
        let mut found = Vec::new();
        let mut left = vec![(schema, depth)];
        while let Some((schema, depth)) = left.pop() {
            let Some(fields) = schema.as_object() else { continue };
            found.push(fields);
            if depth == 0 || found.len() > 64 || !self.steps.may(1) {
                continue;
            }
            let all = fields.get("allOf").and_then(Json::as_array);
            left.extend(all.into_iter().flatten().map(|part| (part, depth - 1)));
            left.extend(self.target(fields).map(|target| (target, depth - 1)));
        }
        found
    }

    fn target(&self, fields: &'s Map<String, Json>) -> Option<&'s Json> {
        let reference = fields.get("$ref")?.as_str()?;
        pointer::resolve(self.root, reference).map(|target| target.schema)
    }

    /// The kinds of values that may fit; no fewer than do.
    fn kinds(&self, schema: &'s Json, depth: u32) -> Kinds {
        if schema == &Json::Bool(false) {
            return 0;
        }
        let mut kinds = ALL;
        for fields in self.members(schema, depth) {
            if let Some(types) = fields.get("type") {
                kinds &= match types {
                    Json::Array(types) => types.iter().fold(0, |sum, kind| sum | of_type(kind)),
                    kind => of_type(kind),
                };
            }
            if let Some(value) = fields.get("const") {
                kinds &= kind_of(value);
            }
            if let Some(values) = fields.get("enum").and_then(Json::as_array)
                && self.steps.may(values.len())
            {
                kinds &= values.iter().fold(0, |sum, value| sum | kind_of(value));
            }
            for list in ["anyOf", "oneOf"] {
                if let Some(parts) = fields.get(list).and_then(Json::as_array)
                    && let Some(depth) = depth.checked_sub(3)
                    && self.steps.may(parts.len())
                {
                    kinds &= parts.iter().fold(0, |sum, part| sum | self.kinds(part, depth));
                }
            }
        }
        kinds
    }

    /// The values of `const` or `enum`, if the schema allows no others.
    fn values(&self, schema: &'s Json, depth: u32) -> Option<Vec<&'s Json>> {
        self.members(schema, depth).into_iter().find_map(|fields| {
            match (fields.get("const"), fields.get("enum")) {
                (Some(value), _) => Some(vec![value]),
                (None, Some(Json::Array(values))) => Some(values.iter().collect()),
                _ => None,
            }
        })
    }
}

/// Whether one of the schemas allows no property of this name.
fn refuses(members: &[&Map<String, Json>], name: &str) -> bool {
    members.iter().any(|fields| {
        let named = fields.get("properties").and_then(|properties| properties.get(name));
        named == Some(&Json::Bool(false))
            || named.is_none()
                && !fields.contains_key("patternProperties")
                && fields.get("additionalProperties") == Some(&Json::Bool(false))
    })
}

fn of_type(kind: &Json) -> Kinds {
    match kind.as_str() {
        Some("null") => 1,
        Some("boolean") => 1 << 1,
        Some("integer") => 1 << 2,
        // Integers are numbers.
        Some("number") => 1 << 2 | 1 << 3,
        Some("string") => 1 << 4,
        Some("array") => 1 << 5,
        Some("object") => OBJECT,
        _ => ALL,
    }
}

fn kind_of(value: &Json) -> Kinds {
    match value {
        Json::Null => 1,
        Json::Bool(_) => 1 << 1,
        Json::Number(number) if number.is_f64() => 1 << 2 | 1 << 3,
        Json::Number(_) => 1 << 2,
        Json::String(_) => 1 << 4,
        Json::Array(_) => 1 << 5,
        Json::Object(_) => OBJECT,
    }
}

/// Whether two values are the same; any two lists or objects may be, if they hold numbers.
fn is_same(one: &Json, other: &Json) -> bool {
    match (one, other) {
        (Json::Number(one), Json::Number(other)) => one.as_f64() == other.as_f64(),
        (Json::Array(one), Json::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(a, b)| is_same(a, b))
        }
        (Json::Object(one), Json::Object(other)) => {
            let same = |(name, a)| other.get(name).is_some_and(|b| is_same(a, b));
            one.len() == other.len() && one.iter().all(same)
        }
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn all_apart(schemas: &[Json], root: &Json) -> bool {
        super::all_apart(schemas, root, &Steps::new(Steps::USUAL))
    }

    #[test]
    fn schemas_without_a_common_value_are_found() {
        let root = json!({"$defs": {
            "cat": {"type": "object", "properties": {"kind": {"const": "cat"}}, "required": ["kind"]},
            "dog": {"allOf": [{"$ref": "#/$defs/pet"}, {"properties": {"kind": {"const": "dog"}}}]},
            "pet": {"type": "object", "properties": {"kind": {"type": "string"}}, "required": ["kind"]},
            "loop": {"$ref": "#/$defs/loop"}
        }});
        let reference = |name: &str| json!({"$ref": format!("#/$defs/{name}")});
        for schemas in [
            vec![json!({"type": "null"}), reference("cat")],
            vec![json!({"type": "integer"}), json!({"type": "array"}), json!({"type": "string"})],
            vec![json!({"const": 1}), json!({"const": 2}), json!({"enum": [3, "1"]})],
            vec![reference("cat"), reference("dog")],
            vec![json!({"anyOf": [{"type": "null"}, {"const": "a"}]}), json!({"type": "integer"})],
            vec![
                json!({"properties": {"a": {}}, "required": ["a"], "type": "object"}),
                json!({"properties": {"b": {}}, "additionalProperties": false, "type": "object"}),
            ],
            vec![json!(false), json!({})],
            vec![json!({})],
        ] {
            assert!(all_apart(&schemas, &root), "{schemas:?}");
        }
        for schemas in [
            vec![json!({"type": "integer"}), json!({"type": "number"})],
            vec![json!({"const": 1}), json!({"const": 1.0})],
            vec![json!({"const": 1.0}), json!({"type": "integer"})],
            vec![reference("cat"), reference("pet")],
            vec![reference("loop"), json!({"type": "null"})],
            // Neither need have what distinguishes it from the other.
            vec![
                json!({"type": "object", "properties": {"a": {"const": 1}}}),
                json!({"type": "object", "properties": {"a": {"const": 2}}}),
            ],
            vec![
                json!({"type": "object", "properties": {"a": {}}, "required": ["a"]}),
                json!({"type": "object", "properties": {"b": {}}}),
            ],
            vec![json!({"type": ["string", "null"]}), json!({"type": ["null", "integer"]})],
        ] {
            assert!(!all_apart(&schemas, &root), "{schemas:?}");
        }
    }

    /// However large or tangled the schemas, the work has an end.
    #[test]
    fn the_work_is_bounded() {
        let both = json!({"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]});
        let root = json!({"$defs": {"a": both}});
        let many: Vec<Json> = (0..4096).map(|_| json!({"$ref": "#/$defs/a"})).collect();
        assert!(!all_apart(&many, &root));
        let values: Vec<Json> = (0..150).map(|index| json!({"const": index})).collect();
        assert!(all_apart(&values, &root));
    }
}
