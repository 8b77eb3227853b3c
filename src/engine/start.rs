//! Starting and stopping the engine's thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use super::handle::{Handle, SNAPSHOTS, Shared};
use super::kv::{Growth, Sizes};
use super::options::Options;
use super::persist;
use super::run::Core;
use phi4d_door::Bounds;
use phi4d_model::{Interrupt, KvGrowth, KvTooSmall, Runner};

/// The running engine. Dropping it leaves the thread running until all handles are gone.
#[derive(Debug)]
pub struct Engine {
    thread: JoinHandle<()>,
    handle: Handle,
}

/// The engine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The system refused a thread.
    #[error("cannot start the engine's thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The memory for the KV cache does not hold one short sequence.
    #[error(transparent)]
    Memory(#[from] KvTooSmall),
}

/// The engine's thread panicked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the engine failed in an unexpected way; its requests were aborted")]
pub struct Crashed;

/// Starts the engine's thread, which owns `runner` from now on.
///
/// # Errors
/// If the KV cache's memory is too small, or the system refuses a thread.
pub fn start(
    runner: Box<dyn Runner>,
    interrupt: Arc<dyn Interrupt>,
    mut options: Options,
) -> Result<Engine, StartError> {
    if options.decodes_apart(runner.limits()) {
        log::info!(
            "answers are reproducible, so sequences decode one at a time: on this machine \
             the kernels round differently in steps of several"
        );
    }
    let fixed_widths = options.fixes_widths(runner.limits());
    if fixed_widths {
        // The number of draft tokens follows measured times, and a step's width changes low-order
        // digits of the logits.
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
        grid: fixed_widths.then_some(limits.max_prefill_tokens),
        growth: match limits.kv_growth {
            KvGrowth::Own => Growth::Own,
            KvGrowth::Shared | KvGrowth::Blocks { .. } => Growth::Shared,
            KvGrowth::Alike { .. } => Growth::Alike,
        },
    };
    let bounds = Bounds { total: options.queue, per_caller: options.queue_per_caller };
    let shared = Arc::new(Shared::new(limits.clone(), max_running, bounds, interrupt));
    // The door bounds the queued jobs, so the channel is never the limit: it has room for all of them,
    // for requests for snapshots and for the command to stop.
    let (sender, receiver) = mpsc::channel(options.queue + SNAPSHOTS + 1);
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
    /// A handle to submit jobs with.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Stops at once: interrupts the running step, fails every job that has not ended, and waits for
    /// the thread.
    ///
    /// # Errors
    /// If the thread had panicked.
    pub fn stop(self) -> Result<(), Crashed> {
        self.handle.abort();
        let joined = self.thread.join();
        if joined.is_err() || self.handle.has_crashed() { Err(Crashed) } else { Ok(()) }
    }
}
