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

fn push_all(parts: &[&[u8]]) -> String {
    let mut detokenizer = Detokenizer::default();
    let mut text = String::new();
    for part in parts {
        detokenizer.push(part, &mut text);
    }
    detokenizer.finish(&mut text);
    text
}

#[test]
fn a_character_waits_for_its_last_byte_and_no_longer() {
    let mut detokenizer = Detokenizer::default();
    let mut text = String::new();
    for (byte, expected) in "é🦀".bytes().zip(["", "é", "é", "é", "é", "é🦀"]) {
        detokenizer.push(&[byte], &mut text);
        assert_eq!(text, expected);
    }
}

#[test]
fn a_broken_character_is_given_out_when_the_next_byte_breaks_it() {
    let mut detokenizer = Detokenizer::default();
    let mut text = String::new();
    detokenizer.push(b"\xF0\x9F", &mut text);
    assert_eq!(text, "");
    detokenizer.push(b"a", &mut text);
    assert_eq!(text, "\u{FFFD}a");
}

/// Bytes that are often the parts of characters, whole or broken.
fn awkward_bytes() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        any::<char>().prop_map(|c| c.to_string().into_bytes()),
        any::<u8>().prop_map(|b| vec![b]),
        (any::<char>(), 1usize..4).prop_map(|(c, n)| {
            let bytes = c.to_string().into_bytes();
            bytes[..n.min(bytes.len())].to_vec()
        }),
        prop::sample::select(vec![0xC0u8, 0xE0, 0xED, 0xA0, 0xF0, 0xF4, 0x90, 0x80, 0xFF])
            .prop_map(|b| vec![b]),
    ];
    prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn any_cuts_give_what_lossy_gives_for_the_whole(
        bytes in awkward_bytes(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let parts: Vec<&[u8]> = cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
        prop_assert_eq!(push_all(&parts), String::from_utf8_lossy(&bytes));
    }
}

fn matcher(stops: &[&str]) -> StopMatcher {
    StopMatcher::new(&stops.iter().map(ToString::to_string).collect::<Vec<_>>(), false)
}

#[test]
fn the_stop_string_is_given_out_where_it_is_asked_for() {
    let stops = ["END".to_owned(), "ND!".to_owned()];
    let mut matcher = StopMatcher::new(&stops, true);
    let mut out = String::new();
    assert!(!matcher.push("the E", &mut out));
    assert!(matcher.push("ND! and more", &mut out));
    assert_eq!((out.as_str(), matcher.hit()), ("the END", Some(0)));
}

/// The rule, over the whole text: least end, then least start.
fn naive(text: &str, stops: &[String]) -> Option<usize> {
    stops
        .iter()
        .filter(|stop| !stop.is_empty())
        .filter_map(|stop| text.find(stop.as_str()).map(|at| (at + stop.len(), at)))
        .min()
        .map(|(_, start)| start)
}

#[test]
fn only_a_possible_beginning_is_held_back() {
    let mut matcher = matcher(&["\nUser:", "END"]);
    let mut out = String::new();
    assert!(!matcher.push("Hi\nUse", &mut out));
    assert_eq!(out, "Hi");
    assert!(!matcher.push("ful\nE", &mut out));
    assert_eq!(out, "Hi\nUseful\n");
    assert!(matcher.push("NDless", &mut out));
    assert_eq!(out, "Hi\nUseful\n");
}

#[test]
fn the_end_gives_out_what_was_held() {
    let mut matcher = matcher(&["stop"]);
    let mut out = String::new();
    assert!(!matcher.push("sto", &mut out));
    assert_eq!(out, "");
    matcher.finish(&mut out);
    assert_eq!(out, "sto");
}

#[test]
fn the_match_that_ends_first_wins_and_then_the_longest() {
    for (stops, expected) in
        [(&["abcd", "c"][..], "xab"), (&["c", "bc", "abc"][..], "x"), (&["abcde", "bcd"][..], "xa")]
    {
        let mut out = String::new();
        assert!(matcher(stops).push("xabcdefg", &mut out));
        assert_eq!(out, expected, "{stops:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn any_cuts_give_what_a_search_of_the_whole_gives(
        text in "[abé🦀]{0,24}",
        stops in prop::collection::vec("[abé🦀]{0,5}", 0..5),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut bounds: Vec<usize> =
            text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
        let chosen: Vec<usize> = cuts.iter().map(|c| bounds[c.index(bounds.len())]).collect();
        bounds = chosen.into_iter().chain([0, text.len()]).collect();
        bounds.sort_unstable();
        let mut matcher = StopMatcher::new(&stops, false);
        let mut out = String::new();
        let mut stopped = false;
        for pair in bounds.windows(2) {
            stopped = matcher.push(&text[pair[0]..pair[1]], &mut out);
            if stopped {
                break;
            }
            let taken = &text[..pair[1]];
            let held = &taken[out.len()..];
            prop_assert!(taken.starts_with(&out));
            prop_assert!(held.is_empty() || stops.iter().any(|s| s.starts_with(held)));
        }
        if !stopped {
            matcher.finish(&mut out);
        }
        let expected = naive(&text, &stops);
        prop_assert_eq!(stopped, expected.is_some());
        prop_assert_eq!(out, &text[..expected.unwrap_or(text.len())]);
    }
}
