//! Parameters given as text that become tokens: bad words, biases, sequence breakers.

use aho_corasick::{AhoCorasick, AhoCorasickKind};

use super::error::{GenerateError, invalid};
use super::numbers::{Range, narrow, number};
use super::request::Parameters;
use super::tokenizer::{Markup, Tokenizer};
use super::validate::summed;
use super::vocabulary::Vocabulary;
use phi4d_engine::{Sampling, TokenSet};

const MAX_WORDS: usize = 128;
const MAX_WORD_BYTES: usize = 256;
const USUAL_BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

/// Bytes of text in `given` that the tokenizer reads.
pub(super) fn bytes(given: &Parameters) -> usize {
    let biases = given.text_bias.iter().map(|(text, _)| text.len());
    // Bad words are read twice.
    let words = given.bad_words.iter().map(|word| word.len().saturating_mul(2));
    words.chain(biases).fold(0, usize::saturating_add)
}

/// Puts the tokens of `given`'s texts into `sampling`, and checks that some token is still allowed.
/// `usual` are the tokens of [`usual_breakers`].
pub(super) fn resolve(
    given: &Parameters,
    tokenizer: &Tokenizer,
    usual: &TokenSet,
    sampling: &mut Sampling,
) -> Result<(), GenerateError> {
    text_biases(&given.text_bias, tokenizer, sampling)?;
    sampling.bad_words = bad_words(&given.bad_words, tokenizer)?.into();
    if let Some(dry) = &mut sampling.dry {
        dry.breakers = match &given.dry.sequence_breakers {
            Some(texts) => given_breakers(texts, tokenizer.vocabulary())?,
            None => usual.clone(),
        };
    }
    let Some(allowed) = &sampling.allowed_tokens else { return Ok(()) };
    let ends: TokenSet =
        sampling.bad_words.iter().filter_map(|word| word.last().copied()).collect();
    let is_late = |token| sampling.min_tokens > 0 && sampling.late_tokens.contains(token);
    if !allowed.iter().all(|token| ends.contains(token) || is_late(token)) {
        return Ok(());
    }
    Err(invalid(
        "allowed_token_ids",
        "a list that bad_words or min_tokens may ban whole",
        "at least one token that ends none of the bad words and is no stop token",
    ))
}

fn text_biases(
    given: &[(String, f64)],
    tokenizer: &Tokenizer,
    sampling: &mut Sampling,
) -> Result<(), GenerateError> {
    check_list("logit_bias", given.iter().map(|(text, _)| text.as_str()))?;
    if given.is_empty() {
        return Ok(());
    }
    let mut all = sampling.logit_bias.to_vec();
    for (text, bias) in given {
        let field = format!("logit_bias[{text:?}]");
        let Some(bias) = number(&field, Some(*bias), Range::closed(-100.0, 100.0))? else {
            continue;
        };
        let mut ids = encode(&field, text, tokenizer)?;
        // Each token once, however often the text repeats it.
        ids.sort_unstable();
        ids.dedup();
        all.extend(ids.into_iter().map(|id| (id, narrow(bias))));
    }
    sampling.logit_bias = summed(all);
    Ok(())
}

/// The tokens of each word at the beginning of a text, and after a space.
fn bad_words(given: &[String], tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>, GenerateError> {
    check_list("bad_words", given.iter().map(String::as_str))?;
    let mut words = Vec::with_capacity(2 * given.len());
    for (index, word) in given.iter().enumerate() {
        let field = format!("bad_words[{index}]");
        for text in [word.clone(), format!(" {}", word.trim_start())] {
            let ids = encode(&field, &text, tokenizer)?;
            if !ids.is_empty() && !words.contains(&ids) {
                words.push(ids);
            }
        }
    }
    Ok(words)
}

/// All tokens that contain one of the default breakers.
pub(super) fn usual_breakers(vocabulary: &Vocabulary) -> TokenSet {
    let holds = |id: &u32| {
        let text = vocabulary.text_bytes(*id);
        USUAL_BREAKERS.iter().any(|breaker| text.contains(&breaker.as_bytes()[0]))
    };
    (0..).take(vocabulary.len()).filter(holds).collect()
}

/// All tokens that contain one of the texts, in one pass over the vocabulary for any number of
/// texts.
fn given_breakers(texts: &[String], vocabulary: &Vocabulary) -> Result<TokenSet, GenerateError> {
    const FIELD: &str = "dry_sequence_breakers";
    let missing = |index: usize| {
        let accepted = "a text that one token of the model's vocabulary holds";
        invalid(format!("{FIELD}[{index}]"), format_args!("{:?}", texts[index]), accepted)
    };
    check_list(FIELD, texts.iter().map(String::as_str))?;
    let mut distinct: Vec<&str> = texts.iter().map(String::as_str).collect();
    distinct.sort_unstable();
    distinct.dedup();
    let finder = AhoCorasick::builder()
        // A DFA of so many texts would take megabytes.
        .kind(Some(AhoCorasickKind::ContiguousNFA))
        .build(&distinct)
        .map_err(|error| GenerateError::Tokenizer(error.to_string()))?;
    let mut unseen: Vec<bool> = vec![true; distinct.len()];
    let holds = |id: &u32| {
        let mut any = false;
        for found in finder.find_overlapping_iter(vocabulary.text_bytes(*id)) {
            any = true;
            unseen[found.pattern().as_usize()] = false;
        }
        any
    };
    let all = (0..).take(vocabulary.len()).filter(holds).collect();
    let is_unseen =
        |text: &String| distinct.binary_search(&text.as_str()).is_ok_and(|at| unseen[at]);
    match texts.iter().position(is_unseen) {
        Some(index) => Err(missing(index)),
        None => Ok(all),
    }
}

fn check_list<'t>(
    field: &str,
    texts: impl ExactSizeIterator<Item = &'t str>,
) -> Result<(), GenerateError> {
    if texts.len() > MAX_WORDS {
        let count = format!("{} texts", texts.len());
        return Err(invalid(field, count, format!("at most {MAX_WORDS} texts")));
    }
    for (index, text) in texts.enumerate() {
        if text.is_empty() || text.len() > MAX_WORD_BYTES {
            return Err(invalid(
                format!("{field}[{index}]"),
                format_args!("{text:?}"),
                format!("a text of 1 to {MAX_WORD_BYTES} bytes"),
            ));
        }
    }
    Ok(())
}

fn encode(field: &str, text: &str, tokenizer: &Tokenizer) -> Result<Vec<u32>, GenerateError> {
    tokenizer
        .encode(text, Markup::Plain, usize::MAX)
        .map_err(|error| GenerateError::Tokenizer(format!("{field}: {error:?}")))
}

#[cfg(test)]
#[path = "words_tests.rs"]
mod tests;
