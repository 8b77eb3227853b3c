//! The engine as other threads see it: submit jobs, read counters, drain and stop.

use std::fmt;
use std::ops::Add;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::message::{Job, Live};
use phi4d_door::{Bounds, Door, SubmitError};
use phi4d_model::{Interrupt, ModelLimits};

/// Snapshots that may be on their way to the engine's thread; further ones wait. They share the channel
/// with jobs, so without a bound they could fill it.
pub(super) const SNAPSHOTS: usize = 2;

/// What handles send to the engine's thread.
#[derive(Debug)]
pub(super) enum Command {
    /// Queue a job.
    Run(Box<Job>),
    /// Send the jobs that have not ended. The permit is one of [`SNAPSHOTS`].
    Snapshot(OwnedSemaphorePermit, oneshot::Sender<Vec<Live>>),
    /// Stop at once.
    Stop,
}

/// Submits jobs to the engine and reads its counters. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
}

/// State shared by the engine's thread and its handles.
pub(super) struct Shared {
    limits: ModelLimits,
    slots: usize,
    interrupt: Arc<dyn Interrupt>,
    snapshots: Arc<Semaphore>,
    pub(super) stopping: AtomicBool,
    pub(super) crashed: AtomicBool,
    pub(super) door: Door,
    pub(super) counters: Counters,
}

impl Shared {
    pub(super) fn new(
        limits: ModelLimits,
        slots: usize,
        bounds: Bounds,
        interrupt: Arc<dyn Interrupt>,
    ) -> Self {
        Self {
            limits,
            slots,
            interrupt,
            snapshots: Arc::new(Semaphore::new(SNAPSHOTS)),
            stopping: AtomicBool::new(false),
            crashed: AtomicBool::new(false),
            door: Door::new(bounds),
            counters: Counters::default(),
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("door", &self.door).finish_non_exhaustive()
    }
}

/// Counts of tokens and steps, written by the engine's thread. Jobs are counted by the [`Door`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) preempted: AtomicU64,
    pub(super) prompt_tokens: AtomicU64,
    pub(super) cached_prompt_tokens: AtomicU64,
    pub(super) generated_tokens: AtomicU64,
    pub(super) draft_tokens: AtomicU64,
    pub(super) accepted_draft_tokens: AtomicU64,
    pub(super) steps: AtomicU64,
    pub(super) iterations: AtomicU64,
    pub(super) kv_tokens: AtomicUsize,
    pub(super) kv_cached_tokens: AtomicUsize,
    pub(super) kv_budget_tokens: AtomicUsize,
}

impl Counters {
    /// Adds to a counter. Only the engine's thread writes, and readers need no order between counters.
    pub(super) fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// The engine's counters. At every moment `accepted` equals
/// `waiting + running + finished + cancelled + failed`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequences that can run at once.
    pub slots: usize,
    /// Jobs that wait for a slot.
    pub waiting: usize,
    /// Sequences that run now.
    pub running: usize,
    /// Jobs accepted since the start. Each ends as exactly one of finished, cancelled, failed.
    pub accepted: u64,
    /// Jobs that ran to an end.
    pub finished: u64,
    /// Jobs whose receiver went away.
    pub cancelled: u64,
    /// Jobs that ended in an error.
    pub failed: u64,
    /// Times that a running sequence was preempted because KV memory ran out.
    pub preempted: u64,
    /// Prompt tokens read by the model.
    pub prompt_tokens: u64,
    /// Prompt tokens that were cached already.
    pub cached_prompt_tokens: u64,
    /// Tokens generated, stop tokens included.
    pub generated_tokens: u64,
    /// Draft tokens that the model checked (speculative decoding).
    pub draft_tokens: u64,
    /// Draft tokens that were accepted.
    pub accepted_draft_tokens: u64,
    /// Model steps run.
    pub steps: u64,
    /// Iterations of the engine's loop. They stop only while nothing runs or waits, so the watchdog
    /// takes a count that stands still for a hang.
    pub iterations: u64,
    /// Tokens in the KV cache, in whole blocks; a block that several sequences share counts once.
    pub kv_tokens: usize,
    /// Of these, tokens kept for sequences that have ended and shared by none that runs.
    pub kv_cached_tokens: usize,
    /// Tokens that the KV cache may hold.
    pub kv_budget_tokens: usize,
}

impl Stats {
    /// What stays of an engine that ends while nobody waits for it: its totals. The clients of jobs that it has not
    /// ended have left, which it was to see in its next step.
    #[must_use]
    pub fn ended(self) -> Self {
        Self {
            slots: 0,
            waiting: 0,
            running: 0,
            kv_tokens: 0,
            kv_cached_tokens: 0,
            kv_budget_tokens: 0,
            cancelled: self.accepted.saturating_sub(self.finished + self.failed),
            ..self
        }
    }
}

/// The counters of two engines, or of one and of those that ended before it.
impl Add for Stats {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            slots: self.slots + other.slots,
            waiting: self.waiting + other.waiting,
            running: self.running + other.running,
            accepted: self.accepted + other.accepted,
            finished: self.finished + other.finished,
            cancelled: self.cancelled + other.cancelled,
            failed: self.failed + other.failed,
            preempted: self.preempted + other.preempted,
            prompt_tokens: self.prompt_tokens + other.prompt_tokens,
            cached_prompt_tokens: self.cached_prompt_tokens + other.cached_prompt_tokens,
            generated_tokens: self.generated_tokens + other.generated_tokens,
            draft_tokens: self.draft_tokens + other.draft_tokens,
            accepted_draft_tokens: self.accepted_draft_tokens + other.accepted_draft_tokens,
            steps: self.steps + other.steps,
            iterations: self.iterations + other.iterations,
            kv_tokens: self.kv_tokens + other.kv_tokens,
            kv_cached_tokens: self.kv_cached_tokens + other.kv_cached_tokens,
            kv_budget_tokens: self.kv_budget_tokens + other.kv_budget_tokens,
        }
    }
}

impl Handle {
    pub(super) fn new(commands: mpsc::Sender<Command>, shared: Arc<Shared>) -> Self {
        Self { commands, shared }
    }

    /// Queues a job.
    ///
    /// # Errors
    /// [`SubmitError::PromptLength`] if the prompt is empty or leaves no room for an answer,
    /// [`SubmitError::Full`] or [`SubmitError::CallerFull`] if no place in the queue is free for it,
    /// [`SubmitError::ShuttingDown`] while draining, [`SubmitError::Stopped`] if the engine's
    /// thread has ended.
    pub fn submit(&self, job: Job) -> Result<(), SubmitError> {
        // A job that never fits would wait for ever.
        let (prompt_tokens, context_tokens) = (job.prompt.len(), self.limits().context_tokens);
        if prompt_tokens == 0 || prompt_tokens >= context_tokens {
            return Err(SubmitError::PromptLength { prompt_tokens, context_tokens });
        }
        // Boxed, so that a channel of many places costs a pointer for each.
        let caller = job.caller;
        let has_waited = job.has_waited;
        let command = Command::Run(Box::new(job));
        // The channel has room for every job that may be queued, so if it refuses, the engine has ended.
        let hand_over = || self.commands.try_send(command).is_ok();
        match has_waited {
            false => self.shared.door.enter(caller, hand_over),
            true => self.shared.door.enter_after_waiting(caller, hand_over),
        }
    }

    /// The model's limits, with `context_tokens` lowered to what one sequence may have in the KV
    /// cache's memory.
    #[must_use]
    pub fn limits(&self) -> &ModelLimits {
        &self.shared.limits
    }

    /// The current counters. Those of jobs are of one moment and add up; the others may be newer.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let counters = &self.shared.counters;
        let total = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        let gauge = |counter: &AtomicUsize| counter.load(Ordering::Acquire);
        let jobs = self.shared.door.counts();
        Stats {
            slots: self.shared.slots,
            waiting: jobs.waiting,
            running: jobs.running,
            accepted: jobs.accepted,
            finished: jobs.finished,
            cancelled: jobs.cancelled,
            failed: jobs.failed,
            preempted: total(&counters.preempted),
            prompt_tokens: total(&counters.prompt_tokens),
            cached_prompt_tokens: total(&counters.cached_prompt_tokens),
            generated_tokens: total(&counters.generated_tokens),
            draft_tokens: total(&counters.draft_tokens),
            accepted_draft_tokens: total(&counters.accepted_draft_tokens),
            steps: total(&counters.steps),
            iterations: total(&counters.iterations),
            kv_tokens: gauge(&counters.kv_tokens),
            kv_cached_tokens: gauge(&counters.kv_cached_tokens),
            kv_budget_tokens: gauge(&counters.kv_budget_tokens),
        }
    }

    /// The jobs that have not ended: running ones in the order of their slots, then waiting ones. The
    /// engine answers between two steps; `None` if its thread has ended.
    pub async fn snapshot(&self) -> Option<Vec<Live>> {
        // The engine gives the permit back when it takes the command out of the channel, so the channel
        // never holds more of them than it has room for.
        let permit = Arc::clone(&self.shared.snapshots).acquire_owned().await.ok()?;
        let (answer, answered) = oneshot::channel();
        self.commands.try_send(Command::Snapshot(permit, answer)).ok()?;
        answered.await.ok()
    }

    /// Accepts no more jobs from now on; those accepted run to their end.
    pub fn drain(&self) {
        self.shared.door.close(SubmitError::ShuttingDown);
    }

    /// Whether no more jobs are accepted: [`Handle::drain`] was called, or the engine has ended.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.shared.door.is_closed()
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

    /// Interrupts the running step and makes the thread end.
    pub(super) fn abort(&self) {
        // The flag before the interrupt: the engine checks it after the step that was interrupted.
        self.drain();
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.interrupt.interrupt();
        // Wakes the thread if it waits for work. If the channel is full, it does not wait.
        let _ = self.commands.try_send(Command::Stop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_engine_has_not_ended_when_it_goes_is_of_clients_that_left() {
        let past = Stats { accepted: 4, finished: 2, cancelled: 1, failed: 1, ..Stats::default() };
        let last = Stats { accepted: 3, finished: 1, cancelled: 1, running: 1, ..Stats::default() };
        let all = (past + last).ended();
        assert_eq!((all.accepted, all.finished, all.cancelled, all.failed), (7, 3, 3, 1));
        assert_eq!((all.running, all.waiting), (0, 0));
    }
}
