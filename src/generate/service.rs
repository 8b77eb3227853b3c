//! The door of this layer: a request in, a stream of text out.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::answer::{Answer, Parts};
use super::error::{GenerateError, TextLoadError};
use super::grammar::Grammars;
use super::prompt::PromptReader;
use super::request::{Delta, Finish, Finished, Prompt, PromptToken, Request, Side, Usage};
use super::stream::TextStream;
use super::{grammar, validate, words};
use crate::engine::{self, Event, FinishReason, Job, PromptLogprobs};
use crate::telemetry::{Ending, Metrics, Operation, RequestTimer, TraceContext};

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
            grammars: Arc::new(Grammars::new(tokenizer, options.eos_token_ids.clone())),
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
        grammar::check_company(parameters)?;
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
        let mask = match &parameters.constraint {
            Some(constraint) => Some(self.grammars.mask(constraint, deadline).await?),
            None => None,
        };
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
        let tokenizer = Arc::clone(self.reader.tokenizer());
        Ok(Generation {
            events: Some(events),
            prompt_ids,
            prompt_logprobs: checked.prompt_logprobs.map(|_| Vec::new()),
            text: TextStream::new(tokenizer, &parameters.stop, least_tokens),
            usage: Usage { prompt_tokens, ..Usage::default() },
            ready: VecDeque::new(),
            timer: self
                .metrics
                .as_ref()
                .map(|metrics| metrics.request(arrived, prompt_tokens).traced(self.trace)),
        })
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
        let vocabulary = self.reader.tokenizer().vocabulary();
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| vocabulary.bytes(id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
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

/// An answer in the making. Dropping it cancels the work within one step.
#[derive(Debug)]
pub struct Generation {
    /// `None` once the answer has ended.
    events: Option<mpsc::Receiver<Event>>,
    prompt_ids: Arc<[u32]>,
    /// Of the prompt's tokens from the second on, if they are asked for.
    prompt_logprobs: Option<Vec<PromptLogprobs>>,
    text: TextStream,
    usage: Usage,
    /// What the last events came to: some text, and the end.
    ready: VecDeque<Result<Delta, GenerateError>>,
    timer: Option<RequestTimer>,
}

impl Generation {
    /// Tokens in the prompt.
    #[must_use]
    pub fn prompt_tokens(&self) -> usize {
        self.usage.prompt_tokens
    }

    /// The next piece; `None` after the last. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Delta, GenerateError>> {
        loop {
            if let Some(delta) = self.ready.pop_front() {
                return Some(delta);
            }
            match self.events.as_mut()?.recv().await {
                Some(event) => self.take_with_all_ready(event),
                None => self.end(Err(GenerateError::EngineGone)),
            }
        }
    }

    /// What it took so far.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// The prompt's token ids.
    #[must_use]
    pub fn prompt_ids(&self) -> &[u32] {
        &self.prompt_ids
    }

    /// The prompt's tokens with their log-probabilities, once it has been read; empty where they
    /// were not asked for.
    pub(super) fn described_prompt(&self) -> Vec<PromptToken> {
        let Some(known) = &self.prompt_logprobs else { return Vec::new() };
        let known = std::iter::once(None).chain(known.iter().map(Some));
        let token = |(&id, known): (&u32, Option<&PromptLogprobs>)| PromptToken {
            token: self.text.describe(id, known.map(|known| &known.logprobs)),
            rank: known.map_or(0, |known| known.rank),
        };
        self.prompt_ids.iter().zip(known).map(token).collect()
    }

    /// Waits until the prompt is in the KV cache: the first token has been made, or none will be.
    pub(super) async fn prompt_read(&mut self) {
        while self.usage.completion_tokens == 0 && self.ready.is_empty() {
            let Some(events) = &mut self.events else { return };
            match events.recv().await {
                Some(event) => self.take(event),
                None => self.end(Err(GenerateError::EngineGone)),
            }
        }
    }

    /// Waits for the whole answer.
    ///
    /// # Errors
    /// If the engine failed before the end.
    pub async fn collect(mut self) -> Result<Answer, GenerateError> {
        let mut whole = Parts::default();
        while let Some(delta) = self.next().await {
            match delta? {
                Delta::Text(part) => whole.add(part),
                Delta::Finished(finished) => {
                    return Ok(whole.into_answer(self.described_prompt(), finished));
                }
            }
        }
        Err(GenerateError::EngineGone)
    }

    /// Takes an event and those that wait behind it: a slow reader gets fewer, longer pieces.
    fn take_with_all_ready(&mut self, event: Event) {
        self.take(event);
        while let Some(event) = self.events.as_mut().and_then(|e| e.try_recv().ok()) {
            self.take(event);
        }
        // After the end, `end` has given out what there was.
        if self.events.is_some() {
            self.ready.extend(self.text.take().map(|text| Ok(Delta::Text(text))));
        }
    }

    fn take(&mut self, event: Event) {
        if let Some(timer) = &mut self.timer {
            match &event {
                Event::Started { cached_tokens } => {
                    timer.started(*cached_tokens, std::time::Instant::now());
                }
                Event::Token(_) => timer.token(std::time::Instant::now()),
                Event::Prompt(_) | Event::Finished(_) | Event::Failed(_) => {}
            }
        }
        match event {
            Event::Started { cached_tokens } => self.usage.cached_tokens = cached_tokens,
            Event::Prompt(tokens) => self.prompt_logprobs.get_or_insert_default().extend(tokens),
            Event::Token(token) => {
                self.usage.completion_tokens += 1;
                if self.text.push(&token) {
                    self.ready.extend(self.text.take().map(|text| Ok(Delta::Text(text))));
                    self.end(Ok(Finish::Stop));
                }
            }
            Event::Finished(reason) => {
                let reason = match reason {
                    FinishReason::StopToken(_) => {
                        self.usage.completion_tokens += 1;
                        Finish::Stop
                    }
                    FinishReason::Complete => Finish::Stop,
                    FinishReason::Length => Finish::Length,
                };
                let (rest, stopped) = self.text.finish();
                self.ready.extend(rest.map(|text| Ok(Delta::Text(text))));
                self.end(Ok(if stopped { Finish::Stop } else { reason }));
            }
            Event::Failed(error) => {
                self.ready.extend(self.text.take().map(|text| Ok(Delta::Text(text))));
                self.end(Err(error.into()));
            }
        }
    }

    /// Closes the channel, by which the engine learns of the end if it does not know yet.
    fn end(&mut self, how: Result<Finish, GenerateError>) {
        self.events = None;
        if let Some(timer) = &mut self.timer {
            let ending = match &how {
                Ok(Finish::Length) => Ending::Length,
                Ok(_) => Ending::Stop,
                Err(_) => Ending::Error,
            };
            timer.ended(ending, self.usage.completion_tokens, std::time::Instant::now());
        }
        self.ready
            .push_back(how.map(|reason| Delta::Finished(Finished { reason, usage: self.usage })));
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
