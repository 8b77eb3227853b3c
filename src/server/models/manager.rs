//! The one owner of the models' states: a task that takes requests for models, loads and unloads them,
//! and hands out pins.
//!
//! Requests wait in one line, in round-robin turns between callers ([`super::line`]). The first whose model is
//! not loaded decides what happens next: its model is loaded, one at a time, once it fits the memory. For that
//! the least recently used models are unloaded, first those without requests. If others must go, their requests
//! end first, and new ones for them wait behind the one that needs the room, so that no model keeps another out
//! for ever.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::entry::{LoadedModel, ModelEntry, ModelFacts, ModelSource, ModelsOptions};
use super::line::place_of;
use super::resident::{Pin, Resident};
use super::view::{ModelPhase, ModelView, Turnover};
use phi4d_engine::{CallerId, Crashed, Engine, LoadProgress, Stats, SubmitError};
use phi4d_telemetry::catch_panic;

/// How long a failed load answers further requests, too: each reads files and may take long.
const FAILURE_HOLDS: Duration = Duration::from_secs(2);

/// How long a model stays in memory after a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum KeepAlive {
    /// As the settings say.
    #[default]
    Default,
    /// So long.
    For(Duration),
    /// Until another needs the room.
    Forever,
}

/// Why a request gets no model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PinError {
    /// Too many wait, or the daemon is stopping.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// It can't be loaded.
    #[error("the model could not be loaded: {0}")]
    Failed(Arc<str>),
    /// It does not fit the memory for models, even alone.
    #[error("the model needs {needed} bytes of memory, and models_memory_bytes allows {memory}")]
    TooLarge {
        /// What it needs.
        needed: u64,
        /// What there is for all models.
        memory: u64,
    },
}

/// A request that wants a model.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) index: usize,
    pub(super) caller: CallerId,
    pub(super) keep: KeepAlive,
    /// Learns its place in the line, from 1.
    pub(super) place: watch::Sender<usize>,
    pub(super) reply: oneshot::Sender<Result<Pin, PinError>>,
}

/// What the manager is asked for.
#[derive(Debug)]
pub(super) enum Command {
    /// A model, for a request.
    Pin(Waiter),
    /// A model is to go once it has no requests.
    Unload(usize, oneshot::Sender<()>),
    /// All are to go, and the manager with them.
    Stop(oneshot::Sender<Result<(), Crashed>>),
}

#[derive(Debug)]
enum State {
    Unloaded,
    Loading { bytes: u64, progress: LoadProgress },
    Loaded { resident: Arc<Resident>, engine: Engine, bytes: u64 },
    Unloading { bytes: u64 },
}

#[derive(Debug)]
struct Slot {
    state: State,
    facts: Option<Arc<ModelFacts>>,
    /// How long it stays without a request.
    keep: Option<Duration>,
    /// When it was last used: loaded, or its last request ended.
    used: Instant,
    /// Whether it had a request when the manager looked last.
    busy: bool,
    failed: Option<(Instant, Arc<str>)>,
    past: Stats,
    turnover: Turnover,
}

/// The end of work on a thread for blocking work.
#[derive(Debug)]
enum Done {
    Read(usize, Result<ModelFacts, String>),
    Loaded(usize, Result<LoadedModel, String>),
    Unloaded(usize, Result<(), Crashed>),
}

#[derive(Debug)]
pub(super) struct Manager {
    names: Vec<String>,
    slots: Vec<Slot>,
    source: Arc<dyn ModelSource>,
    options: ModelsOptions,
    waiters: VecDeque<Waiter>,
    /// Models that are loaded at the start, as far as they fit.
    preload: VecDeque<usize>,
    /// Models that make room: new requests for them wait.
    leaving: Vec<usize>,
    jobs: JoinSet<Done>,
    /// Whether a model is read or loaded.
    working: bool,
    released: Arc<Notify>,
    views: watch::Sender<Vec<ModelView>>,
    stopping: Option<Vec<oneshot::Sender<Result<(), Crashed>>>>,
    crashed: bool,
}

impl Manager {
    /// A manager whose first model is loaded.
    pub(super) fn new(
        entries: &[ModelEntry],
        first: LoadedModel,
        source: Arc<dyn ModelSource>,
        facts: Vec<Option<ModelFacts>>,
        options: ModelsOptions,
    ) -> Self {
        let released = Arc::new(Notify::new());
        let slot = |facts: Option<ModelFacts>| Slot {
            state: State::Unloaded,
            facts: facts.map(Arc::new),
            keep: options.idle_unload,
            used: Instant::now(),
            busy: false,
            failed: None,
            past: Stats::default(),
            turnover: Turnover::default(),
        };
        let mut slots: Vec<Slot> = facts.into_iter().map(slot).collect();
        slots.resize_with(entries.len(), || slot(None));
        let LoadedModel { generator, engine, bytes, took } = first;
        let resident = Resident::new(generator, Arc::clone(&released));
        slots[0].state = State::Loaded { resident, engine, bytes };
        slots[0].turnover = Turnover { loads: 1, load_time: took, ..Turnover::default() };
        let at_start = entries.iter().enumerate().skip(1).filter(|(_, entry)| entry.at_start);
        let manager = Self {
            names: entries.iter().map(|entry| entry.name.clone()).collect(),
            preload: at_start.map(|(index, _)| index).collect(),
            slots,
            source,
            options,
            waiters: VecDeque::new(),
            leaving: Vec::new(),
            jobs: JoinSet::new(),
            working: false,
            released,
            views: watch::Sender::default(),
            stopping: None,
            crashed: false,
        };
        manager.publish();
        manager
    }

    /// The models' states from now on.
    pub(super) fn views(&self) -> watch::Receiver<Vec<ModelView>> {
        self.views.subscribe()
    }

    /// Wakes the manager.
    pub(super) fn wakes(&self) -> Arc<Notify> {
        Arc::clone(&self.released)
    }

    /// Works until it is asked to stop, or until nobody can ask any more.
    pub(super) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            self.advance();
            self.publish();
            if self.is_over() {
                break;
            }
            let expiry = self.next_expiry();
            let until_expiry = async {
                match expiry {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = commands.recv(), if self.stopping.is_none() || !commands.is_closed() => {
                    match command {
                        Some(command) => self.take(command),
                        None => self.stop(),
                    }
                }
                Some(done) = self.jobs.join_next() => self.finish(done),
                () = self.released.notified() => {}
                () = until_expiry => {}
            }
        }
        let ended = if self.crashed { Err(Crashed) } else { Ok(()) };
        for asked in self.stopping.take().into_iter().flatten() {
            let _ = asked.send(ended);
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Pin(waiter) => self.admit(waiter),
            Command::Unload(index, done) => {
                self.slots[index].keep = Some(Duration::ZERO);
                let _ = done.send(());
            }
            Command::Stop(ended) => {
                self.stop();
                self.stopping.get_or_insert_default().push(ended);
            }
        }
    }

    fn stop(&mut self) {
        self.source.cancel();
        self.stopping.get_or_insert_default();
    }

    fn is_over(&self) -> bool {
        let is_loaded = |slot: &Slot| matches!(slot.state, State::Loaded { .. });
        self.stopping.is_some() && self.jobs.is_empty() && !self.slots.iter().any(is_loaded)
    }

    /// Gives a request its model if it is there, else a place in the line if one is free for it.
    fn admit(&mut self, waiter: Waiter) {
        if self.stopping.is_some() {
            return refuse(waiter, SubmitError::ShuttingDown.into());
        }
        if !self.leaving.contains(&waiter.index)
            && matches!(self.slots[waiter.index].state, State::Loaded { .. })
        {
            return self.grant(waiter, false);
        }
        self.waiters.retain(|waiter| !waiter.reply.is_closed());
        let total = self.options.queue;
        if self.waiters.len() >= total {
            return refuse(waiter, SubmitError::Full { limit: total }.into());
        }
        // As in the engine's queue: a caller has no more places than it leaves free.
        let own = self.waiters.iter().filter(|other| other.caller == waiter.caller).count();
        let left = total - self.waiters.len() - 1;
        if own > 0 && own + 1 > self.options.queue_per_caller.min(left) {
            return refuse(waiter, SubmitError::CallerFull { limit: own }.into());
        }
        let place = place_of(self.waiters.iter().map(|waiter| waiter.caller), waiter.caller);
        self.waiters.insert(place, waiter);
    }

    fn grant(&mut self, waiter: Waiter, has_waited: bool) {
        let slot = &mut self.slots[waiter.index];
        let State::Loaded { resident, .. } = &slot.state else { return };
        slot.busy = true;
        slot.keep = match waiter.keep {
            KeepAlive::Default => self.options.idle_unload,
            KeepAlive::For(time) => Some(time),
            KeepAlive::Forever => None,
        };
        // If the client has left, the pin is dropped with the reply.
        let _ = waiter.reply.send(Ok(resident.pin(has_waited)));
    }

    /// Does everything that can be done now.
    fn advance(&mut self) {
        self.waiters.retain(|waiter| !waiter.reply.is_closed());
        self.note_idle();
        if self.stopping.is_some() {
            for waiter in std::mem::take(&mut self.waiters) {
                refuse(waiter, SubmitError::ShuttingDown.into());
            }
            return (0..self.slots.len()).for_each(|index| self.unload(index));
        }
        let (place, needed) = self.serve_first();
        self.leaving = needed.map_or_else(Vec::new, |bytes| self.least_used(bytes));
        let mut waiting = VecDeque::new();
        for (position, waiter) in std::mem::take(&mut self.waiters).into_iter().enumerate() {
            let is_loaded = matches!(self.slots[waiter.index].state, State::Loaded { .. });
            if is_loaded && (position < place || !self.leaving.contains(&waiter.index)) {
                self.grant(waiter, true);
            } else {
                waiting.push_back(waiter);
            }
        }
        self.waiters = waiting;
        for index in self.leaving.clone() {
            if !self.slots[index].busy {
                log::info!("unloading {}: another model needs the memory", self.names[index]);
                self.unload(index);
            }
        }
        self.expire();
    }

    fn note_idle(&mut self) {
        for slot in &mut self.slots {
            if let State::Loaded { resident, .. } = &slot.state
                && slot.busy
                && !resident.is_pinned()
            {
                slot.busy = false;
                slot.used = Instant::now();
            }
        }
    }

    /// Reads or loads the model of the first request whose model is not there. Returns the request's
    /// place, and the bytes that must be freed for it, if any.
    fn serve_first(&mut self) -> (usize, Option<u64>) {
        loop {
            let is_loaded = |index: usize| matches!(self.slots[index].state, State::Loaded { .. });
            let place = self.waiters.iter().position(|waiter| !is_loaded(waiter.index));
            let index = place.map(|place| self.waiters[place].index);
            let at_start = || self.preload.front().copied();
            let Some(index) = index.or_else(at_start) else { return (self.waiters.len(), None) };
            let place = place.unwrap_or(self.waiters.len());
            if place == self.waiters.len() && is_loaded(index) {
                self.preload.pop_front();
                continue;
            }
            if self.working || !matches!(self.slots[index].state, State::Unloaded) {
                return (place, None);
            }
            let slot = &self.slots[index];
            let held = |(at, _): &&(Instant, Arc<str>)| at.elapsed() < FAILURE_HOLDS;
            let reason = slot.failed.as_ref().filter(held).map(|(_, reason)| Arc::clone(reason));
            if let Some(reason) = reason {
                self.fail(index, &PinError::Failed(reason));
                continue;
            }
            let Some(facts) = &slot.facts else {
                self.read(index);
                return (place, None);
            };
            let (needed, memory) = (facts.bytes, self.options.memory_bytes);
            let free = memory.saturating_sub(self.held_bytes());
            if needed <= free {
                self.load(index, needed);
                return (place, None);
            }
            if needed > memory {
                self.fail(index, &PinError::TooLarge { needed, memory });
            } else if place == self.waiters.len() {
                log::warn!("{} is not loaded at the start: no memory is left", self.names[index]);
                self.preload.pop_front();
            } else {
                let unloading = self.slots.iter().map(|slot| match slot.state {
                    State::Unloading { bytes } => bytes,
                    _ => 0,
                });
                let coming = free + unloading.sum::<u64>();
                return (place, Some(needed.saturating_sub(coming)));
            }
        }
    }

    fn held_bytes(&self) -> u64 {
        let bytes = self.slots.iter().map(|slot| match slot.state {
            State::Unloaded => 0,
            State::Loading { bytes, .. }
            | State::Loaded { bytes, .. }
            | State::Unloading { bytes } => bytes,
        });
        bytes.sum()
    }

    /// Models whose end frees `bytes`: the least recently used, those without requests first.
    fn least_used(&self, bytes: u64) -> Vec<usize> {
        let loaded = self.slots.iter().enumerate().filter_map(|(index, slot)| match slot.state {
            State::Loaded { bytes, .. } => Some((slot.busy, slot.used, index, bytes)),
            _ => None,
        });
        let mut loaded: Vec<_> = loaded.collect();
        loaded.sort_by_key(|(busy, used, ..)| (*busy, *used));
        let mut freed = 0;
        let enough = loaded.into_iter().take_while(|(.., own)| {
            let is_needed = freed < bytes;
            freed += own;
            is_needed
        });
        enough.map(|(_, _, index, _)| index).collect()
    }

    fn read(&mut self, index: usize) {
        let source = Arc::clone(&self.source);
        self.working = true;
        self.jobs.spawn_blocking(move || {
            let facts = catch_panic(|| source.facts(index)).unwrap_or_else(Err);
            Done::Read(index, facts)
        });
    }

    fn load(&mut self, index: usize, bytes: u64) {
        log::info!("loading {}", self.names[index]);
        let source = Arc::clone(&self.source);
        self.working = true;
        let progress = LoadProgress::default();
        self.slots[index].state = State::Loading { bytes, progress: progress.clone() };
        self.jobs.spawn_blocking(move || {
            let loaded = catch_panic(|| source.load(index, &progress)).unwrap_or_else(Err);
            Done::Loaded(index, loaded)
        });
    }

    /// Ends a model's engine, which keeps its prompts first. What it still ran fails.
    fn unload(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if !matches!(slot.state, State::Loaded { .. }) {
            return;
        }
        if let State::Loaded { resident, engine, bytes } =
            std::mem::replace(&mut slot.state, State::Unloaded)
        {
            slot.state = State::Unloading { bytes };
            slot.past = (slot.past + resident.generator().stats()).ended();
            slot.turnover.unloads += 1;
            let source = Arc::clone(&self.source);
            self.jobs.spawn_blocking(move || {
                let ended = engine.stop();
                // Its tokenizer takes a while, too.
                drop(resident);
                source.unloaded(index);
                Done::Unloaded(index, ended)
            });
        }
    }

    /// Unloads what had no request for as long as it stays.
    fn expire(&mut self) {
        let now = Instant::now();
        for index in 0..self.slots.len() {
            if expiry(&self.slots[index]).is_some_and(|at| at <= now) {
                log::info!("unloading {}: no request needs it", self.names[index]);
                self.unload(index);
            }
        }
    }

    fn next_expiry(&self) -> Option<Instant> {
        self.slots.iter().filter_map(expiry).min()
    }

    fn finish(&mut self, done: Result<Done, JoinError>) {
        match done {
            Ok(Done::Read(index, facts)) => {
                self.working = false;
                match facts {
                    Ok(facts) => self.slots[index].facts = Some(Arc::new(facts)),
                    Err(reason) => self.failed(index, &reason),
                }
            }
            Ok(Done::Loaded(index, Ok(loaded))) => self.loaded(index, loaded),
            Ok(Done::Loaded(index, Err(reason))) => {
                self.working = false;
                self.failed(index, &reason);
            }
            Ok(Done::Unloaded(index, ended)) => {
                self.slots[index].state = State::Unloaded;
                self.crashed |= ended.is_err();
                log::info!("unloaded {}", self.names[index]);
            }
            // Only a panic outside of what is caught; the states would not be true any more.
            Err(error) => {
                log::error!("work on a model ended in an unexpected way: {error}");
                self.crashed = true;
            }
        }
    }

    fn loaded(&mut self, index: usize, loaded: LoadedModel) {
        self.working = false;
        let LoadedModel { generator, engine, bytes, took } = loaded;
        let resident = Resident::new(generator, Arc::clone(&self.released));
        let slot = &mut self.slots[index];
        slot.turnover.loads += 1;
        slot.turnover.load_time = took;
        slot.failed = None;
        slot.keep = self.options.idle_unload;
        slot.used = Instant::now();
        slot.state = State::Loaded { resident, engine, bytes };
        let seconds = took.as_secs_f32();
        log::info!(model = self.names[index].as_str(), bytes; "loaded {} after {seconds:.2} s", self.names[index]);
    }

    fn failed(&mut self, index: usize, reason: &str) {
        let slot = &mut self.slots[index];
        slot.state = State::Unloaded;
        // It may be mended meanwhile.
        slot.facts = None;
        slot.turnover.failures += 1;
        let reason: Arc<str> = Arc::from(reason);
        slot.failed = Some((Instant::now(), Arc::clone(&reason)));
        if self.stopping.is_none() {
            log::error!("cannot load {}: {reason}", self.names[index]);
        }
        self.fail(index, &PinError::Failed(reason));
    }

    /// Refuses all that wait for a model.
    fn fail(&mut self, index: usize, error: &PinError) {
        self.preload.retain(|other| *other != index);
        for waiter in std::mem::take(&mut self.waiters) {
            if waiter.index == index {
                refuse(waiter, error.clone());
            } else {
                self.waiters.push_back(waiter);
            }
        }
    }

    fn publish(&self) {
        let view = |(index, slot): (usize, &Slot)| {
            let (phase, bytes, resident) = match &slot.state {
                State::Unloaded => (ModelPhase::Unloaded, 0, None),
                State::Loading { bytes, .. } => (ModelPhase::Loading, *bytes, None),
                State::Loaded { resident, bytes, .. } => {
                    (ModelPhase::Loaded, *bytes, Some(Arc::clone(resident)))
                }
                State::Unloading { bytes } => (ModelPhase::Unloading, *bytes, None),
            };
            let loading = match &slot.state {
                State::Loading { progress, .. } => Some(progress.clone()),
                _ => None,
            };
            ModelView {
                phase,
                resident,
                loading,
                facts: slot.facts.clone(),
                bytes,
                waiting: self.waiters.iter().filter(|waiter| waiter.index == index).count(),
                turnover: slot.turnover,
                past: slot.past,
                keep: slot.keep,
                idle_since: (!slot.busy).then_some(slot.used),
            }
        };
        self.views.send_replace(self.slots.iter().enumerate().map(view).collect());
        for (before, waiter) in self.waiters.iter().enumerate() {
            waiter
                .place
                .send_if_modified(|place| std::mem::replace(place, before + 1) != before + 1);
        }
    }
}

fn refuse(waiter: Waiter, error: PinError) {
    let _ = waiter.reply.send(Err(error));
}

/// When a model is unloaded; `None` while it has requests, or stays.
fn expiry(slot: &Slot) -> Option<Instant> {
    let is_idle = matches!(slot.state, State::Loaded { .. }) && !slot.busy;
    slot.used.checked_add(slot.keep.filter(|_| is_idle)?)
}
