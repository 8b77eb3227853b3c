//! Stops work in progress from another thread: the load of a model, and a running step.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ort::session::builder::LoadCanceler;
use ort::session::{NoSelectedOutputs, RunOptions};

use super::error::{LoadError, RunError};
use super::progress::LoadProgress;
use super::runner::Interrupt;

/// Cancels a load from another thread, and says how far it is; see [`super::load_cancellable`]. Cheap to clone.
#[derive(Clone, Default)]
pub struct LoadCancel {
    state: Arc<Mutex<State>>,
    progress: LoadProgress,
}

#[derive(Default)]
struct State {
    cancelled: bool,
    session: Option<LoadCanceler>,
}

impl LoadCancel {
    /// The same, for a load that reports to `progress`.
    #[must_use]
    pub fn reporting_to(&self, progress: &LoadProgress) -> Self {
        Self { state: Arc::clone(&self.state), progress: progress.clone() }
    }

    /// How far the load is.
    #[must_use]
    pub fn progress(&self) -> &LoadProgress {
        &self.progress
    }

    /// Makes the load fail with [`super::LoadError::Cancelled`] as soon as ONNX Runtime sees it,
    /// which it does between reading one weight and the next.
    pub fn cancel(&self) {
        let mut state = self.lock();
        state.cancelled = true;
        // Before a session is being made there is nothing to cancel; `reach` sees the flag.
        if let Some(session) = &state.session
            && let Err(error) = session.cancel()
        {
            log::warn!("cannot cancel the loading of the model: {error}");
        }
    }

    /// Whether [`LoadCancel::cancel`] was called.
    pub(super) fn is_cancelled(&self) -> bool {
        self.lock().cancelled
    }

    /// Lets this cancel the session that is about to be made.
    ///
    /// # Errors
    /// [`LoadError::Cancelled`] if it was used before.
    pub(super) fn reach(&self, session: LoadCanceler) -> Result<(), LoadError> {
        let mut state = self.lock();
        state.session = Some(session);
        // Both under one lock: a cancel that comes after this look finds the session.
        if state.cancelled { Err(LoadError::Cancelled) } else { Ok(()) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment, so that a panic leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for LoadCancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LoadCancel").field(&self.is_cancelled()).finish()
    }
}

/// The options that all steps of a runner run with, and whether they were interrupted.
pub(super) struct Terminator {
    options: RunOptions<NoSelectedOutputs>,
    interrupted: AtomicBool,
}

impl fmt::Debug for Terminator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Terminator").field(&self.interrupted).finish()
    }
}

impl Terminator {
    pub(super) fn new() -> ort::Result<Self> {
        Ok(Self { options: RunOptions::new()?, interrupted: AtomicBool::new(false) })
    }

    /// The options for a step.
    ///
    /// # Errors
    /// [`RunError::Interrupted`] after an interrupt.
    pub(super) fn options(&self) -> Result<&RunOptions<NoSelectedOutputs>, RunError> {
        if self.is_interrupted() {
            return Err(RunError::Interrupted);
        }
        Ok(&self.options)
    }

    /// Whether there was an interrupt.
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Acquire)
    }

    /// Why a step failed with `error`: an interrupt, or what ONNX Runtime reports.
    pub(super) fn reason(&self, error: &ort::Error) -> RunError {
        if self.is_interrupted() {
            RunError::Interrupted
        } else {
            RunError::Runtime(error.to_string())
        }
    }
}

impl Interrupt for Terminator {
    fn interrupt(&self) {
        // Before the running step ends: whoever sees its error then finds the reason.
        self.interrupted.store(true, Ordering::Release);
        if let Err(error) = self.options.terminate() {
            log::warn!("the running step could not be interrupted: {error}");
        }
    }
}
