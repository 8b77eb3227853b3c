//! Parameters that are given as text and mean tokens: bad words, biases, breakers of repetitions.

use super::error::GenerateError;
use super::request::Parameters;
use super::tokenizer::{Markup, Tokenizer};
use super::validate::{Range, invalid, narrow, number};
use crate::engine::Sampling;

const MAX_WORDS: usize = 128;
const MAX_WORD_BYTES: usize = 256;
const DEFAULT_BREAKERS: [&str; 4] = ["\n", ":", "\"", "*"];

/// Puts the tokens of `given`'s texts into `sampling`, and checks that something is left to choose.
pub(super) fn resolve(
    given: &Parameters,
    tokenizer: &Tokenizer,
    sampling: &mut Sampling,
) -> Result<(), GenerateError> {
    text_biases(&given.text_bias, tokenizer, sampling)?;
    sampling.bad_words = bad_words(&given.bad_words, tokenizer)?;
    if let Some(dry) = &mut sampling.dry {
        let texts = given.dry.sequence_breakers.as_deref();
        dry.breakers = breakers(texts, tokenizer)?;
    }
    let Some(allowed) = &sampling.allowed_tokens else { return Ok(()) };
    let banned = |token: &u32| {
        let late = sampling.min_tokens > 0 && sampling.late_tokens.contains(token);
        late || sampling.bad_words.iter().any(|word| word.last() == Some(token))
    };
    if !allowed.iter().all(banned) {
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
    for (text, bias) in given {
        let field = format!("logit_bias[{text:?}]");
        let Some(bias) = number(&field, Some(*bias), Range::closed(-100.0, 100.0))? else {
            continue;
        };
        let mut ids = encode(&field, text, tokenizer)?;
        // Each token once, however often the text repeats it.
        ids.sort_unstable();
        ids.dedup();
        sampling.logit_bias.extend(ids.into_iter().map(|id| (id, narrow(bias))));
    }
    Ok(())
}

/// Each word as a text begins with it, and as it follows other words.
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

/// All tokens that hold one of the texts.
fn breakers(given: Option<&[String]>, tokenizer: &Tokenizer) -> Result<Vec<u32>, GenerateError> {
    let defaults = DEFAULT_BREAKERS.map(str::to_owned);
    let texts = given.unwrap_or(&defaults);
    let field = "dry_sequence_breakers";
    check_list(field, texts.iter().map(String::as_str))?;
    let vocabulary = tokenizer.vocabulary();
    let mut all = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let finder = aho_corasick::AhoCorasick::new([text])
            .map_err(|error| GenerateError::Tokenizer(error.to_string()))?;
        let ids = (0_u32..).take(vocabulary.len());
        let before = all.len();
        all.extend(ids.filter(|&id| finder.is_match(vocabulary.text_bytes(id))));
        if all.len() == before && given.is_some() {
            return Err(invalid(
                format!("{field}[{index}]"),
                format_args!("{text:?}"),
                "a text that one token of the model's vocabulary holds",
            ));
        }
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
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
