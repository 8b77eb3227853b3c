//! The daemon's models: which there are, which are loaded, and holds on them.
//!
//! With one model that stays, nothing here does anything: it is loaded before the server starts. With
//! further models, or `idle_unload`, a task ([`manager`]) owns their states; requests send it messages, and
//! everyone reads copies of the states ([`view`]).

mod entry;
mod line;
mod manager;
mod resident;
mod view;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};

pub use entry::{LoadedModel, ModelEntry, ModelFacts, ModelSource, ModelsOptions};
pub(crate) use manager::{KeepAlive, PinError};
pub(crate) use resident::Pin;
pub(crate) use view::{ModelPhase, ModelView, Turnover};

use manager::{Command, Manager, Waiter};
use phi4d_engine::{CallerId, Crashed, Stats, SubmitError};
use phi4d_generate::{Generator, Pool};
use resident::Resident;

/// Commands on their way to the manager, which never blocks; further senders wait.
const COMMANDS: usize = 64;

/// Longest name that an alias of `*` stands for, since answers repeat it.
const LONGEST_ALIAS: usize = 256;

/// Wakes the manager when a request leaves before it has its model.
struct WakesWhenDropped<'a>(Option<&'a Notify>);

impl Drop for WakesWhenDropped<'_> {
    fn drop(&mut self) {
        if let Some(manager) = self.0 {
            manager.notify_one();
        }
    }
}

/// The models of a server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Models(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    entries: Vec<ModelEntry>,
    views: watch::Receiver<Vec<ModelView>>,
    /// `None` without a manager: the model's engine is someone else's.
    commands: Option<mpsc::Sender<Command>>,
    /// Whether models come and go.
    changes: bool,
    /// Wakes the manager when a request has left the line.
    left: Arc<Notify>,
    request_timeout: Option<Duration>,
    /// Threads for work that grows with requests, of all generators.
    pool: Arc<Pool>,
}

impl Models {
    /// One model, which is there for as long as the server.
    #[must_use]
    pub fn one(entry: ModelEntry, generator: Generator) -> Self {
        let pool = Arc::clone(generator.pool());
        let left = Arc::new(Notify::new());
        let resident = Resident::new(generator, Arc::clone(&left));
        let phase = ModelPhase::Loaded;
        let view = ModelView { phase, resident: Some(resident), ..ModelView::default() };
        let (_, views) = watch::channel(vec![view]);
        let (entries, request_timeout) = (vec![entry], None);
        Self(Arc::new(Inner {
            entries,
            views,
            commands: None,
            changes: false,
            left,
            request_timeout,
            pool,
        }))
    }

    /// The models `entries`, of which the first is loaded; the others are loaded by `source`. `facts` are
    /// what is known of them. To be called within a runtime.
    #[must_use]
    pub fn start(
        entries: Vec<ModelEntry>,
        first: LoadedModel,
        source: Arc<dyn ModelSource>,
        facts: Vec<Option<ModelFacts>>,
        options: ModelsOptions,
    ) -> Self {
        let changes = entries.len() > 1 || options.idle_unload.is_some();
        let pool = Arc::clone(first.generator.pool());
        let request_timeout = options.request_timeout;
        let manager = Manager::new(&entries, first, source, facts, options);
        let (views, left) = (manager.views(), manager.wakes());
        let (commands, receiver) = mpsc::channel(COMMANDS);
        tokio::spawn(manager.run(receiver));
        let commands = Some(commands);
        Self(Arc::new(Inner { entries, views, commands, changes, left, request_timeout, pool }))
    }

    /// Ends all engines, after their running steps were interrupted and their prompts kept, and a load in
    /// progress. Later requests for models are refused.
    ///
    /// # Errors
    /// If the thread of an engine had panicked.
    pub async fn stop(&self) -> Result<(), Crashed> {
        let Some(commands) = &self.0.commands else { return Ok(()) };
        let (ended, end) = oneshot::channel();
        if commands.send(Command::Stop(ended)).await.is_err() {
            return Ok(());
        }
        end.await.unwrap_or(Ok(()))
    }

    /// Whether the thread of an engine panicked.
    #[must_use]
    pub fn have_crashed(&self) -> bool {
        let views = self.0.views.borrow();
        let mut residents = views.iter().filter_map(|view| view.resident.as_ref());
        residents.any(|resident| resident.generator().has_crashed())
    }

    /// Whether requests are taken: every engine that is there lives and does not drain.
    pub(crate) fn are_ready(&self) -> bool {
        let views = self.0.views.borrow();
        let mut residents = views.iter().filter_map(|view| view.resident.as_ref());
        residents.all(|resident| resident.generator().is_ready())
    }

    /// The counters of each engine that runs, with its model's place in the list.
    #[must_use]
    pub fn running(&self) -> Vec<(usize, Stats)> {
        let views = self.0.views.borrow();
        let stats = |view: &ModelView| Some(view.resident.as_ref()?.generator().stats());
        let all = views.iter().enumerate();
        all.filter_map(|(index, view)| Some((index, stats(view)?))).collect()
    }

    pub(crate) fn entries(&self) -> &[ModelEntry] {
        &self.0.entries
    }

    /// Whether models come and go.
    pub(crate) fn change(&self) -> bool {
        self.0.changes
    }

    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.0.pool
    }

    pub(crate) fn request_timeout(&self) -> Option<Duration> {
        self.0.request_timeout
    }

    /// The models' states now, in the order of the entries.
    pub(crate) fn views(&self) -> Vec<ModelView> {
        self.0.views.borrow().clone()
    }

    pub(crate) fn view(&self, index: usize) -> ModelView {
        self.0.views.borrow().get(index).cloned().unwrap_or_default()
    }

    /// The model that requests may call so: by its name, else by an alias.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        let is = |alias: &String| alias == name;
        let any = |alias: &String| alias == "*" && name.len() <= LONGEST_ALIAS;
        let place = |of: &dyn Fn(&ModelEntry) -> bool| self.0.entries.iter().position(of);
        place(&|entry| entry.name == name)
            .or_else(|| place(&|entry| entry.aliases.iter().any(is)))
            .or_else(|| place(&|entry| entry.aliases.iter().any(any)))
    }

    /// All names that can be listed, each with its model's place: a model's own first.
    pub(crate) fn names(&self) -> impl Iterator<Item = (usize, &str)> {
        self.0.entries.iter().enumerate().flat_map(|(index, entry)| {
            let aliases = entry.aliases.iter();
            let aliases = aliases.filter(|alias| *alias != "*" && **alias != entry.name);
            let names = std::iter::once(&entry.name).chain(aliases);
            names.map(move |name| (index, name.as_str()))
        })
    }

    /// A hold on a model, which is loaded for it if it has to be. Meanwhile `place` learns its place in the line,
    /// from 1. Dropping the future gives up the place.
    ///
    /// # Errors
    /// If too many wait, the model can't be loaded, or the daemon stops.
    pub(crate) async fn pin(
        &self,
        index: usize,
        caller: CallerId,
        keep: KeepAlive,
        place: watch::Sender<usize>,
    ) -> Result<Pin, PinError> {
        let gone = || PinError::from(SubmitError::ShuttingDown);
        let commands = match &self.0.commands {
            Some(commands) if self.0.changes => commands,
            _ => {
                return self
                    .view(index)
                    .resident
                    .map(|resident| resident.pin(false))
                    .ok_or_else(gone);
            }
        };
        // Dropped after the receiver, so that the manager finds the place given up.
        let mut wakes = WakesWhenDropped(Some(&self.0.left));
        let (reply, pinned) = oneshot::channel();
        let waiter = Waiter { index, caller, keep, place, reply };
        commands.send(Command::Pin(waiter)).await.map_err(|_| gone())?;
        let pin = pinned.await.map_err(|_| gone())?;
        wakes.0 = None;
        pin
    }

    /// Has a model unloaded once it has no requests. Nothing happens where models stay.
    pub(crate) async fn unload(&self, index: usize) {
        if let Some(commands) = self.0.commands.as_ref().filter(|_| self.0.changes) {
            let (done, end) = oneshot::channel();
            if commands.send(Command::Unload(index, done)).await.is_ok() {
                let _ = end.await;
            }
        }
    }
}
