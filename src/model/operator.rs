//! Operators of ours within ONNX Runtime.
//!
//! ONNX Runtime calls them from C++, through which a panic must not unwind.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ort::operator::ComputeContext;
use phi4d_telemetry as telemetry;

/// Does the `work` of `operator` and turns its panic into an error.
pub(super) fn caught<T>(operator: &str, work: impl FnOnce() -> ort::Result<T>) -> ort::Result<T> {
    telemetry::catch_panic(work).unwrap_or_else(|panic| Err(failed(operator, &panic)))
}

fn failed(operator: &str, panic: &str) -> ort::Error {
    ort::Error::new(format!("{operator} failed in an unexpected way: {panic}"))
}

/// Does `work` for each index below `count` on ONNX Runtime's threads, and turns a panic into an error.
pub(super) fn on_all(
    context: &ComputeContext,
    operator: &str,
    count: usize,
    work: impl Fn(usize) + Sync,
) -> ort::Result<()> {
    // One message suffices; the other parts run on, since ONNX Runtime cannot end them early.
    let first: Mutex<Option<String>> = Mutex::new(None);
    context.par_for(count, count, |index| {
        if let Err(panic) = telemetry::catch_panic(|| work(index)) {
            lock(&first).get_or_insert(panic);
        }
    })?;
    let panic = lock(&first).take();
    panic.map_or(Ok(()), |panic| Err(failed(operator, &panic)))
}

/// Locks memory that a panic leaves usable.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
