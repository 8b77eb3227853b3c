//! The vocabulary as the grammar library sees it, and its encoding for the forms' processes.

use std::sync::Arc;

use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use super::super::tokenizer::Tokenizer;
use super::protocol::{Reader, put};

/// Every token's bytes.
pub(super) struct Spelling(TokTrie);

/// The tokenizer's vocabulary and the tokens that end an output, as bytes for [`spelling`].
///
/// A control token is spelt with a byte before it that no text holds, so that a grammar of text
/// never lets one through. Ids without a token are never let through.
///
/// # Errors
/// If there is no end token, or one has no spelling.
pub(super) fn vocabulary(tokenizer: &Tokenizer, ends: &[u32]) -> Result<Vec<u8>, String> {
    let vocabulary = tokenizer.vocabulary();
    let count = u32::try_from(vocabulary.len()).map_err(|error| error.to_string())?;
    ends.first().ok_or("the model has no token that ends its turn")?;
    if let Some(&end) = ends.iter().find(|&&end| end >= count) {
        return Err(format!("token {end} ends the model's turn, but has no spelling"));
    }
    let mut out = Vec::new();
    let listed: Vec<u8> = ends.iter().flat_map(|end| end.to_le_bytes()).collect();
    put(&mut out, &listed);
    let mut word = Vec::new();
    for id in 0..count {
        word.clear();
        if vocabulary.is_control(id) {
            word.push(TokTrie::SPECIAL_TOKEN_MARKER);
        }
        word.extend_from_slice(vocabulary.bytes(id));
        put(&mut out, &word);
    }
    Ok(out)
}

/// What [`vocabulary`] wrote, for the library; `None` if these are other bytes.
pub(super) fn spelling(bytes: &[u8]) -> Option<TokEnv> {
    let mut reader = Reader(bytes);
    let mut listed = Reader(reader.bytes()?);
    let mut ends = Vec::new();
    while !listed.0.is_empty() {
        ends.push(listed.number()?);
    }
    let mut words: Vec<Vec<u8>> = Vec::new();
    while !reader.0.is_empty() {
        words.push(reader.bytes()?.to_vec());
    }
    let count = u32::try_from(words.len()).ok()?;
    let trie = TokTrie::from(&TokRxInfo::new(count, *ends.first()?), &words).with_eos_tokens(&ends);
    Some(Arc::new(Spelling(trie)))
}

impl TokenizerEnv for Spelling {
    fn tok_trie(&self) -> &TokTrie {
        &self.0
    }

    /// Forced bytes become tokens in the daemon, which has the tokenizer.
    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.0.greedy_tokenize(bytes)
    }

    /// The middle of a text may be tokenised differently than within the text.
    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}
