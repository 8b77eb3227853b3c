//! Over the real vocabularies, with tokens drawn evenly from what the masks allow: what a model
//! would hardly choose comes up as well.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::super::fixtures::{demo_folder, phi4_folder};
use super::super::request::Form;
use super::super::tokenizer::Markup;
use super::*;
use phi4d_engine::Progress;

pub(super) fn demo() -> Grammars {
    let tokenizer = Tokenizer::load(&demo_folder().join("tokenizer.json")).unwrap();
    let ends = ["<|im_end|>", "<|endoftext|>"]
        .map(|name| tokenizer.added().iter().find(|token| token.content == name).unwrap().id);
    of(Arc::new(tokenizer), ends.to_vec())
}

pub(super) fn of(tokenizer: Arc<Tokenizer>, ends: Vec<u32>) -> Grammars {
    Grammars::new(tokenizer, ends, Arc::new(ThreadForms::default()))
}

/// The mask of a form as a request's is made.
async fn mask_of(grammars: &Grammars, form: Form) -> Result<Box<dyn TokenMask>, GenerateError> {
    let constraint = Constraint { form, field: "form".into() };
    let grammar = MessageGrammar::of_text(Some(&constraint), Closing::Listed)?;
    Ok(grammars.mask_of(&grammar, CallerId::default(), None).await?.unwrap())
}

pub(super) fn compile(
    grammars: &Grammars,
    form: Form,
) -> Result<Box<dyn TokenMask>, GenerateError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(mask_of(grammars, form))
}

/// Follows a token and waits for what is known of it.
pub(super) fn accept(mask: &mut dyn TokenMask, token: u32) -> Progress {
    assert!(mask.accept(token).is_ok());
    mask.progress(Duration::from_secs(30)).unwrap()
}

/// Token ids that a mask allows now.
pub(super) fn allowed(mask: &mut dyn TokenMask) -> Vec<u32> {
    let words = mask.allowed().unwrap();
    (0..)
        .zip(words)
        .flat_map(|(word, bits)| {
            (0..32).filter(move |bit| bits >> bit & 1 == 1).map(move |bit| word * 32 + bit)
        })
        .collect()
}

/// Draws up to `most` tokens; the text, and whether it came to an end.
pub(super) fn draw(
    grammars: &Grammars,
    mask: &mut dyn TokenMask,
    most: usize,
    seed: u64,
) -> (String, bool) {
    let vocabulary = grammars.tokenizer.vocabulary();
    let mut bytes = Vec::new();
    let mut state = seed;
    for _ in 0..most {
        let choices = allowed(mask);
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let token = choices[usize::try_from(state >> 33).unwrap() % choices.len()];
        if grammars.eos_token_ids.contains(&token) {
            return (String::from_utf8(bytes).unwrap(), true);
        }
        bytes.extend_from_slice(vocabulary.bytes(token));
        if accept(mask, token) == Progress::Complete {
            return (String::from_utf8(bytes).unwrap(), true);
        }
    }
    (String::from_utf8_lossy(&bytes).into_owned(), false)
}

#[test]
fn draws_keep_to_their_form_to_the_end() {
    let grammars = demo();
    let schema = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 6},
            "age": {"type": "integer", "minimum": 3, "maximum": 40},
            "kind": {"enum": ["a", "bb", null]},
            "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}
        },
        "required": ["name", "age", "kind", "tags"],
        "additionalProperties": false
    });
    let mut ended = 0;
    for seed in 0..40 {
        let mut mask = compile(&grammars, Form::JsonSchema(schema.clone())).unwrap();
        let (text, end) = draw(&grammars, mask.as_mut(), 400, seed);
        if !end {
            continue;
        }
        ended += 1;
        let value: Json = serde_json::from_str(&text).unwrap();
        assert_eq!(value.as_object().unwrap().len(), 4, "{text}");
        assert!(value["name"].as_str().unwrap().chars().count() <= 6, "{text}");
        assert!((3..=40).contains(&value["age"].as_i64().unwrap()), "{text}");
        assert!([json!("a"), json!("bb"), Json::Null].contains(&value["kind"]), "{text}");
        let tags = value["tags"].as_array().unwrap();
        assert!(tags.len() <= 3 && tags.iter().all(Json::is_boolean), "{text}");
    }
    assert!(ended > 20, "{ended} of 40 came to an end");
}

#[test]
fn expressions_choices_and_grammars_hold_the_whole_text() {
    let grammars = demo();
    let pattern = regex::Regex::new(r"\A(?:[a-c]{2}-[0-9]{1,3})\z").unwrap();
    let texts = ["yes", "no", "it \"depends\"\n"].map(str::to_owned);
    for seed in 0..20 {
        let mut mask = compile(&grammars, Form::Regex("[a-c]{2}-[0-9]{1,3}".into())).unwrap();
        let (text, end) = draw(&grammars, mask.as_mut(), 50, seed);
        assert!(end && pattern.is_match(&text), "{text:?}");
        let mut mask = compile(&grammars, Form::Choice(texts.to_vec())).unwrap();
        let (text, end) = draw(&grammars, mask.as_mut(), 50, seed);
        assert!(end && texts.contains(&text), "{text:?}");
        let lark = "start: \"<\" WORD \">\"\nWORD: /[xy]+/";
        let mut mask = compile(&grammars, Form::Lark(lark.into())).unwrap();
        let (text, end) = draw(&grammars, mask.as_mut(), 500, seed);
        assert!(!end || (text.starts_with('<') && text.ends_with('>')), "{text:?}");
    }
}

#[test]
fn control_tokens_never_come_through_a_text() {
    let grammars = demo();
    let mut mask = compile(&grammars, Form::Regex("(?s:.*)".into())).unwrap();
    let vocabulary = grammars.tokenizer.vocabulary();
    let controls: Vec<u32> =
        allowed(mask.as_mut()).into_iter().filter(|&id| vocabulary.is_control(id)).collect();
    let mut ends = grammars.eos_token_ids.clone();
    ends.sort_unstable();
    assert_eq!(controls, ends);
}

#[test]
fn what_is_forced_is_allowed() {
    let grammars = demo();
    let schema = json!({
        "type": "object", "properties": {"a_long_name_that_is_forced": {"type": "boolean"}},
        "required": ["a_long_name_that_is_forced"], "additionalProperties": false
    });
    let mut mask = compile(&grammars, Form::JsonSchema(schema)).unwrap();
    mask.accept(grammars.tokenizer.encode("{\"", Markup::Plain, 99).unwrap()[0]).unwrap();
    assert!(mask.ready(Duration::from_secs(30)));
    let forced = mask.forced().to_vec();
    let text: Vec<u8> =
        forced.iter().flat_map(|&id| grammars.tokenizer.vocabulary().bytes(id)).copied().collect();
    assert!(String::from_utf8(text).unwrap().contains("a_long_name_that_is_forced"));
    for token in forced {
        assert!(allowed(mask.as_mut()).contains(&token));
        mask.accept(token).unwrap();
    }
}

#[test]
fn copies_go_their_own_ways() {
    let grammars = demo();
    let form = || Form::Choice(vec!["ax".into(), "by".into()]);
    let mut first = compile(&grammars, form()).unwrap();
    let mut second = compile(&grammars, form()).unwrap();
    assert_eq!(grammars.kept.count(), 1);
    let token = |text: &str| grammars.tokenizer.encode(text, Markup::Plain, 9).unwrap()[0];
    assert_eq!(accept(first.as_mut(), token("a")), Progress::Open);
    assert_eq!(accept(second.as_mut(), token("b")), Progress::Open);
    assert_eq!(accept(first.as_mut(), token("x")), Progress::Complete);
    assert_eq!(accept(second.as_mut(), token("y")), Progress::Complete);
    assert!(first.allowed().is_err());
}

#[test]
fn faults_name_their_place() {
    let grammars = demo();
    let table = [
        (json!({"type": "strin"}), "form.type"),
        (json!({"type": "object", "properties": {"a": {"not": {}}}}), "form.properties.a.not"),
        (
            json!({"type": "array", "items": {"type": "array", "uniqueItems": true}}),
            "form.items.uniqueItems",
        ),
        (json!({"type": "string", "minLength": -1}), "form.minLength"),
        (json!({"enum": []}), "form.enum"),
        (json!({"enum": [1, 9_007_199_254_740_993_u64]}), "form.enum[1]"),
        (json!({"const": {"a": [1e30]}}), "form.const"),
        (json!({"multipleOf": 0}), "form.multipleOf"),
        (json!({"type": "object", "required": true}), "form.required"),
        (json!({"pattern": "\\q"}), "form.pattern"),
        (json!({"patternProperties": {"[": {}}}), "form.patternProperties.["),
        (json!({"anyOf": [{"type": "null"}, {"$ref": "#/$defs/x"}]}), "form.anyOf[1].$ref"),
        (json!({"anyOf": [{"type": "null"}, {"$ref": "http://x/y"}]}), "form.anyOf[1].$ref"),
        (
            json!({"$ref": "#/$defs/x", "$defs": {"x": {"if": {}, "else": false}}}),
            "form.$ref(#/$defs/x).if",
        ),
        (json!({"properties": 1}), "form.properties"),
        (json!({"allOf": {}}), "form.allOf"),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)"}}}),
            "form.properties.a",
        ),
        (
            json!({"type": "object", "required": ["a"], "properties": {
            "a": {"type": "integer", "minimum": 5, "maximum": 2}}}),
            "form.properties.a",
        ),
        (
            json!({"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#/$defs/n"}},
            "$defs": {"n": {"type": "string", "minLength": 3, "maxLength": 1}}}),
            "form.properties.a",
        ),
        (json!({"items": {"oneOf": [{"type": "number"}, {"type": "integer"}]}}), "form.items"),
        (json!(false), "form"),
    ];
    for (schema, place) in table {
        match compile(&grammars, Form::JsonSchema(schema.clone())) {
            Err(GenerateError::InvalidField { field, .. }) => assert_eq!(field, place, "{schema}"),
            other => panic!("{schema}: {other:?}"),
        }
    }
    for (form, place) in [
        (Form::Regex("(".into()), "form"),
        (Form::Regex("(?=a)b".into()), "form"),
        (Form::Lark("start: missing".into()), "form"),
        (Form::Lark(String::new()), "form"),
        (Form::Choice(Vec::new()), "form"),
        (Form::Choice(vec!["a".into(), String::new()]), "form[1]"),
    ] {
        match compile(&grammars, form.clone()) {
            Err(GenerateError::InvalidField { field, .. }) => assert_eq!(field, place, "{form:?}"),
            other => panic!("{form:?}: {other:?}"),
        }
    }
}

#[test]
fn bounds_beyond_what_floats_count_are_kept_to_or_refused_as_what_they_are() {
    let grammars = demo();
    let of = |fields: &str| -> Json {
        serde_json::from_str(&format!("{{\"type\": [\"integer\"], {fields}}}")).unwrap()
    };
    for (fields, least, most) in [
        (
            r#""exclusiveMinimum": 9007199254740993, "exclusiveMaximum": 9007199254740997"#,
            9_007_199_254_740_994_i64,
            9_007_199_254_740_996,
        ),
        (r#""minimum": 1e17, "maximum": 1e17"#, 10_i64.pow(17), 10_i64.pow(17)),
        (r#""minimum": 4, "maximum": 9, "multipleOf": 0.7"#, 7, 7),
        (r#""minimum": -0.0, "exclusiveMaximum": 1"#, 0, 0),
    ] {
        for seed in 0..10 {
            let mut mask = compile(&grammars, Form::JsonSchema(of(fields))).unwrap();
            let (text, end) = draw(&grammars, mask.as_mut(), 60, seed);
            let value: i64 = text.trim().parse().unwrap();
            assert!(end && (least..=most).contains(&value), "{fields}: {text}");
        }
    }
    for (fields, reason) in [
        (r#""exclusiveMinimum": 9007199254740992, "exclusiveMaximum": 9007199254740994"#, "(2^53)"),
        (r#""minimum": 10000000000000000000"#, "63 bits"),
        (r#""minimum": 1, "maximum": 6, "multipleOf": 0.7"#, "a multiple of its multipleOf"),
    ] {
        match compile(&grammars, Form::JsonSchema(of(fields))) {
            Err(GenerateError::InvalidField { accepted, .. }) => {
                assert!(accepted.contains(reason), "{fields}: {accepted}");
            }
            other => panic!("{fields}: {other:?}"),
        }
    }
}

#[test]
fn a_schema_cannot_bring_settings_of_its_own() {
    let grammars = demo();
    let lenient = json!({"x-guidance": {"lenient": true}, "not": {}});
    assert!(compile(&grammars, Form::JsonSchema(lenient)).is_err());
    let settings = json!({"x-guidance": {"whitespace_flexible": 7}, "type": "boolean"});
    let mut mask = compile(&grammars, Form::JsonSchema(settings)).unwrap();
    let (text, end) = draw(&grammars, mask.as_mut(), 20, 1);
    assert!(end && ["true", "false"].contains(&text.trim()), "{text:?}");
}

#[test]
fn recursive_schemas_work() {
    let grammars = demo();
    let schema = json!({
        "type": "object", "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
        "required": ["next"], "additionalProperties": false
    });
    let mut mask = compile(&grammars, Form::JsonSchema(schema)).unwrap();
    let (text, end) = draw(&grammars, mask.as_mut(), 2000, 3);
    assert!(end, "{text}");
    serde_json::from_str::<Json>(&text).unwrap();
}

#[tokio::test]
async fn the_last_forms_are_kept_and_given_out_fresh() {
    let grammars = demo();
    for _ in 0..3 {
        let mut mask = mask_of(&grammars, Form::Choice(vec!["ab".into()])).await.unwrap();
        let (text, end) = draw(&grammars, mask.as_mut(), 9, 0);
        assert_eq!((text.as_str(), end), ("ab", true));
        assert_eq!(grammars.kept.count(), 1);
    }
    for number in 0..40 {
        mask_of(&grammars, Form::Choice(vec![format!("text {number}")])).await.unwrap();
        assert!(grammars.kept.count() <= 16);
    }
    // Nothing but what is kept is counted when its outputs are gone.
    assert_eq!(grammars.ledger.entries(), grammars.kept.count());
}

#[test]
fn phi_4s_own_vocabulary_is_read() {
    let folder = phi4_folder("first");
    let tokenizer = Arc::new(Tokenizer::load(&folder.path().join("tokenizer.json")).unwrap());
    let grammars = of(tokenizer, vec![100_265, 100_257]);
    let mut mask = compile(&grammars, Form::JsonObject).unwrap();
    let (text, end) = draw(&grammars, mask.as_mut(), 300, 4);
    assert!(text.trim_start().starts_with('{'), "{text}");
    assert!(!end || serde_json::from_str::<Json>(&text).unwrap().is_object(), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No schema, however odd, does more than fail.
    #[test]
    fn any_schema_is_compiled_or_refused(text in "[\\[\\]{}:,\"a-z0-9$#/]{0,60}", keyword in
        prop::sample::select(&["type", "items", "$ref", "anyOf", "enum", "pattern", "minimum"][..])) {
        let value: Json = serde_json::from_str(&text).unwrap_or(Json::String(text));
        let grammars = demo();
        for schema in [value.clone(), json!({ keyword: value })] {
            if let Err(error) = compile(&grammars, Form::JsonSchema(schema)) {
                prop_assert!(matches!(error, GenerateError::InvalidField { .. }), "{error}");
            }
        }
    }
}
