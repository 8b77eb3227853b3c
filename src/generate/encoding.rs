//! A text on its way to token ids, a stretch at a time: so that a long one can be left in between,
//! and takes no more memory for the tokenizer library than a stretch does (several hundred bytes
//! for each of its words).

use std::ops::Range;

use serde_json::Value;

use super::added::Piece;
use super::tokenizer::{EncodeError, Markup, Tokenizer};

/// Bytes of a stretch: about 20 ms.
const STRETCH: usize = 32 * 1024;

/// The longest text without a place to cut.
const LONGEST_STRETCH: usize = 256 * 1024;

/// What an added token counts as, of a stretch.
const TOKEN_COST: usize = 64;

/// The patterns, in tokenizer.json's words, by which the words of GPT-4, GPT-4o and Phi-4 are found
/// (and the demo model's, which has single digits). In all of them a word of letters or digits ends
/// before any other character, but for an apostrophe in English contractions, and what comes
/// after is found without a look back.
const PATTERNS: [&str; 4] = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
];

/// Whether texts can be cut, with this `pre_tokenizer` of a tokenizer.json.
pub(super) fn may_cut(pre_tokenizer: &Value) -> bool {
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

/// A part of a text that is read by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Ordinary text.
    Text(Range<usize>),
    /// An added token's id.
    Token(u32),
}

/// A text on its way to token ids.
#[derive(Debug)]
pub(super) struct Encoding {
    text: String,
    /// The last first.
    parts: Vec<Part>,
    guard: Option<char>,
    ids: Vec<u32>,
    /// As many tokens, or more, are too many.
    limit: usize,
    /// The fewest tokens that the rest can be.
    rest: usize,
}

impl Encoding {
    /// The token ids.
    pub(super) fn into_ids(self) -> Vec<u32> {
        self.ids
    }
}

impl Tokenizer {
    /// Begins to read a text; see [`Self::encode`].
    pub(super) fn begin(
        &self,
        text: String,
        markup: Markup,
        limit: usize,
    ) -> Result<Encoding, EncodeError> {
        let guard = match markup {
            Markup::Guarded(guard) => Some(guard),
            Markup::Plain | Markup::Parsed => None,
        };
        let pieces = if markup == Markup::Plain {
            vec![Piece::Text(text.as_str())]
        } else {
            self.added().split(&text, guard)
        };
        let part = |piece| match piece {
            Piece::Token(id) => Part::Token(id),
            Piece::Text(piece) => {
                let start = piece.as_ptr().addr() - text.as_ptr().addr();
                Part::Text(start..start + piece.len())
            }
        };
        let parts = pieces.into_iter().map(part).collect();
        self.begin_with(text, parts, guard, limit)
    }

    /// Begins to read `parts` of `text` in their order.
    pub(super) fn begin_with(
        &self,
        text: String,
        mut parts: Vec<Part>,
        guard: Option<char>,
        limit: usize,
    ) -> Result<Encoding, EncodeError> {
        let rest = parts.iter().map(|part| self.fewest_tokens(&text, part, guard)).sum();
        if rest >= limit {
            return Err(EncodeError::TooLong { at_least: rest });
        }
        parts.reverse();
        let ids = Vec::with_capacity(rest);
        Ok(Encoding { text, parts, guard, ids, limit, rest })
    }

    /// Reads the next stretch; true after the last.
    pub(super) fn advance(&self, encoding: &mut Encoding) -> Result<bool, EncodeError> {
        let mut left = STRETCH;
        while let Some(part) = encoding.parts.pop() {
            let cost = match part {
                Part::Token(id) => {
                    encoding.rest -= 1;
                    encoding.ids.push(id);
                    TOKEN_COST
                }
                Part::Text(range) => {
                    let stretch = self.stretch(&encoding.text[range.clone()])?;
                    let now = range.start..range.start + stretch;
                    if now.end < range.end {
                        encoding.parts.push(Part::Text(now.end..range.end));
                    }
                    self.encode_plain(
                        &encoding.text[now.clone()],
                        encoding.guard,
                        &mut encoding.ids,
                    )?;
                    let read = self.fewest_tokens(&encoding.text, &Part::Text(now), encoding.guard);
                    encoding.rest = encoding.rest.saturating_sub(read);
                    stretch + TOKEN_COST
                }
            };
            left = left.saturating_sub(cost);
            if left == 0 {
                break;
            }
        }
        let at_least = encoding.ids.len() + encoding.rest;
        // What has been read to its end is told with its true length.
        if at_least >= encoding.limit && !encoding.parts.is_empty() {
            return Err(EncodeError::TooLong { at_least });
        }
        Ok(encoding.parts.is_empty())
    }

    /// How much of `text` is read at once.
    fn stretch(&self, text: &str) -> Result<usize, EncodeError> {
        if text.len() <= STRETCH {
            return Ok(text.len());
        }
        let bytes = text.as_bytes();
        let ends_word = |at: usize| {
            let (before, after) = (bytes[at - 1], bytes[at]);
            let continues =
                after == b'\'' || !(after.is_ascii_whitespace() || after.is_ascii_punctuation());
            !continues && (before.is_ascii_alphanumeric() || is_ideograph(&text[..at]))
        };
        let first = if self.cuttable {
            let near = (STRETCH / 2..=STRETCH).rev();
            let far = STRETCH + 1..bytes.len().min(LONGEST_STRETCH);
            near.chain(far).find(|&at| ends_word(at))
        } else {
            None
        };
        match first {
            Some(at) => Ok(at),
            None if text.len() <= LONGEST_STRETCH => Ok(text.len()),
            None => Err(EncodeError::Lossy),
        }
    }

    /// A lower bound: no token stands for more bytes than the longest does.
    fn fewest_tokens(&self, text: &str, part: &Part, guard: Option<char>) -> usize {
        let longest = self.vocabulary().longest();
        match part {
            Part::Token(_) => 1,
            Part::Text(_) if self.has_normalizer || longest == 0 => 0,
            Part::Text(range) => {
                let text = &text[range.clone()];
                let guards = guard.map_or(0, |g| text.matches(g).count() * g.len_utf8());
                (text.len() - guards).div_ceil(longest)
            }
        }
    }
}

/// Whether a text ends in a letter of the scripts that are written without spaces.
fn is_ideograph(text: &str) -> bool {
    let last = text.chars().next_back();
    last.is_some_and(|c| matches!(c, '\u{3041}'..='\u{3096}' | '\u{30A1}'..='\u{30FA}' | '\u{4E00}'..='\u{9FFF}'))
}
