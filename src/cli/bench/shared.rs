//! A runner that the engine and the benchmark use in turn, so that both are measured on one loaded
//! model in one run.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use phi4d_model::{Logits, ModelLimits, Rotary, RunError, Runner, Span};

/// The loaded model.
pub(super) type Inner = Arc<Mutex<Box<dyn Runner>>>;

/// Locks the model for a bare step.
pub(super) fn lock(inner: &Inner) -> MutexGuard<'_, Box<dyn Runner>> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The engine's side. It sees all slots but the last ones, which are the benchmark's own.
pub(super) struct Shared {
    inner: Inner,
    limits: ModelLimits,
    /// The last step's logits: the model's own memory can't be lent out of a lock.
    logits: Vec<f32>,
}

impl Shared {
    /// The engine's side of `runner`, without its last `own` slots.
    pub(super) fn new(runner: Box<dyn Runner>, own: usize) -> Self {
        let mut limits = runner.limits().clone();
        limits.slots -= own;
        Self { inner: Arc::new(Mutex::new(runner)), limits, logits: Vec::new() }
    }

    pub(super) fn inner(&self) -> Inner {
        Arc::clone(&self.inner)
    }
}

impl Runner for Shared {
    fn limits(&self) -> &ModelLimits {
        &self.limits
    }

    fn set_rotary(&mut self, rotary: Rotary) {
        lock(&self.inner).set_rotary(rotary);
    }

    fn step(&mut self, spans: &[Span<'_>]) -> Result<Logits<'_>, RunError> {
        let mut runner = lock(&self.inner);
        let logits = runner.step(spans)?;
        self.logits.clear();
        for row in 0..logits.rows() {
            self.logits.extend_from_slice(logits.row(row));
        }
        Logits::from_rows(&self.logits, self.limits.vocab_size)
    }

    fn swap(&mut self, slots: [usize; 2], tokens: [usize; 2]) {
        lock(&self.inner).swap(slots, tokens);
    }

    fn copy(&mut self, from: usize, to: usize, tokens: usize) {
        lock(&self.inner).copy(from, to, tokens);
    }

    fn export(&mut self, slot: usize, tokens: usize, sink: &mut dyn Write) -> io::Result<()> {
        lock(&self.inner).export(slot, tokens, sink)
    }

    fn import(&mut self, slot: usize, tokens: usize, source: &mut dyn Read) -> io::Result<()> {
        lock(&self.inner).import(slot, tokens, source)
    }

    fn release(&mut self, slot: usize, keep: usize) {
        lock(&self.inner).release(slot, keep);
    }
}
