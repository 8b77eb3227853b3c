//! Draws from what grammars of messages allow, over the demo's vocabulary.

use std::sync::Arc;

use super::super::super::fixtures::demo_folder;
use super::super::super::request::Message;
use super::super::super::request::Role;
use super::super::super::tokenizer::{Markup, Tokenizer};
use super::super::super::tools::Tools;
use super::super::super::tools::parse::{CallReader, Piece};
use super::super::Grammars;
use super::super::tests::{accept, allowed, demo, draw, of};
use super::*;
use phi4d_engine::{CallerId, Progress, TokenMask};

fn tool(name: &str, parameters: &Json, strict: bool) -> Tool {
    Tool {
        name: name.to_owned(),
        description: None,
        parameters: parameters.as_object().unwrap().clone(),
        strict: strict.then_some(true),
        place: format!("tools.{name}"),
    }
}

fn schema() -> Json {
    json!({
        "type": "object",
        "properties": {"n": {"$ref": "#/$defs/small"}, "on": {"type": "boolean"}},
        "required": ["n", "on"],
        "additionalProperties": false,
        "$defs": {"small": {"type": "integer", "minimum": 0, "maximum": 9}}
    })
}

fn chat(choice: ToolChoice, strict: bool) -> Chat {
    let definitions = vec![tool("set", &schema(), strict), tool("get-all", &json!({}), false)];
    Chat {
        messages: vec![Message::text(Role::User, "x")],
        tools: Tools { definitions, choice, single: false },
        ..Chat::default()
    }
}

fn form(schema: Json) -> Constraint {
    Constraint { form: Form::JsonSchema(schema), field: "response_format".into() }
}

fn turn(chat: &Chat, given: Option<&Constraint>) -> MessageGrammar {
    MessageGrammar::of_chat(chat, Dialect::default(), given, Closing::Listed).unwrap()
}

async fn mask(grammars: &Arc<Grammars>, turn: &MessageGrammar) -> Box<dyn TokenMask> {
    grammars.mask_of(turn, CallerId::default(), None).await.unwrap().unwrap()
}

/// The calls in a text, if there is nothing else in it.
fn calls(text: &str) -> Option<Vec<(String, Json)>> {
    let mut reader = CallReader::new(vec!["set".into(), "get-all".into()]);
    let mut pieces = reader.push(text, usize::MAX);
    pieces.extend(reader.finish(false));
    let mut calls: Vec<(String, String)> = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Call(name) => calls.push((name, String::new())),
            Piece::Arguments(more) => calls.last_mut()?.1.push_str(&more),
            Piece::Text(_) => return None,
        }
    }
    let whole =
        |(name, arguments): (String, String)| (name, serde_json::from_str(&arguments).unwrap());
    Some(calls.into_iter().map(whole).collect())
}

fn fits(call: &(String, Json)) -> bool {
    match call.0.as_str() {
        "set" => {
            let arguments = call.1.as_object().unwrap();
            arguments.len() == 2
                && arguments["n"].as_u64().is_some_and(|n| n < 10)
                && arguments["on"].is_boolean()
        }
        "get-all" => call.1 == json!({}),
        _ => false,
    }
}

#[tokio::test]
async fn forced_calls_are_calls_with_fitting_arguments() {
    let grammars = Arc::new(demo());
    let mut several = 0;
    let table = [
        (ToolChoice::Required, false, 30),
        (ToolChoice::Required, true, 10),
        (ToolChoice::Named("set".into()), false, 10),
    ];
    for (choice, single, seeds) in table {
        let mut chat = chat(choice.clone(), false);
        chat.tools.single = single;
        let turn = turn(&chat, None);
        for seed in 0..seeds {
            let (text, end) = draw(&grammars, &mut *mask(&grammars, &turn).await, 4000, seed);
            if !end {
                continue;
            }
            let calls = calls(&text).unwrap();
            assert!(!calls.is_empty() && calls.iter().all(fits), "{text}");
            several += usize::from(calls.len() > 1);
            assert!(!single || calls.len() == 1, "{text}");
            let named = choice == ToolChoice::Required || calls.iter().all(|call| call.0 == "set");
            assert!(named, "{text}");
        }
    }
    assert!(several > 3, "{several}");
}

/// Whether a text may be a complete message.
fn may_be(grammars: &Grammars, mask: &mut dyn TokenMask, text: &str) -> bool {
    let ids = grammars.tokenizer.encode(text, Markup::Plain, usize::MAX).unwrap();
    let mut ids = ids.into_iter();
    while let Some(id) = ids.next() {
        if !allowed(mask).contains(&id) {
            return false;
        }
        if accept(mask, id) == Progress::Complete {
            return ids.next().is_none();
        }
    }
    allowed(mask).iter().any(|id| grammars.eos_token_ids.contains(id))
}

#[tokio::test]
async fn a_strict_tool_leaves_text_free_and_holds_calls() {
    let grammars = Arc::new(demo());
    let turn = turn(&chat(ToolChoice::Auto, true), None);
    let set = |arguments: &str| format!("[{{\"name\": \"set\", \"arguments\": {arguments}}}]");
    for (text, may) in [
        (String::new(), true),
        ("Just 3 < 4, [{]} functools".to_owned(), true),
        (format!("<tool_call>{}</tool_call>", set("{\"n\": 3, \"on\": true}")), true),
        (format!("I set it.\n<tool_call>{}</tool_call>", set("{\"n\": 3, \"on\": true}")), true),
        (format!("<tool_call>{}</tool_call>", set("{\"n\": 30, \"on\": true}")), false),
        (format!("functools{}", set("{\"n\": 30, \"on\": true}")), false),
        (
            "<tool_call>[{\"name\": \"get-all\", \"arguments\": {\"any\": [1]}}]</tool_call>"
                .to_owned(),
            true,
        ),
        ("<tool_call>[]</tool_call>".to_owned(), false),
    ] {
        assert_eq!(may_be(&grammars, &mut *mask(&grammars, &turn).await, &text), may, "{text}");
    }
}

#[tokio::test]
async fn an_answer_has_its_form_or_is_a_call() {
    let grammars = Arc::new(demo());
    let given =
        form(json!({"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"],
        "additionalProperties": false}));
    let turn = turn(&chat(ToolChoice::Auto, false), Some(&given));
    for (text, may) in [
        ("{\"a\": 1}", true),
        ("{\"a\": 2}", false),
        ("text", false),
        ("<tool_call>[{\"name\": \"get-all\", \"arguments\": {}}]</tool_call>", true),
    ] {
        assert_eq!(may_be(&grammars, &mut *mask(&grammars, &turn).await, text), may, "{text}");
    }
}

#[tokio::test]
async fn a_model_that_thinks_may_think_before_its_form() {
    let grammars = Arc::new(demo());
    let thinks = Dialect::that_thinks();
    let given = form(json!({"const": 1}));
    let plain = Chat { messages: vec![Message::text(Role::User, "x")], ..Chat::default() };
    let turn = MessageGrammar::of_chat(&plain, thinks, Some(&given), Closing::Listed).unwrap();
    for (text, may) in
        [("1", true), ("<think>so {</think>\n\n1", true), ("<think>1", false), ("so 1", false)]
    {
        assert_eq!(may_be(&grammars, &mut *mask(&grammars, &turn).await, text), may, "{text}");
    }
}

#[test]
fn what_needs_no_grammar_is_left_alone() {
    let regex = Constraint { form: Form::Regex("a".into()), field: "guided_regex".into() };
    for (chat, given) in [
        (chat(ToolChoice::Auto, false), None),
        (chat(ToolChoice::None, true), Some(&regex)),
        (chat(ToolChoice::Auto, true), Some(&regex)),
    ] {
        let expected = MessageGrammar { constraint: given.cloned(), parts: Vec::new() };
        assert_eq!(turn(&chat, given), expected);
    }
}

#[tokio::test]
async fn a_schema_that_can_t_be_kept_to_is_named() {
    let grammars = Arc::new(demo());
    let with = |parameters: &Json| {
        let mut chat = chat(ToolChoice::Required, false);
        chat.tools.definitions.push(tool("bad", parameters, false));
        chat
    };
    let not = with(&json!({"properties": {"a": {"not": {}}}}));
    let error = MessageGrammar::of_chat(&not, Dialect::default(), None, Closing::Listed)
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("tools.bad.properties.a.not"), "{error}");
    let pattern = with(&json!({"properties": {"a": {"type": "string", "pattern": "(?<=x)"}}}));
    let turn = turn(&pattern, None);
    let error = grammars.mask_of(&turn, CallerId::default(), None).await.unwrap_err().to_string();
    assert!(error.starts_with("tools.bad"), "{error}");
}

#[tokio::test]
async fn call_tokens_stand_around_calls_where_there_are_any() {
    let mut json: Json =
        serde_json::from_slice(&std::fs::read(demo_folder().join("tokenizer.json")).unwrap())
            .unwrap();
    let tokens = json["added_tokens"].as_array_mut().unwrap();
    for (token, name) in tokens.iter_mut().zip(["<|tool_call|>", "<|/tool_call|>"]) {
        token["content"] = json!(name);
    }
    let opener = u32::try_from(tokens[0]["id"].as_u64().unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    std::fs::write(&path, json.to_string()).unwrap();
    let tokenizer = Arc::new(Tokenizer::load(&path).unwrap());
    let grammars = Arc::new(of(tokenizer, vec![1009]));
    let dialect = Dialect::with_call_tokens();
    let forced =
        MessageGrammar::of_chat(&chat(ToolChoice::Required, false), dialect, None, Closing::Listed)
            .unwrap();
    let mut mask_of = mask(&grammars, &forced).await;
    assert_eq!(allowed(&mut *mask_of), [opener]);
    let (text, _) = draw(&grammars, &mut *mask_of, 4000, 1);
    assert!(text.starts_with("<|tool_call|>[{\"name\": \""), "{text}");
    let free =
        MessageGrammar::of_chat(&chat(ToolChoice::Auto, true), dialect, None, Closing::Listed)
            .unwrap();
    let mut free = mask(&grammars, &free).await;
    for id in grammars.tokenizer.encode("Hi < you", Markup::Plain, usize::MAX).unwrap() {
        assert!(allowed(&mut *free).contains(&id));
        free.accept(id).unwrap();
    }
    assert!(allowed(&mut *free).contains(&opener) && allowed(&mut *free).contains(&1009));
    free.accept(opener).unwrap();
    assert!(!allowed(&mut *free).contains(&1009));
}
