//! Who comes in, and what becomes of the jobs that did: each is waiting, running, or has ended as
//! exactly one of finished, cancelled and failed.
//!
//! Every move is one step under one lock, so a look at the counts always finds each job once. The
//! lock is held for a look-up, and while a job is handed to the engine's thread. `tests/door`
//! runs this module through every order of its threads.

use std::collections::HashMap;
use std::sync::PoisonError;

use super::error::SubmitError;
use super::message::CallerId;
use super::sync::{Mutex, MutexGuard};

/// Bounds of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Jobs that may wait.
    pub(super) total: usize,
    /// Jobs of one caller that may wait.
    pub(super) per_caller: usize,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It ran to its end.
    Finished,
    /// Its receiver went away.
    Cancelled,
    /// In an error.
    Failed,
}

/// Where the jobs are: `accepted` is the sum of all others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) accepted: u64,
    pub(super) waiting: usize,
    pub(super) running: usize,
    pub(super) finished: u64,
    pub(super) cancelled: u64,
    pub(super) failed: u64,
}

/// What handles and the engine's thread share of the jobs.
#[derive(Debug)]
pub(super) struct Door {
    bounds: Bounds,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    /// Why no more come in, if so.
    closed: Option<SubmitError>,
    counts: Counts,
    /// Waiting jobs of each caller that has any.
    callers: HashMap<CallerId, usize>,
}

impl Door {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, inside: Mutex::default() }
    }

    /// Lets a job of `caller` in: `hand_over` puts it where the engine's thread finds it, and tells
    /// whether that thread is there.
    ///
    /// # Errors
    /// If it may not come in; then it was not handed over.
    pub(super) fn enter(
        &self,
        caller: CallerId,
        hand_over: impl FnOnce() -> bool,
    ) -> Result<(), SubmitError> {
        let mut inside = self.lock();
        if let Some(refused) = inside.closed {
            return Err(refused);
        }
        if inside.counts.waiting >= self.bounds.total {
            return Err(SubmitError::Full { limit: self.bounds.total });
        }
        let own = inside.callers.get(&caller).copied().unwrap_or(0);
        if own >= self.bounds.per_caller {
            return Err(SubmitError::CallerFull { limit: self.bounds.per_caller });
        }
        if !hand_over() {
            return Err(SubmitError::Stopped);
        }
        inside.counts.accepted += 1;
        inside.wait(caller);
        Ok(())
    }

    /// A waiting job of `caller` runs from now on.
    pub(super) fn start(&self, caller: CallerId) {
        let mut inside = self.lock();
        inside.leave(caller);
        inside.counts.running += 1;
    }

    /// A running job of `caller` has to wait once more, whatever the bounds.
    pub(super) fn put_back(&self, caller: CallerId) {
        let mut inside = self.lock();
        inside.counts.running -= 1;
        inside.wait(caller);
    }

    /// A job of `caller` ended while it waited.
    pub(super) fn end_waiting(&self, caller: CallerId, end: End) {
        let mut inside = self.lock();
        inside.leave(caller);
        inside.counts.end(end, 1);
    }

    /// A running job ended.
    pub(super) fn end_running(&self, end: End) {
        let mut inside = self.lock();
        inside.counts.running -= 1;
        inside.counts.end(end, 1);
    }

    /// From now on no job comes in; those inside go on. The first reason stays.
    pub(super) fn close(&self, why: SubmitError) {
        self.lock().closed.get_or_insert(why);
    }

    /// The engine's thread is gone, and with it every job that was inside: they failed.
    pub(super) fn abandon(&self) {
        let mut inside = self.lock();
        inside.closed = Some(SubmitError::Stopped);
        inside.callers.clear();
        let counts = &mut inside.counts;
        let open = std::mem::take(&mut counts.waiting) + std::mem::take(&mut counts.running);
        counts.end(End::Failed, open as u64);
    }

    /// Whether no more jobs come in.
    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed.is_some()
    }

    /// Where the jobs are now.
    pub(super) fn counts(&self) -> Counts {
        self.lock().counts
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        // Nothing panics between the two halves of a move.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn wait(&mut self, caller: CallerId) {
        self.counts.waiting += 1;
        *self.callers.entry(caller).or_insert(0) += 1;
    }

    fn leave(&mut self, caller: CallerId) {
        self.counts.waiting -= 1;
        if let Some(own) = self.callers.get_mut(&caller) {
            *own -= 1;
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
