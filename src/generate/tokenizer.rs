//! The model folder's tokenizer: text to token ids.
//!
//! The added tokens are taken out of tokenizer.json before the library sees it, so ordinary text
//! can't become one whatever it spells; where text is to be parsed, they are matched here.

use std::collections::HashSet;
use std::path::Path;

use serde_json::Value;

use super::added::{AddedToken, AddedTokens};
use super::error::TextLoadError;
use super::files;
use super::vocabulary::Vocabulary;
use phi4d_telemetry as telemetry;

/// Words of up to 256 bytes that each thread keeps encoded. The library's default (10,000) lets
/// hostile text pin some 100 MB a thread.
const CACHED_WORDS: usize = 2_000;

/// Ids are below this: four times the largest vocabulary that is published.
const MAX_IDS: u32 = 1 << 20;

/// Bytes of the parts of all added tokens. Published tokenizers have some 100 KB.
const MAX_PARTS_BYTES: usize = 64 << 20;

/// How text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Markup {
    /// Every character is ordinary text.
    Plain,
    /// Text that spells an added token is that token.
    Parsed,
    /// As `Parsed`, except directly after the given character, which itself vanishes.
    Guarded(char),
}

/// Why text has no token ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EncodeError {
    /// It is at least this many tokens long, which is more than were allowed.
    TooLong { at_least: usize },
    /// The tokenizer library would leave a part of it out.
    Lossy,
    /// The tokenizer library failed on it.
    Failed(String),
}

/// A byte-level BPE tokenizer with its added tokens.
#[derive(Debug)]
pub(super) struct Tokenizer {
    pub(super) bpe: tokenizers::Tokenizer,
    added: AddedTokens,
    vocabulary: Vocabulary,
    /// A normaliser may shorten text, so its length says nothing about its tokens.
    pub(super) has_normalizer: bool,
    /// Whether text may be cut where [`super::encoding`] cuts it.
    pub(super) cuttable: bool,
}

impl Tokenizer {
    /// Loads tokenizer.json of a model that stays as long as the program runs.
    pub(super) fn load(path: &Path) -> Result<Self, TextLoadError> {
        Self::load_caching(path, CACHED_WORDS)
    }

    /// Loads tokenizer.json of a model that may be unloaded. No words are cached: the library would keep them on each
    /// thread for as long as the thread lives, whatever becomes of the tokenizer. Long texts take twice as long.
    pub(super) fn load_for_a_while(path: &Path) -> Result<Self, TextLoadError> {
        Self::load_caching(path, 0)
    }

    fn load_caching(path: &Path, words: usize) -> Result<Self, TextLoadError> {
        let json = files::required(path, files::MAX_JSON_BYTES)?;
        // The library asserts some of what it expects of a file.
        let read = telemetry::catch_panic(|| Self::read(&json, words));
        read.unwrap_or_else(|panic| Err(format!("the tokenizer library failed on it: {panic}")))
            .map_err(|reason| TextLoadError::Invalid { path: path.to_owned(), reason })
    }

    /// Reads the content of tokenizer.json.
    #[cfg(any(test, all(unix, feature = "testing")))]
    pub(super) fn from_json(json: &[u8]) -> Result<Self, String> {
        Self::read(json, CACHED_WORDS)
    }

    /// Reads the content of tokenizer.json. Each thread is to keep `words` words encoded.
    fn read(json: &[u8], words: usize) -> Result<Self, String> {
        let mut root: Value = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        check_decoder(&root["decoder"])?;
        let has_normalizer = !root["normalizer"].is_null();
        let cuttable = !has_normalizer && may_cut(&root["pre_tokenizer"]);
        let tokens: Vec<AddedToken> = match root["added_tokens"].take() {
            Value::Null => Vec::new(),
            tokens => serde_json::from_value(tokens).map_err(|e| format!("added_tokens: {e}"))?,
        };
        check_added(&tokens)?;
        if has_normalizer && let Some(token) = tokens.iter().find(|token| token.normalized) {
            return Err(format!(
                "added token {:?} is to be matched in normalised text, which phi4d can't do; \
                 expected \"normalized\": false, or no normalizer",
                token.content
            ));
        }
        for (key, value) in [
            ("added_tokens", Value::Array(Vec::new())),
            ("truncation", Value::Null),
            ("padding", Value::Null),
            ("post_processor", Value::Null),
        ] {
            root[key] = value;
        }
        let stripped = serde_json::to_vec(&root).map_err(|e| e.to_string())?;
        drop(root);
        let mut bpe = tokenizers::Tokenizer::from_bytes(stripped).map_err(|e| e.to_string())?;
        let mut model = bpe.get_model().clone();
        model.resize_cache(words);
        bpe.with_model(model);
        let twice = |token: &&AddedToken| {
            let known = bpe.token_to_id(&token.content);
            known.is_some_and(|id| id != token.id)
        };
        if let Some(token) = tokens.iter().find(twice) {
            return Err(format!(
                "added token {:?} has id {}, but the vocabulary gives it another",
                token.content, token.id
            ));
        }
        if let Some((word, id)) = bpe.get_vocab(false).iter().find(|(_, id)| **id >= MAX_IDS) {
            return Err(too_large("token", word, *id));
        }
        let added = AddedTokens::new(tokens).map_err(|e| format!("added_tokens: {e}"))?;
        let vocabulary = Vocabulary::new(&bpe.get_vocab(false), &added);
        let tokenizer = Self { bpe, added, vocabulary, has_normalizer, cuttable };
        tokenizer.check_controls_unreachable()?;
        Ok(tokenizer)
    }

    /// A control token may also be in the model's own vocabulary; then its merges must not lead
    /// there from ordinary text.
    fn check_controls_unreachable(&self) -> Result<(), String> {
        let controls: HashSet<u32> =
            self.added.iter().filter_map(|token| token.special.then_some(token.id)).collect();
        for token in self.added.iter().filter(|token| token.special) {
            let ids = self
                .encode(&token.content, Markup::Plain, usize::MAX)
                .map_err(|e| format!("added token {:?}: {e:?}", token.content))?;
            if ids.iter().any(|id| controls.contains(id)) {
                return Err(format!(
                    "ordinary text that spells the special token {:?} becomes that token",
                    token.content
                ));
            }
        }
        Ok(())
    }

    /// What each id is in bytes.
    pub(super) fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The added tokens.
    pub(super) fn added(&self) -> &AddedTokens {
        &self.added
    }
}

/// The patterns, in tokenizer.json's words, by which the words of GPT-4, GPT-4o and Phi-4 are found
/// (and the demo model's, which has single digits). In all of them a word of letters or digits ends
/// before any other character, but for an apostrophe in English contractions, and what comes
/// after is found without a look back.
pub(super) const PATTERNS: [&str; 4] = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
];

/// Whether texts can be cut, with this `pre_tokenizer` of a tokenizer.json.
fn may_cut(pre_tokenizer: &Value) -> bool {
    let plain_bytes = |step: &Value| {
        step["type"] == "ByteLevel"
            && step["add_prefix_space"] == false
            && step["use_regex"] == false
    };
    let steps = pre_tokenizer["pretokenizers"].as_array().map(Vec::as_slice);
    match steps {
        Some([split, bytes]) if split["type"] == "Split" && plain_bytes(bytes) => {
            split["pattern"]["Regex"].as_str().is_some_and(|regex| PATTERNS.contains(&regex))
        }
        _ => false,
    }
}

/// Bounds what is made for each token: a table by id, and sets of the parts of added tokens.
fn check_added(tokens: &[AddedToken]) -> Result<(), String> {
    let mut parts = 0;
    for token in tokens {
        if token.id >= MAX_IDS {
            return Err(too_large("added token", &token.content, token.id));
        }
        parts += token.content.len().saturating_pow(2);
        if parts > MAX_PARTS_BYTES {
            return Err(format!(
                "added_tokens: their texts are too long, up to id {}; accepted are texts whose \
                 squared lengths add up to {MAX_PARTS_BYTES} bytes",
                token.id
            ));
        }
    }
    Ok(())
}

fn too_large(what: &str, text: &str, id: u32) -> String {
    let text: String = text.chars().take(64).collect();
    format!("{what} {text:?} has id {id}; accepted are ids below {MAX_IDS}")
}

/// Only a byte-level decoder lets each token be turned into bytes by itself.
fn check_decoder(decoder: &Value) -> Result<(), String> {
    let kind = decoder["type"].as_str();
    let inner = decoder["decoders"].as_array();
    let byte_level = match (kind, inner) {
        (Some("ByteLevel"), _) => true,
        (Some("Sequence"), Some(steps)) => {
            !steps.is_empty() && steps.iter().all(|step| step["type"] == "ByteLevel")
        }
        _ => false,
    };
    if byte_level {
        return Ok(());
    }
    Err(format!(
        "decoder is {}; phi4d reads byte-level tokenizers only (decoder type \"ByteLevel\")",
        kind.unwrap_or("missing")
    ))
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
mod tests;
