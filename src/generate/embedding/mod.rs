//! Embeddings: texts to vectors, by a second model beside the generating one.
//!
//! [`Embedder`] tokenises a request's texts on the pool's threads, as prompts are, and hands them to the
//! thread that owns the embedding model. That thread takes runs of a few hundred tokens, in round-robin
//! turns between callers, and has few threads of its own, so that answers beside it go on.

mod tokens;
mod worker;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::error::{GenerateError, TextLoadError, invalid};
use crate::pool::Pool;
use crate::preparation::{Place, is_large};
use phi4d_engine::{CallerId, JobError};
use phi4d_model::{EmbeddingModel, Interrupt, Shorter, normalise};
use tokens::EmbeddingTokenizer;
use worker::{Job, Limits, Queue};

pub use tokens::EmbeddingInput;
pub use worker::EmbeddingStats;

/// Most tokens of one request, as with OpenAI.
pub const MOST_EMBEDDING_TOKENS: usize = 300_000;

/// Bytes of text that one step of tokenising reads, or one text if that has more.
const STEP_BYTES: usize = 32 * 1024;

/// Fixed choices of an [`Embedder`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbedderOptions {
    /// Requests that may wait. Further ones are refused.
    pub queue: usize,
    /// Waiting requests of one caller.
    pub queue_per_caller: usize,
    /// The longest a request may take; `None` is no limit.
    pub request_timeout: Option<Duration>,
}

/// Texts to embed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddingRequest {
    /// The texts.
    pub inputs: Vec<EmbeddingInput>,
    /// The name of the field that they are in.
    pub field: &'static str,
    /// Whether that field is a list.
    pub is_list: bool,
    /// Whether texts that are too long are cut instead of refused.
    pub truncate: bool,
    /// Numbers of a vector, if not all that the model gives.
    pub dimensions: Option<usize>,
    /// Who asks.
    pub caller: CallerId,
    /// Bytes of the request's body.
    pub weight: usize,
}

/// A request that is checked and tokenised.
#[derive(Debug)]
pub struct Embedding {
    texts: Vec<Vec<u32>>,
    tokens: usize,
    dimensions: Option<usize>,
    caller: CallerId,
    deadline: Option<Instant>,
}

impl Embedding {
    /// Tokens of all texts.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// How many texts there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.texts.len()
    }
}

impl EmbeddingRequest {
    /// A lower bound of its cost in tokens, before it is tokenised: one for each 16 bytes, as of prompts.
    #[must_use]
    pub fn least_cost(&self) -> usize {
        self.inputs.iter().map(|input| input.bytes() / 16 + 1).sum()
    }
}

/// Turns texts into vectors. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Embedder(Arc<Inner>);

struct Inner {
    queue: Arc<Queue>,
    tokenizer: Arc<EmbeddingTokenizer>,
    pool: Arc<Pool>,
    interrupt: Arc<dyn Interrupt>,
    thread: Mutex<Option<JoinHandle<()>>>,
    options: EmbedderOptions,
    max_tokens: usize,
    dimensions: usize,
    shorter: Shorter,
    normalised: bool,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Inner").field("queue", &self.queue).finish_non_exhaustive()
    }
}

/// The token ids of a request's texts, and how many they are together.
type Tokenised = (Vec<Vec<u32>>, usize);

impl Embedder {
    /// Loads the tokenizer of `model`'s folder and starts the thread that owns `model`. Texts are
    /// tokenised by `pool`.
    ///
    /// # Errors
    /// If the tokenizer can't be used, or the system gives no thread.
    pub fn start(
        mut model: EmbeddingModel,
        pool: &Arc<Pool>,
        options: EmbedderOptions,
    ) -> Result<Self, TextLoadError> {
        let folder = model.folder().clone();
        let tokenizer = EmbeddingTokenizer::load(
            &folder.folder,
            folder.prompt,
            folder.max_tokens,
            model.vocab_size(),
        )?;
        let queue = Queue::new(Limits {
            run_tokens: folder.run_tokens,
            batches: model.batches(),
            queue: options.queue,
            queue_per_caller: options.queue_per_caller,
        });
        let (interrupt, dimensions) = (model.interrupt(), model.dimensions());
        let shared = Arc::clone(&queue);
        let thread = std::thread::Builder::new()
            .name("phi4d-embed".to_owned())
            .spawn(move || shared.work(&mut model))
            .map_err(TextLoadError::Threads)?;
        Ok(Self(Arc::new(Inner {
            queue,
            tokenizer: Arc::new(tokenizer),
            pool: Arc::clone(pool),
            interrupt,
            thread: Mutex::new(Some(thread)),
            options,
            max_tokens: folder.max_tokens,
            dimensions,
            shorter: folder.shorter,
            normalised: folder.normalised,
        })))
    }

    /// Interrupts the run in progress and ends the thread; requests that wait fail.
    pub fn stop(&self) {
        self.0.queue.close();
        self.0.interrupt.interrupt();
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            log::error!("the thread of the embedding model panicked");
        }
    }

    /// Tokens of the longest text.
    #[must_use]
    pub fn max_tokens(&self) -> usize {
        self.0.max_tokens
    }

    /// Numbers of a vector.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.0.dimensions
    }

    /// Token ids below this are known.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.0.tokenizer.vocab_size()
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> EmbeddingStats {
        self.0.queue.stats()
    }

    /// Checks a request and tokenises its texts.
    ///
    /// # Errors
    /// If a text is too long, or there are too many tokens; the pool's errors.
    pub async fn prepare(&self, request: EmbeddingRequest) -> Result<Embedding, GenerateError> {
        let timeout = self.0.options.request_timeout;
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let EmbeddingRequest { inputs, field, is_list, truncate, dimensions, caller, weight } =
            request;
        let dimensions = self.length(dimensions)?;
        let tokenizer = Arc::clone(&self.0.tokenizer);
        let mut inputs = inputs.into_iter().enumerate();
        let (mut texts, mut tokens) = (Vec::new(), 0_usize);
        let mut read = move || -> Result<Option<Tokenised>, GenerateError> {
            let mut bytes = 0;
            for (index, input) in inputs.by_ref() {
                bytes += input.bytes();
                let place = if is_list { format!("{field}[{index}]") } else { field.to_owned() };
                let ids = tokenizer.read(input, &place, truncate)?;
                tokens += ids.len();
                if tokens > MOST_EMBEDDING_TOKENS {
                    let value = format_args!("{tokens} tokens in the first {} texts", index + 1);
                    let accepted = format!("at most {MOST_EMBEDDING_TOKENS} tokens in a request");
                    return Err(invalid(field, value, accepted));
                }
                texts.push(ids);
                if bytes >= STEP_BYTES {
                    return Ok(None);
                }
            }
            Ok(Some((std::mem::take(&mut texts), tokens)))
        };
        let place = Place { pool: &self.0.pool, caller, deadline, large: is_large(weight) };
        let (texts, tokens) = place.run_steps(move || read().transpose()).await?;
        Ok(Embedding { texts, tokens, dimensions, caller, deadline })
    }

    /// The vectors of a request's texts, in their order. Dropping the future drops what is left of it.
    ///
    /// # Errors
    /// If the queue is full, the deadline passes, the daemon stops, or the model fails.
    pub async fn embed(&self, embedding: Embedding) -> Result<Vec<Vec<f32>>, GenerateError> {
        let Embedding { texts, dimensions, caller, deadline, .. } = embedding;
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let (answer, vectors) = oneshot::channel();
        self.0.queue.add(caller, Job::new(texts, answer))?;
        let answered = match deadline {
            Some(deadline) => {
                timeout_at(deadline, vectors).await.map_err(|_| JobError::DeadlineExceeded)?
            }
            None => vectors.await,
        };
        // The thread drops a job without an answer only if the program is ending.
        let mut vectors = answered.map_err(|_| GenerateError::Job(JobError::ShuttingDown))??;
        if let Some(length) = dimensions {
            vectors.iter_mut().for_each(|vector| self.shorten(vector, length));
        }
        Ok(vectors)
    }

    /// Checks `dimensions`: only vectors of a model that was trained for it mean something once cut.
    fn length(&self, dimensions: Option<usize>) -> Result<Option<usize>, GenerateError> {
        let own = self.0.dimensions;
        let Some(asked) = dimensions.filter(|asked| *asked != own) else { return Ok(None) };
        let refused = |accepted: String| Err(invalid("dimensions", asked, accepted));
        match &self.0.shorter {
            Shorter::Any if (1..own).contains(&asked) => Ok(Some(asked)),
            Shorter::These(lengths) if asked < own && lengths.contains(&asked) => Ok(Some(asked)),
            Shorter::Any => refused(format!("1 to {own}")),
            Shorter::These(lengths) => {
                let lengths: Vec<String> = lengths.iter().map(usize::to_string).collect();
                refused(format!("{} or {own}", lengths.join(", ")))
            }
            Shorter::None => refused(format!(
                "{own} or null; the model's config.json does not say that its vectors can be cut \
                 (is_matryoshka, matryoshka_dimensions)"
            )),
        }
    }

    fn shorten(&self, vector: &mut Vec<f32>, length: usize) {
        vector.truncate(length);
        if self.0.normalised {
            normalise(vector);
        }
    }
}

#[cfg(test)]
mod tests;
