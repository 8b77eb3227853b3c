//! Every list and every map of every request has a bound: the document states it, `docs/api.md` lists
//! it, and the parser keeps it with a 400 that names field, bound and value. The fields are found in
//! the document, so that a new one without a bound fails here.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{document, in_docs};
use crate::error::ApiError;
use crate::wire::anthropic::{counted, messages};
use crate::wire::chat::ChatRequest;
use crate::wire::completions::CompletionRequest;
use crate::wire::embeddings::EmbedRequest;
use crate::wire::llama::LlamaRequest;
use crate::wire::ollama::{OllamaRequest, ShowRequest};
use crate::wire::responses::ResponsesRequest;
use crate::wire::tokens::{DetokenizeRequest, TokenizeRequest};

/// Fields that may hold any JSON, and what bounds lists in them.
const FREE: &[(&str, &str)] = &[
    (
        "messages[].tool_calls[].function.arguments",
        "written as the text of a call, never walked by entries",
    ),
    ("messages[].images", "refused unless empty"),
    ("*.schema", "the checks of schemas"),
    ("*[].content", "read as a list of blocks, see LISTS_IN_FREE"),
    ("messages[].audio", "refused"),
    ("messages[].function_call", "refused"),
    ("cache_control", "ignored"),
    ("container", "refused"),
    ("context", "refused unless empty"),
    ("conversation", "refused"),
    ("format", "the checks of schemas"),
    ("guided_json", "the checks of schemas"),
    ("id_slot", "ignored"),
    ("images", "refused unless empty"),
    ("input[].action", "written as the text of a call, never walked by entries"),
    ("json_schema", "the checks of schemas"),
    ("keep_alive", "a number or a string"),
    ("max_output_tokens", "a number"),
    ("max_tool_calls", "ignored"),
    ("mcp_servers", "refused unless empty"),
    ("metadata", "ignored"),
    ("n_cache_reuse", "ignored"),
    ("n_indent", "ignored"),
    ("n_keep", "ignored"),
    ("prompt", "refused; completions have a shape of their own"),
    ("prompt_cache_key", "ignored"),
    ("prompt_cache_retention", "ignored"),
    ("response_format.json_schema.strict", "a boolean; others are ignored"),
    ("safety_identifier", "ignored"),
    ("samplers", "ignored"),
    ("service_tier", "ignored"),
    ("stream_options", "ignored"),
    ("structured_outputs.json", "the checks of schemas"),
    ("structured_outputs.structural_tag", "refused"),
    ("t_max_predict_ms", "ignored"),
    ("t_max_prompt_ms", "ignored"),
    ("temperature", "a number"),
    ("text.format.*", "the chat request's fields"),
    ("think", "a word or a boolean"),
    ("thinking.budget_tokens", "a number"),
    ("tool_choice", "see LISTS_IN_FREE"),
    ("tools[]", "the chat request's fields"),
    ("tools[].*", "the chat request's fields"),
    ("top_k", "a number"),
    ("top_logprobs", "a number"),
    ("top_p", "a number"),
];

/// Lists that are read out of fields of any JSON: route, a field of the body around a list of so
/// many items, and where the fault is.
const LISTS_IN_FREE: &[(&str, usize, &str)] = &[
    ("/v1/chat/completions", 128, "tool_choice.allowed_tools.tools"),
    ("/v1/responses", 128, "tool_choice.allowed_tools.tools"),
    ("/v1/messages", 1024, "messages[0].content[0].content"),
    ("/api/chat", 16, "options.stop"),
];

#[derive(Debug, Clone)]
enum Step {
    Field(String),
    Item,
}

/// A list or a map in a request's schema.
#[derive(Debug)]
struct Bounded {
    steps: Vec<Step>,
    most: usize,
    /// One of its items; `None` for a map.
    item: Option<Value>,
}

/// As in faults, where items are the first; `[]` in place of their index if `general`.
fn spelled(steps: &[Step], general: bool) -> String {
    let mut text = String::new();
    for step in steps {
        match step {
            Step::Item => text.push_str(if general { "[]" } else { "[0]" }),
            Step::Field(name) if text.is_empty() => text.push_str(name),
            Step::Field(name) => {
                text.push('.');
                text.push_str(name);
            }
        }
    }
    text
}

fn has_type(schema: &Value, name: &str) -> bool {
    match &schema["type"] {
        Value::String(own) => own == name,
        Value::Array(types) => types.iter().any(|own| own == name),
        _ => false,
    }
}

/// A value of the kind that `schema` asks for.
fn sample(schema: &Value) -> Value {
    let kinds: Vec<&Value> =
        schema["anyOf"].as_array().map_or_else(|| vec![schema], |kinds| kinds.iter().collect());
    let is = |name| kinds.iter().any(|kind| has_type(kind, name));
    match () {
        () if is("string") => "a".into(),
        () if is("integer") => 1.into(),
        () if is("object") => json!({}),
        () => Value::Null,
    }
}

#[derive(Default)]
struct Found {
    bounded: Vec<Bounded>,
    /// Fields of any JSON.
    free: Vec<String>,
    unbounded: Vec<String>,
}

fn walk(schema: &Value, steps: &mut Vec<Step>, found: &mut Found) {
    let kinds = schema["anyOf"].as_array().or_else(|| schema["oneOf"].as_array());
    if let Some(kinds) = kinds {
        kinds.iter().for_each(|kind| walk(kind, steps, found));
        return;
    }
    let mut note = |most: &Value, item: Option<Value>| match most.as_u64() {
        Some(most) => found.bounded.push(Bounded {
            steps: steps.clone(),
            most: usize::try_from(most).unwrap(),
            item,
        }),
        None => found.unbounded.push(spelled(steps, true)),
    };
    if has_type(schema, "array") {
        note(&schema["maxItems"], Some(sample(&schema["items"])));
        steps.push(Step::Item);
        walk(&schema["items"], steps, found);
        steps.pop();
    } else if let Some(fields) = schema["properties"].as_object() {
        for (name, field) in fields {
            steps.push(Step::Field(name.clone()));
            walk(field, steps, found);
            steps.pop();
        }
    } else if has_type(schema, "object") {
        note(&schema["maxProperties"], None);
    } else if schema["type"].is_null() && schema["const"].is_null() && schema["enum"].is_null() {
        found.free.push(spelled(steps, true));
    }
}

fn parse(path: &str, body: Value) -> Result<(), ApiError> {
    match path {
        "/v1/chat/completions" | "/v1/chat/completions/render" | "/apply-template" => {
            ChatRequest::parse(&body).map(drop)
        }
        "/completion" => LlamaRequest::completion(&body).map(drop),
        "/infill" => LlamaRequest::infill(&body).map(drop),
        "/v1/completions" => CompletionRequest::parse(&body).map(drop),
        "/v1/responses" | "/v1/responses/input_tokens" => ResponsesRequest::parse(&body).map(drop),
        "/v1/embeddings" => EmbedRequest::openai(&body).map(drop),
        "/api/embed" => EmbedRequest::ollama(&body).map(drop),
        "/api/embeddings" => EmbedRequest::ollama_one(&body).map(drop),
        "/v1/messages" => messages(&body).map(drop),
        "/v1/messages/count_tokens" => counted(&body).map(drop),
        "/api/chat" => OllamaRequest::chat(&body).map(drop),
        "/api/generate" => OllamaRequest::generate(&body).map(drop),
        "/api/show" | "/api/pull" => ShowRequest::parse(&body).map(drop),
        "/tokenize" => TokenizeRequest::parse(body).map(drop),
        "/detokenize" => DetokenizeRequest::parse(&body).map(drop),
        other => panic!("{other} takes a body, and this test does not know it"),
    }
}

/// The routes that take a body, with what is found in its schema and a body that is accepted.
fn routes() -> Vec<(String, Found, Map<String, Value>)> {
    let document = document();
    let paths = document["paths"].as_object().unwrap();
    let with_body = paths.iter().filter(|(_, methods)| methods["post"]["requestBody"].is_object());
    let routes = with_body.map(|(path, methods)| {
        let content = &methods["post"]["requestBody"]["content"]["application/json"];
        let mut found = Found::default();
        walk(&content["schema"], &mut Vec::new(), &mut found);
        let mut example = content["examples"]["whole"]["value"].as_object().unwrap().clone();
        if path == "/tokenize" {
            // A conversation, whose fields are read too.
            example = paths["/apply-template"]["post"]["requestBody"]["content"]
                ["application/json"]["examples"]["whole"]["value"]
                .as_object()
                .unwrap()
                .clone();
        }
        (path.clone(), found, example)
    });
    routes.collect()
}

#[test]
fn every_list_and_map_of_a_request_has_a_bound_in_the_document() {
    for (path, found, _) in routes() {
        assert!(found.unbounded.is_empty(), "{path}: {:?} have no bound", found.unbounded);
        let is_known = |field: &String| FREE.iter().any(|(pattern, _)| matches(pattern, field));
        let unknown: Vec<&String> = found.free.iter().filter(|field| !is_known(field)).collect();
        assert!(unknown.is_empty(), "{path}: what bounds {unknown:?}?");
    }
    let fields: Vec<String> = routes().into_iter().flat_map(|(_, found, _)| found.free).collect();
    let is_gone = |pattern: &str| !fields.iter().any(|field| matches(pattern, field));
    let gone: Vec<_> = FREE.iter().filter(|(pattern, _)| is_gone(pattern)).collect();
    assert!(gone.is_empty(), "no such fields any more: {gone:?}");
}

/// Whether `field` is `pattern`, in which one `*` stands for anything.
fn matches(pattern: &str, field: &str) -> bool {
    match pattern.split_once('*') {
        Some((start, end)) => field.starts_with(start) && field.ends_with(end),
        None => field == pattern,
    }
}

#[test]
fn one_more_than_the_bound_is_refused_by_field_bound_and_value() {
    let mut count = 0;
    for (path, found, example) in routes() {
        for Bounded { steps, most, item } in found.bounded {
            let (longer, noun) = match item {
                Some(item) => (Value::Array(vec![item; most + 1]), "items"),
                None => {
                    let entry = |index: usize| (format!("k{index}"), Value::Null);
                    (Value::Object((0..=most).map(entry).collect()), "entries")
                }
            };
            let body = steps.iter().rev().fold(longer, |inner, step| match step {
                Step::Item => json!([inner]),
                Step::Field(name) => json!({ name.as_str(): inner }),
            });
            let mut whole = example.clone();
            whole.extend(body.as_object().unwrap().clone());
            let field = spelled(&steps, false);
            let error = parse(&path, Value::Object(whole)).expect_err(&field);
            let message = &error.message;
            assert_eq!(error.status.as_u16(), 400, "{path}: {message}");
            assert_eq!(error.param.as_deref(), Some(field.as_str()), "{path}: {message}");
            let value = format!("{field}: a");
            assert!(message.starts_with(&value), "{path}: {message}");
            assert!(message.contains(&format!(" of {} {noun} ", most + 1)), "{path}: {message}");
            assert!(message.ends_with(&format!("at most {most} {noun}")), "{path}: {message}");
            count += 1;
        }
    }
    assert!(count > 60, "only {count} lists and maps were found");
}

#[test]
fn lists_in_fields_of_any_json_are_bounded_too() {
    let user = json!([{ "role": "user", "content": "x" }]);
    let function = json!({ "name": "f" });
    for &(path, most, field) in LISTS_IN_FREE {
        let many = |item: Value| Value::Array(vec![item; most + 1]);
        let tool = json!({ "type": "function", "function": function });
        let body = match path {
            "/v1/chat/completions" => json!({ "messages": user, "tools": [tool], "tool_choice":
                { "type": "allowed_tools", "allowed_tools": { "tools": many(tool.clone()) } } }),
            "/v1/responses" => {
                let tool = json!({ "type": "function", "name": "f" });
                json!({ "input": "x", "tools": [tool], "tool_choice":
                    { "type": "allowed_tools", "tools": many(tool.clone()) } })
            }
            "/v1/messages" => {
                let block = json!({ "type": "tool_result", "tool_use_id": "x", "content":
                    many(json!({ "type": "text", "text": "x" })) });
                json!({ "max_tokens": 1, "messages": [{ "role": "user", "content": [block] }] })
            }
            _ => json!({ "messages": user, "options": { "stop": many("x".into()) } }),
        };
        let error = parse(path, body).expect_err(field);
        assert_eq!(error.param.as_deref(), Some(field), "{path}: {}", error.message);
        let value = format!(" of {} items ", most + 1);
        assert!(error.message.contains(&value), "{path}: {}", error.message);
        assert!(error.message.ends_with(&format!("at most {most} items")), "{}", error.message);
    }
}

/// A number as the documents write it.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[test]
fn the_page_lists_every_bound() {
    let text = std::fs::read_to_string(in_docs("api.md")).unwrap();
    let table = text.split("## Bounds of lists").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
    let mut missing = BTreeSet::new();
    for (_, found, _) in routes() {
        for bounded in found.bounded {
            let name = format!("`{}`", spelled(&bounded.steps, true));
            let most = format!("| {} |", grouped(bounded.most));
            if !rows.iter().any(|row| row.contains(&name) && row.ends_with(&most)) {
                missing.insert(format!("{name} {most}"));
            }
        }
    }
    assert!(missing.is_empty(), "docs/api.md lacks: {missing:#?}");
}
