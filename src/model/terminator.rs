//! Interrupts running steps.

use std::sync::atomic::{AtomicBool, Ordering};

use ort::session::{NoSelectedOutputs, RunOptions};

use super::error::RunError;
use super::runner::Interrupt;

/// The options that all steps of a runner run with, and whether they were interrupted.
pub(super) struct Terminator {
    options: RunOptions<NoSelectedOutputs>,
    interrupted: AtomicBool,
}

impl std::fmt::Debug for Terminator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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
        if self.interrupted.load(Ordering::Acquire) {
            return Err(RunError::Interrupted);
        }
        Ok(&self.options)
    }

    /// Why a step failed with `error`: an interrupt, or what ONNX Runtime reports.
    pub(super) fn reason(&self, error: &ort::Error) -> RunError {
        if self.interrupted.load(Ordering::Acquire) {
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
