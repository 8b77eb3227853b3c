//! The door of this layer: a request in, a stream of text out.

use std::path::Path;
use std::sync::Arc;

use super::error::{GenerateError, TextLoadError, invalid};
use super::grammar::Grammars;
use super::options::GeneratorOptions;
use super::pool::Pool;
use super::preparation::{MOST_TOKENS, Place, Preparer, is_large};
use super::prompt::PromptReader;
use super::request::Prompt;
use super::template::ChatTemplate;
use super::tokenizer::Tokenizer;
use super::validate;
use phi4d_engine::{self as engine, CallerId};
use phi4d_telemetry::{Metrics, Operation, TraceContext};

/// The tokenizer's file in a model folder.
const TOKENIZER: &str = "tokenizer.json";

/// Turns requests into text. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Generator {
    pub(super) engine: engine::Handle,
    pub(super) preparer: Arc<Preparer>,
    pub(super) grammars: Arc<Grammars>,
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
        let pool = Arc::new(Pool::start().map_err(TextLoadError::Threads)?);
        let tokenizer = Tokenizer::load(&folder.join(TOKENIZER))?;
        Self::new(folder, tokenizer, engine, options, pool)
    }

    /// As [`Self::load`], with the threads of another generator, for a model that may be unloaded.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_sharing(
        folder: &Path,
        engine: engine::Handle,
        options: GeneratorOptions,
        pool: Arc<Pool>,
    ) -> Result<Self, TextLoadError> {
        let tokenizer = Tokenizer::load_for_a_while(&folder.join(TOKENIZER))?;
        Self::new(folder, tokenizer, engine, options, pool)
    }

    fn new(
        folder: &Path,
        tokenizer: Tokenizer,
        engine: engine::Handle,
        options: GeneratorOptions,
        pool: Arc<Pool>,
    ) -> Result<Self, TextLoadError> {
        let template = ChatTemplate::load(folder)?;
        let reader = PromptReader::new(Arc::new(tokenizer), template, options.bos_token_id);
        let vocab_size = engine.limits().vocab_size;
        let known = reader.tokenizer().vocabulary().len();
        if known > vocab_size {
            return Err(TextLoadError::Invalid {
                path: folder.join(TOKENIZER),
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
        let preparer =
            Preparer { reader: Arc::new(reader), options, limits: engine.limits().clone(), pool };
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

    pub(super) fn tokenizer(&self) -> &Arc<Tokenizer> {
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

    /// Whether the engine's thread panicked.
    #[must_use]
    pub fn has_crashed(&self) -> bool {
        self.engine.has_crashed()
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
