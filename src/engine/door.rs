//! How many jobs wait, in all and of each caller, and whether one more may.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::SubmitError;
use super::message::CallerId;

/// Bounds of the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Jobs that may wait.
    pub(super) total: usize,
    /// Jobs of one caller that may wait.
    pub(super) per_caller: usize,
}

/// Counts the jobs that wait. Handles let jobs in, the engine's thread lets them out; since the
/// answer has to be given at once and to any thread, the counts are behind a lock, which is held
/// for a look-up.
#[derive(Debug)]
pub(super) struct Door {
    bounds: Bounds,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    total: usize,
    callers: HashMap<CallerId, usize>,
}

impl Door {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, waiting: Mutex::default() }
    }

    /// Lets a job of `caller` in.
    pub(super) fn enter(&self, caller: CallerId) -> Result<(), SubmitError> {
        let mut waiting = self.lock();
        if waiting.total >= self.bounds.total {
            return Err(SubmitError::Full { limit: self.bounds.total });
        }
        let own = waiting.callers.entry(caller).or_insert(0);
        if *own >= self.bounds.per_caller {
            return Err(SubmitError::CallerFull { limit: self.bounds.per_caller });
        }
        *own += 1;
        waiting.total += 1;
        Ok(())
    }

    /// Lets a job in that was let in before and has to wait once more.
    pub(super) fn enter_again(&self, caller: CallerId) {
        let mut waiting = self.lock();
        *waiting.callers.entry(caller).or_insert(0) += 1;
        waiting.total += 1;
    }

    /// Lets a job of `caller` out.
    pub(super) fn leave(&self, caller: CallerId) {
        let mut waiting = self.lock();
        waiting.total = waiting.total.saturating_sub(1);
        if let Some(own) = waiting.callers.get_mut(&caller) {
            *own -= 1;
            if *own == 0 {
                waiting.callers.remove(&caller);
            }
        }
    }

    /// Lets all jobs out; returns how many there were.
    pub(super) fn empty(&self) -> usize {
        std::mem::take(&mut *self.lock()).total
    }

    /// Jobs that wait.
    pub(super) fn waiting(&self) -> usize {
        self.lock().total
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while it holds the lock, and the counts are right between statements.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bounds_hold_and_leaving_makes_room() {
        let door = Door::new(Bounds { total: 3, per_caller: 2 });
        let (one, two) = (CallerId(1), CallerId(2));
        assert_eq!((door.enter(one), door.enter(one)), (Ok(()), Ok(())));
        assert_eq!(door.enter(one), Err(SubmitError::CallerFull { limit: 2 }));
        assert_eq!(door.enter(two), Ok(()));
        assert_eq!(door.enter(two), Err(SubmitError::Full { limit: 3 }));
        door.leave(one);
        assert_eq!((door.waiting(), door.enter(two)), (2, Ok(())));
        door.enter_again(two);
        assert_eq!((door.empty(), door.waiting()), (4, 0));
    }
}
