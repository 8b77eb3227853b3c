//! The door of this layer: a request in, a stream of text out.

use std::path::Path;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::error::{GenerateError, TextLoadError, invalid};
use super::generation::Generation;
use super::grammar::Grammars;
use super::options::GeneratorOptions;
use super::pool::Pool;
use super::preparation::{MOST_TOKENS, Place, Plan, Preparer, Ready, is_large};
use super::prompt::PromptReader;
use super::request::Prompt;
#[cfg(test)]
use super::request::Request;
use super::tokenizer::Tokenizer;
use super::validate;
use phi4d_engine::{self as engine, CallerId, Job};
use phi4d_telemetry::{Metrics, Operation, TraceContext};

/// Events of one request that wait for its reader. When full, the engine does not step the
/// sequence until there is room again, and gives it up if that takes too long.
const EVENTS: usize = 64;

/// Turns requests into text. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Generator {
    engine: engine::Handle,
    pub(super) preparer: Arc<Preparer>,
    grammars: Arc<Grammars>,
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
        let ends = options.eos_token_ids.clone();
        let grammars = Arc::new(Grammars::new(tokenizer, ends, Arc::clone(&options.forms)));
        let preparer = Preparer {
            reader: Arc::new(reader),
            options,
            limits: engine.limits().clone(),
            pool: Arc::new(Pool::start().map_err(TextLoadError::Threads)?),
        };
        Ok(Self { engine, preparer: Arc::new(preparer), grammars, metrics: None, trace: None })
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

    /// Checks a request with one prompt, tokenises it and queues it.
    #[cfg(test)]
    pub(super) async fn start(&self, mut request: Request) -> Result<Generation, GenerateError> {
        let prompt = request.prompts.remove(0);
        validate::not_empty(&prompt)?;
        let plan = self.preparer.plan(request).await?;
        let ready = self.preparer.prepare(&plan, prompt).await?;
        self.launch(&plan, &ready, 0).await
    }

    /// Queues copy number `index` of a request.
    pub(super) async fn launch(
        &self,
        plan: &Plan,
        ready: &Ready,
        index: usize,
    ) -> Result<Generation, GenerateError> {
        let (Plan { parameters, checked, .. }, Ready { prompt, reading, .. }) = (plan, ready);
        let limits = self.engine.limits();
        let tokenizer = self.tokenizer();
        let mask = self.grammars.mask_of(&ready.grammar, plan.caller, plan.deadline).await?;
        let mask = reading.budgeted(mask, tokenizer, prompt, limits.vocab_size);
        let mut sampling = checked.sampling.clone();
        sampling.seed = sampling.seed.map(|seed| seed.wrapping_add(index as u64));
        // Copies of a prompt do not report it again.
        let prompt_logprobs = checked.prompt_logprobs.filter(|_| index == 0);
        let (sender, events) = mpsc::channel(EVENTS);
        self.engine.submit(Job {
            caller: plan.caller,
            priority: parameters.priority.saturating_neg(),
            cache_scope: parameters.cache_salt.as_deref().map_or(0, cache_scope),
            prompt: prompt.to_vec(),
            sampling,
            mask,
            prompt_logprobs,
            progress: parameters.progress,
            max_tokens: ready.max_tokens,
            stop_tokens: checked.stop_tokens.clone(),
            deadline: plan.deadline.map(Instant::into_std),
            events: sender,
        })?;
        let text = plan.text.clone().spelling(reading.spelt(tokenizer)).stopping(reading.stops());
        let arrived = if index == 0 { plan.arrived } else { std::time::Instant::now() };
        let timer = |metrics: &Metrics| metrics.request(arrived, prompt.len()).traced(self.trace);
        let timer = self.metrics.as_ref().map(timer);
        let answer = reading.reader(tokenizer, prompt);
        let generation = Generation::new(events, Arc::clone(prompt), text, answer, timer);
        Ok(generation.telling_prompt(prompt_logprobs.is_some()))
    }

    /// Whether the model folder has a chat template, without which conversations are refused.
    #[must_use]
    pub fn has_template(&self) -> bool {
        self.preparer.reader.has_template()
    }

    /// The token ids that `prompt` is read as, without running it; a request of `weight` bytes.
    ///
    /// # Errors
    /// As [`Self::prepare_all`], but for the parameters and the queue; the prompt may be longer than the
    /// context, but not than 1,048,576 tokens.
    pub async fn tokenize(
        &self,
        prompt: Prompt,
        caller: CallerId,
        weight: usize,
    ) -> Result<Vec<u32>, GenerateError> {
        let field = if matches!(prompt, Prompt::Chat(_)) { "messages" } else { "prompt" };
        let most = MOST_TOKENS.max(self.limits().context_tokens);
        let (reader, vocab_size) = (Arc::clone(&self.preparer.reader), self.limits().vocab_size);
        let (mut prompt, mut tokenizing) = (Some(prompt), None);
        let mut step = move || -> Result<Option<Vec<u32>>, GenerateError> {
            if let Some(prompt) = prompt.take() {
                validate::prompt(&prompt, vocab_size)?;
                tokenizing = Some(reader.begin(prompt, most)?);
            }
            tokenizing.as_mut().and_then(|going| reader.advance(going)).transpose()
        };
        let place = Place { pool: self.pool(), caller, deadline: None, large: is_large(weight) };
        let read = place.run_steps(move || step().transpose()).await;
        read.map_err(|error| match error {
            GenerateError::ContextExceeded { prompt_tokens, .. } => invalid(
                field,
                format_args!("a text of at least {prompt_tokens} tokens"),
                format!("fewer than {most} tokens"),
            ),
            error => error,
        })
    }

    fn tokenizer(&self) -> &Arc<Tokenizer> {
        self.preparer.reader.tokenizer()
    }

    /// The token that stands for an empty prompt.
    #[must_use]
    pub fn begin_token(&self) -> u32 {
        self.preparer.options.bos_token_id
    }

    /// The tokens that end an answer.
    #[must_use]
    pub fn end_tokens(&self) -> &[u32] {
        &self.preparer.options.eos_token_ids
    }

    /// The source of the model folder's chat template; empty if it has none.
    #[must_use]
    pub fn template(&self) -> &str {
        self.preparer.reader.template().unwrap_or_default()
    }

    /// Whether the model can be asked to fill a gap between two texts.
    #[must_use]
    pub fn fills_gaps(&self) -> bool {
        self.preparer.reader.fills_gaps()
    }

    /// The threads for work that grows with requests.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.preparer.pool
    }

    /// How many bytes the text has that token ids stand for.
    ///
    /// # Errors
    /// If the model has no such token, or there are too many; the field is `tokens`.
    pub fn spelt_bytes(&self, ids: &[u32]) -> Result<usize, GenerateError> {
        if ids.len() > MOST_TOKENS {
            let accepted = format!("up to {MOST_TOKENS} token ids");
            return Err(invalid("tokens", format!("{} token ids", ids.len()), accepted));
        }
        validate::token_ids("tokens", ids.iter().copied(), self.engine.limits().vocab_size)?;
        let vocabulary = self.tokenizer().vocabulary();
        Ok(ids.iter().map(|&id| vocabulary.bytes(id).len()).sum())
    }

    /// A token's bytes; a control token's spelling.
    #[must_use]
    pub fn piece(&self, id: u32) -> Vec<u8> {
        self.tokenizer().vocabulary().bytes(id).to_vec()
    }

    /// The requests in the engine, as numbers; `None` if it has ended.
    pub async fn look(&self) -> Option<Vec<engine::Live>> {
        self.engine.snapshot().await
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
        self.tokenizer().vocabulary().spell(ids)
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
