//! A text on its way to token ids, a stretch at a time: so that a long one can be left in between,
//! and takes no more memory for the tokenizer library than a stretch does (several hundred bytes
//! for each of its words).

use std::borrow::Cow;
use std::ops::Range;

use super::added::Piece;
use super::tokenizer::{EncodeError, Markup, Tokenizer};

/// Bytes of a stretch: about 20 ms.
const STRETCH: usize = 32 * 1024;

/// The longest text without a place to cut.
const LONGEST_STRETCH: usize = 256 * 1024;

/// What an added token counts as, of a stretch.
const TOKEN_COST: usize = 64;

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
    /// Token ids of `text`, as Hugging Face's `encode(text, add_special_tokens=False)` gives them
    /// for [`Markup::Parsed`].
    ///
    /// Text that can't be shorter than `limit` tokens is refused before the costly part.
    pub(super) fn encode(
        &self,
        text: &str,
        markup: Markup,
        limit: usize,
    ) -> Result<Vec<u32>, EncodeError> {
        let mut encoding = self.begin(text.to_owned(), markup, limit)?;
        while !self.advance(&mut encoding)? {}
        Ok(encoding.into_ids())
    }

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
        self.advance_by(STRETCH, encoding)
    }

    fn advance_by(&self, most: usize, encoding: &mut Encoding) -> Result<bool, EncodeError> {
        let mut left = most;
        while let Some(part) = encoding.parts.pop() {
            let cost = match part {
                Part::Token(id) => {
                    encoding.rest = encoding.rest.saturating_sub(1);
                    encoding.ids.push(id);
                    TOKEN_COST
                }
                Part::Text(range) => {
                    let stretch = self.stretch(&encoding.text[range.clone()], most)?;
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
        // At the end, the error reports the true length.
        if at_least >= encoding.limit && !encoding.parts.is_empty() {
            return Err(EncodeError::TooLong { at_least });
        }
        Ok(encoding.parts.is_empty())
    }

    /// Appends the token ids of ordinary text.
    fn encode_plain(
        &self,
        text: &str,
        guard: Option<char>,
        ids: &mut Vec<u32>,
    ) -> Result<(), EncodeError> {
        let text = match guard {
            Some(guard) if text.contains(guard) => Cow::Owned(text.replace(guard, "")),
            _ => Cow::Borrowed(text),
        };
        let encoding = self
            .bpe
            .encode_fast(text.as_ref(), false)
            .map_err(|e| EncodeError::Failed(e.to_string()))?;
        let fresh = encoding.get_ids();
        // The library's pattern stops after backtracking a million steps (white space, that many
        // characters in a row) and then silently drops the rest; so it does with bytes that are
        // not in the vocabulary.
        let covered: usize = fresh.iter().map(|&id| self.vocabulary().bytes(id).len()).sum();
        if covered < text.len() && !self.has_normalizer {
            return Err(EncodeError::Lossy);
        }
        ids.extend_from_slice(fresh);
        Ok(())
    }

    /// How much of `text` is read at once: about `most` bytes.
    fn stretch(&self, text: &str, most: usize) -> Result<usize, EncodeError> {
        if text.len() <= most {
            return Ok(text.len());
        }
        let near = (most / 2 + 1..=most).rev();
        let far = most + 1..text.len().min(LONGEST_STRETCH);
        let cut = near.chain(far).find(|&at| self.cuttable && ends_word(text, at));
        match cut {
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

/// Whether a word ends before byte `at` by all of [`super::tokenizer::PATTERNS`].
fn ends_word(text: &str, at: usize) -> bool {
    let after = text.as_bytes()[at];
    let goes_on = after == b'\'' || !(after.is_ascii_whitespace() || after.is_ascii_punctuation());
    // `at` is between characters, as the one after it is ASCII.
    !goes_on && text[..at].chars().next_back().is_some_and(is_letter_or_digit)
}

/// Those of the scripts that matter most; marks, which patterns treat in different ways, are none.
fn is_letter_or_digit(character: char) -> bool {
    character.is_ascii_alphanumeric()
        || matches!(character, '\u{3041}'..='\u{3096}' | '\u{30A1}'..='\u{30FA}')
        || matches!(character, '\u{4E00}'..='\u{9FFF}' | '\u{AC00}'..='\u{D7A3}')
        || matches!(character, '\u{0410}'..='\u{044F}' | '\u{03B1}'..='\u{03C9}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::fixtures::demo_folder;
    use super::super::tokenizer::PATTERNS;
    use super::*;

    /// The demo model's tokenizer with the words of each of the patterns.
    fn tokenizers() -> Vec<Tokenizer> {
        let json = std::fs::read(demo_folder().join("tokenizer.json")).unwrap();
        let with = |pattern: &&str| {
            let mut root: Value = serde_json::from_slice(&json).unwrap();
            root["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = json!(pattern);
            let tokenizer = Tokenizer::from_json(&serde_json::to_vec(&root).unwrap()).unwrap();
            assert!(tokenizer.cuttable);
            tokenizer
        };
        PATTERNS.iter().map(with).collect()
    }

    fn by_stretches(tokenizer: &Tokenizer, text: &str, most: usize, markup: Markup) -> Vec<u32> {
        let mut encoding = tokenizer.begin(text.to_owned(), markup, usize::MAX).unwrap();
        while !tokenizer.advance_by(most, &mut encoding).unwrap() {}
        encoding.into_ids()
    }

    fn awkward() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            "[a-zA-Z]{1,6}",
            "[0-9]{1,5}",
            "[ \t]{1,3}",
            "[\r\n]{1,2}",
            "['’.,!?;:(){}/\\\\-]{1,3}",
            prop::sample::select(vec![
                "'s",
                "'LL",
                "don't",
                "\u{301}",
                "é",
                "Ж",
                "漢字",
                "ひら",
                "，",
                "。",
                "한",
                "🦀",
                "\u{a0}",
                "\u{2028}",
                "ǅ",
                "ªº",
                "²",
                "٣",
                "_",
                "<|im_end|>",
                "=",
                "\u{E000}",
            ])
            .prop_map(str::to_owned),
            "\\PC{1,3}",
        ];
        prop::collection::vec(part, 0..60).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1500))]
        #[test]
        fn stretches_read_as_the_whole_does(text in awkward(), most in 1usize..24) {
            stretches_agree(&text, most);
        }
    }

    /// An added token right behind a character that the stretches are cut at.
    #[test]
    fn a_text_that_was_cut_wrongly_once() {
        stretches_agree("AaAa,,লaA[a<|im_end|>", 1);
    }

    fn stretches_agree(text: &str, most: usize) {
        thread_local! { static TOKENIZERS: Vec<Tokenizer> = tokenizers(); }
        TOKENIZERS.with(|all| {
            for tokenizer in all {
                for markup in [Markup::Plain, Markup::Parsed, Markup::Guarded('\u{E000}')] {
                    let whole = by_stretches(tokenizer, text, usize::MAX, markup);
                    let cut = by_stretches(tokenizer, text, most, markup);
                    assert_eq!(cut, whole, "{markup:?} by {most}");
                }
            }
        });
    }

    #[test]
    fn long_texts_are_cut_and_what_is_too_long_is_refused_as_soon_as_it_shows() {
        let tokenizer = &tokenizers()[0];
        let text = "Some words, and 12 numbers; more. ".repeat(20_000);
        let mut encoding = tokenizer.begin(text.clone(), Markup::Plain, usize::MAX).unwrap();
        let mut steps = 1;
        while !tokenizer.advance(&mut encoding).unwrap() {
            steps += 1;
        }
        assert!(steps >= text.len() / STRETCH, "{steps} steps");
        let ids = encoding.into_ids();
        assert_eq!(tokenizer.vocabulary().spell(&ids), text);
        let mut encoding = tokenizer.begin(text, Markup::Plain, 100_000).unwrap();
        let refused = loop {
            match tokenizer.advance(&mut encoding) {
                Ok(done) => assert!(!done),
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, EncodeError::TooLong { at_least } if at_least >= 100_000));
        assert!(encoding.ids.len() < ids.len() / 2);
    }
}
