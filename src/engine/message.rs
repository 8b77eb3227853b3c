//! The data that crosses the engine's boundary: jobs in, events and snapshots out. No text.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::token_set::TokenSet;
use phi4d_door::CallerId;

/// One generation to run.
#[derive(Debug)]
pub struct Job {
    /// Who asked.
    pub caller: CallerId,
    /// Among one caller's waiting jobs, higher priorities start first; 0 is usual.
    pub priority: i32,
    /// Whether it had a place in a queue before this one, so that its caller's other jobs do not matter.
    pub has_waited: bool,
    /// Cached prefixes are shared only between jobs of equal scope; 0 is the common one.
    pub cache_scope: u64,
    /// Prompt token ids, at least one, all below the vocabulary's size.
    pub prompt: Vec<u32>,
    /// How to choose tokens.
    pub sampling: Sampling,
    /// Constrains the output; `None` leaves it free.
    pub mask: Option<Box<dyn TokenMask>>,
    /// How many alternatives to report with each prompt token but the first; `None` reports no prompt
    /// tokens. Such a job neither uses nor leaves cached prefixes, since cached tokens have no logits. Needs
    /// [`ModelLimits::many_rows`](super::ModelLimits).
    pub prompt_logprobs: Option<usize>,
    /// Whether to report the progress of prefill as [`Event::Prefill`].
    pub progress: bool,
    /// Most tokens to generate, at least one.
    pub max_tokens: usize,
    /// Tokens that end the output. They are reported by [`FinishReason::StopToken`], not as tokens.
    pub stop_tokens: TokenSet,
    /// If the job has not finished by then, it fails with [`JobError::DeadlineExceeded`].
    pub deadline: Option<Instant>,
    /// Where events go. Dropping the receiver cancels the job at the engine's next iteration.
    pub events: mpsc::Sender<Event>,
}

/// Constrains one job's output: a state that follows the output token by token and says which tokens may
/// come next. The engine does not know what it stands for (a grammar, a schema).
///
/// The next mask may take long to compute, so the engine asks [`Self::progress`] and [`Self::ready`]
/// first, and lets other sequences run meanwhile.
pub trait TokenMask: fmt::Debug + Send {
    /// The tokens that may come next, one bit for each id (bit `id % 32` of word `id / 32`; ids
    /// beyond are not allowed). Blocks until they are known.
    ///
    /// # Errors
    /// [`MaskError`] if they can't be computed.
    fn allowed(&mut self) -> Result<&[u32], MaskError>;

    /// Advances by a token that was chosen among the allowed ones. Returns before the next mask is
    /// known, so that it is computed while the model runs: after [`Progress::Open`],
    /// [`Self::progress`] may still return [`Progress::Complete`].
    ///
    /// # Errors
    /// [`MaskError`] if the token can't follow.
    fn accept(&mut self, token: u32) -> Result<Progress, MaskError>;

    /// Tokens that are likely to come next because nothing else may; empty if there is a choice, or it
    /// is not known. They serve as draft tokens: only [`Self::allowed`] decides.
    fn forced(&mut self) -> &[u32];

    /// Whether anything may follow the newest token; `None` if that is not known within `limit`.
    fn progress(&mut self, _limit: Duration) -> Option<Progress> {
        Some(Progress::Open)
    }

    /// Whether the next mask, or an error in its place, is there within `limit`, so that
    /// [`Self::allowed`] does not block.
    fn ready(&mut self, _limit: Duration) -> bool {
        true
    }
}

/// Whether an output under a [`TokenMask`] may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// More may follow.
    Open,
    /// Nothing may follow.
    Complete,
}

/// A [`TokenMask`] failed, and with it the job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the output's grammar can't be followed any further: {0}")]
pub struct MaskError(pub String);

/// How tokens are chosen. The caller has checked that every field is in the range stated, and has
/// normalised the lists, which copies share: a step's cost depends on the vocabulary, not on how long a
/// client's list was.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// 0 means greedy; otherwise logits are divided by it.
    pub temperature: f32,
    /// Keep the k likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the likeliest tokens whose probabilities reach this sum, in (0, 1].
    pub top_p: f32,
    /// Keep tokens at least this share as likely as the likeliest, in [0, 1].
    pub min_p: f32,
    /// Positive logits of tokens seen in prompt or output are divided by it, negative ones multiplied; > 0.
    pub repetition_penalty: f32,
    /// Subtracted once from the logits of tokens seen in the output, in [-2, 2].
    pub presence_penalty: f32,
    /// Subtracted for each time a token was seen in the output, in [-2, 2].
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens. Each token once.
    pub logit_bias: Arc<[(u32, f32)]>,
    /// Keep tokens whose logit is within this many standard deviations (of all finite logits) of
    /// the highest; 0 keeps all.
    pub top_n_sigma: f32,
    /// Keep the tokens whose surprise is nearest to the expected one until their probabilities
    /// exceed this sum, in (0, 1]; 1 keeps all.
    pub typical_p: f32,
    /// Now and then leave out the likeliest tokens; `None` never does.
    pub xtc: Option<Xtc>,
    /// Penalise tokens that would prolong a repetition; `None` does not.
    pub dry: Option<Dry>,
    /// Only these tokens may be chosen; `None` allows all.
    pub allowed_tokens: Option<TokenSet>,
    /// Token sequences that the output never contains. None of them is empty.
    pub bad_words: Arc<[Vec<u32>]>,
    /// As long as the output has fewer tokens, none of `late_tokens` is chosen.
    pub min_tokens: usize,
    /// Tokens (usually the job's stop tokens) banned from the first `min_tokens` of the output.
    pub late_tokens: TokenSet,
    /// Equal seeds give equal draws; `None` draws a seed. Equal output needs equal logits, too (see
    /// `reproducible` in [`super::Options`]).
    pub seed: Option<u64>,
    /// How many alternatives to report with each token; `None` reports no log-probabilities.
    pub top_logprobs: Option<usize>,
}

/// Exclude top choices: with `probability`, all tokens at least as likely as `threshold` are left out,
/// except the least likely of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Xtc {
    /// The probability for each token of the output, in (0, 1].
    pub probability: f32,
    /// The least probability of a top choice, in [0, 0.5].
    pub threshold: f32,
}

/// Don't repeat yourself: a token that would make a repetition of `n` tokens longer loses
/// `multiplier * base^(n - allowed_length)` from its logit.
#[derive(Debug, Clone, PartialEq)]
pub struct Dry {
    /// The penalty of the shortest repetition that costs anything; above 0.
    pub multiplier: f32,
    /// By how much the penalty grows with each further token; at least 1.
    pub base: f32,
    /// Repetitions shorter than this cost nothing; at least 1.
    pub allowed_length: usize,
    /// How many of the last tokens are searched for repetitions; `usize::MAX` for all.
    pub last_tokens: usize,
    /// Tokens that end a repetition.
    pub breakers: TokenSet,
}

impl Default for Sampling {
    /// Plain sampling from the model's own distribution.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Arc::default(),
            top_n_sigma: 0.0,
            typical_p: 1.0,
            xtc: None,
            dry: None,
            allowed_tokens: None,
            bad_words: Arc::default(),
            min_tokens: 0,
            late_tokens: TokenSet::default(),
            seed: None,
            top_logprobs: None,
        }
    }
}

/// What happens to a job, in order: `Started`, any number of `Prefill` and `Prompt` if the job asks for
/// them, any number of `Token`, then exactly one of `Finished` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Prefill begins; `cached_tokens` of the prompt were in the KV cache already.
    Started {
        /// Prompt tokens that needed no prefill.
        cached_tokens: usize,
    },
    /// The progress of prefill: after `Started`, and after each prefill step. `processed_tokens` grows from event
    /// to event. Left out while half of the channel is taken: the other half is the output's.
    Prefill {
        /// Prompt tokens in the KV cache, cached ones included.
        processed_tokens: usize,
    },
    /// Log-probabilities of the next prompt tokens, from the second token on.
    Prompt(Vec<PromptLogprobs>),
    /// One generated token.
    Token(Token),
    /// The stop token that ended the output, if the job asked for log-probabilities;
    /// [`FinishReason::StopToken`] follows.
    Stop(Token),
    /// The last event of a job that finished.
    Finished(FinishReason),
    /// The last event of a job that failed.
    Failed(JobError),
}

/// A generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// The token's id.
    pub id: u32,
    /// Log-probabilities, if the job asked for them.
    pub logprobs: Option<TokenLogprobs>,
}

/// Natural log-probabilities under the model's own distribution, before any sampling parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// Of the chosen token.
    pub chosen: f32,
    /// The likeliest tokens, likeliest first, as many as the job asked for.
    pub top: Vec<(u32, f32)>,
}

/// How likely a prompt token was under the model, after the tokens before it.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptLogprobs {
    /// The token's log-probability and the alternatives.
    pub logprobs: TokenLogprobs,
    /// Its rank among all tokens; 1 is the likeliest.
    pub rank: usize,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// One of the job's stop tokens was chosen.
    StopToken(u32),
    /// The output is complete: the job's [`TokenMask`] lets nothing follow.
    Complete,
    /// `max_tokens` were generated, or the slot is full.
    Length,
}

/// Why a generation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// The job's deadline passed.
    #[error("the request's deadline passed before the answer was complete")]
    DeadlineExceeded,
    /// The receiver had no room for events for too long.
    #[error("the client read too slowly and the answer was cancelled")]
    SlowClient,
    /// The daemon is stopping and its drain limit passed.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The output could not be constrained any further.
    #[error(transparent)]
    Mask(#[from] MaskError),
    /// A step of the model failed.
    #[error("the model failed to run: {0}")]
    Model(String),
}

/// A job that has not ended, in numbers only: an administrator sees no tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// What the engine does with it.
    pub state: State,
    /// Who asked.
    pub caller: CallerId,
    /// As in [`Job::priority`].
    pub priority: i32,
    /// Time since it was submitted.
    pub age: Duration,
    /// Tokens in the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated so far.
    pub output_tokens: usize,
    /// Tokens that may still be generated.
    pub remaining_tokens: usize,
    /// Its tokens in the KV cache.
    pub cached_tokens: usize,
}

/// What the engine does with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The job waits for a slot.
    Waiting,
    /// The model reads its prompt.
    Prefill,
    /// Each step adds a token, or several with speculative decoding.
    Decode,
    /// It is left out of steps until its receiver has room for events.
    Paused,
}
