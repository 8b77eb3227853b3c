//! The reference page: the document as Markdown.

use std::fmt::Write as _;

use serde_json::Value;

const HEAD: &str = "# API reference

All routes with their fields, rendered from `openapi.json`, which the daemon serves at
`/openapi.json`. What the fields do is described in [api.md](api.md) and [surfaces.md](surfaces.md). Every
field but the required ones may be left out or null.
";

/// The page of `document`.
pub(super) fn page(document: &Value) -> String {
    let mut page = HEAD.to_owned();
    for (path, methods) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in methods.as_object().into_iter().flatten() {
            let method = method.to_uppercase();
            let summary = operation["summary"].as_str().unwrap_or_default();
            writeln!(page, "\n## `{method} {path}`\n\n{summary}.").unwrap();
            let asked = &operation["requestBody"]["content"]["application/json"]["schema"];
            fields(&mut page, "field", asked);
            let content = &operation["responses"]["200"]["content"];
            fields(&mut page, "answer's field", &content["application/json"]["schema"]);
            for kind in ["text/event-stream", "application/x-ndjson"] {
                if content.get(kind).is_some() {
                    writeln!(page, "\nStreams are `{kind}`.").unwrap();
                }
            }
            let statuses = operation["responses"].as_object().into_iter().flatten();
            let statuses: Vec<&str> = statuses.map(|(status, _)| status.as_str()).collect();
            writeln!(page, "\nStatuses: {}.", statuses.join(", ")).unwrap();
        }
    }
    page
}

fn fields(page: &mut String, head: &str, schema: &Value) {
    let Some(properties) = schema["properties"].as_object().filter(|fields| !fields.is_empty())
    else {
        return;
    };
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    writeln!(page, "\n| {head} | type | |\n|---|---|---|").unwrap();
    for (name, field) in properties {
        let must = head == "field" && required.iter().any(|required| required == name);
        let must = if must { "required; " } else { "" };
        let note = field["description"].as_str().unwrap_or_default().replace('\n', " ");
        writeln!(page, "| `{name}` | {} | {must}{note} |", kind(field)).unwrap();
    }
}

/// A type in words.
fn kind(schema: &Value) -> String {
    let word = |name: &str| match name {
        "array" => match schema.get("items") {
            Some(items) => format!("list of {}", kind(items)),
            None => "list".to_owned(),
        },
        name => name.to_owned(),
    };
    if let Some(options) = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array()) {
        let mut kinds: Vec<String> = options.iter().map(kind).collect();
        kinds.retain(|kind| kind != "null");
        kinds.dedup();
        return kinds.join(" or ");
    }
    match &schema["type"] {
        Value::String(name) => word(name),
        Value::Array(names) => {
            let names = names.iter().filter_map(Value::as_str).filter(|name| *name != "null");
            names.map(word).collect::<Vec<_>>().join(" or ")
        }
        _ => "any".to_owned(),
    }
}
