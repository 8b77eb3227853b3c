//! The service manager: what it is sent, and its watchdog, which is fed while the engine progresses.

use std::sync::Arc;
use std::time::Duration;

use phi4d_engine::{Handle, Stats};
use phi4d_os::{Notifier, State};

/// The service manager. A message that can't be sent is only logged.
#[derive(Debug)]
pub(super) struct Manager(Notifier);

impl Manager {
    pub(super) fn new(notifier: Notifier) -> Self {
        Self(notifier)
    }

    pub(super) fn tell(&self, states: &[State]) {
        if let Err(error) = self.0.send(states) {
            log::warn!("cannot notify the service manager: {error}");
        }
    }
}

/// Feeds the watchdog until the process ends. The task runs on the connections' runtime, so that a
/// runtime that hangs starves the watchdog, as an engine that hangs does.
pub(super) fn feed_watchdog(manager: &Arc<Manager>, engine: Handle) {
    let Some(interval) = manager.0.watchdog() else { return };
    let manager = Arc::clone(manager);
    tokio::spawn(async move {
        // The first check is delayed: an engine that just started has not run a step yet.
        let first = tokio::time::Instant::now() + half(interval);
        let mut tick = tokio::time::interval_at(first, half(interval));
        let mut progress = Progress::default();
        loop {
            tick.tick().await;
            if progress.is_made(&engine.stats()) {
                manager.tell(&[State::Watchdog]);
            } else {
                log::warn!("the engine has not moved for {:?}", half(interval));
            }
        }
    });
}

/// The manager asks for two messages in each of its intervals.
fn half(interval: Duration) -> Duration {
    (interval / 2).max(Duration::from_millis(1))
}

/// Whether the engine progresses, from one check to the next.
#[derive(Debug, Default)]
struct Progress {
    iterations: u64,
}

impl Progress {
    /// Whether the engine has run a step since the last check, or is idle.
    fn is_made(&mut self, stats: &Stats) -> bool {
        let moved = stats.iterations != self.iterations;
        self.iterations = stats.iterations;
        moved || (stats.running == 0 && stats.waiting == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_works_or_has_no_work_is_alive() {
        let mut progress = Progress::default();
        let look = |progress: &mut Progress, iterations, running, waiting| {
            progress.is_made(&Stats { iterations, running, waiting, ..Stats::default() })
        };
        assert!(look(&mut progress, 0, 0, 0));
        assert!(look(&mut progress, 5, 1, 0));
        assert!(look(&mut progress, 6, 1, 3));
        assert!(!look(&mut progress, 6, 1, 3));
        assert!(!look(&mut progress, 6, 0, 1));
        assert!(look(&mut progress, 6, 0, 0));
    }
}
