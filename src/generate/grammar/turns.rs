//! Turns for costly work. Of the callers that wait, the one that was served least lately is next, and
//! callers that take much leave a turn free for those that take little: so one that asks for something
//! small does not wait until the large work of others has ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::super::turns::Turns as Queue;
use phi4d_engine::CallerId;

/// Limits of concurrent work.
#[derive(Debug, Clone, Copy)]
pub(super) struct TurnLimits {
    /// In all. The last of several is for callers that were served little.
    pub(super) total: usize,
    /// For one caller.
    pub(super) per_caller: usize,
    /// Waiting requests, in all; more are refused at once.
    pub(super) waiting: usize,
}

/// In this time what a caller has had counts for half.
const HALF_LIFE: Duration = Duration::from_secs(10);

/// Callers that have had no more than this are served little, whatever others have had.
const LITTLE: Duration = Duration::from_millis(50);

/// The most callers whose service is remembered. Beyond them those that had least are forgotten, who lose
/// nothing by it.
const REMEMBERED: usize = 256;

/// Grants turns. A mutex will do: it is held only for book-keeping.
#[derive(Debug)]
pub(super) struct Turns {
    limits: TurnLimits,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When the turns of each caller began.
    running: HashMap<CallerId, Vec<Instant>>,
    waiting: Queue<oneshot::Sender<Turn>>,
    served: Served,
}

/// How long each caller has had turns lately.
#[derive(Debug, Default)]
struct Served(HashMap<CallerId, (Duration, Instant)>);

impl Served {
    fn of(&self, caller: CallerId, now: Instant) -> Duration {
        self.0.get(&caller).map_or(Duration::ZERO, |(had, at)| faded(*had, now - *at))
    }

    fn add(&mut self, caller: CallerId, more: Duration, now: Instant) {
        let had = self.of(caller, now) + more;
        self.0.insert(caller, (had, now));
        if self.0.len() > REMEMBERED {
            let had = |(_, (had, at)): &(&CallerId, &(Duration, Instant))| faded(*had, now - *at);
            let least = self.0.iter().min_by_key(had).map(|(caller, _)| *caller);
            least.and_then(|caller| self.0.remove(&caller));
        }
    }
}

fn faded(had: Duration, since: Duration) -> Duration {
    had.mul_f64((-since.as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2())
}

impl State {
    /// What a caller has had, with what it has now.
    fn served(&self, caller: CallerId, now: Instant) -> Duration {
        let running = self.running.get(&caller).into_iter().flatten();
        running.map(|begun| now - *begun).sum::<Duration>() + self.served.of(caller, now)
    }

    /// The place of a caller in the order of turns; `None` if it may have none now.
    fn rank(&self, caller: CallerId, limits: &TurnLimits, now: Instant) -> Option<u128> {
        let had = self.served(caller, now);
        let own = self.running.get(&caller).map_or(0, Vec::len);
        let taken: usize = self.running.values().map(Vec::len).sum();
        let is_last = limits.total > 1 && taken + 1 == limits.total;
        let most = || self.running.keys().map(|other| self.served(*other, now)).max();
        let is_light = || own == 0 && (had <= LITTLE || most().is_none_or(|most| had < most / 2));
        let may = own < limits.per_caller && (!is_last || is_light());
        // Those that had about the same go round.
        may.then(|| had.as_millis() / LITTLE.as_millis())
    }
}

/// There was no turn in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Busy;

/// A turn, which ends on drop.
#[derive(Debug)]
pub(super) struct Turn {
    /// `None` if it was never granted.
    of: Option<(Arc<Turns>, CallerId, Instant)>,
}

impl Turns {
    pub(super) fn new(limits: TurnLimits) -> Arc<Self> {
        let waiting = Queue::new(limits.waiting, limits.waiting);
        let state = State { running: HashMap::new(), waiting, served: Served::default() };
        Arc::new(Self { limits, state: Mutex::new(state) })
    }

    /// Ignores poison: a panic while it is held leaves the counts as they were.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
            let mut state = self.lock();
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
        let now = Instant::now();
        while state.running.values().map(Vec::len).sum::<usize>() < self.limits.total {
            let ranks: HashMap<CallerId, u128> = state
                .waiting
                .callers()
                .filter_map(|caller| Some((caller, state.rank(caller, &self.limits, now)?)))
                .collect();
            let rank = |caller: CallerId| ranks.get(&caller).copied();
            let Some((caller, next)) = state.waiting.take_of(rank) else { return };
            let turn = Turn { of: Some((Arc::clone(self), caller, now)) };
            match next.send(turn) {
                Ok(()) => state.running.entry(caller).or_default().push(now),
                // The request was cancelled. Its turn must not be returned, since it was not
                // counted.
                Err(mut turn) => turn.of = None,
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some((turns, caller, begun)) = self.of.take() else { return };
        let mut state = turns.lock();
        let now = Instant::now();
        if let Some(running) = state.running.get_mut(&caller) {
            if let Some(place) = running.iter().position(|other| *other == begun) {
                running.swap_remove(place);
            }
            if running.is_empty() {
                state.running.remove(&caller);
            }
        }
        state.served.add(caller, now - begun, now);
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
        drop((held, last));
        let _more =
            [turns.take(third, soon()).await.unwrap(), turns.take(greedy, soon()).await.unwrap()];
        let state = turns.state.lock().unwrap();
        assert_eq!(state.running.values().map(Vec::len).sum::<usize>(), 2);
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

    /// Over instants that the test chooses.
    #[test]
    fn who_takes_little_waits_for_nobody_who_takes_much() {
        let limits = TurnLimits { total: 3, per_caller: 2, waiting: 50 };
        let begun = Instant::now();
        let later = |millis| begun + Duration::from_millis(millis);
        let [greedy, others, small] = [1, 2, 3].map(CallerId);
        let mut state = State {
            running: HashMap::from([(greedy, vec![begun]), (others, vec![begun])]),
            waiting: Queue::new(50, 50),
            served: Served::default(),
        };
        // The last turn is for nobody who has one, and for who has had little.
        assert_eq!(state.rank(greedy, &limits, later(1000)), None);
        assert_eq!(state.rank(small, &limits, later(1000)), Some(0));
        state.served.add(small, Duration::from_millis(200), later(1000));
        assert_eq!(state.rank(small, &limits, later(1000)), Some(4));
        // It has had as much as the others.
        assert_eq!(state.rank(small, &limits, later(300)), None);
        // With more free there is one for everybody, in the order of what they have had.
        state.running.remove(&others);
        state.served.add(others, Duration::from_secs(1), later(1000));
        let ranks = [greedy, others, small].map(|caller| state.rank(caller, &limits, later(1000)));
        assert_eq!(ranks, [Some(20), Some(20), Some(4)]);
        state.running.insert(greedy, vec![begun, begun]);
        assert_eq!(state.rank(greedy, &limits, later(1000)), None);
        // What was had is forgotten in time.
        let had = |at| state.served.of(others, later(1000) + at);
        assert_eq!(had(Duration::ZERO), Duration::from_secs(1));
        assert_eq!(had(HALF_LIFE), Duration::from_millis(500));
        assert!(had(20 * HALF_LIFE) < Duration::from_millis(1));
    }

    #[test]
    fn no_more_callers_are_remembered_than_the_bound() {
        let mut served = Served::default();
        let now = Instant::now();
        for caller in 0..1000 {
            served.add(CallerId(caller), Duration::from_millis(1 + caller % 7), now);
        }
        served.add(CallerId(5000), Duration::from_secs(9), now);
        assert_eq!(served.0.len(), REMEMBERED);
        assert_eq!(served.of(CallerId(5000), now), Duration::from_secs(9));
        assert_eq!(served.of(CallerId(7000), now), Duration::ZERO);
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
