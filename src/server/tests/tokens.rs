//! Text and tokens without an answer, and what an administrator sees of the slots.

use serde_json::json;

use super::*;

#[tokio::test]
async fn text_goes_to_tokens_and_back() {
    let daemon = Daemon::start().await;
    for name in ["prompt", "content"] {
        let text = "naïve 🙂<|im_start|>";
        let mut asked = json!({"return_token_strs": true});
        asked[name] = json!(text);
        let tokens = daemon.post("/tokenize", &asked).await.json();
        let ids = tokens["tokens"].as_array().unwrap();
        assert_eq!((&tokens["count"], &tokens["max_model_len"]), (&json!(ids.len()), &json!(4096)));
        assert_eq!(tokens["token_strs"].as_array().unwrap().len(), ids.len());
        assert_eq!(tokens["token_strs"].as_array().unwrap().last().unwrap(), "<|im_start|>");
        let back = daemon.post("/detokenize", &json!({"tokens": ids})).await.json();
        assert_eq!(back, json!({"prompt": text, "content": text}));
        asked["parse_special"] = json!(false);
        let plain = daemon.post("/tokenize", &asked).await.json();
        assert!(plain["count"].as_u64() > tokens["count"].as_u64(), "{plain}");
    }
    let none = daemon.post("/tokenize", &json!({"prompt": ""})).await.json();
    assert_eq!((&none["count"], &none["tokens"]), (&json!(0), &json!([])));
    let pieces = json!({"content": "ab", "with_pieces": true});
    let pieces = daemon.post("/tokenize", &pieces).await.json();
    let text: String =
        pieces["tokens"].as_array().unwrap().iter().map(|t| t["piece"].as_str().unwrap()).collect();
    assert_eq!(text, "ab");
}

#[tokio::test]
async fn what_is_rendered_is_what_is_read() {
    let daemon = Daemon::start().await;
    let body = chat(json!({"max_tokens": 1, "return_token_ids": true}));
    let answer = daemon.post(CHAT, &body).await.json();
    let text = "What is 1+1?";
    for path in ["/v1/chat/completions/render", "/apply-template"] {
        let rendered = daemon.post(path, &body).await.json();
        assert_eq!(rendered["token_ids"], answer["prompt_token_ids"]);
        assert_eq!(rendered["count"], answer["usage"]["prompt_tokens"]);
        let prompt = rendered["prompt"].as_str().unwrap();
        assert!(prompt.contains(text) && prompt.contains("<|im_start|>"), "{prompt}");
    }
    let tokens = daemon.post("/tokenize", &chat(json!({}))).await.json();
    assert_eq!(tokens["tokens"], answer["prompt_token_ids"]);
    // What has been counted has not been run.
    assert_eq!(daemon.stats().accepted, 1);
}

#[tokio::test]
async fn a_prompt_beyond_the_context_can_be_counted() {
    let daemon = Daemon::with(Setup { context_tokens: 64, ..Setup::default() }).await;
    let body = json!({"prompt": "a b c ".repeat(200)});
    let tokens = daemon.post("/tokenize", &body).await.json();
    assert!(tokens["count"].as_u64() > tokens["max_model_len"].as_u64(), "{tokens}");
}

#[tokio::test]
async fn faults_are_reported_as_everywhere() {
    let daemon = Daemon::start().await;
    for (path, body, status, code) in [
        ("/tokenize", json!({"prompt": "a", "model": "x"}), 404, "model_not_found"),
        ("/tokenize", json!({}), 400, "missing_required_parameter"),
        ("/detokenize", json!({"tokens": [4_000_000]}), 400, "invalid_value"),
        ("/v1/chat/completions/render", json!({"messages": []}), 400, "invalid_value"),
    ] {
        assert_eq!(daemon.post(path, &body).await.failure(), (status, code.to_owned()), "{body}");
    }
}

#[tokio::test]
async fn slots_show_numbers_of_what_runs_and_what_waits() {
    let daemon = Daemon::with(Setup { slots: 2, ..Setup::default() }).await;
    let slots = || async { daemon.ask("GET", "/slots", "").await.json() };
    let idle =
        |id: usize| json!({"id": id, "is_processing": false, "state": "idle", "n_ctx": 4096});
    assert_eq!(slots().await, json!([idle(0), idle(1)]));
    daemon.slow_down(Duration::from_millis(1));
    let body = completion(4000, json!({"priority": 3})).to_string();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = daemon.tcp().await;
        client.send("POST", COMPLETIONS, &[], &body).await;
        clients.push(client);
    }
    let both = |stats: &Stats| stats.running == 2 && stats.waiting == 1;
    daemon.until("two run", |stats| both(stats) && stats.generated_tokens > 8).await;
    let seen = slots().await;
    let seen = seen.as_array().unwrap();
    assert_eq!(seen.len(), 3);
    for (index, slot) in seen.iter().enumerate() {
        assert_eq!((&slot["caller"], &slot["priority"]), (&json!("127.0.0.1"), &json!(-3)));
        assert_eq!(slot["n_prompt_tokens"], 3);
        let made = slot["n_decoded"].as_u64().unwrap() + slot["n_remain"].as_u64().unwrap();
        assert_eq!(made, 4000);
        let (id, state) = match index {
            2 => (json!(null), "waiting"),
            _ => (json!(index), "decode"),
        };
        assert_eq!((&slot["id"], &slot["state"]), (&id, &json!(state)), "{slot}");
    }
    drop(clients);
    daemon.until("idle", |stats| stats.running + stats.waiting == 0).await;
    assert_eq!(slots().await, json!([idle(0), idle(1)]));
}
