//! Round-robin turns between callers for costly work.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::super::turns::Turns as Queue;
use phi4d_engine::CallerId;

/// Limits of concurrent work.
#[derive(Debug, Clone, Copy)]
pub(super) struct TurnLimits {
    /// In all.
    pub(super) total: usize,
    /// For one caller.
    pub(super) per_caller: usize,
    /// Waiting requests, in all; more are refused at once.
    pub(super) waiting: usize,
}

/// Grants turns. A mutex will do: it is held only for book-keeping.
#[derive(Debug)]
pub(super) struct Turns {
    limits: TurnLimits,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    running: HashMap<CallerId, usize>,
    waiting: Queue<oneshot::Sender<Turn>>,
}

/// There was no turn in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Busy;

/// A turn, which ends on drop.
#[derive(Debug)]
pub(super) struct Turn {
    /// `None` if it was never granted.
    of: Option<(Arc<Turns>, CallerId)>,
}

impl Turns {
    pub(super) fn new(limits: TurnLimits) -> Arc<Self> {
        let waiting = Queue::new(limits.waiting, limits.waiting);
        Arc::new(Self { limits, state: Mutex::new(State { running: HashMap::new(), waiting }) })
    }

    /// Waits for a turn, until `until` at most.
    ///
    /// # Errors
    /// [`Busy`] if there is none by then, or the queue is full.
    pub(super) async fn take(
        self: &Arc<Self>,
        caller: CallerId,
        until: Instant,
    ) -> Result<Turn, Busy> {
        let waiting = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let (sender, receiver) = oneshot::channel();
            if let Err(sender) = state.waiting.push(caller, sender) {
                // Requests that were cancelled make room.
                state.waiting.remove_unless(|request| !request.is_closed());
                state.waiting.push(caller, sender).map_err(|_| Busy)?;
            }
            self.hand_out(&mut state);
            receiver
        };
        match timeout_at(until, waiting).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Busy),
        }
    }

    /// Grants turns to waiting requests, while there are both.
    fn hand_out(self: &Arc<Self>, state: &mut State) {
        while state.running.values().sum::<usize>() < self.limits.total {
            let running = &state.running;
            let may = |caller: CallerId| {
                running.get(&caller).is_none_or(|count| *count < self.limits.per_caller)
            };
            let Some((caller, next)) = state.waiting.take_of(may) else { return };
            let turn = Turn { of: Some((Arc::clone(self), caller)) };
            match next.send(turn) {
                Ok(()) => *state.running.entry(caller).or_default() += 1,
                // The request was cancelled. Its turn must not be returned, since it was not
                // counted.
                Err(mut turn) => turn.of = None,
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some((turns, caller)) = self.of.take() else { return };
        let mut state = turns.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = state.running.get_mut(&caller) {
            *count -= 1;
            if *count == 0 {
                state.running.remove(&caller);
            }
        }
        turns.hand_out(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn turns() -> Arc<Turns> {
        Turns::new(TurnLimits { total: 3, per_caller: 2, waiting: 50 })
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    #[tokio::test]
    async fn no_caller_and_not_all_have_more_than_their_turns() {
        let turns = turns();
        let [greedy, other, third] = [1, 2, 3].map(CallerId);
        let held =
            [turns.take(greedy, soon()).await.unwrap(), turns.take(greedy, soon()).await.unwrap()];
        assert_eq!(turns.take(greedy, soon()).await.unwrap_err(), Busy);
        let last = turns.take(other, soon()).await.unwrap();
        assert_eq!(turns.take(third, soon()).await.unwrap_err(), Busy);
        drop(held);
        let _more =
            [turns.take(third, soon()).await.unwrap(), turns.take(greedy, soon()).await.unwrap()];
        drop(last);
        let state = turns.state.lock().unwrap();
        assert_eq!(state.running.values().sum::<usize>(), 2);
    }

    #[tokio::test]
    async fn callers_that_wait_go_round_and_those_that_left_are_passed_over() {
        let turns = Turns::new(TurnLimits { total: 1, per_caller: 1, waiting: 50 });
        let held = turns.take(CallerId(0), soon()).await.unwrap();
        let late = Instant::now() + Duration::from_secs(30);
        let (order, mut ended) = tokio::sync::mpsc::channel(50);
        let mut tasks = Vec::new();
        for caller in [1, 1, 1, 1, 2] {
            let (turns, order) = (Arc::clone(&turns), order.clone());
            tasks.push(tokio::spawn(async move {
                let _turn = turns.take(CallerId(caller), late).await.unwrap();
                order.send(caller).await.unwrap();
            }));
            tokio::task::yield_now().await;
        }
        tasks[1].abort();
        tokio::task::yield_now().await;
        drop((held, order));
        let mut seen = Vec::new();
        while let Some(caller) = ended.recv().await {
            seen.push(caller);
        }
        assert_eq!(seen, [1, 2, 1, 1]);
    }

    #[tokio::test]
    async fn one_more_than_may_wait_is_refused_at_once() {
        let turns = Turns::new(TurnLimits { total: 1, per_caller: 1, waiting: 1 });
        let held = turns.take(CallerId(0), soon()).await.unwrap();
        let late = Instant::now() + Duration::from_secs(30);
        let waiting = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move { turns.take(CallerId(1), late).await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert_eq!(turns.take(CallerId(2), late).await.unwrap_err(), Busy);
        drop(held);
        assert_eq!(waiting.await.unwrap(), Ok(()));
    }
}
