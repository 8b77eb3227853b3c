//! Admission to the engine: which jobs may wait, and how many wait, run and have ended.
//!
//! Every job that was accepted waits, runs, or has ended as exactly one of finished, cancelled and
//! failed. Each move is one step under one lock, so [`Door::counts`] always finds each job once. The
//! lock is held for a look-up, and while a job is handed to the engine's thread. The models under the
//! feature `loom` run this through every order of its threads.

#![forbid(unsafe_code)]

#[cfg(test)]
#[cfg(feature = "loom")]
mod models;
// loom's locks work within its models only.
#[cfg(test)]
#[cfg(not(feature = "loom"))]
mod tests;

use std::collections::HashMap;
use std::sync::PoisonError;
#[cfg(not(feature = "loom"))]
use std::sync::{Mutex, MutexGuard};

#[cfg(feature = "loom")]
use loom::sync::{Mutex, MutexGuard};

/// Who asked, for fairness between callers and for logs. Opaque to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct CallerId(pub u64);

/// Bounds of the queue.
///
/// A caller without a job in the queue gets a place as long as one is free. A further job gets a place
/// if the caller then has at most `per_caller`, and no more than are left free. So of a queue of 128
/// one caller alone can have 64, the next 32, and so on.
///
/// However jobs come and go, `k` callers leave at least `free(k)` places free, where `free(0)` is
/// `total` and `free(k + 1)` is half of `free(k)` rounded up, or 0 after 1. Thus a caller without a job
/// in the queue is refused only if `ceil(log2(total)) + 1` others have places: 8 of a queue of 128. For
/// take any set of `k` callers of which one has just got its place number `n`, and let the others of
/// the set have `s` places, so `total - s` is at least `free(k - 1)`. If `n` is 1, the set leaves one
/// place less than its others do, and a half rounded up is no more than that. Otherwise the rule has
/// `n` at most `total - s - n`, so the set leaves at least half of what its others do.
///
/// Jobs that were put back have no place, or running jobs that lost their memory could fill the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Places in the queue, at least 1.
    pub total: usize,
    /// The most places that one caller may have, at least 1.
    pub per_caller: usize,
}

/// Why the engine refused a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// Every place in the queue is taken.
    #[error("the server is at its limit of {limit} waiting requests; try again later")]
    Full {
        /// Places in the queue.
        limit: usize,
    },
    /// The caller has all the places that it may have now (see [`Bounds`]).
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

/// Why a job waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// It has a place in the queue, which counts for its caller.
    Queued(CallerId),
    /// It ran and was put back.
    PutBack,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It ran to its end.
    Finished,
    /// Its receiver went away.
    Cancelled,
    /// It ended in an error.
    Failed,
}

/// Jobs by what has become of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// The sum of all others.
    pub accepted: u64,
    /// Jobs that are queued or were put back.
    pub waiting: usize,
    /// Jobs that have a slot.
    pub running: usize,
    /// Jobs that ended as [`End::Finished`].
    pub finished: u64,
    /// Jobs that ended as [`End::Cancelled`].
    pub cancelled: u64,
    /// Jobs that ended as [`End::Failed`].
    pub failed: u64,
}

/// What handles and the engine's thread share of the jobs.
#[derive(Debug)]
pub struct Door {
    bounds: Bounds,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    /// Why no more jobs are accepted, if so.
    closed: Option<SubmitError>,
    counts: Counts,
    /// Places taken in the queue.
    queued: usize,
    /// Of these, the places of each caller that has any.
    callers: HashMap<CallerId, usize>,
}

impl Door {
    /// An open door with an empty queue.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, inside: Mutex::default() }
    }

    /// Gives a job of `caller` a place in the queue. `hand_over` sends it to the engine's thread, and
    /// returns whether that thread is there. It runs under the lock, so that a stop finds every job
    /// that was accepted.
    ///
    /// # Errors
    /// Any [`SubmitError`] but `PromptLength`; then the job was not handed over.
    pub fn enter(
        &self,
        caller: CallerId,
        hand_over: impl FnOnce() -> bool,
    ) -> Result<(), SubmitError> {
        self.place(caller, Some(self.bounds.per_caller), hand_over)
    }

    /// As [`Self::enter`], for a job that had its place in another queue with the same rule for callers:
    /// many leave that queue at once, in any order, and none of them is refused for its caller's others.
    ///
    /// # Errors
    /// As [`Self::enter`].
    pub fn enter_after_waiting(
        &self,
        caller: CallerId,
        hand_over: impl FnOnce() -> bool,
    ) -> Result<(), SubmitError> {
        self.place(caller, None, hand_over)
    }

    fn place(
        &self,
        caller: CallerId,
        most: Option<usize>,
        hand_over: impl FnOnce() -> bool,
    ) -> Result<(), SubmitError> {
        let mut inside = self.lock();
        if let Some(refused) = inside.closed {
            return Err(refused);
        }
        let free = self.bounds.total.saturating_sub(inside.queued);
        if free == 0 {
            return Err(SubmitError::Full { limit: self.bounds.total });
        }
        let own = inside.callers.get(&caller).copied().unwrap_or(0);
        // With this job the caller has `own + 1` places and leaves `free - 1`.
        if most.is_some_and(|most| own > 0 && (own >= most || own + 1 > free - 1)) {
            return Err(SubmitError::CallerFull { limit: own });
        }
        if !hand_over() {
            return Err(SubmitError::Stopped);
        }
        inside.counts.accepted += 1;
        inside.counts.waiting += 1;
        inside.queued += 1;
        *inside.callers.entry(caller).or_insert(0) += 1;
        Ok(())
    }

    /// A waiting job gets a slot.
    pub fn start(&self, job: Waiting) {
        let mut inside = self.lock();
        inside.leave(job);
        inside.counts.running += 1;
    }

    /// A running job loses its slot and waits again, as [`Waiting::PutBack`].
    pub fn put_back(&self) {
        let mut inside = self.lock();
        inside.counts.running -= 1;
        inside.counts.waiting += 1;
    }

    /// A waiting job ended.
    pub fn end_waiting(&self, job: Waiting, end: End) {
        let mut inside = self.lock();
        inside.leave(job);
        inside.counts.end(end, 1);
    }

    /// A running job ended.
    pub fn end_running(&self, end: End) {
        let mut inside = self.lock();
        inside.counts.running -= 1;
        inside.counts.end(end, 1);
    }

    /// Accepts no more jobs; those accepted go on. Of several reasons the first is given.
    pub fn close(&self, why: SubmitError) {
        self.lock().closed.get_or_insert(why);
    }

    /// The engine's thread is gone, and with it every job that waited or ran: they failed.
    pub fn abandon(&self) {
        let mut inside = self.lock();
        inside.closed = Some(SubmitError::Stopped);
        inside.callers.clear();
        inside.queued = 0;
        let counts = &mut inside.counts;
        let open = std::mem::take(&mut counts.waiting) + std::mem::take(&mut counts.running);
        counts.end(End::Failed, open as u64);
    }

    /// Whether no more jobs are accepted.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lock().closed.is_some()
    }

    /// All counts at one moment.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.lock().counts
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        // A panic of `hand_over` leaves the counts as they were, and nothing else panics under the lock.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn leave(&mut self, job: Waiting) {
        self.counts.waiting -= 1;
        let Waiting::Queued(caller) = job else { return };
        self.queued -= 1;
        if let Some(own) = self.callers.get_mut(&caller) {
            *own -= 1;
            // Callers come and go without end; only those with a place are remembered.
            if *own == 0 {
                self.callers.remove(&caller);
            }
        }
    }
}

impl Counts {
    fn end(&mut self, end: End, count: u64) {
        let ends = match end {
            End::Finished => &mut self.finished,
            End::Cancelled => &mut self.cancelled,
            End::Failed => &mut self.failed,
        };
        *ends += count;
    }
}
