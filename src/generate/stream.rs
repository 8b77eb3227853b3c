//! The engine's tokens to pieces of text.

use std::collections::VecDeque;
use std::sync::Arc;

use super::detokenize::Detokenizer;
use super::request::{Logprobs, Parameters, TextDelta, TokenDelta};
use super::stop::StopMatcher;
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

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
