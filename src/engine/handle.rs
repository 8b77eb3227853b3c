//! The engine's door, as other threads see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::error::SubmitError;
use super::message::Job;
use crate::model::ModelLimits;

/// Submits jobs to the engine and reads its counters. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    jobs: mpsc::Sender<Job>,
    shared: Arc<Shared>,
}

/// What the engine's thread and its handles both see.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) limits: ModelLimits,
    pub(super) draining: AtomicBool,
    pub(super) counters: Counters,
}

/// Written by the engine's thread (`accepted` by handles), read by anyone.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) accepted: AtomicU64,
    pub(super) finished: AtomicU64,
    pub(super) cancelled: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) running: AtomicUsize,
    pub(super) prompt_tokens: AtomicU64,
    pub(super) generated_tokens: AtomicU64,
    pub(super) steps: AtomicU64,
}

/// The engine's counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Slots there are.
    pub slots: usize,
    /// Sequences that hold a slot now.
    pub running: usize,
    /// Jobs accepted and neither running nor ended.
    pub waiting: usize,
    /// Jobs accepted since the start. Each ends as exactly one of finished, cancelled, failed.
    pub accepted: u64,
    /// Jobs that ran to an end.
    pub finished: u64,
    /// Jobs whose receiver went away.
    pub cancelled: u64,
    /// Jobs that ended in an error.
    pub failed: u64,
    /// Prompt tokens prefilled.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Model steps run.
    pub steps: u64,
}

impl Handle {
    pub(super) fn new(jobs: mpsc::Sender<Job>, shared: Arc<Shared>) -> Self {
        Self { jobs, shared }
    }

    /// Queues a job.
    ///
    /// # Errors
    /// [`SubmitError::Full`] if the queue is full, [`SubmitError::ShuttingDown`] while draining,
    /// [`SubmitError::Stopped`] if the engine's thread has ended.
    pub fn submit(&self, job: Job) -> Result<(), SubmitError> {
        if self.shared.draining.load(Ordering::Acquire) {
            return Err(SubmitError::ShuttingDown);
        }
        match self.jobs.try_send(job) {
            Ok(()) => {
                self.shared
                    .counters
                    .accepted
                    .fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(TrySendError::Full(_)) => Err(SubmitError::Full {
                limit: self.jobs.max_capacity(),
            }),
            Err(TrySendError::Closed(_)) => Err(SubmitError::Stopped),
        }
    }

    /// The model's limits.
    #[must_use]
    pub fn limits(&self) -> &ModelLimits {
        &self.shared.limits
    }

    /// The counters now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let counters = &self.shared.counters;
        let ended = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (finished, cancelled, failed) = (
            ended(&counters.finished),
            ended(&counters.cancelled),
            ended(&counters.failed),
        );
        let running = counters.running.load(Ordering::Relaxed);
        let accepted = counters.accepted.load(Ordering::Relaxed);
        let gone = finished + cancelled + failed + running as u64;
        Stats {
            slots: self.shared.limits.slots,
            running,
            waiting: usize::try_from(accepted.saturating_sub(gone)).unwrap_or(usize::MAX),
            accepted,
            finished,
            cancelled,
            failed,
            prompt_tokens: counters.prompt_tokens.load(Ordering::Relaxed),
            generated_tokens: counters.generated_tokens.load(Ordering::Relaxed),
            steps: counters.steps.load(Ordering::Relaxed),
        }
    }
}
