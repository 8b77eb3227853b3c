//! The engine's tokens to pieces of text: complete characters, up to a stop string.

use std::collections::VecDeque;
use std::str::from_utf8;
use std::sync::Arc;

use super::request::{Logprobs, Parameters, TextDelta, TokenDelta};
use super::tokenizer::Tokenizer;
use super::tools::parse::CallReader;
use phi4d_engine::{Token, TokenLogprobs};

/// The part of an answer in which stop strings end it.
#[derive(Debug, Clone)]
pub(super) enum StopScope {
    All,
    /// The text outside of tool calls, which are found by the reader.
    OutsideCalls(Box<CallReader>),
    None,
}

/// Assembles text from tokens: complete characters, no stop string.
///
/// A token is released with the first byte of its text, so tokens and text match, and a stop string
/// removes the tokens that it consists of.
#[derive(Debug, Clone)]
pub(super) struct TextStream {
    tokenizer: Arc<Tokenizer>,
    /// Whether all control tokens yield their text.
    spell_all: bool,
    detokenizer: Detokenizer,
    stops: StopMatcher,
    scope: StopScope,
    /// Tokens yet to come before stop strings are looked for.
    unstopped: usize,
    /// Bytes of text decoded so far, held-back ones included.
    decoded: usize,
    /// Bytes of text that [`Self::take`] has returned.
    given: usize,
    /// Control tokens that yield their text.
    spelt: Vec<u32>,
    /// Text that can be released.
    text: String,
    /// Tokens that are not released yet, with the position where their text begins.
    waiting: VecDeque<(TokenDelta, usize)>,
}

impl TextStream {
    /// A stream that ends at any of the given stop strings that begins after the first
    /// `least_tokens` tokens.
    pub(super) fn new(tokenizer: Arc<Tokenizer>, given: &Parameters, least_tokens: usize) -> Self {
        Self {
            tokenizer,
            spell_all: given.spell_special,
            detokenizer: Detokenizer::default(),
            stops: StopMatcher::new(&given.stop, given.include_stop),
            scope: StopScope::All,
            unstopped: least_tokens,
            decoded: 0,
            given: 0,
            spelt: Vec::new(),
            text: String::new(),
            waiting: VecDeque::new(),
        }
    }

    /// The same, with the spelling of these control tokens in the text.
    #[must_use]
    pub(super) fn spelling(mut self, tokens: Vec<u32>) -> Self {
        self.spelt = tokens;
        self
    }

    /// The same, with stop strings looked for in `scope`.
    #[must_use]
    pub(super) fn stopping(mut self, scope: StopScope) -> Self {
        self.scope = scope;
        self
    }

    /// Takes a token; true if its text completes a stop string, after which nothing may follow.
    pub(super) fn push(&mut self, token: &Token) -> bool {
        let described = describe(&self.tokenizer, token.id, token.logprobs.as_ref());
        self.waiting.push_back((described, self.decoded));
        let mut fresh = String::new();
        let vocabulary = self.tokenizer.vocabulary();
        let bytes = if self.spell_all || self.spelt.contains(&token.id) {
            vocabulary.bytes(token.id)
        } else {
            vocabulary.text_bytes(token.id)
        };
        self.detokenizer.push(bytes, &mut fresh);
        if self.unstopped > 0 {
            self.unstopped -= 1;
            self.decoded += fresh.len();
            if let StopScope::OutsideCalls(calls) = &mut self.scope {
                calls.push(&fresh, usize::MAX);
            }
            self.text.push_str(&fresh);
            return false;
        }
        self.read(&fresh)
    }

    /// Takes the stop token that ended the output. It has no text there.
    pub(super) fn push_end(&mut self, token: &Token) {
        let described = describe(&self.tokenizer, token.id, token.logprobs.as_ref());
        self.waiting.push_back((TokenDelta { is_end: true, ..described }, self.decoded));
    }

    /// The index of the stop string that was found, in the request's list.
    pub(super) fn stopped_by(&self) -> Option<usize> {
        self.stops.hit()
    }

    /// The text that was released since the last call, with its tokens.
    pub(super) fn take(&mut self) -> Option<TextDelta> {
        if self.text.is_empty() {
            return None;
        }
        let text = std::mem::take(&mut self.text);
        self.given += text.len();
        let mut tokens = Vec::new();
        while self.waiting.front().is_some_and(|(_, at)| *at < self.given) {
            tokens.extend(self.waiting.pop_front().map(|(token, _)| token));
        }
        Some(TextDelta { text, tokens, ..TextDelta::default() })
    }

    /// The rest, when the stream ended other than by a stop string: text held back, and tokens
    /// without any. The flag is true if what was held back completed a stop string after all
    /// (one that holds U+FFFD).
    pub(super) fn finish(&mut self) -> (Option<TextDelta>, bool) {
        let mut fresh = String::new();
        self.detokenizer.finish(&mut fresh);
        if self.read(&fresh) {
            return (self.take(), true);
        }
        self.stops.finish(&mut self.text);
        let mut delta = self.take().unwrap_or_default();
        delta.tokens.extend(self.waiting.drain(..).map(|(token, _)| token));
        let empty = delta.text.is_empty() && delta.tokens.is_empty();
        ((!empty).then_some(delta), false)
    }

    fn read(&mut self, fresh: &str) -> bool {
        self.decoded += fresh.len();
        let calls = match &mut self.scope {
            StopScope::OutsideCalls(calls) if !self.stops.is_idle() => calls,
            StopScope::All | StopScope::OutsideCalls(_) => {
                return self.stops.push(fresh, &mut self.text);
            }
            StopScope::None => {
                self.text.push_str(fresh);
                return false;
            }
        };
        // Cut where a call's block begins or ends, which may be within a token.
        let mut rest = fresh;
        while !rest.is_empty() {
            let within = calls.is_within();
            let change = rest.char_indices().find_map(|(at, c)| {
                calls.push(c.encode_utf8(&mut [0; 4]), usize::MAX);
                (calls.is_within() != within).then_some(at + c.len_utf8())
            });
            let (part, more) = rest.split_at(change.unwrap_or(rest.len()));
            rest = more;
            if within {
                self.stops.finish(&mut self.text);
                self.text.push_str(part);
            } else if self.stops.push(part, &mut self.text) {
                return true;
            }
        }
        false
    }

    /// Whose text it is.
    pub(super) fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }
}

/// A token as text.
pub(super) fn describe(
    tokenizer: &Tokenizer,
    id: u32,
    logprobs: Option<&TokenLogprobs>,
) -> TokenDelta {
    let bytes = |id: u32| tokenizer.vocabulary().bytes(id).to_vec();
    TokenDelta {
        id,
        bytes: bytes(id),
        is_end: false,
        logprobs: logprobs.map(|logprobs| Logprobs {
            chosen: logprobs.chosen,
            top: logprobs.top.iter().map(|&(id, logprob)| (id, bytes(id), logprob)).collect(),
        }),
    }
}

/// Turns a stream of bytes, cut anywhere, into the text that [`String::from_utf8_lossy`] makes of
/// the whole: each part is given out as soon as no later byte can change it.
#[derive(Debug, Clone, Default)]
struct Detokenizer {
    /// The beginning of a character whose end has not come: at most three bytes.
    tail: Vec<u8>,
}

impl Detokenizer {
    /// Takes `bytes` and appends the characters that they complete to `text`.
    fn push(&mut self, bytes: &[u8], text: &mut String) {
        let joined;
        let mut rest = if self.tail.is_empty() {
            bytes
        } else {
            self.tail.extend_from_slice(bytes);
            joined = std::mem::take(&mut self.tail);
            joined.as_slice()
        };
        loop {
            let error = match from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    return;
                }
                Err(error) => error,
            };
            let (valid, invalid) = rest.split_at(error.valid_up_to());
            text.push_str(&String::from_utf8_lossy(valid));
            let Some(length) = error.error_len() else {
                self.tail = invalid.to_vec();
                return;
            };
            text.push(char::REPLACEMENT_CHARACTER);
            rest = &invalid[length..];
        }
    }

    /// Ends the stream: a character left incomplete becomes U+FFFD.
    fn finish(&mut self, text: &mut String) {
        if !self.tail.is_empty() {
            self.tail.clear();
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

/// Searches text that arrives in pieces for stop strings, and holds back only what may be the
/// beginning of one.
///
/// The match that *ends* first wins, as it would if the text came character by character; of
/// those that end together, the longest. So the result does not depend on how the text is cut into
/// tokens, and no text waits for a match that could only come later.
#[derive(Debug, Clone)]
pub(super) struct StopMatcher {
    /// Shared by all answers to a request.
    patterns: Arc<[Pattern]>,
    /// How many bytes of each pattern have matched.
    matched: Vec<usize>,
    /// Whether the stop string itself is part of the output.
    included: bool,
    /// The stop string that was found.
    hit: Option<usize>,
    /// Text that is held back: the longest beginning of a stop string at its end.
    held: String,
}

/// A stop string, prepared for a search that reads each byte once (Knuth, Morris, Pratt).
#[derive(Debug)]
struct Pattern {
    /// Its index in the request's stop strings.
    place: usize,
    bytes: Vec<u8>,
    /// `borders[i]`: length of the longest proper prefix of the first `i + 1` bytes that is also
    /// their suffix.
    borders: Vec<usize>,
}

impl Pattern {
    fn new(place: usize, text: &str) -> Self {
        let bytes = text.as_bytes().to_vec();
        let mut borders = vec![0; bytes.len()];
        let mut length = 0;
        for index in 1..bytes.len() {
            while length > 0 && bytes[index] != bytes[length] {
                length = borders[length - 1];
            }
            if bytes[index] == bytes[length] {
                length += 1;
            }
            borders[index] = length;
        }
        Self { place, bytes, borders }
    }

    /// Advances from `matched` matched bytes by the text's next byte; true if it completes the stop
    /// string.
    fn advance(&self, matched: &mut usize, byte: u8) -> bool {
        while *matched > 0 && self.bytes[*matched] != byte {
            *matched = self.borders[*matched - 1];
        }
        if self.bytes[*matched] == byte {
            *matched += 1;
        }
        *matched == self.bytes.len()
    }
}

impl StopMatcher {
    /// Watches for `stops`. Empty strings are ignored: they would match anywhere.
    pub(super) fn new(stops: &[String], included: bool) -> Self {
        let patterns: Arc<[Pattern]> = stops
            .iter()
            .enumerate()
            .filter(|(_, stop)| !stop.is_empty())
            .map(|(place, stop)| Pattern::new(place, stop))
            .collect();
        Self {
            matched: vec![0; patterns.len()],
            patterns,
            hit: None,
            included,
            held: String::new(),
        }
    }

    /// Reads `text` and appends to `out` what can't be part of a stop string. Returns true if a
    /// stop string was found: nothing after it is appended, nor the stop string unless it is
    /// included.
    pub(super) fn push(&mut self, text: &str, out: &mut String) -> bool {
        if self.patterns.is_empty() {
            out.push_str(text);
            return false;
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (index, byte) in text.bytes().enumerate() {
            let mut stop_length = 0;
            for (pattern, matched) in self.patterns.iter().zip(&mut self.matched) {
                if pattern.advance(matched, byte) && pattern.bytes.len() > stop_length {
                    stop_length = pattern.bytes.len();
                    self.hit = Some(pattern.place);
                }
            }
            if stop_length > 0 {
                let end = before + index + 1;
                out.push_str(&self.held[..if self.included { end } else { end - stop_length }]);
                self.held.clear();
                self.matched.fill(0);
                return true;
            }
        }
        // A prefix of a stop string begins with a whole character, so this is a boundary.
        let keep = self.matched.iter().copied().max().unwrap_or(0);
        let given = self.held.len() - keep;
        out.push_str(&self.held[..given]);
        self.held.drain(..given);
        false
    }

    /// Whether there is nothing to look for.
    pub(super) fn is_idle(&self) -> bool {
        self.patterns.is_empty()
    }

    /// The index of the stop string that was found, in the request's list.
    pub(super) fn hit(&self) -> Option<usize> {
        self.hit
    }

    /// Ends the search, here or for good: releases what was held back.
    pub(super) fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
        self.matched.fill(0);
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
