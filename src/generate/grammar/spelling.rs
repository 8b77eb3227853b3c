//! The tokenizer as the grammar library sees it.

use std::sync::Arc;

use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use super::super::tokenizer::{Markup, Tokenizer};

/// Every token's bytes, and how text is cut into tokens.
pub(super) struct Spelling {
    tokenizer: Arc<Tokenizer>,
    trie: TokTrie,
}

impl Spelling {
    /// A control token is spelt with a byte before it that no text holds, so that a grammar of text
    /// never lets one through. Ids without a token are never let through.
    pub(super) fn shared(tokenizer: &Arc<Tokenizer>, ends: &[u32]) -> Result<TokEnv, String> {
        let vocabulary = tokenizer.vocabulary();
        let count = u32::try_from(vocabulary.len()).map_err(|error| error.to_string())?;
        let end = *ends.first().ok_or("the model has no token that ends its turn")?;
        let words: Vec<Vec<u8>> = (0..count)
            .map(|id| {
                let bytes = vocabulary.bytes(id);
                if vocabulary.is_control(id) {
                    [&[TokTrie::SPECIAL_TOKEN_MARKER], bytes].concat()
                } else {
                    bytes.to_vec()
                }
            })
            .collect();
        if let Some(&end) = ends.iter().find(|&&end| end >= count) {
            return Err(format!("token {end} ends the model's turn, but has no spelling"));
        }
        let trie = TokTrie::from(&TokRxInfo::new(count, end), &words).with_eos_tokens(ends);
        Ok(Arc::new(Self { tokenizer: Arc::clone(tokenizer), trie }))
    }
}

impl TokenizerEnv for Spelling {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let encode = |text: &str| self.tokenizer.encode(text, Markup::Plain, usize::MAX).ok();
        let encoded = std::str::from_utf8(bytes).ok().and_then(encode);
        encoded.unwrap_or_else(|| self.trie.greedy_tokenize(bytes))
    }

    /// Bytes in the middle of a text may be cut in another way than the whole text is.
    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}
