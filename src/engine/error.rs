//! Why the engine does not take a job.

/// Why [`super::Handle::submit`] refused a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// As many jobs wait as may.
    #[error("the server is at its limit of {limit} waiting requests; try again later")]
    Full {
        /// Jobs that may wait.
        limit: usize,
    },
    /// As many jobs of this caller wait as may.
    #[error("this caller is at its limit of {limit} waiting requests; try again later")]
    CallerFull {
        /// Jobs of one caller that may wait.
        limit: usize,
    },
    /// The prompt leaves no room for an answer, or there is none. Callers check this before.
    #[error(
        "a prompt of {prompt_tokens} tokens does not fit: expected 1 to {}",
        context_tokens.saturating_sub(1)
    )]
    PromptLength {
        /// Tokens in the prompt.
        prompt_tokens: usize,
        /// Tokens that a sequence may have in the KV cache.
        context_tokens: usize,
    },
    /// The daemon is stopping.
    #[error("the server is shutting down and takes no new requests")]
    ShuttingDown,
    /// The engine's thread has ended.
    #[error("the engine has stopped")]
    Stopped,
}
