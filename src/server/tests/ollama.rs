//! Ollama's API says what OpenAI's says.

use serde_json::json;

use super::*;

const GENERATE: &str = "/api/generate";
const OLLAMA_CHAT: &str = "/api/chat";

fn lines(response: &Response) -> Vec<Value> {
    assert_eq!(response.status, 200, "{response:?}");
    assert_eq!(response.header("content-type"), Some("application/x-ndjson"));
    let text = response.body.as_str();
    assert!(text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What the chat route says to one turn of 20 tokens.
async fn said(daemon: &Daemon, more: Value) -> String {
    let body = merged(chat(json!({"max_tokens": 20})), more);
    let answer = daemon.post(CHAT, &body).await.json();
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn chats_are_streamed_as_lines_or_come_whole() {
    let daemon = Daemon::start().await;
    let expected = said(&daemon, json!({})).await;
    let body = chat(json!({"model": MODEL, "options": {"num_predict": 20}, "keep_alive": "5m"}));
    let streamed = lines(&daemon.post(OLLAMA_CHAT, &body).await);
    let (last, pieces) = streamed.split_last().unwrap();
    let text: String =
        pieces.iter().map(|line| line["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(text, expected);
    assert!(pieces.iter().all(|line| line["done"] == false && line["model"] == MODEL));
    let latest = merged(body, json!({"stream": false, "model": format!("{MODEL}:latest")}));
    let whole = daemon.post(OLLAMA_CHAT, &latest).await.json();
    assert_eq!(whole["message"], json!({"role": "assistant", "content": expected}));
    for end in [last, &whole] {
        assert_eq!((&end["done"], &end["done_reason"]), (&json!(true), &json!("length")));
        assert_eq!(end["eval_count"], 20);
        let times = ["total_duration", "prompt_eval_duration", "eval_duration"];
        let [total, reading, making] = times.map(|name| end[name].as_u64().unwrap());
        assert!(reading > 0 && making > 0 && total == reading + making, "{end}");
    }
}

#[tokio::test]
async fn prompts_are_chats_or_raw_texts() {
    let daemon = Daemon::start().await;
    let generate = async |body: Value| {
        let body = merged(json!({"stream": false, "options": {"num_predict": 20}}), body);
        let answer = daemon.post(GENERATE, &body).await.json();
        answer["response"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    };
    let question = "What is 1+1?";
    assert_eq!(generate(json!({"prompt": question})).await, said(&daemon, json!({})).await);
    let messages = json!([
        {"role": "system", "content": "Be terse."}, {"role": "user", "content": question}
    ]);
    let with_system = generate(json!({"prompt": question, "system": "Be terse."})).await;
    assert_eq!(with_system, said(&daemon, json!({"messages": messages})).await);
    let completion = async |body: Value| {
        let body = merged(json!({"max_tokens": 20}), body);
        let answer = daemon.post(COMPLETIONS, &body).await.json();
        answer["choices"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    };
    let raw = "<|im_start|>user<|im_sep|>x";
    let expected = completion(json!({"prompt": raw, "parse_special": true})).await;
    assert_eq!(generate(json!({"prompt": raw, "raw": true})).await, expected);
    let expected = completion(json!({"prompt": "a", "suffix": "z"})).await;
    assert_eq!(generate(json!({"prompt": "a", "suffix": "z"})).await, expected);
}

#[tokio::test]
async fn nothing_to_generate_loads_the_model() {
    let daemon = Daemon::start().await;
    for (path, body, reason) in [
        (OLLAMA_CHAT, json!({"messages": []}), "load"),
        (OLLAMA_CHAT, json!({"keep_alive": 0}), "unload"),
        (GENERATE, json!({"model": MODEL}), "load"),
        (GENERATE, json!({"keep_alive": "0s"}), "unload"),
    ] {
        let answer = daemon.post(path, &body).await.json();
        assert_eq!((&answer["done"], &answer["done_reason"]), (&json!(true), &json!(reason)));
    }
    assert_eq!(daemon.stats().accepted, 0);
}

#[tokio::test]
async fn the_model_is_shown() {
    let daemon = Daemon::start().await;
    let get = async |path: &str| daemon.ask("GET", path, "").await.json();
    let tags = get("/api/tags").await;
    let model = &tags["models"][0];
    assert_eq!((&model["name"], &model["model"]), (&json!(MODEL), &json!(MODEL)));
    assert_eq!(model["modified_at"], "2023-11-14T22:13:20.000Z");
    assert_eq!(get("/api/ps").await["models"][0]["context_length"], 4096);
    assert!(get("/api/version").await["version"].is_string());
    for name in ["model", "name"] {
        let shown = daemon.post("/api/show", &json!({name: MODEL})).await.json();
        assert_eq!(shown["model_info"]["phi4.context_length"], 4096);
        assert_eq!(shown["details"]["format"], "onnx");
    }
}

#[tokio::test]
async fn results_of_calls_find_their_call() {
    let daemon = Daemon::start().await;
    let call = |name: &str| json!({"function": {"name": name, "arguments": {"x": 1}}});
    let turns = |results: Value| {
        let mut messages = vec![
            json!({"role": "user", "content": "x"}),
            json!({"role": "assistant", "content": "", "tool_calls": [call("a"), call("b")]}),
        ];
        messages.extend(results.as_array().unwrap().iter().cloned());
        json!({"messages": messages, "stream": false, "options": {"num_predict": 1}})
    };
    let result = |name: &str| json!({"role": "tool", "content": "7", "tool_name": name});
    let both = turns(json!([result("b"), result("a")]));
    let answer = daemon.post(OLLAMA_CHAT, &both).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let twice = daemon.post(OLLAMA_CHAT, &turns(json!([result("b"), result("b")]))).await;
    let error = twice.json()["error"].as_str().unwrap().to_owned();
    assert!(error.starts_with("messages[3].tool_name: \"b\" is not accepted"), "{error}");
}

#[tokio::test]
async fn faults_are_reported_under_ollama_s_names() {
    let daemon = Daemon::start().await;
    let options = |options: Value| chat(json!({ "options": options }));
    for (path, body, status, start) in [
        (OLLAMA_CHAT, json!({"model": "x", "messages": []}), 404, "model: \"x\""),
        (OLLAMA_CHAT, options(json!({"temperature": 9})), 400, "options.temperature: 9 is"),
        (OLLAMA_CHAT, options(json!({"num_predict": "x"})), 400, "options.num_predict: invalid"),
        (OLLAMA_CHAT, options(json!({"stop": [""]})), 400, "options.stop[0]: "),
        (OLLAMA_CHAT, options(json!({"mirostat": 1})), 400, "options.mirostat: 1 is not"),
        (OLLAMA_CHAT, json!({"messages": [{"role": "x"}]}), 400, "messages[0].role: \"x\""),
        (OLLAMA_CHAT, chat(json!({"format": "xml"})), 400, "format: \"xml\""),
        (OLLAMA_CHAT, chat(json!({"format": {"type": "x"}})), 400, "format"),
        (OLLAMA_CHAT, chat(json!({"zz": 1, "strict": true})), 400, "zz: "),
        (GENERATE, json!({"prompt": "a", "images": ["aaaa"]}), 400, "images: a list"),
        (GENERATE, json!({"prompt": "a", "template": "x"}), 400, "template: "),
        (GENERATE, json!({"prompt": "a", "context": [1]}), 400, "context: "),
        ("/api/show", json!({}), 400, "model: missing"),
        ("/api/pull", json!({"model": "x"}), 404, "model: \"x\""),
        ("/api/copy", json!({}), 404, "unknown URL"),
    ] {
        let response = daemon.post(path, &body).await;
        assert_eq!(response.status, status, "{body}");
        let error = response.json();
        assert_eq!(error.as_object().unwrap().len(), 1, "{error}");
        let message = error["error"].as_str().unwrap();
        assert!(message.starts_with(start), "{body}: {message}");
    }
    let ignored = chat(json!({"stream": false, "zz": 1, "options": {"num_ctx": 9, "tfs_z": 1}}));
    let response = daemon.post(OLLAMA_CHAT, &ignored).await;
    assert_eq!(response.header("x-phi4d-ignored-fields"), Some("zz, options.tfs_z"));
}

#[tokio::test]
async fn a_fault_in_a_stream_is_its_last_line() {
    let daemon = Daemon::start().await;
    daemon.slow_down(Duration::from_millis(1));
    let mut client = daemon.tcp().await;
    let body = chat(json!({"options": {"num_predict": 4000}}));
    client.send("POST", OLLAMA_CHAT, &[], &body.to_string()).await;
    assert_eq!(client.head().await.status, 200);
    client.chunk().await.unwrap();
    daemon.control.fail_next.store(true, Ordering::Release);
    let mut last = String::new();
    while let Some(chunk) = client.chunk().await {
        last = chunk;
    }
    let last: Value = serde_json::from_str(last.lines().last().unwrap()).unwrap();
    assert!(last["error"].as_str().unwrap().starts_with("the model failed"), "{last}");
}
