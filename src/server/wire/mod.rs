//! The API's JSON, as serde shapes, and its conversion from and to `generate`'s types. Nothing
//! outside the server sees these.

pub(super) mod anthropic;
mod bounds;
pub(super) mod chat;
pub(super) mod common;
pub(super) mod completions;
pub(super) mod embeddings;
pub(super) mod error;
mod form;
pub(super) mod gbnf;
mod known;
pub(super) mod llama;
pub(super) mod loading;
pub(super) mod logprobs;
mod messages;
pub(super) mod models;
pub(super) mod ollama;
mod parameters;
mod reasoning;
pub(super) mod responses;
#[cfg(test)]
mod schemas;
pub(super) mod slots;
#[cfg(test)]
mod tests;
mod texts;
pub(super) mod timings;
pub(super) mod tokens;
mod tools;

use self::common::Delivery;
use super::served::Asks;
use phi4d_generate::{Prompt, Request};

/// A request of a generating endpoint: what is to be generated, and how the answer is sent.
#[derive(Debug)]
pub(super) struct Parsed {
    /// The model that the client names.
    pub(super) model: Option<String>,
    pub(super) request: Request,
    pub(super) delivery: Delivery,
    /// Names of fields that nobody read. The answer reports them in a header.
    pub(super) ignored: Vec<String>,
}

impl Parsed {
    /// What it says of its model.
    pub(super) fn asks(&self) -> Asks<'_> {
        let (model, timeout) = (self.model.as_deref(), self.request.parameters.timeout);
        Asks { model, timeout, ..Asks::default() }
    }

    /// The prompt alone, of a surface whose requests have one.
    #[expect(clippy::expect_used, reason = "every surface's parser puts a prompt in")]
    pub(super) fn into_prompt(self) -> Prompt {
        self.request.prompts.into_iter().next().expect("a request has at least one prompt")
    }
}
