//! A loaded model and the requests that hold it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use phi4d_generate::Generator;

/// A model in memory.
#[derive(Debug)]
pub(crate) struct Resident {
    generator: Generator,
    /// Requests that hold it. Only the manager makes it more than 0, so a model that it finds without one
    /// stays so while it decides.
    pins: AtomicUsize,
    /// Wakes the manager when the last one has ended.
    released: Arc<Notify>,
}

impl Resident {
    pub(super) fn new(generator: Generator, released: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { generator, pins: AtomicUsize::new(0), released })
    }

    pub(crate) fn generator(&self) -> &Generator {
        &self.generator
    }

    /// Holds it in memory until the pin is dropped.
    pub(super) fn pin(self: &Arc<Self>, has_waited: bool) -> Pin {
        self.pins.fetch_add(1, Ordering::Relaxed);
        Pin { resident: Arc::clone(self), has_waited }
    }

    pub(super) fn is_pinned(&self) -> bool {
        self.pins.load(Ordering::Acquire) > 0
    }
}

/// A request's hold on a model: it is not unloaded meanwhile.
#[derive(Debug)]
pub(crate) struct Pin {
    resident: Arc<Resident>,
    has_waited: bool,
}

impl Pin {
    pub(crate) fn generator(&self) -> &Generator {
        self.resident.generator()
    }

    /// Whether the request had a place in the line for its model.
    pub(crate) fn has_waited(&self) -> bool {
        self.has_waited
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if self.resident.pins.fetch_sub(1, Ordering::Release) == 1 {
            self.resident.released.notify_one();
        }
    }
}
