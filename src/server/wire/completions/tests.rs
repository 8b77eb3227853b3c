use super::*;
use crate::wire::common::SYSTEM_FINGERPRINT;
use phi4d_generate::Copies;
use serde_json::{json, to_value};

fn parse(body: &Value) -> Result<Request, ApiError> {
    CompletionRequest::parse(body).map(|completion| completion.parsed.request)
}

fn prompt_of(prompt: &Value) -> Result<Prompt, ApiError> {
    parse(&json!({ "prompt": prompt })).map(|mut request| {
        assert_eq!(request.prompts.len(), 1);
        request.prompts.remove(0)
    })
}

fn text(text: &str) -> Prompt {
    Prompt::Text { text: text.to_owned(), parse_special: false }
}

#[test]
fn prompts_of_all_forms_arrive() {
    assert_eq!(prompt_of(&json!("a")).unwrap(), text("a"));
    assert_eq!(prompt_of(&json!("")).unwrap(), text(""));
    assert_eq!(prompt_of(&json!(["a"])).unwrap(), text("a"));
    assert_eq!(prompt_of(&json!([1, 2])).unwrap(), Prompt::Tokens(vec![1, 2]));
    assert_eq!(prompt_of(&json!([[1, 2]])).unwrap(), Prompt::Tokens(vec![1, 2]));
    let body = json!({"prompt": "a", "parse_special": true});
    let special = Prompt::Text { text: "a".to_owned(), parse_special: true };
    assert_eq!(parse(&body).unwrap().prompts, [special]);
}

#[test]
fn faulty_prompts_name_the_place() {
    let (value, kind) = ("invalid_value", "invalid_type");
    let table = [
        (json!(null), "prompt", "missing_required_parameter"),
        (json!([]), "prompt", value),
        (json!([[]]), "prompt[0]", value),
        (json!(7), "prompt", kind),
        (json!({"text": "a"}), "prompt", kind),
        (json!([1, "a"]), "prompt[1]", kind),
        (json!([1, 2.5]), "prompt[1]", kind),
        (json!([1, null]), "prompt[1]", kind),
        (json!([null]), "prompt[0]", kind),
        (json!([1, -2]), "prompt[1]", value),
        (json!([[1, 4294967296u64]]), "prompt[0][1]", value),
        (json!(["a", 7]), "prompt[1]", kind),
        (json!([[1], [2, -1]]), "prompt[1][1]", value),
    ];
    for (given, param, code) in table {
        let error = prompt_of(&given).unwrap_err();
        assert_eq!(error.param.as_deref(), Some(param), "{given}: {}", error.message);
        assert_eq!(error.code, code, "{given}: {}", error.message);
        assert!(error.message.contains("expected "), "{}", error.message);
    }
}

#[test]
fn logprobs_are_0_to_5() {
    let parse = |value: Value| {
        parse(&json!({"prompt": "a", "logprobs": value}))
            .map(|request| request.parameters.top_logprobs)
    };
    assert_eq!(parse(json!(null)).unwrap(), None);
    assert_eq!(parse(json!(0)).unwrap(), Some(0));
    assert_eq!(parse(json!(5)).unwrap(), Some(5));
    for bad in [json!(6), json!(-1), json!(true), json!(1.0)] {
        assert_eq!(parse(bad).unwrap_err().param.as_deref(), Some("logprobs"));
    }
}

#[test]
fn sixteen_tokens_are_the_default() {
    let limit = |body: Value| parse(&body).unwrap().parameters.max_tokens;
    assert_eq!(limit(json!({"prompt": "a"})), Some(16));
    assert_eq!(limit(json!({"prompt": "a", "max_tokens": 3})), Some(3));
}

#[test]
fn the_shapes_are_openais() {
    let envelope = Envelope {
        id: "cmpl-1".to_owned(),
        object: Completion::OBJECT,
        created: 5,
        model: "phi-4".to_owned(),
        system_fingerprint: SYSTEM_FINGERPRINT,
    };
    let tokens = TextDelta { text: "hi".to_owned(), ..TextDelta::default() };
    let answer = Piece { delta: tokens, finish: Some(Finish::Stop), ..Piece::default() };
    let usage = json!({
        "prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0}
    });
    let whole =
        to_value(Completion::whole(&envelope, vec![answer], Usage::default(), [false; 2])).unwrap();
    assert_eq!(whole["object"], "text_completion");
    assert_eq!(whole["usage"], usage);
    let choice = json!([{"text": "hi", "index": 0, "logprobs": null, "finish_reason": "stop"}]);
    assert_eq!(whole["choices"], choice);
    let delta = TextDelta { text: "a".to_owned(), ..TextDelta::default() };
    let piece = Piece { delta, ..Piece::default() };
    let chunk = Completion::chunk(&envelope, ChunkUsage::NotAsked, piece, None, false);
    let chunk = to_value(chunk).unwrap();
    assert!(chunk.get("usage").is_none());
    assert_eq!(chunk["choices"][0]["finish_reason"], json!(null));
    let last = to_value(Completion::usage(&envelope, Usage::default())).unwrap();
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &usage));
}

#[test]
fn batches_copies_echo_and_suffix_arrive() {
    let body = json!({
        "prompt": ["a", [1, 2]], "n": 2, "best_of": 3, "echo": true, "return_token_ids": true
    });
    let completion = CompletionRequest::parse(&body).unwrap();
    assert!(completion.echo && completion.extras.token_ids);
    let request = completion.parsed.request;
    assert_eq!(request.prompts, [text("a"), Prompt::Tokens(vec![1, 2])]);
    assert_eq!(request.copies, Copies { wanted: 2, made: 3 });
    let body = json!({"prompt": ["a", "b"], "suffix": "z"});
    let fill = |before: &str| Prompt::Fill { before: before.to_owned(), after: "z".to_owned() };
    assert_eq!(parse(&body).unwrap().prompts, [fill("a"), fill("b")]);
    for (fields, param) in [
        (json!({"n": 0}), "n"),
        (json!({"n": 3, "best_of": 2}), "best_of"),
        (json!({"best_of": 2, "stream": true}), "best_of"),
        (json!({"echo": true, "logprobs": 1, "stream": true}), "echo"),
        (json!({"prompt_logprobs": 1, "stream": true}), "prompt_logprobs"),
        (json!({"suffix": "z", "parse_special": true}), "suffix"),
        (json!({"suffix": "z", "prompt": [1]}), "suffix"),
    ] {
        let mut body = json!({"prompt": "a"});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let error = CompletionRequest::parse(&body).unwrap_err();
        assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
    }
}
