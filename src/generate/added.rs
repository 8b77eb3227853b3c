//! Added tokens (`<|im_end|>` and the like): found in text as Hugging Face's tokenizers find them,
//! and neutralised in text that must contain none.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, BuildError, Input, MatchKind};
use regex::Regex;
use serde::Deserialize;

/// One entry of tokenizer.json's `added_tokens`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct AddedToken {
    /// Its id.
    pub(super) id: u32,
    /// The text that spells it.
    pub(super) content: String,
    /// Match only if no word character is next to it.
    #[serde(default)]
    single_word: bool,
    /// Swallow white space before it.
    #[serde(default)]
    lstrip: bool,
    /// Swallow white space after it.
    #[serde(default)]
    rstrip: bool,
    /// Match in normalised text. Without a normaliser: match after all others.
    #[serde(default)]
    pub(super) normalized: bool,
    /// Control token: yields no text.
    #[serde(default)]
    pub(super) special: bool,
}

/// A stretch of text between added tokens, or an added token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'t> {
    /// Ordinary text, never empty.
    Text(&'t str),
    /// An added token's id.
    Token(u32),
}

/// All added tokens of a tokenizer.
#[derive(Debug)]
pub(super) struct AddedTokens {
    tokens: Vec<AddedToken>,
    /// As Hugging Face matches: tokens that are not normalised first, then, in what is left, those
    /// that are.
    passes: Vec<Pass>,
    /// Finds every occurrence, overlapping ones too; `None` if there are no tokens.
    occurrences: Option<AhoCorasick>,
    /// Proper prefixes and suffixes of all tokens, and the longest token's length in bytes.
    prefixes: HashSet<String>,
    suffixes: HashSet<String>,
    longest: usize,
}

#[derive(Debug)]
struct Pass {
    automaton: AhoCorasick,
    /// Index into `AddedTokens::tokens` of each pattern.
    members: Vec<usize>,
}

impl AddedTokens {
    /// Prepares matching. Tokens without text are left out, as in Hugging Face's tokenizers.
    pub(super) fn new(mut tokens: Vec<AddedToken>) -> Result<Self, BuildError> {
        tokens.retain(|token| !token.content.is_empty());
        let mut passes = Vec::new();
        for normalized in [false, true] {
            let members: Vec<usize> =
                (0..tokens.len()).filter(|&index| tokens[index].normalized == normalized).collect();
            if !members.is_empty() {
                let automaton = AhoCorasick::builder()
                    .match_kind(MatchKind::LeftmostLongest)
                    .build(members.iter().map(|&index| &tokens[index].content))?;
                passes.push(Pass { automaton, members });
            }
        }
        let occurrences = if tokens.is_empty() {
            None
        } else {
            Some(AhoCorasick::new(tokens.iter().map(|t| &t.content))?)
        };
        let (mut prefixes, mut suffixes) = (HashSet::new(), HashSet::new());
        for token in &tokens {
            for (cut, _) in token.content.char_indices().skip(1) {
                let (head, tail) = token.content.split_at(cut);
                prefixes.insert(head.to_owned());
                suffixes.insert(tail.to_owned());
            }
        }
        let longest = tokens.iter().map(|t| t.content.len()).max().unwrap_or(0);
        Ok(Self { tokens, passes, occurrences, prefixes, suffixes, longest })
    }

    /// The tokens, in the file's order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &AddedToken> {
        self.tokens.iter()
    }

    /// Cuts `text` at added tokens, exactly as Hugging Face's tokenizers do.
    ///
    /// With a `guard`, an added token directly after that character is ordinary text
    /// (see [`Self::neutralise`]).
    pub(super) fn split<'t>(&self, text: &'t str, guard: Option<char>) -> Vec<Piece<'t>> {
        let mut pieces = Vec::new();
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        for pass in &self.passes {
            let mut next = Vec::with_capacity(pieces.len());
            for piece in pieces {
                match piece {
                    Piece::Text(text) => self.split_pass(pass, text, guard, &mut next),
                    token @ Piece::Token(_) => next.push(token),
                }
            }
            pieces = next;
        }
        pieces
    }

    fn split_pass<'t>(
        &self,
        pass: &Pass,
        text: &'t str,
        guard: Option<char>,
        pieces: &mut Vec<Piece<'t>>,
    ) {
        let mut search_from = 0;
        let mut text_from = 0;
        while let Some(found) = pass.automaton.find(Input::new(text).range(search_from..text.len()))
        {
            let (before, after) = (&text[..found.start()], &text[found.end()..]);
            if guard.is_some_and(|guard| before.ends_with(guard)) {
                let first = text[found.start()..].chars().next();
                search_from = found.start() + first.map_or(1, char::len_utf8);
                continue;
            }
            search_from = found.end();
            let token = &self.tokens[pass.members[found.pattern().as_usize()]];
            if token.single_word && (ends_in_word(before) || starts_with_word(after)) {
                continue;
            }
            let mut start = found.start();
            if token.lstrip {
                start = before.trim_end().len().max(text_from);
            }
            if text_from < start {
                pieces.push(Piece::Text(&text[text_from..start]));
            }
            pieces.push(Piece::Token(token.id));
            text_from = found.end();
            if token.rstrip {
                text_from += after.len() - after.trim_start().len();
            }
        }
        if text_from < text.len() {
            pieces.push(Piece::Text(&text[text_from..]));
        }
    }

    /// Whether [`Self::neutralise`] would change `content`.
    pub(super) fn has_token_text(&self, content: &str) -> bool {
        let occurs = self.occurrences.as_ref();
        occurs.is_some_and(|automaton| automaton.is_match(content))
            || !self.border_cuts(content).is_empty()
    }

    /// Inserts `guard` into `content` so that no added token is read in it, nor across its ends
    /// once a template surrounds it: before every occurrence, and where it ends or begins with a
    /// part of one. `guard` must not occur in `content`.
    pub(super) fn neutralise<'c>(&self, content: &'c str, guard: char) -> Cow<'c, str> {
        let mut cuts = self.border_cuts(content);
        if let Some(automaton) = &self.occurrences {
            cuts.extend(automaton.find_overlapping_iter(content).map(|found| found.start()));
        }
        if cuts.is_empty() {
            return Cow::Borrowed(content);
        }
        cuts.sort_unstable();
        cuts.dedup();
        let mut guarded = String::with_capacity(content.len() + cuts.len() * guard.len_utf8());
        let mut from = 0;
        for cut in cuts {
            guarded.push_str(&content[from..cut]);
            guarded.push(guard);
            from = cut;
        }
        guarded.push_str(&content[from..]);
        Cow::Owned(guarded)
    }

    /// Where `content`, as it is or trimmed (templates often trim), could be one half of an added
    /// token whose other half is the text beside it.
    fn border_cuts(&self, content: &str) -> Vec<usize> {
        let mut cuts = Vec::new();
        let trimmed_end = content.trim_end().len();
        for end in [content.len(), trimmed_end] {
            for start in (end.saturating_sub(self.longest)..end).rev() {
                if content.get(start..end).is_some_and(|tail| self.prefixes.contains(tail)) {
                    cuts.push(start);
                }
            }
        }
        let trimmed_start = content.len() - content.trim_start().len();
        for start in [0, trimmed_start] {
            let last = content.len().min(start + self.longest);
            if (start + 1..=last)
                .any(|end| content.get(start..end).is_some_and(|head| self.suffixes.contains(head)))
            {
                cuts.push(start);
            }
        }
        cuts
    }
}

/// Regular expressions' `\w`, which Hugging Face's tokenizers use.
#[expect(clippy::expect_used, reason = "a constant that every test compiles")]
static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\w$").expect("a valid pattern"));

fn is_word(character: Option<char>) -> bool {
    character.is_some_and(|c| WORD.is_match(c.encode_utf8(&mut [0; 4])))
}

fn ends_in_word(text: &str) -> bool {
    is_word(text.chars().next_back())
}

fn starts_with_word(text: &str) -> bool {
    is_word(text.chars().next())
}
