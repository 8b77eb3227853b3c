//! Tells the service manager that the daemon works, as long as the engine gets on with its work.

use std::sync::Arc;
use std::time::Duration;

use super::serve::Manager;
use phi4d_engine::{Handle, Stats};
use phi4d_os::State;

/// Feeds the watchdog until the process ends. The task runs beside the connections', so that a
/// runtime which is stuck starves the watchdog as an engine does that is.
pub(super) fn feed(manager: &Arc<Manager>, engine: Handle) {
    let Some(interval) = manager.watchdog() else { return };
    let manager = Arc::clone(manager);
    tokio::spawn(async move {
        // The first look comes after a while: an engine that just began has not moved yet.
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

/// The manager asks to be told twice as often as it looks.
fn half(interval: Duration) -> Duration {
    (interval / 2).max(Duration::from_millis(1))
}

/// Whether the engine gets on, from one look to the next.
#[derive(Debug, Default)]
struct Progress {
    iterations: u64,
}

impl Progress {
    /// Whether the engine has moved since the last look, or has nothing to do.
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
