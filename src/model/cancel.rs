//! Cancels a load in progress.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ort::session::builder::LoadCanceler;

/// Cancels a load from another thread; see [`super::load_cancellable`]. Cheap to clone.
#[derive(Clone, Default)]
pub struct LoadCancel(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    cancelled: bool,
    session: Option<LoadCanceler>,
}

impl LoadCancel {
    /// Makes the load fail with [`super::LoadError::Cancelled`] as soon as ONNX Runtime sees it,
    /// which it does between reading one weight and the next.
    pub fn cancel(&self) {
        let mut state = self.lock();
        state.cancelled = true;
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
    pub(super) fn reach(&self, session: LoadCanceler) {
        let mut state = self.lock();
        state.session = Some(session);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment, so that a panic leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for LoadCancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LoadCancel").field(&self.is_cancelled()).finish()
    }
}
