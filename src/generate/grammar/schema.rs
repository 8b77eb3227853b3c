//! Checks of a JSON Schema before it is compiled, each error with its place.
//!
//! The keywords are those of <https://json-schema.org/draft/2020-12>. Unknown keywords are ignored,
//! as the standard demands.
//!
//! The daemon itself runs only [`check`]; the rest runs in a form's process.

use std::collections::HashSet;

use serde_json::{Map, Value as Json, json};

use super::super::error::{GenerateError, invalid};
use super::keywords;
use super::lower::{Closing, lowered};
use super::pointer;
use super::steps::Steps;

/// Keywords that hold a schema, a list of schemas, or schemas by name.
const ONE: [&str; 3] = ["additionalItems", "additionalProperties", "items"];
const LISTS: [&str; 5] = ["allOf", "anyOf", "items", "oneOf", "prefixItems"];
const NAMED: [&str; 2] = ["patternProperties", "properties"];

/// The grammar library's own settings within a schema.
const SETTINGS: &str = "x-guidance";

/// White space between JSON's tokens, limited so that a model can't write it without end.
const WHITE_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,40}";

/// The escapes in strings. Without `u` a name can be spelt in one way only, so that no other
/// spelling of a name evades what the schema says of it.
const ESCAPES: &str = "nrbtf\\\"";

/// The most parts of a bad schema that are compiled to find the place of the error.
const MOST_TRIALS: usize = 64;

/// The schema as it is compiled.
pub(super) fn prepared(schema: &Json, closing: Closing) -> Json {
    let mut schema = match lowered(schema, closing) {
        Json::Object(fields) => fields,
        Json::Bool(true) => Map::new(),
        other => return other,
    };
    let settings = json!({ "whitespace_pattern": WHITE_SPACE, "json_allowed_escapes": ESCAPES });
    schema.insert(SETTINGS.into(), settings);
    Json::Object(schema)
}

/// Bytes of a schema, about as JSON spells it.
const MOST_BYTES: usize = 1 << 20;

/// Schemas within a schema, those that references lead to included, each once.
const MOST_SCHEMAS: usize = 32_768;

/// The most schemas around a schema, on the shortest path to it, references included.
const MOST_DEPTH: u32 = 100;

/// The most references in a chain without another schema in between.
const MOST_CHAIN: u32 = 32;

/// Alternatives of one `anyOf`, `oneOf` or `allOf`, and values of one `enum`.
const MOST_ALTERNATIVES: usize = 4096;

/// Characters of a name that an error shows.
const SHOWN_NAME: usize = 80;

/// Refuses a schema that is too large or uses unsupported keywords, naming the place below `field`.
/// Returns the schema's size in bytes. Iterates breadth first over a work list, so that no schema
/// can exhaust the stack.
pub(super) fn check(schema: &Json, field: &str) -> Result<usize, GenerateError> {
    let bytes = bytes(schema);
    if bytes > MOST_BYTES {
        let value = format!("a schema of more than {MOST_BYTES} bytes");
        return Err(invalid(field, value, format!("at most {MOST_BYTES} bytes")));
    }
    let steps = Steps::new(Steps::USUAL);
    let mut walk = Walk { root: schema, seen: HashSet::new(), nodes: Vec::new(), steps, field };
    let root = Node { schema, parent: 0, step: Step::Root, depth: 0, chain: 0, within_id: false };
    walk.nodes.push(root);
    let mut next = 0;
    while next < walk.nodes.len() {
        walk.visit(next)?;
        next += 1;
    }
    Ok(bytes)
}

/// The approximate size of a value as JSON; stops counting above [`MOST_BYTES`].
fn bytes(value: &Json) -> usize {
    let mut left = vec![value];
    let mut sum = 0_usize;
    while let Some(value) = left.pop() {
        sum = sum.saturating_add(match value {
            Json::String(text) => text.len() + 3,
            Json::Array(parts) => parts.len() + 2,
            Json::Object(fields) => fields.keys().map(|name| name.len() + 4).sum::<usize>() + 2,
            _ => 4,
        });
        if sum > MOST_BYTES {
            break;
        }
        match value {
            Json::Array(parts) => left.extend(parts),
            Json::Object(fields) => left.extend(fields.values()),
            _ => {}
        }
    }
    sum
}

/// A schema that was found.
struct Node<'s> {
    schema: &'s Json,
    /// Index of the schema around it.
    parent: usize,
    step: Step<'s>,
    depth: u32,
    /// References in a row that led here.
    chain: u32,
    /// It, or a schema around it other than the root, has an `$id`.
    within_id: bool,
}

/// The step from the surrounding schema to this one.
#[derive(Clone, Copy)]
enum Step<'s> {
    Root,
    Keyword(&'s str),
    Index(&'s str, usize),
    Name(&'s str, &'s str),
    Reference(&'s str),
}

struct Walk<'s, 'f> {
    root: &'s Json,
    /// References that were followed.
    seen: HashSet<&'s str>,
    /// In the order of the visit.
    nodes: Vec<Node<'s>>,
    steps: Steps,
    field: &'f str,
}

impl<'s> Walk<'s, '_> {
    fn visit(&mut self, at: usize) -> Result<(), GenerateError> {
        let schema = self.nodes[at].schema;
        let fields = match schema {
            Json::Bool(_) => return Ok(()),
            Json::Object(fields) => fields,
            other => {
                let accepted = "a JSON Schema: an object or a boolean";
                return Err(invalid(self.place(at), other, accepted));
            }
        };
        keywords::check(schema, self.root, &self.steps, || self.place(at))?;
        if let Some(reference) = fields.get("$ref") {
            self.reference(at, reference)?;
        }
        for (keyword, value) in fields {
            let keyword = keyword.as_str();
            match value {
                Json::Array(parts) if LISTS.contains(&keyword) => {
                    self.alternatives(at, keyword, parts.len())?;
                    for (index, part) in parts.iter().enumerate() {
                        self.found(at, Step::Index(keyword, index), part)?;
                    }
                }
                Json::Array(values) if keyword == "enum" => {
                    self.alternatives(at, keyword, values.len())?;
                }
                Json::Object(parts) if NAMED.contains(&keyword) => {
                    for (name, part) in parts {
                        self.found(at, Step::Name(keyword, name), part)?;
                    }
                }
                value if ONE.contains(&keyword) => {
                    self.found(at, Step::Keyword(keyword), value)?;
                }
                value if LISTS.contains(&keyword) => {
                    return Err(invalid(self.below(at, keyword), value, "a list of schemas"));
                }
                value if NAMED.contains(&keyword) => {
                    let accepted = "an object with a schema for each name";
                    return Err(invalid(self.below(at, keyword), value, accepted));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn alternatives(&self, at: usize, keyword: &str, count: usize) -> Result<(), GenerateError> {
        if count <= MOST_ALTERNATIVES {
            return Ok(());
        }
        let accepted = format!("at most {MOST_ALTERNATIVES}");
        Err(invalid(self.below(at, keyword), format!("a list of {count}"), accepted))
    }

    fn found(&mut self, at: usize, step: Step<'s>, part: &'s Json) -> Result<(), GenerateError> {
        let is_reference = matches!(step, Step::Reference(_));
        let around = &self.nodes[at];
        let chain = if is_reference { around.chain + 1 } else { 0 };
        let depth = around.depth + 1;
        let within_id = !is_reference && around.within_id || pointer::has_id(part);
        self.nodes.push(Node { schema: part, parent: at, step, depth, chain, within_id });
        let (value, most) = if self.nodes.len() > MOST_SCHEMAS {
            (format!("schema number {}", self.nodes.len()), format!("{MOST_SCHEMAS} schemas"))
        } else if chain > MOST_CHAIN {
            (format!("a chain of {chain} references"), format!("{MOST_CHAIN} in a chain"))
        } else if depth > MOST_DEPTH {
            (format!("a schema within {depth} others"), format!("{MOST_DEPTH} around it"))
        } else {
            return Ok(());
        };
        Err(invalid(self.place(self.nodes.len() - 1), value, format!("at most {most}")))
    }

    fn reference(&mut self, at: usize, reference: &'s Json) -> Result<(), GenerateError> {
        const ACCEPTED: &str = "\"#\", or \"#/…\" that points into this schema";
        let refused = |accepted| Err(invalid(self.below(at, "$ref"), reference, accepted));
        let Some(text) = reference.as_str() else { return refused(ACCEPTED) };
        if self.nodes[at].within_id {
            return refused("no reference in a schema that has an $id");
        }
        if self.seen.contains(text) {
            return Ok(());
        }
        let Some(target) = pointer::resolve(self.root, text) else { return refused(ACCEPTED) };
        self.seen.insert(text);
        self.found(at, Step::Reference(text), target.schema)?;
        if let Some(node) = self.nodes.last_mut() {
            node.within_id |= target.within_id;
        }
        Ok(())
    }

    fn below(&self, at: usize, keyword: &str) -> String {
        format!("{}.{keyword}", self.place(at))
    }

    /// The place of a schema.
    fn place(&self, at: usize) -> String {
        let mut steps = Vec::new();
        let mut at = at;
        loop {
            let node = &self.nodes[at];
            let name = |name: &str| name.chars().take(SHOWN_NAME).collect::<String>();
            match node.step {
                Step::Root => break,
                Step::Keyword(keyword) => steps.push(format!(".{keyword}")),
                Step::Index(keyword, index) => steps.push(format!(".{keyword}[{index}]")),
                Step::Name(keyword, text) => steps.push(format!(".{keyword}.{}", name(text))),
                Step::Reference(text) => steps.push(format!(".$ref({})", name(text))),
            }
            at = node.parent;
        }
        steps.push(self.field.to_owned());
        steps.reverse();
        steps.concat()
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
/// `fails` compiles a part and returns the reason if it can't be.
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

/// `part` as a schema of its own; `None` if it refers to something outside that would be missing.
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

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
