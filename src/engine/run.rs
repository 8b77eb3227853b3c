//! The engine's thread: accepts jobs, gives them slots, plans steps and ends sequences.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::candidate::Candidate;
use super::handle::{Command, Counters, Handle, SNAPSHOTS, Shared};
use super::kv::{Action, Cache, Growth, Sizes};
use super::message::{JobError, Live, State};
use super::pace::{Aims, Pace};
use super::persist::{self, Store};
use super::queue::Queue;
use super::sampler::Scratch;
use super::scheduler::{Budget, Scheduler};
use super::sequence::Sequence;
use phi4d_door::{Bounds, End, SubmitError};
use phi4d_model::{Interrupt, KvGrowth, KvTooSmall, ModelLimits, Rotary, Runner};

/// How long to wait before checking again whether a paused sequence's receiver has room. The channel
/// wakes nobody when it gets room, and a reader of the stream does not notice 2 ms.
const PAUSED_POLL: Duration = Duration::from_millis(2);

/// Fixed choices of the engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Sequences that run at once; at most the runner's slots. Further slots keep cached prefixes of
    /// sequences that have ended.
    pub max_running: usize,
    /// Places in the queue of waiting jobs (see [`Bounds`]).
    pub queue: usize,
    /// The most places that one caller may have.
    pub queue_per_caller: usize,
    /// How long a sequence may be paused because its receiver takes no events; then it fails.
    pub slow_client_timeout: Duration,
    /// Bytes of KV cache in the host's memory that all sequences and prefixes together may take, by the
    /// [`phi4d_model::MemoryPlan`]. A runner on a device has its own limit.
    pub kv_cache_bytes: usize,
    /// Share of the time that prompts get while others decode, in (0, 1).
    pub prefill_share: f64,
    /// How long a prefill chunk may take. It always gets four times the fixed part of a step.
    pub prefill_chunk: Duration,
    /// The most draft tokens of a step (speculative decoding), for a sequence that decodes alone; 0
    /// turns it off.
    pub draft_tokens: usize,
    /// Whether a request with a seed, or at temperature 0, gets the same answer each time, bit for bit,
    /// whatever is cached, runs beside it or interrupted it. If the runner's results depend on a step's
    /// width ([`ModelLimits::width_invariant`]), prompts are then read in chunks of a fixed grid, without
    /// speculative decoding.
    pub reproducible: bool,
    /// Whether a sequence's logits do not depend on those that decode in the same step. If they do,
    /// reproducible sequences decode one at a time.
    pub batch_invariant: bool,
    /// Seed of jobs that give none, to make runs repeatable; `None` draws one for each.
    pub fallback_seed: Option<u64>,
    /// Where cached prefixes are stored between runs; `None` keeps them in memory only.
    pub store: Option<Store>,
}

impl Options {
    /// Whether the width at which each token is computed has to follow from the request alone.
    fn fixes_widths(&self, limits: &ModelLimits) -> bool {
        self.reproducible && !limits.width_invariant
    }

    /// Whether each sequence decodes in a step of its own.
    fn decodes_apart(&self, limits: &ModelLimits) -> bool {
        self.fixes_widths(limits) && !self.batch_invariant
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_running: 8,
            queue: 128,
            queue_per_caller: 64,
            slow_client_timeout: Duration::from_secs(60),
            kv_cache_bytes: usize::MAX,
            prefill_share: 0.5,
            prefill_chunk: Duration::from_millis(250),
            draft_tokens: 7,
            reproducible: false,
            batch_invariant: true,
            fallback_seed: None,
            store: None,
        }
    }
}

/// The running engine. Dropping it leaves the thread running until all handles are gone.
#[derive(Debug)]
pub struct Engine {
    thread: JoinHandle<()>,
    handle: Handle,
}

/// The engine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system refused a thread.
    #[error("cannot start the engine's thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The memory for the KV cache does not hold one short sequence.
    #[error(transparent)]
    Memory(#[from] KvTooSmall),
}

/// The engine's thread panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine failed in an unexpected way; its requests were aborted")]
pub struct Crashed;

/// Starts the engine's thread, which owns `runner` from now on.
///
/// # Errors
/// If the KV cache's memory is too small, or the system refuses a thread.
pub fn start(
    runner: Box<dyn Runner>,
    interrupt: Arc<dyn Interrupt>,
    mut options: Options,
) -> Result<Engine, StartError> {
    if options.decodes_apart(runner.limits()) {
        log::info!(
            "answers are reproducible, so sequences decode one at a time: on this machine \
             the kernels round differently in steps of several"
        );
    }
    let fixed_widths = options.fixes_widths(runner.limits());
    if fixed_widths {
        // The number of draft tokens follows measured times, and a step's width changes low-order
        // digits of the logits.
        options.draft_tokens = 0;
        if let Some(store) = &mut options.store {
            store.fingerprint = persist::on_grid(store.fingerprint, runner.limits());
        }
    }
    let mut limits = runner.limits().clone();
    let max_running = options.max_running.clamp(1, limits.slots);
    let kv = limits.kv_sizes(options.kv_cache_bytes)?;
    limits.context_tokens = kv.slot_tokens;
    let sizes = Sizes {
        rows: limits.slots,
        max_live: max_running,
        row_tokens: kv.slot_tokens,
        block_tokens: limits.kv_block_tokens,
        budget_tokens: kv.budget_tokens,
        grid: fixed_widths.then_some(limits.max_prefill_tokens),
        growth: match limits.kv_growth {
            KvGrowth::Own => Growth::Own,
            KvGrowth::Shared | KvGrowth::Blocks { .. } => Growth::Shared,
            KvGrowth::Alike { .. } => Growth::Alike,
        },
    };
    let bounds = Bounds { total: options.queue, per_caller: options.queue_per_caller };
    let shared = Arc::new(Shared::new(limits.clone(), max_running, bounds, interrupt));
    // The door bounds the queued jobs, so the channel is never the limit: it has room for all of them,
    // for requests for snapshots and for the command to stop.
    let (sender, receiver) = mpsc::channel(options.queue + SNAPSHOTS + 1);
    let handle = Handle::new(sender, Arc::clone(&shared));
    let core = Core::new(runner, receiver, shared, options, sizes);
    let thread = std::thread::Builder::new().name("phi4d-engine".into()).spawn(move || {
        let shared = Arc::clone(&core.shared);
        if catch_unwind(AssertUnwindSafe(|| core.run())).is_err() {
            shared.door.abandon();
            shared.crashed.store(true, Ordering::Release);
        }
    })?;
    Ok(Engine { thread, handle })
}

impl Engine {
    /// A handle to submit jobs with.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Stops at once: interrupts the running step, fails every job that has not ended, and waits for
    /// the thread.
    ///
    /// # Errors
    /// If the thread had panicked.
    pub fn stop(self) -> Result<(), Crashed> {
        self.handle.abort();
        let joined = self.thread.join();
        if joined.is_err() || self.handle.has_crashed() { Err(Crashed) } else { Ok(()) }
    }
}

/// Everything that the engine's thread owns. Its steps are in the module `step`.
pub(super) struct Core {
    pub(super) runner: Box<dyn Runner>,
    commands: mpsc::Receiver<Command>,
    pub(super) shared: Arc<Shared>,
    pub(super) options: Options,
    pub(super) limits: ModelLimits,
    /// Whether prompts are read on a fixed grid of chunks (see [`Options::reproducible`]).
    pub(super) fixed_widths: bool,
    scheduler: Scheduler,
    pub(super) pace: Pace,
    pub(super) cache: Cache<Sequence>,
    pub(super) waiting: Queue<Sequence>,
    arrivals: u64,
    pub(super) scratch: Scratch,
    /// Logit rows that a runner gathers.
    pub(super) rows: Vec<f32>,
    /// How long a step's other sequences wait for late masks, by the newest step's time.
    pub(super) grace: Duration,
}

/// A stop was requested, or all handles are gone.
struct Stop;

impl Core {
    fn new(
        runner: Box<dyn Runner>,
        commands: mpsc::Receiver<Command>,
        shared: Arc<Shared>,
        options: Options,
        sizes: Sizes,
    ) -> Self {
        let mut limits = runner.limits().clone();
        limits.context_tokens = sizes.row_tokens;
        shared.counters.kv_budget_tokens.store(sizes.budget_tokens, Ordering::Release);
        Self {
            pace: Pace::new(Aims {
                share: options.prefill_share,
                chunk: options.prefill_chunk,
                most_tokens: limits.max_prefill_tokens,
                draft_tokens: options.draft_tokens,
            }),
            cache: Cache::new(sizes),
            fixed_widths: options.fixes_widths(&limits),
            scheduler: Scheduler::new(options.decodes_apart(&limits)),
            waiting: Queue::new(),
            arrivals: 0,
            scratch: Scratch::default(),
            rows: Vec::new(),
            grace: Duration::ZERO,
            runner,
            commands,
            shared,
            options,
            limits,
        }
    }

    fn run(mut self) {
        if let Some(store) = &self.options.store {
            let count = persist::load(store, &mut self.cache, self.runner.as_mut());
            log::info!(count; "restored cached prefixes");
            self.publish();
        }
        while self.iterate().is_ok() {}
        self.fail_all(&JobError::ShuttingDown);
        if let Some(store) = &self.options.store {
            match persist::save(store, &self.cache, self.runner.as_mut()) {
                Ok(count) => log::info!(count; "stored cached prefixes"),
                Err(error) => {
                    log::warn!(
                        "cannot store cached prefixes in {}: {error}",
                        store.folder.display()
                    );
                }
            }
        }
    }

    /// One iteration: take commands, end and admit sequences, run one step.
    fn iterate(&mut self) -> Result<(), Stop> {
        self.take_commands()?;
        let now = Instant::now();
        // Before admission, so that slots and memory of ended sequences are there for waiting ones.
        self.end_departed(now);
        self.admit(now);
        // Before the plan, since both may end sequences or move them to other slots.
        self.poll_masks();
        self.restart_outgrown();
        let candidates = self.candidates(now);
        let Self { scheduler, pace, limits, fixed_widths, .. } = self;
        let grid = limits.max_prefill_tokens;
        let chunk = |past| if *fixed_widths { grid } else { pace.chunk(past) };
        let joins = |work, past| pace.joins(work, past);
        let budget = Budget {
            prefill_waits: pace.prefill_waits(),
            chunk: &chunk,
            joins: (limits.mixed_steps && !*fixed_widths).then_some(&joins),
        };
        let plan = scheduler.plan(&candidates, &budget);
        match plan.as_slice() {
            [] if candidates.is_empty() => {}
            [] => {
                // Everything waits for a mask, whose arrival ends the wait, or for a slow client.
                if !self.wait_for_mask(PAUSED_POLL) {
                    std::thread::sleep(PAUSED_POLL);
                }
            }
            [span] if span.decodes => self.decode_one(*span, &candidates),
            plan => {
                let plan = self.begin_prompts(plan, &candidates);
                self.run_step(&plan, &candidates);
            }
        }
        self.publish();
        Counters::add(&self.shared.counters.iterations, 1);
        Ok(())
    }

    /// The live sequences as the scheduler sees them, in the order of their slots.
    fn candidates(&mut self, now: Instant) -> Vec<Candidate> {
        let decoding = self.cache.decoding();
        let mut candidates = Vec::with_capacity(self.cache.live());
        for slot in 0..self.cache.live() {
            let cached = self.cache.tokens(slot).len();
            if let Some(sequence) = self.cache.sequence_mut(slot) {
                let state = (cached, slot < decoding);
                let how = (&self.limits, self.fixed_widths);
                candidates.push(sequence.candidate(slot, state, how, now));
            }
        }
        candidates
    }

    /// Takes all commands in the channel; blocks for one if there is nothing else to do.
    fn take_commands(&mut self) -> Result<(), Stop> {
        if self.shared.stopping.load(Ordering::Acquire) {
            return Err(Stop);
        }
        if self.waiting.is_empty() && self.cache.live() == 0 {
            let command = self.commands.blocking_recv().ok_or(Stop)?;
            self.take_command(command)?;
        }
        loop {
            match self.commands.try_recv() {
                Ok(command) => self.take_command(command)?,
                // If all handles are gone, the jobs that were accepted still run to their end.
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Ok(()),
            }
        }
    }

    fn take_command(&mut self, command: Command) -> Result<(), Stop> {
        let job = match command {
            Command::Run(job) => job,
            Command::Snapshot(permit, answer) => {
                drop(permit);
                // The receiver may be gone by now.
                let _ = answer.send(self.snapshot(Instant::now()));
                return Ok(());
            }
            Command::Stop => return Err(Stop),
        };
        let row_tokens = self.limits.context_tokens;
        let seed = self.options.fallback_seed.unwrap_or_else(rand::random);
        let sequence = Sequence::new(*job, self.arrivals, Instant::now(), row_tokens, seed);
        self.arrivals += 1;
        self.waiting.push(sequence.ticket(), sequence);
        Ok(())
    }

    /// All jobs that have not ended: running ones in the order of their slots, then waiting ones.
    fn snapshot(&self, now: Instant) -> Vec<Live> {
        let running = (0..self.cache.live()).filter_map(|slot| {
            let sequence = self.cache.sequence(slot)?;
            let state = match () {
                () if sequence.is_paused() => State::Paused,
                () if slot < self.cache.decoding() => State::Decode,
                () => State::Prefill,
            };
            Some(sequence.live(state, self.cache.tokens(slot).len(), now))
        });
        let waiting = self.waiting.iter().map(|sequence| sequence.live(State::Waiting, 0, now));
        running.chain(waiting).collect()
    }

    /// Ends sequences whose receiver is gone, whose deadline passed or whose client is too slow.
    fn end_departed(&mut self, now: Instant) {
        let slow_client = self.options.slow_client_timeout;
        let leaves = |sequence: &Sequence| {
            sequence.is_abandoned() || sequence.overdue(now, slow_client).is_some()
        };
        for sequence in self.waiting.remove(leaves) {
            self.leave_queue(sequence, now);
        }
        // Downwards, since retiring moves slots behind this one, which were visited already.
        for slot in (0..self.cache.live()).rev() {
            let Some(sequence) = self.cache.sequence(slot) else { continue };
            if sequence.is_abandoned() {
                drop(self.retire(slot, true, End::Cancelled));
            } else if let Some(error) = sequence.overdue(now, slow_client) {
                self.fail(slot, true, error);
            }
        }
    }

    /// Ends a waiting sequence that was removed from the queue since it is abandoned or overdue.
    fn leave_queue(&mut self, sequence: Sequence, now: Instant) {
        let error = sequence.overdue(now, self.options.slow_client_timeout);
        let end = if sequence.is_abandoned() { End::Cancelled } else { End::Failed };
        self.shared.door.end_waiting(sequence.waiting(), end);
        if let Some(error) = error {
            sequence.fail(error);
        }
    }

    /// Restarts sequences that have outgrown the short rotary table: keys rotated by it are of no use
    /// beside keys of the long one, so the model reads all tokens again. They keep their slots.
    fn restart_outgrown(&mut self) {
        // Downwards, since restarting moves slots behind this one, which were visited already.
        for slot in (0..self.cache.decoding_short()).rev() {
            let Some(sequence) = self.cache.sequence(slot) else { continue };
            let rotary = self.limits.rotary(sequence.tokens().len());
            if rotary == Rotary::Long {
                let scope = sequence.cache_scope(rotary);
                self.cache.restart(slot, scope);
                self.do_actions();
            }
        }
    }

    /// Ends the sequence in `slot` with `error`; `keep` keeps its tokens as a cached prefix.
    pub(super) fn fail(&mut self, slot: usize, keep: bool, error: JobError) {
        if let Some(sequence) = self.retire(slot, keep, End::Failed) {
            sequence.fail(error);
        }
    }

    /// Takes the sequence out of `slot` and counts its end. The caller sends the last event after that,
    /// so that a receiver that got it finds the end counted. `keep` keeps the slot's tokens as a cached
    /// prefix.
    pub(super) fn retire(&mut self, slot: usize, keep: bool, end: End) -> Option<Sequence> {
        // Such a sequence has a cache scope of its own: its tokens could never be found again.
        let keep = keep && !self.cache.sequence(slot)?.reports_prompt();
        let sequence = self.cache.retire(slot, keep)?;
        self.do_actions();
        self.publish();
        self.shared.door.end_running(end);
        Some(sequence)
    }

    /// Applies the cache's book-keeping to the runner's memory. Must run before the next step, which
    /// would otherwise find other tokens in its slots.
    pub(super) fn do_actions(&mut self) {
        for action in self.cache.take_actions() {
            match action {
                Action::Swap { slots, tokens } => self.runner.swap(slots, tokens),
                Action::Copy { from, to, tokens } => self.runner.copy(from, to, tokens),
                Action::Release { slot, keep } => self.runner.release(slot, keep),
            }
        }
    }

    /// Publishes the KV cache's use for [`Handle::stats`].
    fn publish(&self) {
        let counters = &self.shared.counters;
        counters.kv_tokens.store(self.cache.held_tokens(), Ordering::Release);
        counters.kv_cached_tokens.store(self.cache.cached_tokens(), Ordering::Release);
    }

    /// Fails every job that was accepted and has not ended.
    fn fail_all(&mut self, error: &JobError) {
        for slot in (0..self.cache.live()).rev() {
            self.fail(slot, true, error.clone());
        }
        // Jobs are sent under the door's lock, so after this every accepted one is in the channel.
        self.shared.door.close(SubmitError::Stopped);
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            // A second command to stop changes nothing.
            let _ = self.take_command(command);
        }
        for sequence in self.waiting.remove(|_| true) {
            self.shared.door.end_waiting(sequence.waiting(), End::Failed);
            sequence.fail(error.clone());
        }
    }
}
