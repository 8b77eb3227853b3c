//! The door of this layer: a request in, a stream of text out.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::error::{GenerateError, TextLoadError};
use super::generation::Generation;
use super::grammar::{FormHost, Grammars, Turn};
use super::prompt::PromptReader;
use super::request::{Constraint, Prompt, Request};
use super::{grammar, validate};
use crate::engine;
use crate::telemetry::{Metrics, Operation, TraceContext};

/// Tokens whose texts are looked up in well below a millisecond.
const FEW_TOKENS: usize = 2048;

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
    /// Where forms are compiled and followed.
    pub forms: Arc<dyn FormHost>,
}

/// Turns requests into text. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Generator {
    pub(super) engine: engine::Handle,
    pub(super) reader: Arc<PromptReader>,
    pub(super) grammars: Arc<Grammars>,
    pub(super) options: Arc<GeneratorOptions>,
    pub(super) metrics: Option<Metrics>,
    pub(super) trace: Option<(TraceContext, Operation)>,
}

impl Generator {
    /// Loads the tokenizer and chat template of the model folder `folder`.
    ///
    /// # Errors
    /// If a file is missing or is not what this program can use, or if the tokenizer is not the
    /// model's.
    pub fn load(
        folder: &Path,
        engine: engine::Handle,
        options: GeneratorOptions,
    ) -> Result<Self, TextLoadError> {
        let reader = PromptReader::load(folder, options.bos_token_id)?;
        let vocab_size = engine.limits().vocab_size;
        let known = reader.tokenizer().vocabulary().len();
        if known > vocab_size {
            return Err(TextLoadError::Invalid {
                path: folder.join("tokenizer.json"),
                reason: format!(
                    "it has token id {}, but the model's vocabulary has {vocab_size} tokens; \
                     expected the tokenizer of the same model",
                    known - 1
                ),
            });
        }
        let ends = options.eos_token_ids.iter().chain([&options.bos_token_id]);
        if let Some(id) = ends.copied().find(|&id| id as usize >= vocab_size) {
            return Err(TextLoadError::Invalid {
                path: folder.join("genai_config.json"),
                reason: format!(
                    "bos_token_id or eos_token_id is {id}; expected token ids below the model's \
                     vocabulary size of {vocab_size}"
                ),
            });
        }
        let tokenizer = Arc::clone(reader.tokenizer());
        Ok(Self {
            engine,
            grammars: Arc::new(Grammars::new(
                tokenizer,
                options.eos_token_ids.clone(),
                Arc::clone(&options.forms),
            )),
            reader: Arc::new(reader),
            options: Arc::new(options),
            metrics: None,
            trace: None,
        })
    }

    /// The same, with the times of its answers taken by `metrics`.
    #[must_use]
    pub fn timed_by(mut self, metrics: Metrics) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// The same, for the answers to one request: their spans are parts of `trace`.
    #[must_use]
    pub fn within(&self, trace: Option<(TraceContext, Operation)>) -> Self {
        Self { trace, ..self.clone() }
    }

    /// Checks a request, tokenises it and queues it.
    ///
    /// # Errors
    /// Every fault of the request, found before it takes a place in any queue; or a full queue.
    pub async fn start(&self, request: Request) -> Result<Generation, GenerateError> {
        let parameters = Arc::new(request.parameters);
        validate::prompt(&request.prompt, self.engine.limits().vocab_size)?;
        let shared = self.check(&parameters, request.caller).await?;
        let prompt = self.read_prompt(request.prompt, &parameters, &shared).await?;
        self.launch(&shared, &prompt, 0).await
    }

    /// What may answer `prompt`, where the request wants `given` of it.
    pub(super) fn turn(
        &self,
        prompt: &Prompt,
        given: Option<&Constraint>,
    ) -> Result<Turn, GenerateError> {
        given.map_or(Ok(()), grammar::check)?;
        match prompt {
            Prompt::Chat(chat) => Turn::of_chat(chat, self.reader.dialect(), given),
            _ => Ok(Turn { constraint: given.cloned(), parts: Vec::new() }),
        }
    }

    /// The token ids that `prompt` is read as, without running it.
    ///
    /// # Errors
    /// As [`Self::start`], but for the parameters, the context's size and the queue.
    pub async fn tokenize(&self, prompt: Prompt) -> Result<Vec<u32>, GenerateError> {
        validate::prompt(&prompt, self.engine.limits().vocab_size)?;
        self.reader.read(prompt, usize::MAX, None).await
    }

    /// Does `work` on so many `tokens`: here if they are few, else in a worker's turn, away from the
    /// async threads.
    ///
    /// # Errors
    /// If no turn comes in time.
    pub async fn aside<T: Send + 'static>(
        &self,
        tokens: usize,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, GenerateError> {
        if tokens <= FEW_TOKENS {
            return Ok(work(self));
        }
        let generator = self.clone();
        self.reader.aside(None, move |_| Ok(work(&generator))).await
    }

    /// The text that token ids stand for, as [`Self::spell`].
    ///
    /// # Errors
    /// If the model has no such token; the field is `tokens`.
    pub fn detokenize(&self, ids: &[u32]) -> Result<String, GenerateError> {
        validate::token_ids("tokens", ids.iter().copied(), self.engine.limits().vocab_size)?;
        Ok(self.spell(ids))
    }

    /// A token's bytes; a control token's spelling.
    #[must_use]
    pub fn piece(&self, id: u32) -> Vec<u8> {
        self.reader.tokenizer().vocabulary().bytes(id).to_vec()
    }

    /// The requests in the engine, as numbers; `None` if it has ended.
    pub async fn look(&self) -> Option<Vec<engine::Live>> {
        self.engine.look().await
    }

    /// The model's limits.
    #[must_use]
    pub fn limits(&self) -> &engine::ModelLimits {
        self.engine.limits()
    }

    /// The text that token ids stand for, control tokens spelt out. A character that they cut is
    /// U+FFFD.
    #[must_use]
    pub fn spell(&self, ids: &[u32]) -> String {
        self.reader.tokenizer().vocabulary().spell(ids)
    }

    /// The engine's counters now.
    #[must_use]
    pub fn stats(&self) -> engine::Stats {
        self.engine.stats()
    }

    /// Whether requests are taken: the engine lives and does not drain.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.engine.has_crashed() && !self.engine.is_draining()
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
