//! Completions, usage, headers and the small routes over the real model.

#![allow(clippy::unwrap_used, reason = "tests may stop where something is wrong")]

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::common::{Client, Daemon, Setup, merge};

const COMPLETIONS: &str = "/v1/completions";

fn complete(client: &Client, prompt: &Value, more: &Value) -> Value {
    let mut body = json!({ "prompt": prompt, "temperature": 0 });
    merge(&mut body, more);
    let response = client.post(COMPLETIONS, &body);
    assert_eq!(response.status, 200, "{body}: {}", response.text());
    response.json()
}

fn text(answer: &Value) -> &str {
    answer["choices"][0]["text"].as_str().unwrap()
}

fn tokens_of(text: &str) -> Vec<u32> {
    let file = crate::common::demo_folder().join("tokenizer.json");
    let tokenizer = tokenizers::Tokenizer::from_file(file).unwrap();
    tokenizer.encode(text, false).unwrap().get_ids().to_vec()
}

#[test]
fn a_text_and_its_token_ids_are_the_same_prompt() {
    // Speculation and cached prefixes change the width of steps, and with it how kernels round.
    let daemon = Setup::new().with(&["--reproducible", "true"]).start();
    for prompt in ["12+7=", "The", "日本語", "🦀 é", "{\"name\": "] {
        let ids = tokens_of(prompt);
        let spelled = complete(&daemon.tcp(), &json!(prompt), &json!({}));
        for same in [json!(ids), json!([ids]), json!([prompt])] {
            let answer = complete(&daemon.unix(), &same, &json!({}));
            assert_eq!(answer["choices"], spelled["choices"], "{prompt} {same}");
            assert_eq!(answer["usage"]["prompt_tokens"], ids.len(), "{prompt} {same}");
        }
    }
}

#[test]
fn log_probabilities_have_the_older_shape() {
    let daemon = Daemon::start();
    let more = json!({ "logprobs": 3, "max_tokens": 12, "ignore_eos": true });
    let answer = complete(&daemon.tcp(), &json!("Count to 12."), &more);
    let logprobs = &answer["choices"][0]["logprobs"];
    let list = |name: &str| logprobs[name].as_array().unwrap();
    let tokens: Vec<&str> = list("tokens").iter().map(|token| token.as_str().unwrap()).collect();
    assert_eq!(tokens.len(), 12);
    assert!(tokens.concat().starts_with(text(&answer)), "{answer}");
    let mut offset = 0;
    for (index, token) in tokens.iter().enumerate() {
        assert_eq!(list("text_offset")[index], offset, "{answer}");
        offset += token.chars().count();
        let chosen = list("token_logprobs")[index].as_f64().unwrap();
        let top = list("top_logprobs")[index].as_object().unwrap();
        assert!((1..=3).contains(&top.len()) && chosen <= 0.0, "{answer}");
        let best = top.values().map(|value| value.as_f64().unwrap()).fold(f64::MIN, f64::max);
        assert!((best - chosen).abs() < 1e-6, "greedy takes the likeliest: {answer}");
        assert!(top.contains_key(*token), "{answer}");
    }
}

#[test]
fn usage_is_true_to_what_the_engine_read() {
    let daemon = Daemon::start();
    let prompt = json!("Repeat after me: one, two, three, four, five, six, seven.");
    let read = |name: &str| daemon.wait_idle()[name].as_u64().unwrap();
    let mut answers = Vec::new();
    for _ in 0..3 {
        let before = ["prompt_tokens", "cached_prompt_tokens", "generated_tokens"].map(read);
        let answer = complete(&daemon.unix(), &prompt, &json!({ "cache_salt": "mine" }));
        let after = ["prompt_tokens", "cached_prompt_tokens", "generated_tokens"].map(read);
        let usage = |place: &str| answer["usage"].pointer(place).unwrap().as_u64().unwrap();
        let cached = usage("/prompt_tokens_details/cached_tokens");
        assert_eq!(after[1] - before[1], cached);
        assert_eq!(after[0] - before[0], usage("/prompt_tokens") - cached);
        assert_eq!(after[2] - before[2], usage("/completion_tokens"));
        assert_eq!(usage("/total_tokens"), usage("/prompt_tokens") + usage("/completion_tokens"));
        answers.push((cached, usage("/prompt_tokens")));
    }
    let [(0, tokens), (second, _), (third, _)] = answers.as_slice() else {
        panic!("the first finds nothing cached: {answers:?}")
    };
    // All but the last token, whose logits are wanted.
    assert_eq!((second + 1, third), (*tokens, second));
    // Another's salt finds nothing.
    let other = complete(&daemon.unix(), &prompt, &json!({ "cache_salt": "yours" }));
    assert_eq!(other["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
}

#[test]
fn answers_bear_the_time_and_an_id_of_their_own() {
    let daemon = Daemon::start();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let before = now();
    let answers: Vec<Value> =
        (0..3).map(|_| complete(&daemon.tcp(), &json!("The"), &json!({}))).collect();
    for answer in &answers {
        assert!((before..=now()).contains(&answer["created"].as_u64().unwrap()), "{answer}");
    }
    assert!(answers[0]["id"] != answers[1]["id"] && answers[1]["id"] != answers[2]["id"]);
}

#[test]
fn requests_keep_their_ids() {
    let daemon = Daemon::start();
    let long = "x".repeat(129);
    for client in [daemon.tcp(), daemon.unix()] {
        let id_for = |sent: &str, path: &str| {
            let response = client.request("GET", path, &[("X-Request-Id", sent)], b"");
            response.header("x-request-id").unwrap().to_owned()
        };
        for sent in ["abc-1.2:3/4+5=6_7", &long[..128]] {
            for path in ["/health", "/v1/models", "/nowhere"] {
                assert_eq!(id_for(sent, path), sent);
            }
        }
        // What could break a log line or a header is replaced.
        for sent in ["", "two words", "quo\"te", "ä", &long] {
            let given = id_for(sent, "/health");
            assert!(given != sent && !given.is_empty(), "{sent:?} {given:?}");
        }
        assert_ne!(id_for("", "/health"), id_for("", "/health"));
    }
}

#[test]
fn small_routes_answer_get_and_head() {
    let daemon = Daemon::start();
    for client in [daemon.tcp(), daemon.unix()] {
        for path in ["/health", "/ready", "/v1/models", "/v1/models/demo", "/v1/models/%64emo"] {
            let (get, head) = (client.get(path), client.request("HEAD", path, &[], b""));
            assert_eq!((get.status, head.status), (200, 200), "{path}");
            assert_eq!(get.header("content-type"), Some("application/json"), "{path}");
            assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
            assert!(!get.body.is_empty() && head.body.is_empty(), "{path}");
        }
        let models = client.get("/v1/models").json();
        assert_eq!(models["object"], "list");
        assert_eq!(models["data"].as_array().unwrap().len(), 1);
        let model = &models["data"][0];
        assert_eq!((&model["id"], &model["object"]), (&json!("demo"), &json!("model")));
        assert!(model["created"].is_u64() && model["owned_by"].is_string(), "{model}");
        let health = client.get("/health").json();
        for count in ["slots", "running", "waiting", "accepted", "finished", "cancelled", "failed"]
        {
            assert!(health[count].is_u64(), "{count}: {health}");
        }
        assert_eq!((&health["status"], &health["model"]), (&json!("ok"), &json!("demo")));
    }
}

#[test]
fn a_system_message_and_earlier_turns_are_read() {
    let daemon = Daemon::start();
    let ask = |messages: Value| {
        let body = json!({ "messages": messages, "temperature": 0, "max_tokens": 1 });
        let response = daemon.tcp().post("/v1/chat/completions", &body);
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let turn = |role: &str, content: &str| json!({ "role": role, "content": content });
    let user = turn("user", "Hello!");
    let one = ask(json!([user]));
    let with_system = ask(json!([turn("system", "Be brief."), user]));
    assert!(with_system > one + 3);
    // OpenAI's newer name of the role is the same to the template.
    assert_eq!(ask(json!([turn("developer", "Be brief."), user])), with_system);
    let both = ask(json!([user, turn("assistant", "Hi."), user]));
    // Each turn costs what it says and its marks.
    assert!(both >= 2 * one, "{both} {one}");
}

/// The model's log-probabilities of what it said are those of the same tokens when it reads them.
#[test]
fn prompts_are_scored_as_answers_are() {
    let daemon = Daemon::start();
    let ask = |body: Value| daemon.tcp().post("/v1/completions", &body).json();
    // Longer than what one step scores.
    let text = "Count: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20. ".repeat(3);
    let said = ask(json!({
        "prompt": text, "temperature": 0, "max_tokens": 12, "logprobs": 3, "ignore_eos": true,
        "return_token_ids": true
    }));
    let said = &said["choices"][0];
    let ids = |key: &str| said[key].as_array().unwrap().clone();
    let (prompt, answer) = (ids("prompt_token_ids"), ids("token_ids"));
    assert!(prompt.len() > 64, "{}", prompt.len());
    let whole: Vec<Value> = prompt.iter().chain(&answer).cloned().collect();
    let body = json!({
        "prompt": whole, "max_tokens": 1, "temperature": 0, "logprobs": 3, "echo": true,
        "prompt_logprobs": 2, "n": 2
    });
    let read = ask(body);
    assert_eq!(read["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    for choice in read["choices"].as_array().unwrap() {
        let logprobs = &choice["logprobs"];
        let scores = logprobs["token_logprobs"].as_array().unwrap();
        assert_eq!(scores.len(), whole.len() + 1);
        assert!(scores[0].is_null() && logprobs["top_logprobs"][0].is_null());
        let begins = logprobs["text_offset"].as_array().unwrap();
        let text: Vec<char> = choice["text"].as_str().unwrap().chars().collect();
        let begin = |place: usize| usize::try_from(begins[place].as_u64().unwrap()).unwrap();
        for place in 0..prompt.len() {
            let spelt: String = text[begin(place)..begin(place + 1)].iter().collect();
            assert_eq!(spelt, logprobs["tokens"][place].as_str().unwrap(), "{place}");
        }
        let listed = choice["prompt_logprobs"].as_array().unwrap();
        assert_eq!(listed.len(), whole.len());
        assert!(listed[0].is_null());
        for (index, id) in answer.iter().enumerate() {
            let place = prompt.len() + index;
            let expected = said["logprobs"]["token_logprobs"][index].as_f64().unwrap();
            let found = scores[place].as_f64().unwrap();
            assert!((found - expected).abs() < 0.05, "{place}: {found}, said with {expected}");
            let entry = &listed[place][id.to_string()];
            assert_eq!(entry["logprob"].as_f64().unwrap(), found, "{place}: {entry}");
            // Greedy answers are the likeliest tokens.
            assert_eq!(entry["rank"], 1, "{place}: {entry}");
        }
    }
    let one = ask(json!({ "prompt": [100], "max_tokens": 1, "prompt_logprobs": 0 }));
    assert_eq!(one["choices"][0]["prompt_logprobs"], json!([null]));
    let chat = daemon.tcp().chat("What is 12+7?", &json!({ "prompt_logprobs": 1 }));
    assert!(chat["prompt_logprobs"].as_array().unwrap().len() > 5, "{chat}");
}

#[test]
fn stop_strings_control_tokens_and_times_are_reported_where_they_are_asked_for() {
    let daemon = Daemon::start();
    let ask = |more: Value| {
        let mut body = json!({ "prompt": "12+7=", "temperature": 0, "max_tokens": 12 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        daemon.tcp().post("/v1/completions", &body).json()
    };
    let text = |answer: &Value| answer["choices"][0]["text"].as_str().unwrap().to_owned();
    let cut = text(&ask(json!({ "stop": "9" })));
    let whole = text(&ask(json!({ "stop": "9", "include_stop_str_in_output": true })));
    assert_eq!(whole, format!("{cut}9"));
    let hidden = text(&ask(json!({ "ignore_eos": true })));
    let shown = text(&ask(json!({ "ignore_eos": true, "skip_special_tokens": false })));
    assert!(shown.contains("<|") && !hidden.contains("<|"), "{hidden:?} {shown:?}");
    let answer = ask(json!({ "timings_per_token": true }));
    let timings = &answer["timings"];
    assert_eq!(timings["predicted_n"], answer["usage"]["completion_tokens"]);
    assert!(timings["prompt_ms"].as_f64().unwrap() > 0.0, "{timings}");
    assert!(ask(json!({}))["timings"].is_null());
}
