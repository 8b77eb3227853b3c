//! The service manager: what it is sent, and its watchdog, which is fed while the engine progresses.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use phi4d_engine::Stats;
use phi4d_os::{Notifier, State};
use phi4d_server::Models;

/// The service manager. A message that can't be sent is only logged.
#[derive(Debug)]
pub(super) struct Manager(Notifier);

impl Manager {
    pub(super) fn new(notifier: Notifier) -> Self {
        Self(notifier)
    }

    pub(super) fn send(&self, states: &[State]) {
        if let Err(error) = self.0.send(states) {
            log::warn!("cannot notify the service manager: {error}");
        }
    }
}

/// Feeds the watchdog until the process ends. The task runs on the connections' runtime, so that a
/// runtime that hangs starves the watchdog, as an engine that hangs does.
pub(super) fn feed_watchdog(manager: &Arc<Manager>, models: Models) {
    let Some(interval) = manager.0.watchdog() else { return };
    let manager = Arc::clone(manager);
    tokio::spawn(async move {
        // The first check is delayed: an engine that just started has not run a step yet.
        let first = tokio::time::Instant::now() + half(interval);
        let mut tick = tokio::time::interval_at(first, half(interval));
        let mut progress = Progress::default();
        loop {
            tick.tick().await;
            if progress.is_made(&models.running()) {
                manager.send(&[State::Watchdog]);
            } else {
                log::warn!("an engine has not moved for {:?}", half(interval));
            }
        }
    });
}

/// The manager asks for two messages in each of its intervals.
fn half(interval: Duration) -> Duration {
    (interval / 2).max(Duration::from_millis(1))
}

/// Whether the engines progress, from one check to the next.
#[derive(Debug, Default)]
struct Progress {
    /// The iterations of each, by its model's place.
    iterations: HashMap<usize, u64>,
}

impl Progress {
    /// Whether each engine has run a step since the last check, or is idle.
    fn is_made(&mut self, engines: &[(usize, Stats)]) -> bool {
        let before = std::mem::take(&mut self.iterations);
        let moves = |(index, stats): &(usize, Stats)| {
            let moved = before.get(index).copied().unwrap_or(0) != stats.iterations;
            moved || (stats.running == 0 && stats.waiting == 0)
        };
        self.iterations = engines.iter().map(|(index, stats)| (*index, stats.iterations)).collect();
        engines.iter().all(moves)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_works_or_has_no_work_is_alive() {
        let mut progress = Progress::default();
        let now = std::cell::Cell::new(7);
        let look = |progress: &mut Progress, iterations, running, waiting| {
            let stats = Stats { iterations, running, waiting, ..Stats::default() };
            // Another engine that works does not make up for one that hangs.
            let other = Stats { iterations: iterations + now.replace(now.get() + 1), ..stats };
            progress.is_made(&[(0, stats), (3, Stats { running: 1, ..other })])
        };
        assert!(look(&mut progress, 0, 0, 0));
        assert!(look(&mut progress, 5, 1, 0));
        assert!(look(&mut progress, 6, 1, 3));
        assert!(!look(&mut progress, 6, 1, 3));
        assert!(!look(&mut progress, 6, 0, 1));
        assert!(look(&mut progress, 6, 0, 0));
    }
}
