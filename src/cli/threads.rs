//! The runtime's threads, all created at the start, so that a system without free threads is an error
//! of the start and not of a request.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use super::exit::Fatal;
use phi4d_os::probe_threads;
use phi4d_telemetry::catch_panic;

/// Threads for blocking work that are created at the start; few, since the allocator reserves address
/// space for each. More are created on demand; if the system refuses, work waits for one of these.
const BLOCKING: usize = 4;

/// How long all threads may take to begin.
const PATIENCE: Duration = Duration::from_secs(10);

/// Idle threads are kept for as long as the process runs.
const KEEP: Duration = Duration::from_secs(365 * 24 * 3600);

/// A runtime with at most `workers` threads, created on demand.
pub(super) fn runtime(workers: usize) -> Result<Runtime, Fatal> {
    build(workers).map_err(fatal)
}

/// A runtime on the calling thread, for commands that send a few requests.
pub(super) fn own_runtime() -> Result<Runtime, Fatal> {
    let made = Builder::new_current_thread().enable_all().build();
    made.map_err(|source| Fatal::System { action: "start the network", source })
}

/// A runtime with `workers` threads and the threads for blocking work, all running.
pub(super) fn warm_runtime(workers: usize) -> Result<Runtime, Fatal> {
    let made =
        probe_threads(workers + BLOCKING).and_then(|()| build(workers)).and_then(|runtime| {
            match warm(&runtime) {
                Ok(()) => Ok(runtime),
                Err(error) => {
                    // Dropping it would wait for threads that never start.
                    runtime.shutdown_background();
                    Err(error)
                }
            }
        });
    made.map_err(fatal)
}

fn fatal(source: io::Error) -> Fatal {
    Fatal::System { action: "start the network's threads", source }
}

/// tokio panics if it can't create a thread, and may then wait forever for those that it created. So it
/// runs on a thread that can be abandoned.
fn build(workers: usize) -> io::Result<Runtime> {
    let (sender, built) = sync_channel(1);
    std::thread::Builder::new().name("phi4d-start".into()).spawn(move || {
        // The runtime makes its workers first; later ones are for work that blocks.
        let made = AtomicUsize::new(0);
        let name = move || {
            let net = made.fetch_add(1, Ordering::Relaxed) < workers;
            if net { "phi4d-net" } else { "phi4d-blocking" }.to_owned()
        };
        let build = || {
            Builder::new_multi_thread()
                .worker_threads(workers)
                .thread_name_fn(name)
                .thread_keep_alive(KEEP)
                .enable_all()
                .build()
        };
        let runtime = catch_panic(build).unwrap_or_else(|panic| Err(io::Error::other(panic)));
        // After the time limit nobody receives this.
        let _ = sender.send(runtime);
    })?;
    built.recv_timeout(PATIENCE).unwrap_or_else(|_| Err(none_left()))
}

/// Makes the runtime create its threads for blocking work.
fn warm(runtime: &Runtime) -> io::Result<()> {
    // Each task holds its thread until all have started.
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
    let (here, arrived) = sync_channel(BLOCKING);
    for _ in 0..BLOCKING {
        let (here, gate) = (here.clone(), Arc::clone(&gate));
        let hold = move || {
            // After the time limit nobody receives this.
            let _ = here.send(());
            drop(gate.lock());
        };
        catch_panic(|| drop(runtime.spawn_blocking(hold))).map_err(io::Error::other)?;
    }
    let deadline = Instant::now() + PATIENCE;
    let left = || deadline.saturating_duration_since(Instant::now());
    let all = (0..BLOCKING).all(|_| arrived.recv_timeout(left()).is_ok());
    drop(closed);
    if all { Ok(()) } else { Err(none_left()) }
}

fn none_left() -> io::Error {
    io::Error::new(io::ErrorKind::WouldBlock, "the system has no thread left")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_threads_are_there_from_the_start() {
        let runtime = warm_runtime(2).unwrap();
        // As much work at once as there are threads ends without another.
        warm(&runtime).unwrap();
    }
}
