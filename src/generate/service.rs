//! The door of this layer: a request in, a stream of text out.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::error::{GenerateError, TextLoadError};
use super::generation::Generation;
use super::grammar::{FormHost, Grammars, Turn};
use super::prompt::PromptReader;
use super::reading::Reading;
use super::request::{Constraint, Prompt, Request, Side};
use super::stream::TextStream;
use super::{grammar, validate, words};
use crate::engine::{self, Job};
use crate::telemetry::{Metrics, Operation, TraceContext};

/// Events of one request that wait for its reader. When full, the engine does not step the
/// sequence until there is room again, and gives it up if that takes too long.
const EVENTS: usize = 64;

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
    engine: engine::Handle,
    reader: Arc<PromptReader>,
    grammars: Arc<Grammars>,
    options: Arc<GeneratorOptions>,
    metrics: Option<Metrics>,
    trace: Option<(TraceContext, Operation)>,
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
        let arrived = std::time::Instant::now();
        let limits = self.engine.limits();
        let parameters = &request.parameters;
        validate::prompt(&request.prompt, limits.vocab_size)?;
        let mut checked = validate::parameters(parameters, &self.options, limits.vocab_size)?;
        words::resolve(parameters, self.reader.tokenizer(), &mut checked.sampling)?;
        if checked.prompt_logprobs.is_some() && !limits.many_rows {
            let value = "a number, but the model's graph gives logits for one position only";
            return Err(validate::invalid("prompt_logprobs", value, "null with this model"));
        }
        let reading = Reading::of(&request.prompt);
        let turn = self.turn(&request.prompt, parameters.constraint.as_ref())?;
        grammar::check_company(parameters, turn.constraint.as_ref())?;
        reading.check_company(parameters)?;
        let deadline = checked.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let longest = match parameters.truncate_prompt_tokens {
            None => limits.context_tokens,
            Some(_) => usize::MAX,
        };
        let mut prompt = self.reader.read(request.prompt, longest, deadline).await?;
        if let Some(most) = parameters.truncate_prompt_tokens {
            let fits = limits.context_tokens.saturating_sub(1);
            let most = usize::try_from(most).unwrap_or(fits).min(fits);
            truncate(&mut prompt, most, parameters.truncation_side);
        }
        let max_tokens = validate::room(prompt.len(), limits.context_tokens, checked.max_tokens)?;
        let mask = self.grammars.mask_of_turn(&turn, request.caller, deadline).await?;
        let tokenizer = self.reader.tokenizer();
        let mask = reading.budgeted(mask, tokenizer, &prompt, limits.vocab_size);
        let answer = reading.reader(tokenizer, &prompt);
        let prompt_tokens = prompt.len();
        let prompt_ids: Arc<[u32]> = prompt.as_slice().into();
        let least_tokens = checked.sampling.min_tokens;
        let (sender, events) = mpsc::channel(EVENTS);
        self.engine.submit(Job {
            caller: request.caller,
            priority: parameters.priority.saturating_neg(),
            cache_scope: parameters.cache_salt.as_deref().map_or(0, cache_scope),
            prompt,
            sampling: checked.sampling,
            mask,
            prompt_logprobs: checked.prompt_logprobs,
            max_tokens,
            stop_tokens: checked.stop_tokens,
            deadline: deadline.map(Instant::into_std),
            events: sender,
        })?;
        let text = TextStream::new(Arc::clone(tokenizer), parameters, least_tokens)
            .spelling(reading.spelt(tokenizer));
        let timer = |metrics: &Metrics| metrics.request(arrived, prompt_tokens).traced(self.trace);
        let timer = self.metrics.as_ref().map(timer);
        let generation = Generation::new(events, prompt_ids, text, answer, timer);
        Ok(generation.telling_prompt(checked.prompt_logprobs.is_some()))
    }

    /// What may answer `prompt`, where the request wants `given` of it.
    fn turn(&self, prompt: &Prompt, given: Option<&Constraint>) -> Result<Turn, GenerateError> {
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

/// Cuts a prompt to its last or first `most` tokens.
fn truncate(prompt: &mut Vec<u32>, most: usize, side: Side) {
    match side {
        Side::Right => prompt.truncate(most),
        Side::Left => drop(prompt.drain(..prompt.len().saturating_sub(most))),
    }
}

/// The scope of a salt: equal over restarts, since cached prefixes are kept with it; never the
/// common scope.
fn cache_scope(salt: &str) -> u64 {
    let hash = blake3::hash(salt.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    u64::from_le_bytes(first).max(1)
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
