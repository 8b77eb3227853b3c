//! The engine's thread: takes jobs, plans steps, runs them and sends what they yield.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::handle::{Command, Counters, Handle, Shared};
use super::kv::Slots;
use super::message::{Event, FinishReason, Job, JobError};
use super::sampler::Scratch;
use super::scheduler::{Scheduler, StepPlan};
use super::sequence::Sequence;
use crate::model::{Interrupt, Logits, ModelLimits, RunError, Runner};

/// How long to wait before looking again whether a parked sequence's receiver has room. The
/// channel tells nobody, and this is far below what a reader of the stream could notice.
const PARKED_POLL: Duration = Duration::from_millis(2);

/// Fixed choices of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Jobs that may wait for a slot; one more is refused.
    pub queue: usize,
    /// How long a sequence may be parked because its receiver takes no events.
    pub slow_client_timeout: Duration,
}

/// The running engine. Dropping it leaves the thread running until all handles are gone.
#[derive(Debug)]
pub struct Engine {
    thread: JoinHandle<()>,
    handle: Handle,
}

/// The engine's thread could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the engine's thread: {0}")]
pub struct StartError(#[from] std::io::Error);

/// The engine's thread panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine failed in an unexpected way; its requests were given up")]
pub struct Crashed;

/// Starts the engine's thread, which owns `runner` from now on.
///
/// # Errors
/// If the system has no thread to give.
pub fn start(
    runner: Box<dyn Runner>,
    interrupt: Arc<dyn Interrupt>,
    options: Options,
) -> Result<Engine, StartError> {
    let shared = Arc::new(Shared::new(runner.limits().clone(), options.queue, interrupt));
    // Waiting jobs are counted at the door, so the channel itself is never the limit: it has room
    // for all that may wait and for the command to stop.
    let (sender, receiver) = mpsc::channel(options.queue + 1);
    let handle = Handle::new(sender, Arc::clone(&shared));
    let core = Core::new(runner, receiver, shared, options);
    let thread = std::thread::Builder::new().name("phi4d-engine".into()).spawn(move || {
        let shared = Arc::clone(&core.shared);
        if catch_unwind(AssertUnwindSafe(|| core.run())).is_err() {
            shared.counters.fail_all_open();
            shared.crashed.store(true, Ordering::Release);
        }
    })?;
    Ok(Engine { thread, handle })
}

impl Engine {
    /// A handle to submit jobs by.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Stops at once: cuts the running step, fails every job that has not ended, and waits for the
    /// thread.
    ///
    /// # Errors
    /// If the thread had panicked.
    pub fn stop(self) -> Result<(), Crashed> {
        self.handle.abort();
        let joined = self.thread.join();
        if joined.is_err() || self.handle.has_crashed() { Err(Crashed) } else { Ok(()) }
    }
}

/// All that the engine's thread owns.
struct Core {
    runner: Box<dyn Runner>,
    commands: mpsc::Receiver<Command>,
    shared: Arc<Shared>,
    options: Options,
    limits: ModelLimits,
    scheduler: Scheduler,
    slots: Slots,
    waiting: VecDeque<Job>,
    /// By slot.
    live: Vec<Option<Sequence>>,
    arrivals: u64,
    scratch: Scratch,
}

/// Why the loop ends.
enum Stop {
    /// Nobody can submit any more, or the engine was told to stop.
    Told,
}

impl Core {
    fn new(
        runner: Box<dyn Runner>,
        commands: mpsc::Receiver<Command>,
        shared: Arc<Shared>,
        options: Options,
    ) -> Self {
        let limits = runner.limits().clone();
        Self {
            scheduler: Scheduler::new(limits.max_prefill_tokens),
            slots: Slots::new(limits.slots),
            live: (0..limits.slots).map(|_| None).collect(),
            waiting: VecDeque::new(),
            arrivals: 0,
            scratch: Scratch::default(),
            runner,
            commands,
            shared,
            options,
            limits,
        }
    }

    fn run(mut self) {
        while self.turn().is_ok() {}
        self.fail_all(&JobError::ShuttingDown);
    }

    /// One turn: commands, departures, admissions, one step.
    fn turn(&mut self) -> Result<(), Stop> {
        self.take_commands()?;
        let now = Instant::now();
        self.drop_departed(now);
        self.admit();
        let candidates: Vec<_> =
            self.live.iter_mut().flatten().map(|sequence| sequence.candidate(now)).collect();
        match self.scheduler.plan(&candidates) {
            StepPlan::Idle if candidates.is_empty() => Ok(()),
            StepPlan::Idle => {
                std::thread::sleep(PARKED_POLL);
                Ok(())
            }
            StepPlan::Prefill { slot, tokens } => {
                self.prefill(slot, tokens);
                Ok(())
            }
            StepPlan::Decode { first, rows } => {
                self.decode(first, rows);
                Ok(())
            }
        }
    }

    /// Takes what is in the channel; waits for something if there is nothing else to do.
    fn take_commands(&mut self) -> Result<(), Stop> {
        if self.shared.stopping.load(Ordering::Acquire) {
            return Err(Stop::Told);
        }
        if self.waiting.is_empty() && self.live.iter().all(Option::is_none) {
            let command = self.commands.blocking_recv().ok_or(Stop::Told)?;
            self.take_command(command)?;
        }
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.take_command(command)?,
                Err(TryRecvError::Empty) => return Ok(()),
                // Jobs that were accepted still run to their end.
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
        }
    }

    fn take_command(&mut self, command: Command) -> Result<(), Stop> {
        match command {
            Command::Run(job) => {
                self.waiting.push_back(*job);
                Ok(())
            }
            Command::Stop => Err(Stop::Told),
        }
    }

    /// Ends what nobody waits for any more and what is overdue.
    fn drop_departed(&mut self, now: Instant) {
        let counters = &self.shared.counters;
        self.waiting.retain(|job| {
            if job.events.is_closed() {
                counters.cancelled.fetch_add(1, Ordering::Relaxed);
                counters.leave_queue();
                return false;
            }
            if job.deadline.is_some_and(|deadline| now >= deadline) {
                counters.failed.fetch_add(1, Ordering::Relaxed);
                counters.leave_queue();
                let _ = job.events.try_send(Event::Failed(JobError::DeadlineExceeded));
                return false;
            }
            true
        });
        for slot in 0..self.live.len() {
            let Some(sequence) = &self.live[slot] else {
                continue;
            };
            if sequence.is_abandoned() {
                drop(self.retire(slot, |counters| &counters.cancelled));
            } else if let Some(error) = sequence.overdue(now, self.options.slow_client_timeout) {
                self.fail(slot, error);
            }
        }
    }

    /// Gives free slots to the jobs that waited longest.
    fn admit(&mut self) {
        while !self.waiting.is_empty() {
            let Some(slot) = self.slots.take() else {
                return;
            };
            let Some(job) = self.waiting.pop_front() else {
                return;
            };
            let context_tokens = self.limits.context_tokens;
            let sequence = Sequence::begin(job, slot, self.arrivals, context_tokens);
            self.live[slot] = Some(sequence);
            self.arrivals += 1;
            self.shared.counters.start_running();
        }
    }

    fn prefill(&mut self, slot: usize, count: usize) {
        let Some(sequence) = &mut self.live[slot] else {
            return;
        };
        let result = self.runner.prefill(slot, sequence.cached(), sequence.pending(count), 1);
        let counters = &self.shared.counters;
        counters.steps.fetch_add(1, Ordering::Relaxed);
        let outcome = match result {
            Err(error) => Err(job_error(error)),
            Ok(logits) => {
                counters.prompt_tokens.fetch_add(count as u64, Ordering::Relaxed);
                if sequence.advance(count) {
                    counters.generated_tokens.fetch_add(1, Ordering::Relaxed);
                    sample(sequence, &logits, 0, &mut self.scratch)
                } else {
                    Ok(None)
                }
            }
        };
        self.settle(slot, outcome);
    }

    fn decode(&mut self, first: usize, rows: usize) {
        let mut tokens = Vec::with_capacity(rows);
        let mut past = Vec::with_capacity(rows);
        for sequence in self.live[first..first + rows].iter().flatten() {
            tokens.extend_from_slice(sequence.pending(1));
            past.push(sequence.cached());
        }
        let counters = &self.shared.counters;
        counters.steps.fetch_add(1, Ordering::Relaxed);
        let outcomes: Vec<_> = match self.runner.decode(first, &tokens, &past) {
            Err(error) => vec![Err(job_error(error)); rows],
            Ok(logits) => self.live[first..first + rows]
                .iter_mut()
                .flatten()
                .enumerate()
                .map(|(row, sequence)| {
                    sequence.advance(1);
                    counters.generated_tokens.fetch_add(1, Ordering::Relaxed);
                    sample(sequence, &logits, row, &mut self.scratch)
                })
                .collect(),
        };
        for (slot, outcome) in (first..).zip(outcomes) {
            self.settle(slot, outcome);
        }
    }

    /// Goes on with, finishes or fails the sequence in `slot` after a step.
    fn settle(&mut self, slot: usize, outcome: Result<Option<FinishReason>, JobError>) {
        match outcome {
            Ok(None) => {}
            Ok(Some(reason)) => {
                if let Some(sequence) = self.retire(slot, |counters| &counters.finished) {
                    sequence.finish(reason);
                }
            }
            Err(error) => {
                log::error!(slot; "a sequence failed: {error}");
                self.fail(slot, error);
            }
        }
    }

    fn fail(&mut self, slot: usize, error: JobError) {
        if let Some(sequence) = self.retire(slot, |counters| &counters.failed) {
            sequence.fail(error);
        }
    }

    /// Takes the sequence out of `slot`, frees the slot and counts how it ended; only then is its
    /// receiver told, so that whoever hears of an end finds it counted.
    fn retire(&mut self, slot: usize, end: fn(&Counters) -> &AtomicU64) -> Option<Sequence> {
        let sequence = self.live[slot].take()?;
        self.slots.give_back(sequence.slot());
        self.runner.release(slot, 0);
        self.shared.counters.stop_running(end);
        Some(sequence)
    }

    fn fail_all(&mut self, error: &JobError) {
        for slot in 0..self.live.len() {
            self.fail(slot, error.clone());
        }
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Run(job) = command {
                self.waiting.push_back(*job);
            }
        }
        for job in self.waiting.drain(..) {
            self.shared.counters.failed.fetch_add(1, Ordering::Relaxed);
            self.shared.counters.leave_queue();
            let _ = job.events.try_send(Event::Failed(error.clone()));
        }
    }
}

/// Chooses the next token of `sequence` from row `row`. Returns why the sequence is over, if it is.
fn sample(
    sequence: &mut Sequence,
    logits: &Logits<'_>,
    row: usize,
    scratch: &mut Scratch,
) -> Result<Option<FinishReason>, JobError> {
    let choice = sequence
        .sampler()
        .choose(logits.row(row), scratch)
        .map_err(|error| JobError::Model(error.to_string()))?;
    Ok(sequence.take(choice))
}

fn job_error(error: RunError) -> JobError {
    match error {
        RunError::Interrupted => JobError::ShuttingDown,
        RunError::Runtime(reason) => JobError::Model(reason),
    }
}
