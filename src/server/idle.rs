//! Whether the daemon is needed: when it has had no request for `idle_exit`, it ends, and the service
//! manager, which holds the listening sockets, starts it again at the next connection.
//!
//! No request is lost by that. The acceptor takes no connection while it closes the idle ones; what
//! arrives meanwhile waits in the listening socket for the next daemon. A request that an open connection
//! sends at that moment is answered, and the daemon stays.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Requests that keep the daemon awake. Probes and scrapes are not among them.
#[derive(Debug)]
pub(super) struct Demand(Mutex<Count>);

#[derive(Debug)]
struct Count {
    /// Requests that are not fully answered.
    open: usize,
    /// Requests so far.
    seen: u64,
    /// When the last one ended, or the start.
    last: Instant,
}

impl Default for Demand {
    fn default() -> Self {
        Self(Mutex::new(Count { open: 0, seen: 0, last: Instant::now() }))
    }
}

impl Demand {
    fn count(&self) -> MutexGuard<'_, Count> {
        // The counts are complete at any moment, whoever panicked with them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request until the returned guard is dropped.
    pub(super) fn request(self: &Arc<Self>) -> Wanted {
        let mut count = self.count();
        count.open += 1;
        count.seen += 1;
        Wanted(Arc::clone(self))
    }

    /// How many requests there have been.
    pub(super) fn seen(&self) -> u64 {
        self.count().seen
    }

    /// For how long there has been no request; `None` while there is one.
    fn idle_for(&self) -> Option<Duration> {
        let count = self.count();
        (count.open == 0).then(|| count.last.elapsed())
    }
}

/// A request that is not fully answered.
#[derive(Debug)]
pub(super) struct Wanted(Arc<Demand>);

impl Drop for Wanted {
    fn drop(&mut self) {
        let mut count = self.0.count();
        count.open -= 1;
        count.last = Instant::now();
    }
}

/// Returns when there has been no request for as long as `limit` says, but not before `earliest`; never
/// while it says `None`. Cancel-safe.
pub(super) async fn unwanted(
    demand: &Demand,
    limit: impl Fn() -> Option<Duration>,
    earliest: Instant,
) {
    tokio::time::sleep_until(earliest).await;
    // A reload may change it.
    while let Some(limit) = limit() {
        let idle = demand.idle_for().unwrap_or_default();
        if idle >= limit {
            return;
        }
        tokio::time::sleep(limit - idle).await;
    }
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_counts_from_the_end_of_the_last_request() {
        let demand = Arc::new(Demand::default());
        let begun = Instant::now();
        assert_eq!((demand.idle_for().is_some(), demand.seen()), (true, 0));
        let (first, other) = (demand.request(), demand.request());
        drop(first);
        assert_eq!((demand.idle_for(), demand.seen()), (None, 2));
        let ending = Instant::now();
        drop(other);
        let idle = demand.idle_for().unwrap();
        assert!(idle <= ending.elapsed() && ending.elapsed() <= begun.elapsed());
    }

    #[tokio::test]
    async fn a_daemon_is_wanted_while_a_request_is_open_and_for_a_while_after() {
        let demand = Arc::new(Demand::default());
        let limit = Duration::from_millis(20);
        let now = Instant::now();
        let request = demand.request();
        let waits = tokio::time::timeout(limit * 5, unwanted(&demand, || Some(limit), now)).await;
        assert!(waits.is_err());
        let never = tokio::time::timeout(limit * 5, unwanted(&demand, || None, now)).await;
        assert!(never.is_err());
        let ending = Instant::now();
        drop(request);
        unwanted(&demand, || Some(limit), now).await;
        assert!(ending.elapsed() >= limit);
    }
}
