//! Separates an answer's text into reasoning, text and tool calls.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::budget::ReasoningBudget;
use super::error::{GenerateError, invalid};
use super::reasoning::{self, ReasoningReader, Said};
use super::request::{Parameters, Prompt, TextDelta, TokenDelta};
use super::stream::StopScope;
use super::tokenizer::Tokenizer;
use super::tools::parse::{self, CallReader, Piece};
use super::tools::{CallDelta, CallStart};
use phi4d_engine::TokenMask;

/// Tokens at a prompt's end that are searched for the tag that opens reasoning.
const TAIL: usize = 16;

/// What is separated in the answer to a prompt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Reading {
    /// Whether reasoning is.
    reasoning: bool,
    /// The tools whose calls are.
    names: Vec<String>,
    /// At most one call is wanted.
    single: bool,
    /// The answer is calls and nothing else.
    forced: bool,
    /// Most tokens of reasoning.
    budget: Option<u64>,
}

impl Reading {
    /// For the answer to `prompt`. Only answers in conversations have anything to separate.
    pub(super) fn of(prompt: &Prompt) -> Self {
        let Prompt::Chat(chat) = prompt else { return Self::default() };
        Self {
            reasoning: !chat.reasoning.in_text,
            names: chat.tools.offered().iter().map(|tool| tool.name.clone()).collect(),
            single: chat.tools.single,
            forced: chat.tools.is_forced(),
            budget: chat.reasoning.budget,
        }
    }

    /// Refuses parameters that may forbid the tokens which end reasoning.
    pub(super) fn check_compatible(&self, given: &Parameters) -> Result<(), GenerateError> {
        let others = [
            ("bad_words", !given.bad_words.is_empty()),
            ("allowed_token_ids", given.allowed_token_ids.is_some()),
        ];
        match others.iter().find(|(_, given)| *given) {
            Some((field, _)) if self.budget.is_some() => {
                let value = "a value beside a budget of reasoning tokens";
                let accepted = "none with thinking_token_budget or reasoning_effort";
                Err(invalid(*field, value, accepted))
            }
            _ => Ok(()),
        }
    }

    /// `mask` with the budget of reasoning tokens around it, if there is one.
    pub(super) fn budgeted(
        &self,
        mask: Option<Box<dyn TokenMask>>,
        tokenizer: &Arc<Tokenizer>,
        prompt: &[u32],
        vocab_size: usize,
    ) -> Option<Box<dyn TokenMask>> {
        let Some(most) = self.budget else { return mask };
        let opened = opens_reasoning(tokenizer, prompt);
        let tokenizer = Arc::clone(tokenizer);
        Some(Box::new(ReasoningBudget::new(tokenizer, mask, most, opened, vocab_size)))
    }

    /// The tags' tokens, if they are control tokens: these must yield their text to be found.
    pub(super) fn spelt(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let tags = |tag: &str| {
            (self.reasoning && reasoning::TAGS.contains(&tag))
                || (!self.names.is_empty() && parse::TAGS.contains(&tag))
        };
        let added = tokenizer.added().iter();
        added.filter(|token| tags(&token.content)).map(|token| token.id).collect()
    }

    /// Where stop strings end the answer. A call that they cut could not be used.
    pub(super) fn stops(&self) -> StopScope {
        match self.names.is_empty() {
            true => StopScope::All,
            false if self.forced => StopScope::None,
            false => StopScope::OutsideCalls(Box::new(CallReader::new(self.names.clone()))),
        }
    }

    /// The reader of the answer to a prompt of these tokens.
    pub(super) fn reader(&self, tokenizer: &Tokenizer, prompt: &[u32]) -> AnswerReader {
        let reasoning =
            self.reasoning.then(|| ReasoningReader::new(opens_reasoning(tokenizer, prompt)));
        let calls = (!self.names.is_empty()).then(|| CallReader::new(self.names.clone()));
        AnswerReader { forced: self.forced, ..AnswerReader::new(reasoning, calls, self.single) }
    }
}

/// Whether a prompt opens reasoning for the model, as some templates do.
fn opens_reasoning(tokenizer: &Tokenizer, prompt: &[u32]) -> bool {
    let last = &prompt[prompt.len().saturating_sub(TAIL)..];
    tokenizer.vocabulary().spell(last).trim_end().ends_with(reasoning::OPENER)
}

/// Reads one answer.
#[derive(Debug)]
pub(super) struct AnswerReader {
    reasoning: Option<ReasoningReader>,
    calls: Option<CallReader>,
    /// Most calls in the answer.
    most: usize,
    /// There is no text beside the calls: what is left of a cut answer is the beginning of one.
    forced: bool,
    /// Tokens whose text is held back.
    tokens: Vec<TokenDelta>,
    /// Tokens so far that count as reasoning if a tag opens it.
    opening: usize,
    reasoning_tokens: usize,
    given_calls: usize,
    ready: VecDeque<TextDelta>,
}

impl AnswerReader {
    /// Separates what it is given a reader for.
    pub(super) fn new(
        reasoning: Option<ReasoningReader>,
        calls: Option<CallReader>,
        single: bool,
    ) -> Self {
        Self {
            reasoning,
            calls,
            most: if single { 1 } else { usize::MAX },
            forced: false,
            tokens: Vec::new(),
            opening: 0,
            reasoning_tokens: 0,
            given_calls: 0,
            ready: VecDeque::new(),
        }
    }

    /// Tokens of reasoning so far.
    pub(super) fn reasoning_tokens(&self) -> usize {
        self.reasoning_tokens
    }

    /// Whether a call has begun.
    pub(super) fn has_calls(&self) -> bool {
        self.calls.as_ref().is_some_and(|calls| calls.begun() > 0)
    }

    /// Whether the answer has as many calls as it may have, so that it can end.
    pub(super) fn is_full(&self) -> bool {
        self.calls.as_ref().is_some_and(|calls| calls.ended() >= self.most)
    }

    /// Reads more of the answer.
    pub(super) fn read(&mut self, delta: TextDelta) {
        let count = delta.tokens.len();
        self.tokens.extend(delta.tokens);
        let Some(reasoning) = &mut self.reasoning else {
            return self.take(Said::Text(delta.text));
        };
        let (at_start, open) = (reasoning.is_at_start(), reasoning.is_open());
        let said = reasoning.push(&delta.text);
        if open {
            self.reasoning_tokens += count;
        } else if at_start {
            self.opening += count;
            if reasoning.has_reasoning() {
                self.reasoning_tokens += self.opening;
            }
        }
        said.into_iter().for_each(|said| self.take(said));
    }

    /// The end of the answer, which may have been `cut`: releases what was held back.
    pub(super) fn finish(&mut self, cut: bool) {
        if let Some(said) = self.reasoning.as_mut().and_then(ReasoningReader::finish) {
            self.take(said);
        }
        if !self.is_full()
            && let Some(calls) = &mut self.calls
        {
            let mut pieces = calls.finish(cut);
            if cut && self.forced {
                pieces.retain(|piece| !matches!(piece, Piece::Text(_)));
            }
            self.give_pieces(pieces);
        }
        if !self.tokens.is_empty() {
            self.give(TextDelta::default());
        }
    }

    /// What was read since the last call, in order.
    pub(super) fn take_ready(&mut self) -> impl Iterator<Item = TextDelta> {
        self.ready.drain(..)
    }

    fn take(&mut self, said: Said) {
        match (said, &mut self.calls) {
            (Said::Reasoning(reasoning), _) => {
                self.give(TextDelta { reasoning, ..TextDelta::default() });
            }
            (Said::Text(text), None) => self.give(TextDelta { text, ..TextDelta::default() }),
            (Said::Text(text), Some(calls)) => {
                let pieces = calls.push(&text, self.most);
                self.give_pieces(pieces);
            }
        }
    }

    fn give_pieces(&mut self, pieces: Vec<Piece>) {
        for piece in pieces {
            let delta = match piece {
                Piece::Text(text) => TextDelta { text, ..TextDelta::default() },
                Piece::Call(name) => {
                    let index = self.given_calls;
                    self.given_calls += 1;
                    let begun = Some(CallStart { id: call_id(), name });
                    of_call(CallDelta { index, begun, arguments: String::new() })
                }
                Piece::Arguments(arguments) => {
                    let index = self.given_calls.saturating_sub(1);
                    of_call(CallDelta { index, begun: None, arguments })
                }
            };
            self.give(delta);
        }
    }

    /// Adds a piece with the waiting tokens: to the last piece if it continues that, else after it.
    fn give(&mut self, mut delta: TextDelta) {
        delta.tokens = std::mem::take(&mut self.tokens);
        match self.ready.back_mut() {
            Some(last) if goes_on(last, &delta) => {
                last.text.push_str(&delta.text);
                last.reasoning.push_str(&delta.reasoning);
                last.tokens.extend(delta.tokens);
                if let (Some(last), Some(more)) = (&mut last.call, delta.call) {
                    last.arguments.push_str(&more.arguments);
                }
            }
            _ => self.ready.push_back(delta),
        }
    }
}

/// Whether `more` is of the same kind as `last`, so that both can be one piece.
fn goes_on(last: &TextDelta, more: &TextDelta) -> bool {
    match (&last.call, &more.call) {
        (None, None) => last.reasoning.is_empty() == more.reasoning.is_empty(),
        (Some(last), Some(more)) => last.begun.is_none() && more.begun.is_none(),
        _ => false,
    }
}

fn of_call(piece: CallDelta) -> TextDelta {
    TextDelta { call: Some(piece), ..TextDelta::default() }
}

/// A name that no other call has. The standard library's hasher keys are random enough for that.
fn call_id() -> String {
    let draw = |salt: u8| RandomState::new().hash_one(salt);
    format!("call_{:016x}{:08x}", draw(0), draw(1) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: u32) -> TokenDelta {
        TokenDelta { id, bytes: Vec::new(), logprobs: None, is_end: false }
    }

    /// Reads one token for each text.
    fn read(reader: &mut AnswerReader, texts: &[&str]) -> Vec<TextDelta> {
        for (id, text) in (0..).zip(texts) {
            let tokens = vec![token(id)];
            reader.read(TextDelta { text: (*text).to_owned(), tokens, ..TextDelta::default() });
        }
        reader.finish(false);
        reader.take_ready().collect()
    }

    fn all() -> AnswerReader {
        let calls = CallReader::new(vec!["f".to_owned()]);
        AnswerReader::new(Some(ReasoningReader::new(false)), Some(calls), false)
    }

    #[test]
    fn reasoning_text_and_calls_come_in_order_with_all_tokens() {
        let mut reader = all();
        let deltas = read(
            &mut reader,
            &[
                "<th",
                "ink>",
                "hm",
                "m",
                "</think>",
                "I ",
                "look",
                "<tool_call>{\"name\"",
                ": \"f\", \"arguments\": {",
                "}}",
                "<tool_call>{\"name\": \"f\"}",
            ],
        );
        let ids: Vec<u32> = deltas.iter().flat_map(|d| &d.tokens).map(|t| t.id).collect();
        assert_eq!(ids, (0..11).collect::<Vec<_>>());
        assert_eq!(reader.reasoning_tokens(), 5);
        assert!(reader.has_calls() && !reader.is_full());
        let [reasoning, text, first, arguments, second, none] = deltas.as_slice() else {
            panic!("{deltas:?}")
        };
        assert_eq!((reasoning.reasoning.as_str(), text.text.as_str()), ("hmm", "I look"));
        let begun = |delta: &TextDelta| {
            let call = delta.call.clone().unwrap();
            assert_eq!(call.arguments, "");
            (call.index, call.begun.unwrap())
        };
        let ((0, first), (1, second)) = (begun(first), begun(second)) else { panic!("{deltas:?}") };
        assert_eq!((first.name.as_str(), second.name.as_str()), ("f", "f"));
        assert!(first.id.starts_with("call_") && first.id != second.id);
        let rest = |arguments: &str, index| {
            Some(CallDelta { index, begun: None, arguments: arguments.to_owned() })
        };
        assert_eq!((&arguments.call, &none.call), (&rest("{}", 0), &rest("{}", 1)));
    }

    #[test]
    fn tokens_without_text_come_at_the_end() {
        let deltas = read(&mut all(), &["a", "", ""]);
        assert_eq!(deltas.len(), 1);
        assert_eq!(deltas[0].tokens.len(), 3);
    }

    #[test]
    fn one_call_is_enough_where_one_is_wanted() {
        let calls = CallReader::new(vec!["f".to_owned()]);
        let mut reader = AnswerReader::new(None, Some(calls), true);
        let text = "functools[{\"name\": \"f\"}, {\"name\": \"f\"}]".to_owned();
        reader.read(TextDelta { text, ..TextDelta::default() });
        assert!(reader.is_full());
        reader.finish(false);
        assert_eq!(reader.take_ready().count(), 2);
    }
}
