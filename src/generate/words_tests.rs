use super::*;
use crate::fixtures::demo_folder;
use phi4d_engine::Dry;

fn tokenizer() -> Tokenizer {
    Tokenizer::load(&demo_folder().join("tokenizer.json")).unwrap()
}

fn plain(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, Markup::Plain, usize::MAX).unwrap()
}

fn resolved(given: &Parameters, sampling: &mut Sampling) -> Result<(), GenerateError> {
    let tokenizer = tokenizer();
    resolve(given, &tokenizer, &usual_breakers(tokenizer.vocabulary()), sampling)
}

fn fault(given: &Parameters, mut sampling: Sampling) -> String {
    resolved(given, &mut sampling).unwrap_err().to_string()
}

#[test]
fn words_are_banned_with_and_without_a_space_before_them() {
    let tokenizer = tokenizer();
    let given = Parameters { bad_words: vec!["yes".to_owned()], ..Parameters::default() };
    let mut sampling = Sampling::default();
    resolved(&given, &mut sampling).unwrap();
    assert_eq!(*sampling.bad_words, [plain(&tokenizer, "yes"), plain(&tokenizer, " yes")]);
}

#[test]
fn a_text_s_bias_goes_to_each_of_its_tokens_once() {
    let tokenizer = tokenizer();
    let given =
        Parameters { text_bias: vec![("no no no".to_owned(), -3.0)], ..Parameters::default() };
    let mut sampling = Sampling { logit_bias: [(1, 1.0)].into(), ..Sampling::default() };
    resolved(&given, &mut sampling).unwrap();
    let mut ids = plain(&tokenizer, "no no no");
    ids.sort_unstable();
    ids.dedup();
    let expected: Vec<(u32, f32)> =
        [(1, 1.0)].into_iter().chain(ids.into_iter().map(|id| (id, -3.0))).collect();
    assert_eq!(*sampling.logit_bias, expected);
}

#[test]
fn breakers_are_all_tokens_that_hold_their_text() {
    let tokenizer = tokenizer();
    let breakers = TokenSet::default();
    let dry = Dry { multiplier: 1.0, base: 2.0, allowed_length: 2, last_tokens: 9, breakers };
    let mut sampling = Sampling { dry: Some(dry.clone()), ..Sampling::default() };
    resolved(&Parameters::default(), &mut sampling).unwrap();
    let breakers = sampling.dry.unwrap().breakers;
    let ids = (0_u32..).take(tokenizer.vocabulary().len());
    for id in ids {
        let text = String::from_utf8_lossy(tokenizer.vocabulary().text_bytes(id));
        let holds = text.contains(['\n', ':', '"', '*']);
        assert_eq!(breakers.contains(id), holds, "{id} {text:?}");
    }
    let mut given = Parameters::default();
    given.dry.sequence_breakers = Some(vec![",".to_owned(), "zzzzqqqq".to_owned()]);
    let sampling = Sampling { dry: Some(dry), ..Sampling::default() };
    assert!(fault(&given, sampling).starts_with("dry_sequence_breakers[1]: \"zzzzqqqq\" "));
}

#[test]
fn faulty_texts_are_refused_by_name() {
    let words = |words: Vec<String>| Parameters { bad_words: words, ..Parameters::default() };
    let many = words(vec!["a".to_owned(); 129]);
    let long = words(vec!["a".to_owned(), "b".repeat(257)]);
    let empty = words(vec![String::new()]);
    let bias = |text: &str, bias| Parameters {
        text_bias: vec![(text.to_owned(), bias)],
        ..Parameters::default()
    };
    for (given, start) in [
        (many, "bad_words: 129 texts "),
        (long, "bad_words[1]: "),
        (empty, "bad_words[0]: \"\" "),
        (bias("a", 101.0), "logit_bias[\"a\"]: 101 "),
        (bias("", 1.0), "logit_bias[0]: \"\" "),
    ] {
        let message = fault(&given, Sampling::default());
        assert!(message.starts_with(start), "{message}");
    }
}

#[test]
fn something_must_be_left_to_choose() {
    let tokenizer = tokenizer();
    let a: TokenSet = plain(&tokenizer, "a").into_iter().collect();
    let given = Parameters { bad_words: vec!["a".to_owned()], ..Parameters::default() };
    let sampling = Sampling { allowed_tokens: Some(a.clone()), ..Sampling::default() };
    assert!(fault(&given, sampling).starts_with("allowed_token_ids: "));
    let sampling = Sampling {
        allowed_tokens: Some(a.clone()),
        min_tokens: 1,
        late_tokens: a,
        ..Sampling::default()
    };
    assert!(fault(&Parameters::default(), sampling).starts_with("allowed_token_ids: "));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn one_pass_over_the_vocabulary_finds_what_a_search_for_each_breaker_does(
        texts in proptest::collection::vec("[a-e,.:\n ]{1,3}", 1..12),
        times in 1usize..10,
    ) {
        let tokenizer = tokenizer();
        let vocabulary = tokenizer.vocabulary();
        let ids = || (0_u32..).take(vocabulary.len());
        let holds = |id: u32, text: &String| {
            let bytes = vocabulary.text_bytes(id);
            bytes.windows(text.len()).any(|window| window == text.as_bytes())
        };
        let missing = texts.iter().position(|text| !ids().any(|id| holds(id, text)));
        let expected: TokenSet = ids().filter(|&id| texts.iter().any(|text| holds(id, text))).collect();
        let repeated: Vec<String> = texts.iter().cycle().take(texts.len() * times).cloned().collect();
        match (given_breakers(&repeated, vocabulary), missing) {
            (Ok(found), None) => proptest::prop_assert_eq!(found, expected),
            (Err(error), Some(index)) => {
                let field = format!("dry_sequence_breakers[{index}]: ");
                proptest::prop_assert!(error.to_string().starts_with(&field), "{}", error);
            }
            (found, missing) => proptest::prop_assert!(false, "{found:?} for {missing:?}"),
        }
    }
}
