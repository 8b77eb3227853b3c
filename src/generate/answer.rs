//! A complete answer, assembled from its pieces.

use super::request::{Finished, PromptToken, TextDelta, TokenDelta};
use super::tools::ToolCall;

/// A complete answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// The model's reasoning, if it was separated; else empty.
    pub reasoning: String,
    /// Its tool calls.
    pub calls: Vec<ToolCall>,
    /// The tokens it was made from.
    pub tokens: Vec<TokenDelta>,
    /// The prompt's tokens, if their log-probabilities were asked for; else empty.
    pub prompt: Vec<PromptToken>,
    /// How it ended.
    pub finished: Finished,
}

/// The pieces of an answer so far.
#[derive(Debug, Default)]
pub(super) struct Parts {
    text: String,
    reasoning: String,
    calls: Vec<ToolCall>,
    tokens: Vec<TokenDelta>,
}

impl Parts {
    /// Adds the next piece.
    pub(super) fn add(&mut self, delta: TextDelta) {
        self.text.push_str(&delta.text);
        self.reasoning.push_str(&delta.reasoning);
        self.tokens.extend(delta.tokens);
        let Some(piece) = delta.call else { return };
        if let Some(begun) = piece.begun {
            let call = ToolCall { id: begun.id, name: begun.name, arguments: String::new() };
            self.calls.push(call);
        }
        if let Some(call) = self.calls.get_mut(piece.index) {
            call.arguments.push_str(&piece.arguments);
        }
    }

    /// The answer to `prompt`, which ended so.
    pub(super) fn into_answer(self, prompt: Vec<PromptToken>, finished: Finished) -> Answer {
        let Self { text, reasoning, calls, tokens } = self;
        Answer { text, reasoning, calls, tokens, prompt, finished }
    }
}
