//! What clients of other servers expect: names, endpoints and habits of llama.cpp, vLLM, Ollama and
//! of Claude Code.

use serde_json::json;

use super::*;

const MESSAGES: &str = "/v1/messages";

#[tokio::test]
async fn the_model_answers_to_its_aliases_and_repeats_them() {
    let aliases = vec!["gpt-4o-mini".to_owned(), "demo:latest".to_owned()];
    let daemon = Daemon::with(Setup { aliases, ..Setup::default() }).await;
    for name in ["gpt-4o-mini", "demo:latest", MODEL] {
        for (path, fields) in [
            (CHAT, json!({})),
            (MESSAGES, json!({})),
            ("/api/chat", json!({"stream": false})),
            (COMPLETIONS, json!({"prompt": "a"})),
            ("/v1/responses", json!({"input": "a"})),
            ("/completion", json!({"prompt": "a", "n_predict": 2})),
        ] {
            let body = merged(chat(json!({"model": name, "max_tokens": 2})), fields);
            let answer = daemon.post(path, &body).await;
            assert_eq!(answer.json()["model"], name, "{path}: {}", answer.body);
        }
        let found = daemon.ask("GET", &format!("/v1/models/{name}"), "").await.json();
        assert_eq!(found["id"], name);
    }
    let listed = daemon.ask("GET", "/v1/models", "").await.json();
    let ids: Vec<&Value> = listed["data"].as_array().unwrap().iter().map(|m| &m["id"]).collect();
    assert_eq!(ids, [MODEL, "gpt-4o-mini", "demo:latest"]);
    let other = daemon.post(CHAT, &chat(json!({"model": "gpt-4"}))).await;
    assert_eq!(other.failure(), (404, "model_not_found".to_owned()));
}

#[tokio::test]
async fn one_alias_takes_any_name() {
    let aliases = vec!["*".to_owned()];
    let daemon = Daemon::with(Setup { aliases, ..Setup::default() }).await;
    let name = "claude-sonnet-4-5-20250929";
    let answer = daemon.post(CHAT, &chat(json!({"model": name, "max_tokens": 1}))).await.json();
    assert_eq!(answer["model"], name);
    let listed = daemon.ask("GET", "/v1/models", "").await.json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    // Each chunk of a stream repeats it.
    let long = "x".repeat(257);
    let refused = daemon.post(CHAT, &chat(json!({"model": long}))).await;
    assert_eq!(refused.status, 404);
}

#[tokio::test]
async fn claude_codes_requests_share_their_beginning() {
    let daemon = Daemon::start().await;
    let tool = json!({"name": "Bash", "input_schema": {"type": "object"}});
    let asked = |version: &str| {
        let header = format!("x-anthropic-billing-header: cc_version={version};");
        json!({
            "max_tokens": 4, "metadata": {"user_id": "{}"}, "stream": false,
            "system": [{"type": "text", "text": header},
                       {"type": "text", "text": "You are an agent. ".repeat(20),
                        "cache_control": {"type": "ephemeral"}}],
            "messages": [{"role": "user", "content": [{"type": "text", "text": "List the files."}]},
                         {"role": "system", "content": [{"type": "text", "text": "# Environment"}]}],
            "tools": [tool, {"type": "web_search_20250305", "name": "web_search"}],
            "thinking": {"type": "adaptive", "display": "omitted"},
            "output_config": {"effort": "max"},
            "context_management": {"edits": [
                {"type": "clear_thinking_20251015", "keep": "all"},
                {"type": "clear_tool_uses_20250919"}
            ]}
        })
    };
    let first = daemon.post(MESSAGES, &asked("2.1.332.93d")).await;
    assert_eq!(first.status, 200, "{}", first.body);
    let left_out = "context_management.edits[1], system[0], tools[1]";
    assert_eq!(first.header("x-phi4d-ignored-fields"), Some(left_out));
    let second = daemon.post(MESSAGES, &asked("2.1.332.f00")).await.json();
    let usage = &second["usage"];
    // All but the last token, which is read for its logits.
    assert_eq!(usage["input_tokens"], 1, "{usage}");
    assert!(usage["cache_read_input_tokens"].as_u64() > Some(100), "{usage}");
    let strict = merged(asked("2"), json!({"strict": true}));
    assert_eq!(daemon.post(MESSAGES, &strict).await.status, 400);
}

#[tokio::test]
async fn every_token_has_its_log_probability() {
    let daemon = Daemon::start().await;
    let plain = completion(6, json!({"return_token_ids": true}));
    let ids = daemon.post(COMPLETIONS, &plain).await.json()["choices"][0]["token_ids"].clone();
    // The third token ends the answer, unless it came up before.
    let end = ids.as_array().unwrap()[2].clone();
    let ended =
        json!({"stop_token_ids": [end], "logprobs": 0, "echo": true, "return_token_ids": true});
    let answer = daemon.post(COMPLETIONS, &completion(6, ended)).await.json();
    let choice = &answer["choices"][0];
    let logprobs = &choice["logprobs"];
    let count = |name: &str| logprobs[name].as_array().unwrap().len();
    let made = usize::try_from(answer["usage"]["completion_tokens"].as_u64().unwrap()).unwrap();
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(choice["token_ids"].as_array().unwrap().len(), made - 1);
    for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(count(name), 3 + made, "{name}: {answer}");
    }
    for place in 1..count("tokens") {
        let (token, logprob) = (&logprobs["tokens"][place], &logprobs["token_logprobs"][place]);
        assert_eq!(logprobs["top_logprobs"][place][token.as_str().unwrap()], *logprob);
    }
    // The prompt alone.
    for stream in [false, true] {
        let fields = json!({"echo": true, "stream": stream, "stream_options":
            if stream { json!({"include_usage": true}) } else { json!(null) }});
        let answer = daemon.post(COMPLETIONS, &completion(0, fields)).await;
        let parts = if stream { answer.chunks() } else { vec![answer.json()] };
        let texts = parts.iter().filter_map(|part| part["choices"][0]["text"].as_str());
        let prompt = daemon.post("/detokenize", &json!({"tokens": [5, 6, 7]})).await.json();
        assert_eq!(json!(texts.collect::<String>()), prompt["content"]);
        assert_eq!(parts.last().unwrap()["usage"]["completion_tokens"], 0);
    }
    let scored = json!({"echo": true, "logprobs": 1});
    let scored = daemon.post(COMPLETIONS, &completion(0, scored)).await.json();
    assert_eq!(scored["choices"][0]["logprobs"]["tokens"].as_array().unwrap().len(), 3);
    assert_eq!(daemon.post(COMPLETIONS, &completion(0, json!({}))).await.status, 400);
}

#[tokio::test]
async fn llama_cpps_endpoints_say_what_completions_say() {
    let daemon = Daemon::start().await;
    let body = json!({"prompt": [5, 6, 7], "max_tokens": 9, "ignore_eos": true});
    let text = daemon.post(COMPLETIONS, &body).await.json()["choices"][0]["text"].clone();
    let native = json!({"prompt": [5, 6, 7], "n_predict": 9, "ignore_eos": true});
    let whole = daemon.post("/completion", &native).await.json();
    assert_eq!((&whole["content"], &whole["stop"]), (&text, &json!(true)));
    assert_eq!((&whole["stop_type"], &whole["tokens_predicted"]), (&json!("limit"), &json!(9)));
    assert_eq!(whole["timings"]["predicted_n"], 9);
    let streamed = daemon.post("/completion", &merged(native, json!({"stream": true}))).await;
    let event = |event: &str| serde_json::from_str(event.strip_prefix("data: ")?).ok();
    let streamed: Vec<Value> = streamed.body.split("\n\n").filter_map(event).collect();
    let said: String = streamed.iter().filter_map(|chunk| chunk["content"].as_str()).collect();
    assert_eq!(json!(said), text);
    assert_eq!(streamed.last().unwrap()["stop"], true);

    let gap = json!({"input_prefix": "a", "input_suffix": "c", "n_predict": 3,
        "response_fields": ["content", "generation_settings/n_ctx", "none"]});
    let filled = daemon.post("/infill", &gap).await;
    let (status, expected) = if daemon.app.generator().fills_gaps() { (200, 2) } else { (400, 1) };
    assert_eq!(filled.status, status, "{}", filled.body);
    assert_eq!(filled.json().as_object().unwrap().len(), expected, "{}", filled.body);

    let warm = json!({"prompt": "a", "n_predict": 0});
    let warm = daemon.post("/completion", &warm).await.json();
    assert_eq!((&warm["content"], &warm["tokens_predicted"]), (&json!(""), &json!(0)));
    let props = daemon.ask("GET", "/props", "").await.json();
    assert_eq!(props["default_generation_settings"]["n_ctx"], 4096);
    assert!(props["chat_template"].as_str().unwrap().contains("messages"));
    let long = json!({"prompt": vec![5; 5000]});
    let error = daemon.post(COMPLETIONS, &long).await.json()["error"].clone();
    assert_eq!((&error["n_prompt_tokens"], &error["n_ctx"]), (&json!(5000), &json!(4096)));
}

#[tokio::test]
async fn facts_are_found_where_peers_have_them() {
    let daemon = Daemon::start().await;
    for path in ["/version", "/v1/health", "/v1/models/", "//v1/models", "/models"] {
        assert_eq!(daemon.ask("GET", path, "").await.status, 200, "{path}");
    }
    let info = daemon.ask("GET", "/tokenizer_info", "").await.json();
    assert_eq!(info["eos_token_ids"], json!([1001, 1009]));
    let shown = daemon.post("/api/show", &json!({"model": MODEL})).await.json();
    assert_eq!(shown["template"], info["chat_template"]);
    let tags = daemon.ask("GET", "/api/tags", "").await.json();
    assert_eq!(tags["models"][0]["digest"].as_str().unwrap().len(), 64);
    let pulled = daemon.post("/api/pull", &json!({"model": MODEL, "stream": false})).await.json();
    assert_eq!(pulled, json!({"status": "success"}));
}

#[tokio::test]
async fn curl_as_ollama_documents_it_is_answered_but_no_web_page() {
    let daemon = Daemon::start().await;
    let body = chat(json!({"stream": false, "options": {"num_predict": 2}})).to_string();
    let ask = async |headers: &[&str]| {
        let mut client = daemon.tcp().await;
        client.send("POST", "/api/chat", headers, &body).await;
        client.response().await.status
    };
    let form = "Content-Type: application/x-www-form-urlencoded";
    assert_eq!(ask(&[form]).await, 200);
    assert_ne!(ask(&[form, "Origin: https://a.example"]).await, 200);
}
