//! The table of peers in docs/clients.md says of phi4d what requests show.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop where something is wrong"
)]

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::{Client, Setup, demo_folder, merge};

/// What is expected of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Served,
    /// No such route or method, or no such model.
    Missing,
    /// A 400 that names the field.
    Refused(&'static str),
    /// Served without this field, which `x-phi4d-ignored-fields` names.
    Ignored(&'static str),
}
use Expected::{Ignored, Missing, Refused, Served};

/// Method, path, body and what is expected.
type Case = (&'static str, &'static str, Value, Expected);

/// The feature, as the table names it, and requests for it.
type Row = (&'static str, Vec<Case>);

fn post(path: &'static str, body: Value, expected: Expected) -> Case {
    ("POST", path, body, expected)
}

fn get(path: &'static str) -> Case {
    ("GET", path, Value::Null, Served)
}

fn messages() -> Value {
    json!([{ "role": "user", "content": "What is 12+7?" }])
}

fn chat(more: &Value, expected: Expected) -> Case {
    let mut body = json!({ "messages": messages(), "max_tokens": 60 });
    merge(&mut body, more);
    post("/v1/chat/completions", body, expected)
}

fn completion(more: &Value, expected: Expected) -> Case {
    let mut body = json!({ "prompt": "12+7=", "max_tokens": 4 });
    merge(&mut body, more);
    post("/v1/completions", body, expected)
}

/// llama.cpp's own endpoint.
fn continued(more: &Value, expected: Expected) -> Case {
    let mut body = json!({ "prompt": "12+7=", "n_predict": 4 });
    merge(&mut body, more);
    post("/completion", body, expected)
}

fn responses(more: &Value, expected: Expected) -> Case {
    let mut body = json!({ "input": "What is 12+7?", "max_output_tokens": 60 });
    merge(&mut body, more);
    post("/v1/responses", body, expected)
}

fn ollama(path: &'static str, more: &Value, expected: Expected) -> Case {
    let mut body = json!({ "model": "demo", "stream": false });
    merge(&mut body, more);
    post(path, body, expected)
}

fn endpoints() -> Vec<Row> {
    let embedded = json!({ "model": "demo-embedding", "input": "a" });
    let ranked = json!({ "query": "a", "documents": ["b"] });
    vec![
        (
            "`/v1/chat/completions`, `/v1/completions`",
            vec![chat(&json!({}), Served), completion(&json!({}), Served)],
        ),
        ("`/v1/responses`", vec![responses(&json!({}), Served)]),
        (
            "responses in the background",
            vec![responses(&json!({ "background": true }), Refused("background"))],
        ),
        (
            "`/v1/messages`, `count_tokens`",
            vec![
                post("/v1/messages", json!({ "messages": messages(), "max_tokens": 4 }), Served),
                post("/v1/messages/count_tokens", json!({ "messages": messages() }), Served),
            ],
        ),
        (
            "`/v1/embeddings`, `/api/embed`",
            vec![
                post("/v1/embeddings", embedded.clone(), Served),
                post("/api/embed", embedded, Served),
            ],
        ),
        (
            "rerank",
            vec![post("/v1/rerank", ranked.clone(), Missing), post("/rerank", ranked, Missing)],
        ),
        (
            "`/completion`, `/infill`, `/props`",
            vec![
                continued(&json!({}), Served),
                post("/infill", json!({ "input_prefix": "a", "input_suffix": "b" }), Served),
                get("/props"),
            ],
        ),
        (
            "`/tokenize`, `/detokenize`",
            vec![
                post("/tokenize", json!({ "content": "a" }), Served),
                post("/detokenize", json!({ "tokens": [5] }), Served),
            ],
        ),
        (
            "rendered prompt without an answer",
            vec![
                post("/v1/chat/completions/render", json!({ "messages": messages() }), Served),
                post("/apply-template", json!({ "messages": messages() }), Served),
            ],
        ),
        ("`/tokenizer_info`, `/version`", vec![get("/tokenizer_info"), get("/version")]),
        (
            "slots: state; save and restore",
            vec![get("/slots"), post("/slots/0?action=save", json!({ "filename": "a" }), Missing)],
        ),
    ]
}

fn ollamas_endpoints() -> Vec<Row> {
    vec![
        (
            "`/api/chat`, `generate`, `show`, `tags`, `ps`",
            vec![
                ollama("/api/chat", &json!({ "messages": messages() }), Served),
                ollama("/api/generate", &json!({ "prompt": "12+7=" }), Served),
                ollama("/api/show", &json!({}), Served),
                get("/api/tags"),
                get("/api/ps"),
            ],
        ),
        (
            "`/api/pull`",
            vec![
                ollama("/api/pull", &json!({}), Served),
                ollama("/api/pull", &json!({ "model": "other" }), Missing),
            ],
        ),
        (
            "`/api/delete`, `create`, `copy`, `push`",
            vec![
                ("DELETE", "/api/delete", json!({ "model": "demo" }), Missing),
                ollama("/api/create", &json!({ "from": "demo" }), Missing),
                post("/api/copy", json!({ "source": "demo", "destination": "b" }), Missing),
                ollama("/api/push", &json!({}), Missing),
            ],
        ),
    ]
}

fn models_and_tools() -> Vec<Row> {
    let part = |part: Value, kind: &str| {
        let message = json!({ "role": "user", "content": [{ "type": kind, kind: part }] });
        chat(&json!({ "messages": [message] }), Refused("messages[0].content[0].type"))
    };
    let schema = json!({ "type": "object", "properties": { "a": { "type": "boolean" } },
        "required": ["a"], "additionalProperties": false });
    let function = json!({ "name": "f", "strict": true, "parameters": schema });
    let namespaced = json!({ "type": "function", "name": "f", "parameters": schema });
    vec![
        (
            "LoRA adapters",
            vec![
                ("GET", "/lora-adapters", Value::Null, Missing),
                post(
                    "/v1/load_lora_adapter",
                    json!({ "lora_name": "a", "lora_path": "b" }),
                    Missing,
                ),
                continued(&json!({ "lora": [{ "id": 0, "scale": 1 }] }), Ignored("lora")),
            ],
        ),
        (
            "images, audio",
            vec![
                part(json!({ "url": "data:image/png;base64,AAAA" }), "image_url"),
                part(json!({ "data": "AAAA", "format": "wav" }), "input_audio"),
                post("/v1/audio/transcriptions", json!({}), Missing),
            ],
        ),
        (
            "several models",
            vec![
                chat(&json!({ "model": "second" }), Served),
                chat(&json!({ "model": "other" }), Missing),
            ],
        ),
        ("aliases of the model", vec![chat(&json!({ "model": "alias" }), Served)]),
        (
            "custom tools, namespaces (Codex)",
            vec![responses(
                &json!({ "tools": [
                { "type": "custom", "name": "c" },
                { "type": "namespace", "name": "n", "tools": [namespaced] }
            ] }),
                Served,
            )],
        ),
        (
            "forced and strict tool calls",
            vec![chat(
                &json!({
                    "tools": [{ "type": "function", "function": function }],
                    "tool_choice": { "type": "function", "function": { "name": "f" } }
                }),
                Served,
            )],
        ),
        (
            "JSON Schema, regex, choice",
            vec![
                chat(
                    &json!({ "response_format": { "type": "json_schema",
                    "json_schema": { "name": "s", "schema": schema } } }),
                    Served,
                ),
                chat(&json!({ "structured_outputs": { "regex": "[0-9]{1,3}" } }), Served),
                chat(&json!({ "structured_outputs": { "choice": ["a", "b"] } }), Served),
            ],
        ),
        (
            "Lark grammar; GBNF",
            vec![
                completion(&json!({ "grammar": "start: \"a\"" }), Served),
                completion(&json!({ "grammar": "root ::= \"a\"" }), Served),
            ],
        ),
    ]
}

fn parameters() -> Vec<Row> {
    let everywhere = |field: &'static str, value: Value| {
        let more = json!({ field: value });
        vec![
            chat(&more, Refused(field)),
            completion(&more, Refused(field)),
            continued(&more, Refused(field)),
        ]
    };
    let too_long = "a ".repeat(6000);
    vec![
        (
            "`logprobs`, echo with log-probabilities",
            vec![
                chat(&json!({ "logprobs": true, "top_logprobs": 2 }), Served),
                completion(&json!({ "logprobs": 2, "echo": true }), Served),
            ],
        ),
        (
            "`n`, `best_of`",
            vec![
                chat(&json!({ "n": 2 }), Served),
                completion(&json!({ "n": 1, "best_of": 2 }), Served),
            ],
        ),
        (
            "`min_p`, `typical_p`, `top_n_sigma`, DRY, XTC",
            vec![chat(
                &json!({
                    "min_p": 0.1, "typical_p": 0.9, "top_n_sigma": 1.0, "dry_multiplier": 0.8,
                    "xtc_probability": 0.1, "xtc_threshold": 0.1, "strict": true
                }),
                Served,
            )],
        ),
        (
            "mirostat, dynamic temperature",
            [
                everywhere("mirostat", json!(2)),
                everywhere("dynatemp_range", json!(0.5)),
                vec![ollama(
                    "/api/generate",
                    &json!({ "prompt": "a", "options": { "mirostat": 1 } }),
                    Refused("options.mirostat"),
                )],
            ]
            .concat(),
        ),
        ("beam search", everywhere("use_beam_search", json!(true))),
        ("context shift", vec![completion(&json!({ "prompt": too_long }), Refused("prompt"))]),
        (
            "progress of prefill",
            vec![chat(&json!({ "stream": true, "return_progress": true, "strict": true }), Served)],
        ),
        (
            "progress of a model's load",
            vec![
                chat(&json!({ "stream": true, "return_progress": true, "strict": true }), Served),
                get("/v1/models"),
            ],
        ),
    ]
}

/// The table's features and what it says of phi4d.
fn table() -> Vec<(String, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clients.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, table) = page.split_once("\n| | phi4d | llama-server |").unwrap();
    let rows = table.lines().skip(2).map_while(|line| line.strip_prefix("| "));
    let cells = rows.map(|row| row.split(" | ").map(str::to_owned).collect::<Vec<_>>());
    cells.map(|cells| (cells[0].clone(), cells[1].clone())).collect()
}

fn check(client: &Client, feature: &str, (method, path, body, expected): &Case) {
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let headers = [("Content-Type", "application/json")];
    let response = client.request(method, path, &headers, text.as_bytes());
    let ignored = response.header("x-phi4d-ignored-fields").unwrap_or_default();
    let answer = response.text();
    let what = format!("{feature}: {method} {path} {text:.300}: {ignored:?} {answer:.300}");
    let (status, names) = match expected {
        Served => (200, ""),
        Missing => (404, ""),
        Refused(_) => (400, ""),
        Ignored(name) => (200, *name),
    };
    assert_eq!((response.status, ignored), (status, names), "{what}");
    if let Refused(field) = expected {
        assert!(answer.contains(field), "{what}");
    }
}

/// Stored responses, which later requests name.
fn check_stored(client: &Client) {
    let body = json!({ "input": "What is 12+7?", "max_output_tokens": 4 });
    let id = client.post("/v1/responses", &body).json()["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/responses/{id}");
    assert_eq!(client.get(&path).json()["id"], *id);
    assert_eq!(client.get(&format!("{path}/input_items")).status, 200);
    let cancelled = client.post(&format!("{path}/cancel"), &json!({}));
    assert_eq!(cancelled.status, 400, "{}", cancelled.text());
    assert_eq!(client.request("DELETE", &path, &[], b"").status, 200);
    assert_eq!(client.get(&path).status, 404);
}

#[test]
fn the_table_says_of_phi4d_what_requests_show() {
    let embedding = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo-embedding");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("several.toml");
    let second = demo_folder();
    std::fs::write(&file, format!("[models.second]\nmodel = {second:?}\n")).unwrap();
    let arguments = ["--config", file.to_str().unwrap(), "--model-aliases", "alias"];
    let embedding = ["--embedding-model", embedding.to_str().unwrap()];
    let daemon = Setup::new().with(&arguments).with(&embedding).start();
    // The daemon's own user on this socket may see the slots.
    let client = daemon.unix();
    let rows = [endpoints(), ollamas_endpoints(), models_and_tools(), parameters()].concat();
    let mut rows: BTreeMap<&str, Vec<Case>> = rows.into_iter().collect();
    for (feature, cell) in table() {
        if feature.starts_with("`/v1/responses/{id}`") {
            assert_eq!(cell, "yes");
            check_stored(&client);
            continue;
        }
        let cases = rows.remove(&*feature);
        let cases = cases.unwrap_or_else(|| panic!("no request for the row {feature:?}"));
        let offers = cases.iter().any(|(.., expected)| *expected == Served);
        assert_eq!(offers, !cell.starts_with("no"), "{feature}: {cell}");
        // What is missing has its reason.
        assert!(offers || cell.len() > "no: ".len(), "{feature}: {cell}");
        for case in &cases {
            check(&client, &feature, case);
        }
    }
    assert!(rows.is_empty(), "rows that the table lacks: {:?}", rows.keys());
    daemon.wait_idle();
}
