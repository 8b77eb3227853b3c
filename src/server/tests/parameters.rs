//! Each parameter's effect on the answer, over a socket.

use serde_json::json;

use super::*;

/// The token ids of every answer, by index.
async fn answers(daemon: &Daemon, fields: Value) -> Vec<Vec<u64>> {
    let body = merged(completion(8, json!({"return_token_ids": true})), fields);
    let response = daemon.post(COMPLETIONS, &body).await;
    assert_eq!(response.status, 200, "{}", response.body);
    let choices = response.json()["choices"].clone();
    let ids = |choice: &Value| -> Vec<u64> {
        choice["token_ids"].as_array().unwrap().iter().filter_map(Value::as_u64).collect()
    };
    choices.as_array().unwrap().iter().map(ids).collect()
}

async fn answer(daemon: &Daemon, fields: Value) -> Vec<u64> {
    answers(daemon, fields).await.remove(0)
}

#[tokio::test]
async fn filters_and_bans_move_the_tokens() {
    let daemon = Daemon::start().await;
    let greedy = answer(&daemon, json!({})).await;
    let hot = json!({"temperature": 2, "seed": 3});
    assert_ne!(answer(&daemon, hot.clone()).await, greedy);
    let narrow = merged(hot.clone(), json!({"top_n_sigma": 0.000_001}));
    assert_eq!(answer(&daemon, narrow).await, greedy);
    let typical = merged(hot, json!({"typical_p": 0.000_001}));
    assert_eq!(answer(&daemon, typical.clone()).await, {
        // One token is left at each step, so the seed makes no difference.
        answer(&daemon, merged(typical, json!({"seed": 4}))).await
    });
    let two = json!({"allowed_token_ids": [300, 301]});
    assert!(answer(&daemon, two.clone()).await.iter().all(|id| [300, 301].contains(id)));
    // Both are likely enough; XTC leaves out the likelier one at each step.
    let draws = json!({"temperature": 1, "seed": 1, "logit_bias": {"300": 0.5}});
    let either = merged(two.clone(), draws);
    let without = json!({"xtc_probability": 1, "xtc_threshold": 0.0001});
    assert_ne!(
        answer(&daemon, merged(either.clone(), without)).await,
        answer(&daemon, either).await
    );
    let one = json!({"allowed_token_ids": [300], "dry_multiplier": 5});
    assert_eq!(answer(&daemon, one).await, [300; 8]);
    let dry = json!({"logit_bias": {"300": 100, "301": 90}, "dry_multiplier": 10, "dry_base": 4});
    let repeated = merged(dry.clone(), json!({"dry_multiplier": 0}));
    assert_eq!(answer(&daemon, repeated).await, [300; 8]);
    let varied = answer(&daemon, dry).await;
    assert_eq!(varied[..3], [300; 3]);
    assert!(varied.contains(&301), "{varied:?}");
}

#[tokio::test]
async fn words_are_banned_and_biased_by_their_text() {
    let daemon = Daemon::start().await;
    let text = daemon.post(COMPLETIONS, &completion(8, json!({}))).await.json();
    let greedy = answer(&daemon, json!({})).await;
    let first = daemon.app.generator().spell(&[u32::try_from(greedy[0]).unwrap()]);
    assert!(text["choices"][0]["text"].as_str().unwrap().starts_with(&first));
    let banned = answer(&daemon, json!({"bad_words": [first]})).await;
    assert!(!banned.contains(&greedy[0]));
    let only = answer(&daemon, json!({"logit_bias": {"a": 100}})).await;
    assert!(only.iter().all(|id| *id == only[0]));
    let faults = [
        (json!({"bad_words": [""]}), "bad_words[0]"),
        (json!({"allowed_token_ids": [5000]}), "allowed_token_ids[0]"),
        (json!({"typical_p": 0}), "typical_p"),
        (json!({"xtc_threshold": 0.7}), "xtc_threshold"),
        (json!({"dry_base": 0.5}), "dry_base"),
        (json!({"min_tokens": 9}), "min_tokens"),
        (json!({"top_n_sigma": -3}), "top_n_sigma"),
        (json!({"truncate_prompt_tokens": 0}), "truncate_prompt_tokens"),
        (json!({"n": 129}), "n"),
    ];
    for (fields, param) in faults {
        let response = daemon.post(COMPLETIONS, &completion(8, fields)).await;
        assert_eq!(response.status, 400);
        assert_eq!(response.json()["error"]["param"], param, "{}", response.body);
    }
}

#[tokio::test]
async fn the_output_has_min_tokens_before_any_stop() {
    let daemon = Daemon::start().await;
    let greedy = answer(&daemon, json!({})).await;
    let stop = json!({"stop_token_ids": [greedy[0]]});
    assert_eq!(answer(&daemon, stop.clone()).await, [0; 0]);
    let kept = answer(&daemon, merged(stop, json!({"min_tokens": 3}))).await;
    assert!(kept.len() >= 3 && !kept[..3].contains(&greedy[0]));
    let first = daemon.app.generator().spell(&[u32::try_from(greedy[0]).unwrap()]);
    let texts = json!({"stop": [first], "min_tokens": 8});
    assert_eq!(answer(&daemon, texts).await, greedy);
}

#[tokio::test]
async fn copies_and_batches_have_their_own_indices() {
    let daemon = Daemon::start().await;
    let fields = json!({"n": 2, "prompt": [[5, 6, 7], [8, 9]], "temperature": 1, "seed": 7});
    let whole = answers(&daemon, fields.clone()).await;
    assert_eq!(whole.len(), 4);
    assert_ne!(whole[0], whole[1]);
    let seeded = json!({"prompt": [8, 9], "temperature": 1, "seed": 8});
    assert_eq!(whole[3], answer(&daemon, seeded).await);
    let stream = json!({
        "stream": true, "return_token_ids": true, "stream_options": {"include_usage": true}
    });
    let body = merged(merged(completion(8, fields), stream), json!({"echo": true}));
    let chunks = daemon.post(COMPLETIONS, &body).await.chunks();
    let mut streamed = vec![Vec::new(); 4];
    let mut prompts = vec![Value::Null; 4];
    for choice in chunks.iter().filter_map(|chunk| chunk["choices"].get(0)) {
        let index = usize::try_from(choice["index"].as_u64().unwrap()).unwrap();
        streamed[index].extend(choice["token_ids"].as_array().into_iter().flatten().cloned());
        if !choice["prompt_token_ids"].is_null() {
            prompts[index] = choice["prompt_token_ids"].clone();
        }
    }
    assert_eq!(json!(streamed), json!(whole));
    assert_eq!(prompts, [json!([5, 6, 7]), json!([5, 6, 7]), json!([8, 9]), json!([8, 9])]);
    let usage = &chunks.last().unwrap()["usage"];
    assert_eq!(
        (usage["prompt_tokens"].as_u64(), usage["completion_tokens"].as_u64()),
        (Some(5), Some(32))
    );
    let chat = daemon.post(CHAT, &chat(json!({"n": 3, "max_tokens": 2}))).await.json();
    let indices: Vec<&Value> =
        chat["choices"].as_array().unwrap().iter().map(|choice| &choice["index"]).collect();
    assert_eq!(json!(indices), json!([0, 1, 2]));
}

#[tokio::test]
async fn the_prompt_is_echoed_cut_and_filled() {
    let daemon = Daemon::start().await;
    let text = |response: Response| -> String {
        response.json()["choices"][0]["text"].as_str().unwrap().to_owned()
    };
    let plain = json!({"prompt": "What is 1+1?"});
    let answer = text(daemon.post(COMPLETIONS, &completion(4, plain.clone())).await);
    let echoed = merged(plain.clone(), json!({"echo": true}));
    let both = text(daemon.post(COMPLETIONS, &completion(4, echoed)).await);
    assert_eq!(both, format!("What is 1+1?{answer}"));
    for (side, kept) in [("left", json!([6, 7])), ("right", json!([5, 6]))] {
        let fields = json!({
            "truncate_prompt_tokens": 2, "truncation_side": side, "return_token_ids": true
        });
        let body = daemon.post(COMPLETIONS, &completion(1, fields)).await.json();
        assert_eq!(body["choices"][0]["prompt_token_ids"], kept);
    }
    let gap = merged(plain, json!({"suffix": " Good.", "return_token_ids": true}));
    let body = daemon.post(COMPLETIONS, &completion(1, gap)).await.json();
    let ids = body["choices"][0]["prompt_token_ids"].as_array().unwrap().clone();
    let spelt =
        |id: &Value| daemon.app.generator().spell(&[u32::try_from(id.as_u64().unwrap()).unwrap()]);
    assert_eq!(spelt(&ids[0]), "<|fim_prefix|>");
    assert_eq!(spelt(ids.last().unwrap()), "<|fim_middle|>");
}

#[tokio::test]
async fn cached_prompts_are_shared_within_a_salt_only() {
    let daemon = Daemon::start().await;
    let prompt: Vec<u32> = (10..300).collect();
    let mut cached = Vec::new();
    for salt in ["a", "a", "b", "", "a"] {
        let fields = json!({"prompt": prompt, "cache_salt": salt, "priority": -3});
        let body = daemon.post(COMPLETIONS, &completion(1, fields)).await.json();
        let tokens = &body["usage"]["prompt_tokens_details"]["cached_tokens"];
        cached.push(tokens.as_u64().unwrap() > 0);
    }
    assert_eq!(cached, [false, true, false, false, true]);
}

#[tokio::test]
async fn usage_can_come_with_every_chunk() {
    let daemon = Daemon::start().await;
    let options = json!({"include_usage": true, "continuous_usage_stats": true});
    let options = json!({"stream": true, "stream_options": options});
    let chunks = daemon.post(COMPLETIONS, &completion(20, options)).await.chunks();
    let made: Vec<u64> =
        chunks.iter().map(|chunk| chunk["usage"]["completion_tokens"].as_u64().unwrap()).collect();
    assert!(made.is_sorted() && made.last() == Some(&20), "{made:?}");
    // Alone it asks for nothing.
    let options = json!({"stream": true, "stream_options": {"continuous_usage_stats": true}});
    let chunks = daemon.post(COMPLETIONS, &completion(3, options)).await.chunks();
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()), "{chunks:?}");
}

#[tokio::test]
async fn a_header_names_the_fields_that_nobody_read() {
    let daemon = Daemon::start().await;
    let fields = json!({"temprature": 1, "späte": 1, "line\nbreak": 1, "user": "u"});
    for stream in [false, true] {
        let body = merged(completion(1, fields.clone()), json!({"stream": stream}));
        let response = daemon.post(COMPLETIONS, &body).await;
        assert_eq!(response.header("x-phi4d-ignored-fields"), Some("temprature"));
    }
    let plain = daemon.post(COMPLETIONS, &completion(1, json!({}))).await;
    assert_eq!(plain.header("x-phi4d-ignored-fields"), None);
    let strict = merged(completion(1, fields), json!({"strict": true}));
    assert_eq!(daemon.post(COMPLETIONS, &strict).await.status, 400);
}
