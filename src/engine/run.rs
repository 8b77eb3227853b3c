//! The engine's thread: accepts jobs, gives them slots, plans steps and ends sequences. Its steps are in
//! [`super::step`].

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::candidate::Candidate;
use super::handle::{Command, Counters, Shared};
use super::kv::{Action, Cache, Sizes};
use super::message::{JobError, Live, State};
use super::options::Options;
use super::pace::{Aims, Pace};
use super::persist;
use super::queue::{Queue, Ticket};
use super::sampler::Scratch;
use super::scheduler::{Budget, Scheduler};
use super::sequence::Sequence;
use phi4d_door::{CallerId, End, SubmitError};
use phi4d_model::{ModelLimits, Rotary, Runner};

/// How long to wait before checking again whether a paused sequence's receiver has room. The channel
/// wakes nobody when it gets room, and a reader of the stream does not notice 2 ms.
const PAUSED_POLL: Duration = Duration::from_millis(2);

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
    /// How long a step's other sequences wait for late masks, by the newest step's time.
    pub(super) grace: Duration,
}

/// A stop was requested, or all handles are gone.
struct Stop;

impl Core {
    pub(super) fn new(
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
            grace: Duration::ZERO,
            runner,
            commands,
            shared,
            options,
            limits,
        }
    }

    pub(super) fn run(mut self) {
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
        let budget = Budget {
            prefill_waits: pace.prefill_waits(),
            chunk: &chunk,
            mixes: (limits.mixed_steps && !*fixed_widths).then_some(&*pace),
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
                self.waiting.retry();
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
        self.waiting.retry();
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

    /// Publishes the KV cache's use for [`super::Handle::stats`].
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

/// Which sequences have slots and memory: admission and preemption.
impl Core {
    /// Gives slots to waiting sequences, in the queue's order, as long as any fits. Callers that have no slot
    /// come first, and do not wait for the ends of others' sequences: those that have several give one up.
    pub(super) fn admit(&mut self, now: Instant) {
        while !self.waiting.is_empty() && !self.waiting.is_resting(now) {
            let held: Vec<CallerId> =
                self.ranks().iter().map(|(ticket, _)| ticket.caller).collect();
            if self.admit_next(now, |caller| !held.contains(&caller)) {
                continue;
            }
            let asks = |job: &Sequence| !job.has_asked() && !held.contains(&job.ticket().caller);
            if self.waiting.iter().any(asks)
                && let Some(slot) = self.least_entitled(2)
            {
                self.preempt(slot);
                continue;
            }
            // Nobody has a second slot to give up. Once is enough: what was given up for nothing goes on now.
            for job in self.waiting.iter_mut().filter(|job| !held.contains(&job.ticket().caller)) {
                job.ask();
            }
            if !self.admit_next(now, |_| true) {
                self.waiting.rest(now);
            }
        }
    }

    /// Gives a slot to the next sequence that fits, of the callers that `may` have one.
    fn admit_next(&mut self, now: Instant, may: impl Fn(CallerId) -> bool) -> bool {
        if !self.cache.has_free_slot() {
            return false;
        }
        let Self { cache, waiting, limits, fixed_widths, .. } = self;
        let mut admission = None;
        let next = waiting.take(now, may, |next| {
            let scope = next.cache_scope(limits.rotary(next.tokens().len()));
            let shared = next.chunked(*fixed_widths, limits);
            admission = cache.admit(next.tokens(), shared, scope);
            admission.is_some()
        });
        let (Some(mut sequence), Some(admission)) = (next, admission) else { return false };
        self.do_actions();
        self.shared.door.start(sequence.waiting());
        sequence.admit();
        self.cache.place(admission, sequence);
        true
    }

    /// Makes room for `count` more tokens in `slot`, and preempts others if needed, the least entitled first.
    /// Returns the sequence's slot afterwards, or `None` if it was preempted itself.
    pub(super) fn make_room(&mut self, slot: usize, count: usize) -> Option<usize> {
        // Preempting moves slots, so the sequence is found again by its arrival, which is unique.
        let arrival = self.cache.sequence(slot)?.arrival();
        loop {
            let slot = self.ranks().iter().position(|(_, other)| *other == arrival)?;
            if self.cache.grow(slot, count) {
                self.do_actions();
                return Some(slot);
            }
            // Each step of the others is a token that they keep, so preemption ends.
            let last = self.least_entitled(1)?;
            self.preempt(last);
        }
    }

    /// Tickets and arrivals of the sequences in live slots, by slot.
    fn ranks(&self) -> Vec<(Ticket, u64)> {
        let sequences = (0..self.cache.live()).filter_map(|slot| self.cache.sequence(slot));
        sequences.map(|sequence| (sequence.ticket(), sequence.arrival())).collect()
    }

    /// The slot of the sequence that is preempted next: of the caller that has most slots, if they are `least`
    /// or more, that of the lowest priority, of these the newest. Of callers that have as many it is the one
    /// with the newest: a priority is for a caller's own requests.
    fn least_entitled(&self, least: usize) -> Option<usize> {
        let ranks = self.ranks();
        let slots_of = |caller| ranks.iter().filter(|(other, _)| other.caller == caller).count();
        let (most, _) =
            ranks.iter().max_by_key(|(one, arrival)| (slots_of(one.caller), *arrival))?;
        let own = ranks.iter().enumerate().filter(|(_, (one, _))| one.caller == most.caller);
        let (slot, _) = own.min_by_key(|(_, (one, arrival))| (one.priority, Reverse(*arrival)))?;
        (slots_of(most.caller) >= least).then_some(slot)
    }

    /// Puts the sequence in `slot` back into the queue. Its tokens stay cached while there is room, so
    /// that it may continue from them.
    fn preempt(&mut self, slot: usize) {
        let Some(mut sequence) = self.cache.retire(slot, true) else { return };
        self.do_actions();
        sequence.drop_held();
        self.shared.door.put_back();
        Counters::add(&self.shared.counters.preempted, 1);
        self.waiting.put_back(sequence.ticket(), sequence);
    }
}
