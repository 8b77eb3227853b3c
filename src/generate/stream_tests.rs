use proptest::prelude::*;

use super::super::fixtures::{demo_folder, golden_cases};
use super::super::tokenizer::Markup;
use super::*;
use phi4d_engine::TokenLogprobs;

const IM_END: u32 = 1009;

fn stopping(stops: &[String]) -> Parameters {
    Parameters { stop: stops.to_vec(), ..Parameters::default() }
}

fn demo() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::load(&demo_folder().join("tokenizer.json")).unwrap())
}

fn token(id: u32) -> Token {
    Token { id, logprobs: None }
}

/// Ids of tokens that spell `text`.
fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, Markup::Plain, usize::MAX).unwrap()
}

/// Runs tokens through a stream, taking text after each where `take_after` says so.
fn run(
    tokenizer: &Arc<Tokenizer>,
    tokens: &[u32],
    stops: &[String],
    take_after: impl Fn(usize) -> bool,
) -> (TextDelta, bool) {
    let mut stream = TextStream::new(Arc::clone(tokenizer), &stopping(stops), 0);
    let mut whole = TextDelta::default();
    let mut add = |delta: Option<TextDelta>| {
        let delta = delta.unwrap_or_default();
        whole.text.push_str(&delta.text);
        whole.tokens.extend(delta.tokens);
    };
    for (index, &id) in tokens.iter().enumerate() {
        if stream.push(&token(id)) {
            add(stream.take());
            return (whole, true);
        }
        if take_after(index) {
            add(stream.take());
        }
    }
    let (rest, stopped) = stream.finish();
    add(rest);
    (whole, stopped)
}

#[test]
fn golden_tokens_become_golden_text() {
    let tokenizer = demo();
    for case in golden_cases() {
        let tokens: Vec<u32> = serde_json::from_value(case["ort"]["tokens"].clone()).unwrap();
        let (whole, _) = run(&tokenizer, &tokens, &[], |_| true);
        assert_eq!(whole.text, case["ort"]["text"].as_str().unwrap(), "case {}", case["id"]);
        assert_eq!(whole.tokens.iter().map(|t| t.id).collect::<Vec<_>>(), tokens);
    }
}

#[test]
fn special_tokens_have_bytes_and_no_text() {
    let tokenizer = demo();
    let tokens = [ids(&tokenizer, "a"), vec![IM_END], ids(&tokenizer, "b"), vec![IM_END]].concat();
    let (whole, _) = run(&tokenizer, &tokens, &[], |_| true);
    assert_eq!(whole.text, "ab");
    let bytes: Vec<&[u8]> = whole.tokens.iter().map(|t| t.bytes.as_slice()).collect();
    assert_eq!(bytes, [&b"a"[..], b"<|im_end|>", b"b", b"<|im_end|>"]);
}

#[test]
fn tokens_come_with_the_first_of_their_text() {
    let tokenizer = demo();
    // The demo's vocabulary has no whole crab: four tokens of a byte each.
    let crab = ids(&tokenizer, "🦀");
    assert_eq!(crab.len(), 4);
    let mut stream = TextStream::new(Arc::clone(&tokenizer), &stopping(&["STOP".to_owned()]), 0);
    for (index, &id) in crab.iter().enumerate() {
        assert!(!stream.push(&token(id)));
        let delta = stream.take();
        assert_eq!(delta.is_some(), index == 3);
        if let Some(delta) = delta {
            assert_eq!((delta.text.as_str(), delta.tokens.len()), ("🦀", 4));
        }
    }
    for &id in &ids(&tokenizer, "ST") {
        assert!(!stream.push(&token(id)));
    }
    assert_eq!(stream.take(), None);
    let (rest, stopped) = stream.finish();
    assert!(!stopped);
    let rest = rest.unwrap();
    assert_eq!((rest.text.as_str(), rest.tokens.is_empty()), ("ST", false));
}

#[test]
fn a_stop_string_takes_its_own_tokens_with_it() {
    let tokenizer = demo();
    let tokens = [ids(&tokenizer, "keep"), ids(&tokenizer, "\nEND"), ids(&tokenizer, "no")];
    let (whole, stopped) = run(&tokenizer, &tokens.concat(), &["\nEND".to_owned()], |_| false);
    assert!(stopped);
    assert_eq!(whole.text, "keep");
    assert_eq!(whole.tokens.iter().map(|t| t.id).collect::<Vec<_>>(), tokens[0]);
}

#[test]
fn a_stop_string_of_a_broken_character_is_found_at_the_end() {
    let tokenizer = demo();
    let tokens = &ids(&tokenizer, "🦀")[..2];
    let (whole, stopped) = run(&tokenizer, tokens, &["\u{FFFD}".to_owned()], |_| true);
    assert!(stopped);
    assert_eq!(whole, TextDelta::default());
    let (whole, stopped) = run(&tokenizer, tokens, &[], |_| true);
    assert!(!stopped);
    assert_eq!((whole.text.as_str(), whole.tokens.len()), ("\u{FFFD}", 2));
}

#[test]
fn log_probabilities_keep_their_tokens_bytes() {
    let tokenizer = demo();
    let id = ids(&tokenizer, "a")[0];
    let mut stream = TextStream::new(tokenizer, &stopping(&[]), 0);
    let logprobs = TokenLogprobs { chosen: -0.5, top: vec![(id, -0.5), (IM_END, -1.0)] };
    stream.push(&Token { id, logprobs: Some(logprobs) });
    let delta = stream.take().unwrap();
    let expected = Logprobs {
        chosen: -0.5,
        top: vec![(id, b"a".to_vec(), -0.5), (IM_END, b"<|im_end|>".to_vec(), -1.0)],
    };
    assert_eq!(delta.tokens[0].logprobs, Some(expected));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn any_tokens_and_any_pace_give_the_whole_text_up_to_the_stop(
        parts in prop::collection::vec(
            prop_oneof![
                3 => (0u32..1024).prop_map(|id| vec![id]),
                1 => "[ab🦀é]{1,3}".prop_map(|text| {
                    thread_local! { static DEMO: Arc<Tokenizer> = demo(); }
                    DEMO.with(|tokenizer| ids(tokenizer, &text))
                }),
            ],
            0..30,
        ),
        stops in prop::collection::vec("[ab🦀é\u{FFFD}]{1,3}", 0..3),
        pace in any::<u64>(),
    ) {
        thread_local! { static DEMO: Arc<Tokenizer> = demo(); }
        let tokens = parts.concat();
        DEMO.with(|tokenizer| {
            let (whole, stopped) =
                run(tokenizer, &tokens, &stops, |index| pace >> (index % 64) & 1 == 1);
            let bytes: Vec<u8> = tokens
                .iter()
                .flat_map(|&id| tokenizer.vocabulary().text_bytes(id).to_vec())
                .collect();
            let text = String::from_utf8_lossy(&bytes);
            let found = stops
                .iter()
                .filter_map(|stop| text.find(stop.as_str()).map(|at| (at + stop.len(), at)))
                .min();
            prop_assert_eq!(stopped, found.is_some());
            prop_assert_eq!(&whole.text, &text[..found.map_or(text.len(), |(_, at)| at)]);
            let given: Vec<u32> = whole.tokens.iter().map(|token| token.id).collect();
            prop_assert!(tokens.starts_with(&given));
            prop_assert!(stopped || given.len() == tokens.len());
            Ok(())
        })?;
    }
}

proptest! {
    /// No stop string cuts a call, and each still ends the text around calls.
    #[test]
    fn calls_are_not_cut_by_stop_strings(
        stop in prop::sample::select(&["{", "}", "\n", "\"", "name", "\": ", "]", "1}", "f\", \"arguments"][..]),
        opener in 0_usize..3,
        before in "[a-m ]{0,6}",
        // Behind a list without a closer, only another character shows that the block is over.
        after in "[a-m][a-m ]{0,6}",
    ) {
        let tokenizer = demo();
        let (open, close) =
            [("<tool_call>\n", "\n</tool_call>"), ("<tool_call>", "</tool_call>"), ("functools", "")][opener];
        let calls = "[{\"name\": \"f\", \"arguments\": {\"a\": 1}}]";
        let kept = format!("{before}{open}{calls}{close}{after}");
        let text = format!("{kept}{stop}rest");
        let ids = tokenizer.encode(&text, Markup::Plain, usize::MAX).unwrap();
        let read = |scope: StopScope| {
            let given = stopping(&[stop.to_owned()]);
            let mut stream = TextStream::new(Arc::clone(&tokenizer), &given, 0).stopping(scope);
            let stopped = ids.iter().any(|&id| stream.push(&token(id)));
            let end = if stopped { stream.take() } else { stream.finish().0 };
            (stopped, end.unwrap_or_default().text)
        };
        let calls = CallReader::new(vec!["f".to_owned()]);
        let scope = StopScope::OutsideCalls(Box::new(calls));
        prop_assert_eq!(read(scope), (true, kept));
        prop_assert_eq!(read(StopScope::None), (false, text));
    }
}
