//! The OpenAPI document, generated from the wire types. It is written by a test and committed, so
//! that the daemon serves a file: `PHI4D_RENDER=1 cargo test -p phi4d-server openapi`
//! writes `docs/openapi.json` and `docs/api-reference.md`.

mod bounds;
pub(super) mod operations;
mod page;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::Schema;
use serde_json::{Map, Value, json};

use self::operations::{Answer, Operation, Schemas, Stream};
use super::route::{ROUTES, Route};
use super::wire::error::Dialect;

/// The whole document.
fn document() -> Value {
    let mut schemas = Schemas::new();
    let notes = notes();
    let mut paths: BTreeMap<&str, Value> = BTreeMap::new();
    for route in ROUTES {
        let Some(operation) = route.operation else { continue };
        let operation = operation(&mut schemas);
        let written = written(route, operation, &notes);
        paths.entry(route.path).or_insert_with(|| json!({}))[route.method()] = written;
    }
    let dialects = [Dialect::OpenAi, Dialect::Ollama, Dialect::Anthropic];
    let faults: Map<String, Value> = dialects
        .iter()
        .map(|dialect| (format!("{dialect:?}Error"), json!(dialect.schema(&mut schemas.said))))
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "phi4d",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "MIT", "identifier": "MIT" },
            "description": "Phi-4 over OpenAI's, Anthropic's and Ollama's APIs.",
        },
        "servers": [{ "url": "/" }],
        "security": [{}, { "bearer": [] }, { "key": [] }],
        "components": { "schemas": faults, "securitySchemes": {
            "bearer": { "type": "http", "scheme": "bearer" },
            "key": { "type": "apiKey", "in": "header", "name": "x-api-key" },
        }},
        "paths": paths,
    })
}

fn written(route: &Route, operation: Operation, notes: &BTreeMap<String, String>) -> Value {
    let path = route.path;
    let dialect = Dialect::of(path);
    let mut responses: BTreeMap<String, Value> = BTreeMap::new();
    let examples = operation.body.as_ref().map(|body| examples(&body.example, &operation.answer));
    let content = match operation.answer {
        Answer::Json(schema) => json!({ "application/json": { "schema": schema } }),
        Answer::Text(kind) => json!({ kind: { "schema": { "type": "string" } } }),
        Answer::Streamed { whole, stream: Stream::Lines, event } => json!({
            "application/json": { "schema": whole },
            "application/x-ndjson": { "schema": event },
        }),
        Answer::Streamed { whole, stream, event } => {
            // Tools that know server-sent events see each as an object of its fields.
            let mut data = json!({
                "type": "string", "contentMediaType": "application/json", "contentSchema": event
            });
            if stream == Stream::EventsAndDone {
                data = json!({ "anyOf": [{ "const": "[DONE]" }, data] });
            }
            let fields = json!({ "data": data, "event": { "type": "string" } });
            let schema = json!({ "type": "object", "properties": fields, "required": ["data"] });
            let kind = stream.content_type();
            json!({ "application/json": { "schema": whole }, kind: { "schema": schema } })
        }
    };
    responses.insert("200".to_owned(), json!({ "description": "The answer.", "content": content }));
    for status in operation.faults {
        let schema = match operation.fault_schema.clone() {
            Some(schema) if *status == 503 => json!(schema),
            _ => json!({ "$ref": format!("#/components/schemas/{dialect:?}Error") }),
        };
        let content = json!({ "application/json": { "schema": schema } });
        let described = json!({ "description": meaning(*status), "content": content });
        responses.insert(status.to_string(), described);
    }
    let id = path.trim_start_matches('/').replace(['/', '-', '{', '}'], "_");
    let mut written = json!({
        "operationId": if route.method() == "delete" { format!("delete_{id}") } else { id },
        "summary": operation.summary,
        "responses": responses,
    });
    if let Some(body) = operation.body {
        let schema = merged(body.parts, body.required, notes);
        let content = json!({ "application/json": { "schema": schema, "examples": examples } });
        written["requestBody"] = json!({ "required": true, "content": content });
    }
    if path.contains("{id}") {
        written["parameters"] = json!([{
            "name": "id", "in": "path", "required": true, "schema": { "type": "string" }
        }]);
    }
    written
}

/// The example `body` for a whole answer and, where there are streams, for one.
fn examples(body: &Value, answer: &Answer) -> Value {
    let with = |streams: Option<bool>| {
        let mut body = body.clone();
        if let Some(streams) = streams {
            body["stream"] = streams.into();
        }
        json!({ "value": body })
    };
    match answer {
        Answer::Streamed { stream: Stream::Lines, .. } => {
            json!({ "whole": with(Some(false)), "streamed": with(None) })
        }
        Answer::Streamed { .. } => json!({ "whole": with(None), "streamed": with(Some(true)) }),
        Answer::Json(_) | Answer::Text(_) => json!({ "whole": with(None) }),
    }
}

/// One object of all parts' fields.
fn merged(parts: Vec<Schema>, required: &[&str], notes: &BTreeMap<String, String>) -> Value {
    let mut properties = Map::new();
    for part in parts {
        let fields = part.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
        for (name, mut schema) in fields {
            if let (Some(note), Some(object)) = (notes.get(&name), schema.as_object_mut()) {
                object.entry("description").or_insert_with(|| note.as_str().into());
            }
            properties.insert(name, schema);
        }
    }
    let strict = json!({ "type": ["boolean", "null"], "description": "Refuse unknown fields." });
    properties.insert("strict".to_owned(), strict);
    json!({ "type": "object", "properties": properties, "required": required })
}

/// What `docs/api.md` says about each field in its tables of fields.
fn notes() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(in_docs("api.md")).unwrap();
    let mut notes = BTreeMap::new();
    for row in text.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |")) {
        let columns: Vec<&str> = row.split(" | ").collect();
        let [names, accepted, default] = columns[..] else { continue };
        let default = match default.trim_end_matches('|').trim() {
            "" => String::new(),
            default => format!("; default: {default}"),
        };
        for name in format!("`{names}").split('`').skip(1).step_by(2) {
            notes.insert(name.to_owned(), format!("{accepted}{default}"));
        }
    }
    notes
}

fn meaning(status: u16) -> &'static str {
    match status {
        400 => "A field is missing, of the wrong type, out of range or not supported.",
        401 => "No key, or a wrong one.",
        403 => "The caller may not do this.",
        404 => "No such model or response.",
        408 => "The body did not arrive in time, or the client read too slowly.",
        413 => "The body is too large.",
        415 => "The body is not JSON, or encoded.",
        429 => "Too much of this caller's waits or runs.",
        500 => "A fault of the server's.",
        503 => "Too much to do, or not serving.",
        504 => "The time limit passed.",
        other => unreachable!("{other} has no meaning yet"),
    }
}

fn in_docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name)
}

/// Compares a file with what it should be, or writes it where that is asked for.
fn up_to_date(name: &str, expected: &str) {
    if std::env::var_os("PHI4D_RENDER").is_some() {
        std::fs::write(in_docs(name), expected).unwrap();
    }
    let found = std::fs::read_to_string(in_docs(name)).unwrap_or_default();
    assert!(
        found == expected,
        "docs/{name} is not what the wire types say; `PHI4D_RENDER=1 cargo test -p phi4d-server openapi` writes it"
    );
}

#[test]
fn the_document_is_up_to_date() {
    let mut text = Vec::new();
    let narrow = serde_json::ser::PrettyFormatter::with_indent(b" ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, narrow);
    serde::Serialize::serialize(&document(), &mut serializer).unwrap();
    text.push(b'\n');
    up_to_date("openapi.json", std::str::from_utf8(&text).unwrap());
}

#[test]
fn the_reference_page_is_up_to_date() {
    up_to_date("api-reference.md", &page::page(&document()));
}

#[test]
fn the_fields_of_chats_are_described() {
    let document = document();
    let schema = "/paths/~1v1~1chat~1completions/post/requestBody/content/application~1json/schema";
    let fields = document.pointer(schema).unwrap()["properties"].as_object().unwrap();
    let described = fields.values().filter(|field| field.get("description").is_some()).count();
    assert!(
        fields.len() > 50 && described * 5 > fields.len() * 3,
        "{described} of {}",
        fields.len()
    );
}
