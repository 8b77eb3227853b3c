//! The door of this layer: a request in, a stream of text out.

use std::path::Path;
use std::time::Duration;

use super::error::{GenerateError, TextLoadError};
use super::request::{Delta, Finished, Request, TokenDelta};
use crate::engine;

/// Fixed choices of a [`Generator`].
#[derive(Debug, Clone)]
pub struct GeneratorOptions {
    /// Tokens that end the model's turn (genai_config.json's `eos_token_id`).
    pub eos_token_ids: Vec<u32>,
    /// Token that stands for an empty prompt (genai_config.json's `bos_token_id`).
    pub bos_token_id: u32,
    /// Temperature of requests that give none.
    pub default_temperature: f32,
    /// `top_p` of requests that give none.
    pub default_top_p: f32,
    /// The longest a request may take, and the time of requests that give none; `None` is no limit.
    pub request_timeout: Option<Duration>,
}

/// Turns requests into text. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Generator {
    engine: engine::Handle,
}

impl Generator {
    /// Loads the tokenizer and chat template of the model folder `folder`.
    ///
    /// # Errors
    /// If a file is missing or is not what this program can use.
    pub fn load(
        _folder: &Path,
        _engine: engine::Handle,
        _options: GeneratorOptions,
    ) -> Result<Self, TextLoadError> {
        unimplemented!()
    }

    /// Checks a request, tokenises it and queues it.
    ///
    /// # Errors
    /// Every fault of the request, found before it takes a place in any queue; or a full queue.
    pub async fn start(&self, _request: Request) -> Result<Generation, GenerateError> {
        unimplemented!()
    }

    /// The engine's counters now.
    #[must_use]
    pub fn stats(&self) -> engine::Stats {
        self.engine.stats()
    }
}

/// An answer in the making. Dropping it cancels the work within one step.
#[derive(Debug)]
pub struct Generation {}

/// A whole answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// The tokens it was made from.
    pub tokens: Vec<TokenDelta>,
    /// How it ended.
    pub finished: Finished,
}

impl Generation {
    /// Tokens in the prompt.
    #[must_use]
    pub fn prompt_tokens(&self) -> usize {
        unimplemented!()
    }

    /// The next piece; `None` after the last. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Delta, GenerateError>> {
        unimplemented!()
    }

    /// Waits for the whole answer.
    ///
    /// # Errors
    /// If the engine failed before the end.
    pub async fn collect(self) -> Result<Answer, GenerateError> {
        unimplemented!()
    }
}
