//! Texts to the token ids that an embedding model reads, as its folder's tokenizer.json says.
//!
//! Unlike prompts of the generating model, texts are read as sentence-transformers reads them: special
//! tokens that a text spells out are special, since a vector gives nobody orders.

use std::path::Path;

use crate::error::{GenerateError, TextLoadError, invalid};
use crate::files::{MAX_JSON_BYTES, required};

/// Words whose tokens are remembered.
const CACHED_WORDS: usize = 10_000;

/// Bytes of a text that are read for each token that the model takes, beside [`SLACK_BYTES`]. Written
/// language has four or so.
const BYTES_PER_TOKEN: usize = 64;
const SLACK_BYTES: usize = 64 * 1024;

/// One text, or the model's own token ids for one, special tokens included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EmbeddingInput {
    /// A text.
    Text(String),
    /// Token ids.
    Tokens(Vec<u32>),
}

impl EmbeddingInput {
    /// Bytes that it has.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Tokens(ids) => size_of_val(ids.as_slice()),
        }
    }
}

/// The tokenizer with the model's limits.
pub(super) struct EmbeddingTokenizer {
    tokenizer: tokenizers::Tokenizer,
    /// Put before every text.
    prompt: String,
    /// Tokens that are added to every text.
    specials: usize,
    max_tokens: usize,
    /// Token ids below this are known.
    vocab_size: usize,
}

impl std::fmt::Debug for EmbeddingTokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("EmbeddingTokenizer").finish_non_exhaustive()
    }
}

impl EmbeddingTokenizer {
    /// Reads `folder`'s tokenizer.json. `vocab_size` is the model's, if it is known.
    ///
    /// # Errors
    /// If the file can't be read or used, or is another model's.
    pub(super) fn load(
        folder: &Path,
        prompt: String,
        max_tokens: usize,
        vocab_size: Option<usize>,
    ) -> Result<Self, TextLoadError> {
        let path = folder.join("tokenizer.json");
        let bytes = required(&path, MAX_JSON_BYTES)?;
        let invalid = |reason: String| TextLoadError::Invalid { path: path.clone(), reason };
        let mut tokenizer =
            tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| invalid(error.to_string()))?;
        // The file's own are of whoever saved it last, and often shorter than the model's.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| invalid(error.to_string()))?;
        let mut model = tokenizer.get_model().clone();
        model.resize_cache(CACHED_WORDS);
        tokenizer.with_model(model);
        let known = tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        let vocab_size = vocab_size.unwrap_or(known);
        if known > vocab_size {
            return Err(invalid(format!(
                "it has token id {}, but the model's vocabulary has {vocab_size} tokens; expected the \
                 tokenizer of the same model",
                known - 1
            )));
        }
        let processor = tokenizer.get_post_processor();
        let specials = processor.map_or(0, |p| tokenizers::PostProcessor::added_tokens(p, false));
        if specials >= max_tokens {
            return Err(invalid(format!(
                "it adds {specials} tokens to each text, and the model takes {max_tokens}"
            )));
        }
        Ok(Self { tokenizer, prompt, specials, max_tokens, vocab_size })
    }

    /// Token ids below this are known.
    pub(super) fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The token ids of `input`, which stands at `field`. One that is too long is cut if `truncate`.
    pub(super) fn read(
        &self,
        input: EmbeddingInput,
        field: &str,
        truncate: bool,
    ) -> Result<Vec<u32>, GenerateError> {
        let ids = match input {
            EmbeddingInput::Text(text) => self.encode(&text, field, truncate)?,
            EmbeddingInput::Tokens(ids) => self.check(ids, field, truncate)?,
        };
        if ids.is_empty() {
            return Err(invalid(field, "a text without tokens", "at least one token"));
        }
        Ok(ids)
    }

    fn encode(&self, text: &str, field: &str, truncate: bool) -> Result<Vec<u32>, GenerateError> {
        let most = self.max_tokens.saturating_mul(BYTES_PER_TOKEN).saturating_add(SLACK_BYTES);
        let cut = text.floor_char_boundary(most);
        if cut < text.len() && !truncate {
            let value = format_args!("a text of {} bytes", text.len());
            let accepted = format!("at most {} tokens, in at most {most} bytes", self.max_tokens);
            return Err(invalid(field, value, accepted));
        }
        let text = format!("{}{}", self.prompt, &text[..cut]);
        let failed = |error: tokenizers::Error| GenerateError::Tokenizer(error.to_string());
        let mut encoding = self.tokenizer.encode_fast(text, false).map_err(failed)?;
        let room = self.max_tokens - self.specials;
        if encoding.len() > room {
            if !truncate {
                return Err(self.too_long(field, encoding.len() + self.specials));
            }
            encoding.truncate(room, 0, tokenizers::TruncationDirection::Right);
        }
        let finished = self.tokenizer.post_process(encoding, None, true).map_err(failed)?;
        Ok(finished.get_ids().to_vec())
    }

    fn check(
        &self,
        mut ids: Vec<u32>,
        field: &str,
        truncate: bool,
    ) -> Result<Vec<u32>, GenerateError> {
        if ids.len() > self.max_tokens {
            if !truncate {
                return Err(self.too_long(field, ids.len()));
            }
            ids.truncate(self.max_tokens);
        }
        let foreign = ids.iter().position(|&id| id as usize >= self.vocab_size);
        match foreign {
            Some(place) => Err(invalid(
                format!("{field}[{place}]"),
                ids[place],
                format!("a token id of the embedding model, below {}", self.vocab_size),
            )),
            None => Ok(ids),
        }
    }

    fn too_long(&self, field: &str, tokens: usize) -> GenerateError {
        let accepted =
            format!("at most {} tokens, the embedding model's longest input", self.max_tokens);
        invalid(field, format_args!("a text of {tokens} tokens"), accepted)
    }
}
