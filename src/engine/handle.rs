//! The engine's door, as other threads see it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::error::SubmitError;
use super::message::Job;
use crate::model::{Interrupt, ModelLimits};

/// What handles send to the engine's thread.
#[derive(Debug)]
pub(super) enum Command {
    /// Run a job.
    Run(Box<Job>),
    /// End at once.
    Stop,
}

/// Submits jobs to the engine and reads its counters. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

/// What the engine's thread and its handles both see.
pub(super) struct Shared {
    limits: ModelLimits,
    queue: usize,
    interrupt: Arc<dyn Interrupt>,
    draining: AtomicBool,
    pub(super) stopping: AtomicBool,
    pub(super) crashed: AtomicBool,
    pub(super) counters: Counters,
}

impl Shared {
    pub(super) fn new(limits: ModelLimits, queue: usize, interrupt: Arc<dyn Interrupt>) -> Self {
        Self {
            limits,
            queue,
            interrupt,
            draining: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            crashed: AtomicBool::new(false),
            counters: Counters::default(),
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("counters", &self.counters).finish_non_exhaustive()
    }
}

/// Counts of jobs and tokens. Handles write `accepted` and raise `waiting`; the rest is written by
/// the engine's thread.
///
/// A job is counted at its new place before it leaves the old one, and readers look in the order
/// that jobs move, so that a job in motion may be seen twice and never nowhere.
#[derive(Debug, Default)]
pub(super) struct Counters {
    accepted: AtomicU64,
    waiting: AtomicUsize,
    running: AtomicUsize,
    pub(super) finished: AtomicU64,
    pub(super) cancelled: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) prompt_tokens: AtomicU64,
    pub(super) generated_tokens: AtomicU64,
    pub(super) steps: AtomicU64,
}

impl Counters {
    /// A job left the queue.
    pub(super) fn leave_queue(&self) {
        self.waiting.fetch_sub(1, Ordering::AcqRel);
    }

    /// A job left the queue to run.
    pub(super) fn start_running(&self) {
        self.running.fetch_add(1, Ordering::AcqRel);
        self.leave_queue();
    }

    /// A running job came to an end, to be counted by `end`.
    pub(super) fn stop_running(&self, end: fn(&Self) -> &AtomicU64) {
        end(self).fetch_add(1, Ordering::AcqRel);
        self.running.fetch_sub(1, Ordering::AcqRel);
    }

    /// Counts every job that has not ended as failed: their channels are gone.
    pub(super) fn fail_all_open(&self) {
        let open = self.waiting.swap(0, Ordering::AcqRel) + self.running.swap(0, Ordering::AcqRel);
        self.failed.fetch_add(open as u64, Ordering::Relaxed);
    }
}

/// The engine's counters at one moment. Once nothing runs or waits, `accepted` equals
/// `finished + cancelled + failed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Slots there are.
    pub slots: usize,
    /// Jobs that wait for a slot.
    pub waiting: usize,
    /// Sequences that hold a slot now.
    pub running: usize,
    /// Jobs accepted since the start. Each ends as exactly one of finished, cancelled, failed.
    pub accepted: u64,
    /// Jobs that ran to an end.
    pub finished: u64,
    /// Jobs whose receiver went away.
    pub cancelled: u64,
    /// Jobs that ended in an error.
    pub failed: u64,
    /// Prompt tokens read by the model.
    pub prompt_tokens: u64,
    /// Tokens generated, stop tokens included.
    pub generated_tokens: u64,
    /// Model steps run.
    pub steps: u64,
}

impl Handle {
    pub(super) fn new(commands: mpsc::Sender<Command>, shared: Arc<Shared>) -> Self {
        Self { commands, shared }
    }

    /// Queues a job.
    ///
    /// # Errors
    /// [`SubmitError::Full`] if as many jobs wait as may, [`SubmitError::ShuttingDown`] while
    /// draining, [`SubmitError::Stopped`] if the engine's thread has ended.
    pub fn submit(&self, job: Job) -> Result<(), SubmitError> {
        let counters = &self.shared.counters;
        let limit = self.shared.queue;
        if self.shared.draining.load(Ordering::Acquire) {
            return Err(SubmitError::ShuttingDown);
        }
        let room = |waiting: usize| (waiting < limit).then_some(waiting + 1);
        if counters.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).is_err() {
            return Err(SubmitError::Full { limit });
        }
        counters.accepted.fetch_add(1, Ordering::Relaxed);
        if self.commands.try_send(Command::Run(Box::new(job))).is_err() {
            // The channel holds all that may wait, so it is closed: the engine has ended.
            counters.accepted.fetch_sub(1, Ordering::Relaxed);
            counters.leave_queue();
            return Err(SubmitError::Stopped);
        }
        Ok(())
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
        let total = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        Stats {
            slots: self.shared.limits.slots,
            waiting: counters.waiting.load(Ordering::Acquire),
            running: counters.running.load(Ordering::Acquire),
            accepted: total(&counters.accepted),
            finished: total(&counters.finished),
            cancelled: total(&counters.cancelled),
            failed: total(&counters.failed),
            prompt_tokens: total(&counters.prompt_tokens),
            generated_tokens: total(&counters.generated_tokens),
            steps: total(&counters.steps),
        }
    }

    /// Takes no more jobs from now on; those accepted run to their end.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::Release);
    }

    /// Whether [`Handle::drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Acquire)
    }

    /// Whether the engine's thread panicked.
    #[must_use]
    pub fn has_crashed(&self) -> bool {
        self.shared.crashed.load(Ordering::Acquire)
    }

    /// Returns once the engine's thread has ended, for whatever reason.
    pub async fn ended(&self) {
        self.commands.closed().await;
    }

    /// Cuts the running step and makes the thread end.
    pub(super) fn abort(&self) {
        self.drain();
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.interrupt.interrupt();
        // Wakes a thread that waits for work. A full channel belongs to one that does not wait.
        let _ = self.commands.try_send(Command::Stop);
    }
}
