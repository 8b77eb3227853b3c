//! Why a request for text fails, and why a folder's tokenizer or template can't be used.

use std::fmt::Display;
use std::path::PathBuf;

use super::grammar::FormEnd;
use phi4d_engine::{JobError, SubmitError};

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenerateError {
    /// A field holds something that is not accepted.
    #[error("{field}: {value} is not accepted; expected {accepted}")]
    InvalidField {
        /// The field's name as the API spells it, with an index where it is in a list.
        field: String,
        /// What was given, shortened where it is long.
        value: String,
        /// What would be accepted.
        accepted: String,
    },
    /// Prompt and output don't fit the model's context.
    #[error(
        "the prompt is at least {prompt_tokens} tokens long and the model's context holds \
         {context_tokens}, of which one must be left for the answer"
    )]
    ContextExceeded {
        /// Tokens in the prompt; a lower bound if its length alone shows that it can't fit.
        prompt_tokens: usize,
        /// Tokens that fit.
        context_tokens: usize,
    },
    /// The chat template refused the conversation.
    #[error("messages: the model's chat template refused the conversation: {0}")]
    Template(String),
    /// The engine did not take the job.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The engine could not finish the job.
    #[error(transparent)]
    Job(#[from] JobError),
    /// The engine went away before the job ended.
    #[error("the engine stopped before the answer was complete")]
    EngineGone,
    /// The threads for large requests were busy for too long, or too many requests wait for them.
    #[error("too many large requests are being read; try again")]
    TokenizerBusy,
    /// Too many grammars were being compiled for too long.
    #[error("too many grammars are being compiled; try again")]
    GrammarsBusy,
    /// No process can compile a grammar now. Not the client's fault.
    #[error("structured outputs are unavailable: {0}")]
    FormsUnavailable(FormEnd),
    /// The answer takes more memory than there is for it.
    #[error(
        "there is no memory for the whole answer; ask for a stream, for fewer tokens, answers or \
         log-probabilities, or try again later"
    )]
    OutOfMemory,
    /// Grammars can't be used with this model. Not the client's fault.
    #[error("structured outputs can't be used with this model: {0}")]
    Grammar(String),
    /// The tokenizer failed on the prompt. Not the client's fault.
    #[error("the prompt can't be tokenised: {0}")]
    Tokenizer(String),
}

/// Why a model folder's text side can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TextLoadError {
    /// A file is missing or can't be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system gives no threads for the work on texts.
    #[error("cannot start threads: {0}")]
    Threads(#[source] std::io::Error),
    /// A file is not what it should be.
    #[error("{path}: {reason}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system has no thread to read a file on.
    #[error("cannot start a thread to read {path}: {source}")]
    Thread {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Characters of a bad value that an error repeats.
const SHOWN_CHARACTERS: usize = 60;

/// A [`GenerateError::InvalidField`] with the value shortened.
pub(super) fn invalid(
    field: impl Into<String>,
    value: impl Display,
    accepted: impl Into<String>,
) -> GenerateError {
    let mut value = value.to_string();
    if let Some((cut, _)) = value.char_indices().nth(SHOWN_CHARACTERS) {
        value.truncate(cut);
        value.push('…');
    }
    GenerateError::InvalidField { field: field.into(), value, accepted: accepted.into() }
}
