//! Costly work away from the async threads, a few pieces of a kind at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// Pieces of work done at once. Few, for they compete with the model for the processor.
pub(super) const WORKERS: usize = 2;

/// How long a piece of work waits for its turn, or until its deadline, if that is sooner.
const PATIENCE: Duration = Duration::from_secs(10);

/// Turns for one kind of work.
#[derive(Debug)]
pub(super) struct Workers(pub(super) Arc<Semaphore>);

/// Why work was not done.
#[derive(Debug)]
pub(super) enum Undone {
    /// Its turn did not come in time.
    Busy,
    /// It panicked, or the program ends.
    Failed(String),
}

impl Default for Workers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(WORKERS)))
    }
}

impl Workers {
    /// Does `work` on a blocking thread, in its turn.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        deadline: Option<Instant>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Undone> {
        let patience = Instant::now() + PATIENCE;
        let until = deadline.map_or(patience, |deadline| deadline.min(patience));
        let turn = timeout_at(until, Arc::clone(&self.0).acquire_owned())
            .await
            .map_err(|_| Undone::Busy)?
            .map_err(|error| Undone::Failed(error.to_string()))?;
        // The turn goes with the work: a caller that goes away does not end it.
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(turn);
            result
        });
        done.await.map_err(|error| Undone::Failed(error.to_string()))
    }
}
