//! What crosses the engine's door: jobs in, events out. Plain data, no text.

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
    /// Higher goes before lower among one caller's waiting jobs; 0 is usual.
    pub priority: i32,
    /// Cached tokens are shared only between jobs of equal scope; 0 is the common one.
    pub cache_scope: u64,
    /// Prompt token ids, at least one, all below the vocabulary's size.
    pub prompt: Vec<u32>,
    /// How to choose tokens.
    pub sampling: Sampling,
    /// What the output must be; `None` leaves it free.
    pub mask: Option<Box<dyn TokenMask>>,
    /// How many alternatives to report with each token of the prompt but the first; `None` reports
    /// nothing of it. Such a job takes nothing from cached prefixes, and leaves none. Needs
    /// [`ModelLimits::many_rows`](super::ModelLimits).
    pub prompt_logprobs: Option<usize>,
    /// Most tokens to generate, at least one.
    pub max_tokens: usize,
    /// Tokens that end the output. They are reported by [`FinishReason::StopToken`], not as tokens.
    pub stop_tokens: TokenSet,
    /// When the job fails with [`JobError::DeadlineExceeded`] if it has not finished.
    pub deadline: Option<Instant>,
    /// Where events go. Dropping the receiver cancels the job at the engine's next turn.
    pub events: mpsc::Sender<Event>,
}

/// Which tokens may come next: a state that follows one job's output, token by token. The engine
/// knows nothing of what it stands for.
///
/// What may follow a token may take long to work out, so the engine asks [`Self::progress`] and
/// [`Self::ready`] first and has others run meanwhile.
pub trait TokenMask: fmt::Debug + Send {
    /// The tokens that may come next, one bit for each id (bit `id % 32` of word `id / 32`; ids
    /// beyond have none). Waits until they are known.
    ///
    /// # Errors
    /// [`MaskError`] where they can't be worked out.
    fn allowed(&mut self) -> Result<&[u32], MaskError>;

    /// Goes on by a token that was chosen among the allowed ones. Returns before it is known what
    /// may follow it, so that this is worked out while the model runs: [`Progress::Open`] may turn
    /// out to be [`Progress::Complete`] by [`Self::progress`].
    ///
    /// # Errors
    /// [`MaskError`] where the token can't be followed.
    fn accept(&mut self, token: u32) -> Result<Progress, MaskError>;

    /// Tokens that are likely to come next because nothing else may; empty where there is a choice,
    /// or it is not known. They are a guess: only [`Self::allowed`] decides.
    fn forced(&mut self) -> &[u32];

    /// Whether anything may follow the last accepted token, if that is known within `limit`.
    fn progress(&mut self, _limit: Duration) -> Option<Progress> {
        Some(Progress::Open)
    }

    /// Whether, within `limit`, it is known what may follow, or that nothing can be known of it, so
    /// that [`Self::allowed`] does not wait.
    fn ready(&mut self, _limit: Duration) -> bool {
        true
    }
}

/// How far an output has come under a [`TokenMask`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// More may follow.
    Open,
    /// Nothing may follow.
    Complete,
}

/// A [`TokenMask`] can't go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the output's grammar can't be followed any further: {0}")]
pub struct MaskError(pub String);

/// How tokens are chosen. Checked by the caller: every field is in the range stated. Lists are
/// normalised by the caller, too, and shared by copies: a step's cost depends on the vocabulary, not
/// on how long a client's list was.
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
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output, > 0.
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
    /// If given, no token but these is chosen.
    pub allowed_tokens: Option<TokenSet>,
    /// Token sequences that the output never holds. None is empty.
    pub bad_words: Arc<[Vec<u32>]>,
    /// Output tokens before which none of `late_tokens` is chosen.
    pub min_tokens: usize,
    /// Tokens (usually the job's stop tokens) banned from the first `min_tokens` of the output.
    pub late_tokens: TokenSet,
    /// Equal seeds give equal draws; `None` draws one. Equal output needs equal logits too
    /// ([`super::Options::reproducible`]).
    pub seed: Option<u64>,
    /// How many alternatives to report with each token; `None` reports no log-probabilities.
    pub top_logprobs: Option<usize>,
}

/// Exclude top choices: with a chance, all tokens that are likely enough, but for the least likely
/// of them, are left out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Xtc {
    /// The chance, in (0, 1], at each token.
    pub probability: f32,
    /// How likely is likely enough, in [0, 0.5].
    pub threshold: f32,
}

/// Don't repeat yourself: a token that would make a repetition of `n` tokens longer loses
/// `multiplier * base^(n - allowed_length)` from its logit.
#[derive(Debug, Clone, PartialEq)]
pub struct Dry {
    /// Above 0.
    pub multiplier: f32,
    /// At least 1.
    pub base: f32,
    /// Repetitions shorter than this cost nothing; at least 1.
    pub allowed_length: usize,
    /// How many of the last tokens are looked at; `usize::MAX` for all.
    pub last_tokens: usize,
    /// Tokens that no repetition reaches across.
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

/// What the engine says about a job, in order: `Started`, any number of `Prompt` if they are asked
/// for, any number of `Token`, then exactly one of `Finished` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The prompt is being read; `cached_tokens` of it were in the KV cache already.
    Started {
        /// Prompt tokens that needed no prefill.
        cached_tokens: usize,
    },
    /// The next tokens of the prompt, from its second token on.
    Prompt(Vec<PromptLogprobs>),
    /// One generated token.
    Token(Token),
    /// The last event of a job that ran to an end.
    Finished(FinishReason),
    /// The last event of a job that could not.
    Failed(JobError),
}

/// A generated token.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Log-probabilities, if the job asked for them.
    pub logprobs: Option<TokenLogprobs>,
}

/// Natural log-probabilities under the model's own distribution, before any sampling parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// The chosen token's.
    pub chosen: f32,
    /// The likeliest tokens with theirs, likeliest first, as many as were asked for.
    pub top: Vec<(u32, f32)>,
}

/// How likely the model found a token of the prompt after what came before it.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptLogprobs {
    /// The token's log-probability and the alternatives.
    pub logprobs: TokenLogprobs,
    /// Its place among all tokens, likeliest first, from 1.
    pub rank: usize,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// One of the job's stop tokens came up.
    StopToken(u32),
    /// The output is complete: the job's [`TokenMask`] lets nothing follow.
    Complete,
    /// `max_tokens` were made, or the slot is full.
    Length,
}

/// Why a generation failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// The job's deadline passed.
    #[error("the request's deadline passed before the answer was complete")]
    DeadlineExceeded,
    /// The receiver did not take events for too long.
    #[error("the client read too slowly and the answer was given up")]
    SlowClient,
    /// The daemon is stopping and its drain limit passed.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// What the output must be could not be kept to.
    #[error(transparent)]
    Mask(#[from] MaskError),
    /// The model could not run the step.
    #[error("the model failed to run: {0}")]
    Model(String),
}
