//! The engine's thread: takes jobs, gives them rows, plans steps and lets sequences go.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::door::{Bounds, End};
use super::error::SubmitError;
use super::handle::{Command, Counters, Handle, Shared};
use super::kv::{Action, Cache, Sizes};
use super::look::{LOOKS, look};
use super::message::JobError;
use super::pace::Pace;
use super::persist::{self, Store};
use super::queue::Queue;
use super::sampler::Scratch;
use super::scheduler::{Scheduler, StepPlan};
use super::sequence::Sequence;
use phi4d_model::{Interrupt, KvGrowth, KvTooSmall, ModelLimits, Rotary, Runner};

/// How long to wait before looking again whether a parked sequence's receiver has room. The
/// channel tells nobody, and this is far below what a reader of the stream could notice.
const PARKED_POLL: Duration = Duration::from_millis(2);

/// Fixed choices of the engine.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// Sequences that run at once; at most the runner's slots. The slots beyond keep the cached
    /// prefixes of sequences that have ended.
    pub max_running: usize,
    /// Jobs that may wait for a slot; one more is refused.
    pub queue: usize,
    /// Jobs of one caller that may wait.
    pub queue_per_caller: usize,
    /// How long a sequence may be parked because its receiver takes no events.
    pub slow_client_timeout: Duration,
    /// Bytes of KV cache in the host's memory that all sequences and prefixes together may take, by the
    /// [`phi4d_model::MemoryPlan`]. A runner on a device has its own limit.
    pub kv_cache_bytes: usize,
    /// Share of the time that prompts get while others decode, in (0, 1).
    pub prefill_share: f64,
    /// The most tokens guessed ahead for a sequence that decodes alone; 0 guesses none.
    pub draft_tokens: usize,
    /// Whether a request with a seed, or at temperature 0, gets the same answer each time, bit for
    /// bit: whatever is cached, runs beside it or interrupted it. Prompts are read by a fixed grid of
    /// chunks, and nothing is speculated.
    pub reproducible: bool,
    /// Seed of jobs that give none, to make runs repeatable; `None` draws one for each.
    pub fallback_seed: Option<u64>,
    /// Where cached prefixes are kept between runs; `None` keeps them in memory only.
    pub store: Option<Store>,
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
            draft_tokens: 7,
            reproducible: false,
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
    /// The system has no thread to give.
    #[error("cannot start the engine's thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The memory for the KV cache does not hold one short sequence.
    #[error(transparent)]
    Memory(#[from] KvTooSmall),
}

/// The engine's thread panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine failed in an unexpected way; its requests were given up")]
pub struct Crashed;

/// Starts the engine's thread, which owns `runner` from now on.
///
/// # Errors
/// If the KV cache's memory is too small, or the system has no thread to give.
pub fn start(
    runner: Box<dyn Runner>,
    interrupt: Arc<dyn Interrupt>,
    mut options: Options,
) -> Result<Engine, StartError> {
    if options.reproducible {
        // How much is speculated follows measured times, and shows in the last digits of the logits.
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
        grid: options.reproducible.then_some(limits.max_prefill_tokens),
        alike: matches!(limits.kv_growth, KvGrowth::Alike { .. }),
    };
    let bounds = Bounds { total: options.queue, per_caller: options.queue_per_caller };
    let shared = Arc::new(Shared::new(limits.clone(), max_running, bounds, interrupt));
    // Waiting jobs are counted at the door, so the channel itself is never the limit: it has room
    // for all that may wait, for looks and for the command to stop.
    let (sender, receiver) = mpsc::channel(options.queue + LOOKS + 1);
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

/// All that the engine's thread owns. Steps are in [`super::step`].
pub(super) struct Core {
    pub(super) runner: Box<dyn Runner>,
    commands: mpsc::Receiver<Command>,
    pub(super) shared: Arc<Shared>,
    pub(super) options: Options,
    pub(super) limits: ModelLimits,
    scheduler: Scheduler,
    pub(super) pace: Pace,
    pub(super) cache: Cache<Sequence>,
    waiting: Queue<Sequence>,
    arrivals: u64,
    pub(super) scratch: Scratch,
    /// How long others wait for masks that are late.
    pub(super) grace: Duration,
}

/// The engine was told to stop, or nobody can submit any more.
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
            pace: Pace::new(
                options.prefill_share,
                limits.max_prefill_tokens,
                options.draft_tokens + 1,
            ),
            cache: Cache::new(sizes),
            scheduler: Scheduler::default(),
            waiting: Queue::new(),
            arrivals: 0,
            scratch: Scratch::default(),
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
            log::info!(count; "took up cached prefixes");
            self.publish();
        }
        while self.turn().is_ok() {}
        self.fail_all(&JobError::ShuttingDown);
        if let Some(store) = &self.options.store {
            match persist::save(store, &self.cache, self.runner.as_mut()) {
                Ok(count) => log::info!(count; "kept cached prefixes"),
                Err(error) => {
                    log::warn!("cannot keep prefixes in {}: {error}", store.folder.display());
                }
            }
        }
    }

    /// One turn: commands, departures, admissions, one step.
    fn turn(&mut self) -> Result<(), Stop> {
        self.take_commands()?;
        let now = Instant::now();
        self.drop_departed(now);
        self.admit(now);
        self.hear_masks();
        self.restart_outgrown();
        let decoding = self.cache.decoding();
        let mut candidates = Vec::with_capacity(self.cache.live());
        for row in 0..self.cache.live() {
            let cached = self.cache.tokens(row).len();
            if let Some(sequence) = self.cache.sequence_mut(row) {
                let state = (cached, row < decoding);
                let how = (&self.limits, self.options.reproducible);
                candidates.push(sequence.candidate(row, state, how, now));
            }
        }
        let chunk = match self.options.reproducible {
            true => self.limits.max_prefill_tokens,
            false => self.pace.chunk(decoding > 0),
        };
        match self.scheduler.plan(&candidates, chunk, self.pace.prefill_waits()) {
            StepPlan::Idle if candidates.is_empty() => {}
            StepPlan::Idle => {
                if !self.wait_for_mask(PARKED_POLL) {
                    std::thread::sleep(PARKED_POLL);
                }
            }
            StepPlan::Prefill { row, tokens } => self.prefill(row, tokens),
            StepPlan::Decode { first, rows: 1 } => self.decode_one(first, candidates.len() == 1),
            StepPlan::Decode { first, rows } => self.decode(first, rows),
        }
        self.publish();
        Counters::add(&self.shared.counters.turns, 1);
        Ok(())
    }

    /// Takes what is in the channel; waits for something if there is nothing else to do.
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
                // Where nobody can submit any more, jobs that were accepted still run to their end.
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Ok(()),
            }
        }
    }

    fn take_command(&mut self, command: Command) -> Result<(), Stop> {
        let job = match command {
            Command::Run(job) => job,
            Command::Look(place, answer) => {
                drop(place);
                // Whoever asked may have gone.
                let _ = answer.send(look(&self.cache, &self.waiting, Instant::now()));
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

    /// Ends what nobody waits for any more and what is overdue.
    fn drop_departed(&mut self, now: Instant) {
        let slow_client = self.options.slow_client_timeout;
        let leaves = |sequence: &Sequence| {
            sequence.is_abandoned() || sequence.overdue(now, slow_client).is_some()
        };
        for sequence in self.waiting.remove(leaves) {
            self.leave_queue(sequence, now);
        }
        // Downwards, since retiring moves rows that were seen already.
        for row in (0..self.cache.live()).rev() {
            let Some(sequence) = self.cache.sequence(row) else { continue };
            if sequence.is_abandoned() {
                drop(self.retire(row, true, End::Cancelled));
            } else if let Some(error) = sequence.overdue(now, slow_client) {
                self.fail(row, true, error);
            }
        }
    }

    /// Ends a waiting sequence that is abandoned or overdue.
    fn leave_queue(&mut self, sequence: Sequence, now: Instant) {
        let caller = sequence.ticket().caller;
        let error = sequence.overdue(now, self.options.slow_client_timeout);
        let end = if sequence.is_abandoned() { End::Cancelled } else { End::Failed };
        self.shared.door.end_waiting(caller, end);
        if let Some(error) = error {
            sequence.fail(error);
        }
    }

    /// Gives rows to waiting sequences, in the queue's order, as long as they fit.
    fn admit(&mut self, now: Instant) {
        while let Some(next) = self.waiting.next(now) {
            let scope = next.cache_scope(self.limits.rotary(next.tokens().len()));
            let shared = next.chunked(self.options.reproducible, &self.limits);
            let admission = self.cache.admit(next.tokens(), shared, scope);
            let Some(admission) = admission else { return };
            self.do_actions();
            let Some((ticket, mut sequence)) = self.waiting.take(now) else { return };
            Counters::add(&self.shared.counters.cached_prompt_tokens, admission.cached);
            sequence.start(admission.cached);
            self.cache.place(admission, sequence);
            self.shared.door.start(ticket.caller);
        }
    }

    /// Has sequences read anew that have outgrown the rotary table which turned their keys. They
    /// keep their rows.
    fn restart_outgrown(&mut self) {
        // Downwards, since restarting moves rows that were seen already.
        for row in (0..self.cache.decoding_short()).rev() {
            let Some(sequence) = self.cache.sequence(row) else { continue };
            let rotary = self.limits.rotary(sequence.tokens().len());
            if rotary == Rotary::Long {
                let scope = sequence.cache_scope(rotary);
                self.cache.restart(row, scope);
                self.do_actions();
            }
        }
    }

    /// Makes room for `count` more tokens in `row`; puts back the sequences that came last where
    /// it must. Returns the row's place afterwards, or `None` if the sequence itself was put back.
    pub(super) fn make_room(&mut self, row: usize, count: usize) -> Option<usize> {
        let arrival = self.cache.sequence(row)?.arrival();
        loop {
            let arrivals = self.live_arrivals();
            let row = arrivals.iter().position(|&other| other == arrival)?;
            if self.cache.grow(row, count) {
                self.do_actions();
                return Some(row);
            }
            let last = (0..arrivals.len()).max_by_key(|&row| arrivals[row])?;
            self.preempt(last);
        }
    }

    /// When the sequences of the live rows came, by row.
    fn live_arrivals(&self) -> Vec<u64> {
        let sequences = (0..self.cache.live()).filter_map(|row| self.cache.sequence(row));
        sequences.map(Sequence::arrival).collect()
    }

    /// Puts the sequence in `row` back to wait. Its tokens stay cached while there is room.
    fn preempt(&mut self, row: usize) {
        let Some(mut sequence) = self.cache.retire(row, true) else { return };
        self.do_actions();
        sequence.drop_held();
        let ticket = sequence.ticket();
        self.shared.door.put_back(ticket.caller);
        Counters::add(&self.shared.counters.preempted, 1);
        self.waiting.put_back(ticket, sequence);
    }

    pub(super) fn fail(&mut self, row: usize, keep: bool, error: JobError) {
        if let Some(sequence) = self.retire(row, keep, End::Failed) {
            sequence.fail(error);
        }
    }

    /// Takes the sequence out of `row` and counts how it ended; only then is its receiver told, so
    /// that whoever hears of an end finds it counted. `keep` keeps the row's tokens as a prefix.
    pub(super) fn retire(&mut self, row: usize, keep: bool, end: End) -> Option<Sequence> {
        // Its scope is its own, so that its tokens could never be found again.
        let keep = keep && !self.cache.sequence(row)?.reports_prompt();
        let sequence = self.cache.retire(row, keep)?;
        self.do_actions();
        self.publish();
        self.shared.door.end_running(end);
        Some(sequence)
    }

    /// Does with the memory what the cache's book-keeping says.
    pub(super) fn do_actions(&mut self) {
        for action in self.cache.take_actions() {
            match action {
                Action::Swap { rows, tokens } => self.runner.swap(rows, tokens),
                Action::Copy { from, to, tokens } => self.runner.copy(from, to, tokens),
                Action::Release { row, keep } => self.runner.release(row, keep),
            }
        }
    }

    fn publish(&self) {
        let counters = &self.shared.counters;
        counters.kv_tokens.store(self.cache.held_tokens(), Ordering::Release);
        counters.kv_cached_tokens.store(self.cache.cached_tokens(), Ordering::Release);
    }

    fn fail_all(&mut self, error: &JobError) {
        for row in (0..self.cache.live()).rev() {
            self.fail(row, true, error.clone());
        }
        // What was accepted is in the channel; nothing comes in behind this.
        self.shared.door.close(SubmitError::Stopped);
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            // That it is told to stop once more changes nothing.
            let _ = self.take_command(command);
        }
        for sequence in self.waiting.remove(|_| true) {
            self.shared.door.end_waiting(sequence.ticket().caller, End::Failed);
            sequence.fail(error.clone());
        }
    }
}
