//! Why a job is refused.

/// Why the engine refused a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Every place in the queue is taken.
    #[error("the server is at its limit of {limit} waiting requests; try again later")]
    Full {
        /// Places in the queue.
        limit: usize,
    },
    /// The caller has all the places that it may have now (see [`Bounds`](super::Bounds)).
    #[error("this caller is at its limit of {limit} waiting requests; try again later")]
    CallerFull {
        /// Places that the caller has.
        limit: usize,
    },
    /// The prompt is empty, or too long to leave room for an answer. Callers check this before.
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
