use proptest::prelude::*;
use serde_json::json;

use super::super::fixtures::{demo_folder, phi4_folder};
use super::*;

fn demo_json() -> Vec<u8> {
    std::fs::read(demo_folder().join("tokenizer.json")).unwrap()
}

/// The same file in our hands and in Hugging Face's own.
struct Both {
    ours: Tokenizer,
    reference: tokenizers::Tokenizer,
}

impl Both {
    fn load(json: &[u8]) -> Self {
        Self {
            ours: Tokenizer::from_json(json).unwrap(),
            reference: tokenizers::Tokenizer::from_bytes(json).unwrap(),
        }
    }

    fn encode(&self, text: &str) -> [Vec<u32>; 2] {
        let reference = self.reference.encode(text, false).unwrap();
        [encode(&self.ours, text, Markup::Parsed), reference.get_ids().to_vec()]
    }
}

fn encode(tokenizer: &Tokenizer, text: &str, markup: Markup) -> Vec<u32> {
    tokenizer.encode(text, markup, usize::MAX).unwrap()
}

fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<u8> {
    let vocabulary = tokenizer.vocabulary();
    ids.iter().flat_map(|&id| vocabulary.bytes(id).to_vec()).collect()
}

/// The demo's tokenizer with added tokens that overlap, need word borders, strip one side, or are
/// matched last, instead of its own.
fn awkward_json() -> Vec<u8> {
    let mut root: Value = serde_json::from_slice(&demo_json()).unwrap();
    let token = |id: u32, content: &str, flags: &str| {
        json!({
            "id": id, "content": content, "special": flags.contains('s'),
            "single_word": flags.contains('w'), "lstrip": flags.contains('l'),
            "rstrip": flags.contains('r'), "normalized": flags.contains('n'),
        })
    };
    root["added_tokens"] = json!([
        token(1000, "<a>", "slr"),
        token(1001, "<a><b>", "s"),
        token(1002, "<b>", "sl"),
        token(1003, "word", "w"),
        token(1004, "a>", "rn"),
        token(1005, "aqb", "n"),
        token(1006, "\u{a0}x", "lr"),
        token(1007, "b>é", "sw"),
    ]);
    serde_json::to_vec(&root).unwrap()
}

fn awkward_text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        prop::sample::select(vec![
            "<a>",
            "<b>",
            "<a",
            "a>",
            "b>é",
            "aqb",
            "word",
            "\u{a0}x",
            " ",
            "  ",
            "\n",
            "\u{a0}",
            "\u{3000}",
            "\u{200d}",
            "_",
            "é",
            "x",
            "<|im_start|>",
            "<|im_end|>",
            "<|im_sep|>",
            "<|endoftext|>",
            "<|im_",
            "end|>",
            "\t",
            "1",
            "'s",
        ])
        .prop_map(str::to_owned),
        any::<String>(),
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

#[test]
fn parsed_text_reads_as_hugging_face_reads_it() {
    for json in [demo_json(), awkward_json()] {
        let both = Both::load(&json);
        for text in [
            "",
            " ",
            "<|im_start|>user<|im_sep|>\n Hi \n<|im_end|>\n",
            "<|im_end|>  <|im_end|>",
            "  <|im_start|>",
            "<|im_start|",
            "password word words word",
            "<a><a><b> <b>",
            "aqb>x",
        ] {
            let [ours, reference] = both.encode(text);
            assert_eq!(ours, reference, "{text:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_parsed_text_reads_as_hugging_face_reads_it(text in awkward_text()) {
        thread_local! {
            static FILES: [Both; 2] = [demo_json(), awkward_json()].map(|json| Both::load(&json));
        }
        FILES.with(|files| {
            for both in files {
                let [ours, reference] = both.encode(&text);
                prop_assert_eq!(ours, reference);
            }
            Ok(())
        })?;
    }

    #[test]
    fn plain_text_comes_back_byte_for_byte_without_any_added_token(text in awkward_text()) {
        thread_local! {
            static DEMO: Tokenizer = Tokenizer::from_json(&demo_json()).unwrap();
        }
        DEMO.with(|tokenizer| {
            let ids = encode(tokenizer, &text, Markup::Plain);
            prop_assert!(ids.iter().all(|&id| id < 1000));
            prop_assert_eq!(decode(tokenizer, &ids), text.as_bytes());
            Ok(())
        })?;
    }
}

#[test]
fn the_real_vocabulary_encodes_as_tiktoken_does() {
    let folder = phi4_folder("current");
    let tokenizer = Tokenizer::load(&folder.path().join("tokenizer.json")).unwrap();
    let tiktoken = tiktoken_rs::cl100k_base().unwrap();
    assert_eq!(tokenizer.vocabulary().len(), 100_352);
    assert_eq!(tokenizer.vocabulary().longest(), 128);
    assert_eq!(tokenizer.vocabulary().bytes(100_265), b"<|im_end|>");
    assert!(tokenizer.vocabulary().text_bytes(100_265).is_empty());
    let check = |text: &str| {
        let ids = encode(&tokenizer, text, Markup::Plain);
        assert_eq!(ids, tiktoken.encode_ordinary(text), "{text:?}");
        assert_eq!(decode(&tokenizer, &ids), text.as_bytes());
    };
    for text in [
        "",
        "Hello, world! It's 12345 o'clock; they'LL come.",
        "fn main() {\n    println!(\"{}\", 1_000);\n}\n\n\n",
        "Größe naïve café – „Zitat“ … 日本語のテキスト 한국어 русский العربية עברית हिन्दी",
        "👩‍👩‍👧‍👦 🦀🏳️‍🌈 e\u{301} \u{200b}\u{feff}",
        "\r\n\r\n \t \r  trailing   ",
        "<|im_end|><|endoftext|><|im_start|>system<|im_sep|>",
        "\u{a0}\u{a0}nbsp\u{3000}ideographic\u{2028}line",
    ] {
        check(text);
    }
    check(&" ".repeat(1000));
    check(&"a".repeat(1000));
    check(&"ab12 \n".repeat(500));
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(200));
    runner
        .run(&awkward_text(), |text| {
            check(&text);
            Ok(())
        })
        .unwrap();
    special_turns_have_their_ids(&tokenizer);
}

fn special_turns_have_their_ids(tokenizer: &Tokenizer) {
    let text = "<|im_start|>user<|im_sep|>\n Hi <|im_end|> \n<|im_start|>assistant<|im_sep|>";
    let ids = encode(tokenizer, text, Markup::Parsed);
    assert_eq!(ids, [100_264, 882, 100_266, 13_347, 100_265, 100_264, 78_191, 100_266]);
}

#[test]
fn text_that_the_library_would_cut_short_is_refused() {
    let tokenizer = Tokenizer::from_json(&demo_json()).unwrap();
    for (spaces, expected) in [(200_000, Ok(200_004)), (300_000, Err(EncodeError::Lossy))] {
        let text = format!("hello\n{}x", " ".repeat(spaces));
        let count = tokenizer.encode(&text, Markup::Plain, usize::MAX).map(|ids| ids.len());
        assert_eq!(count, expected);
    }
}

#[test]
fn text_that_cannot_fit_is_refused_unread() {
    let tokenizer = Tokenizer::from_json(&demo_json()).unwrap();
    let longest = tokenizer.vocabulary().longest();
    let text = "x".repeat(longest * 100);
    for markup in [Markup::Plain, Markup::Parsed] {
        let refused = tokenizer.encode(&text, markup, 100);
        assert_eq!(refused, Err(EncodeError::TooLong { at_least: 100 }));
    }
    assert!(tokenizer.encode(&text, Markup::Plain, 101).is_ok());
    // White space that a special token swallows costs nothing.
    let swallowed = format!("<|im_end|>{}", " ".repeat(longest * 100));
    let ids = tokenizer.encode(&swallowed, Markup::Parsed, 3).unwrap();
    assert_eq!(ids, [1009]);
}

#[test]
fn unusable_tokenizers_are_refused_with_a_reason() {
    let edit = |change: &dyn Fn(&mut Value)| {
        let mut root: Value = serde_json::from_slice(&demo_json()).unwrap();
        change(&mut root);
        Tokenizer::from_json(&serde_json::to_vec(&root).unwrap()).map(|_| ())
    };
    let refused = edit(&|root| root["decoder"] = json!({"type": "Metaspace"}));
    assert!(refused.unwrap_err().contains("Metaspace"));
    let refused = edit(&|root| root["decoder"] = Value::Null);
    assert!(refused.unwrap_err().contains("missing"));
    let refused = edit(&|root| {
        root["normalizer"] = json!({"type": "NFC"});
        root["added_tokens"][0]["normalized"] = json!(true);
    });
    assert!(refused.unwrap_err().contains("normalised"));
    assert_eq!(edit(&|root| root["normalizer"] = json!({"type": "NFC"})), Ok(()));
    let refused = edit(&|root| {
        root["added_tokens"] = json!([{"id": 1000, "content": "e", "special": false}]);
    });
    assert!(refused.unwrap_err().contains("the vocabulary gives it"));
    let refused = edit(&|root| root["added_tokens"] = json!([{"id": "x"}]));
    assert!(refused.unwrap_err().contains("added_tokens"));
    let refused = edit(&|root| {
        let content = "e";
        let id = root["model"]["vocab"][content].clone();
        root["added_tokens"] = json!([{"id": id, "content": content, "special": true}]);
    });
    assert!(refused.unwrap_err().contains("becomes that token"));
    assert!(Tokenizer::from_json(b"{}").is_err());
    assert!(Tokenizer::from_json(b"not json").is_err());
    let missing = Tokenizer::load(Path::new("/nonexistent/tokenizer.json")).unwrap_err();
    assert!(missing.to_string().contains("/nonexistent/tokenizer.json"));
}

#[test]
fn only_known_words_are_cut() {
    let split = |regex: &str, prefix: bool| {
        json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": prefix, "use_regex": false},
        ]})
    };
    assert!(may_cut(&split(PATTERNS[2], false)));
    assert!(!may_cut(&split(PATTERNS[2], true)));
    assert!(!may_cut(&split("\\S+", false)));
    assert!(!may_cut(&json!({"type": "ByteLevel", "add_prefix_space": false})));
    assert!(!may_cut(&Value::Null));
}
