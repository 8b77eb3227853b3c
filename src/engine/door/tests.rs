use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn door(total: usize, per_caller: usize) -> Door {
    Door::new(Bounds { total, per_caller })
}

fn enter(door: &Door, caller: u64) -> Result<(), SubmitError> {
    door.enter(CallerId(caller), || true)
}

fn queued(caller: u64) -> Waiting {
    Waiting::Queued(CallerId(caller))
}

/// How many callers have to have places before one without any can be refused.
fn callers_that_fill(total: usize) -> usize {
    let mut free = total;
    let mut callers = 0;
    while free > 0 {
        free = if free == 1 { 0 } else { free.div_ceil(2) };
        callers += 1;
    }
    callers
}

#[test]
fn both_bounds_hold_and_leaving_makes_room() {
    let door = door(8, 2);
    for caller in [1, 2, 3] {
        assert_eq!((enter(&door, caller), enter(&door, caller)), (Ok(()), Ok(())));
        assert_eq!(enter(&door, caller), Err(SubmitError::CallerFull { limit: 2 }));
    }
    assert_eq!(enter(&door, 4), Ok(()));
    // It would have two places and leave none.
    assert_eq!(enter(&door, 4), Err(SubmitError::CallerFull { limit: 1 }));
    assert_eq!(enter(&door, 5), Ok(()));
    assert_eq!(enter(&door, 6), Err(SubmitError::Full { limit: 8 }));
    door.start(queued(1));
    assert_eq!(enter(&door, 6), Ok(()));
    door.put_back();
    door.end_waiting(queued(2), End::Cancelled);
    assert_eq!((door.counts().accepted, door.counts().waiting), (9, 8));
}

#[test]
fn jobs_that_have_waited_are_not_refused_for_their_callers_others() {
    let door = door(4, 1);
    for caller in [1, 2, 3] {
        assert_eq!(enter(&door, caller), Ok(()));
    }
    assert_eq!(enter(&door, 1), Err(SubmitError::CallerFull { limit: 1 }));
    let again = || door.enter_after_waiting(CallerId(1), || true);
    assert_eq!((again(), again()), (Ok(()), Err(SubmitError::Full { limit: 4 })));
}

#[test]
fn a_job_that_was_put_back_takes_no_place() {
    let door = door(1, 1);
    for caller in [1, 2, 3] {
        assert_eq!(enter(&door, caller), Ok(()));
        assert_eq!(enter(&door, 9), Err(SubmitError::Full { limit: 1 }));
        door.start(queued(caller));
        door.put_back();
    }
    assert_eq!((door.counts().accepted, door.counts().waiting), (3, 3));
    door.start(Waiting::PutBack);
    door.end_running(End::Finished);
    door.end_waiting(Waiting::PutBack, End::Failed);
    let counts = Counts { accepted: 3, waiting: 1, finished: 1, failed: 1, ..Counts::default() };
    assert_eq!(door.counts(), counts);
}

#[test]
fn a_caller_alone_has_half_of_the_queue_and_at_least_one_place() {
    for (total, places) in [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (127, 63), (128, 64)] {
        let door = door(total, usize::MAX);
        let accepted = (0..total).filter(|_| enter(&door, 1).is_ok()).count();
        assert_eq!(accepted, places, "of {total}");
    }
}

/// The number in the documentation of [`Bounds`] is exact: so many callers do fill the queue.
#[test]
fn callers_that_take_what_they_get_fill_the_queue_in_that_number() {
    for total in 1..=300_usize {
        let callers = callers_that_fill(total);
        assert_eq!(callers, total.next_power_of_two().ilog2() as usize + 1, "{total}");
        let door = door(total, usize::MAX);
        for caller in 0..callers as u64 {
            assert_eq!(enter(&door, caller), Ok(()), "caller {caller} of {total}");
            while enter(&door, caller).is_ok() {}
        }
        assert_eq!(enter(&door, 1000), Err(SubmitError::Full { limit: total }));
    }
}

#[derive(Debug, Clone)]
enum Act {
    Enter(u64),
    /// A burst, as it takes to fill large queues.
    EnterMany(u64),
    Start(prop::sample::Index),
    Leave(prop::sample::Index),
    LeaveAll(u64),
    PutBack,
    Finish,
}

fn acts(callers: u64) -> impl Strategy<Value = Vec<Act>> {
    let index = any::<prop::sample::Index>;
    let act = prop_oneof![
        4 => (0..callers).prop_map(Act::Enter),
        4 => (0..callers).prop_map(Act::EnterMany),
        2 => index().prop_map(Act::Start),
        2 => index().prop_map(Act::Leave),
        1 => (0..callers).prop_map(Act::LeaveAll),
        1 => Just(Act::PutBack),
        1 => Just(Act::Finish),
    ];
    prop::collection::vec(act, 1..200)
}

/// A door, and what should be in it.
struct World {
    door: Door,
    bounds: Bounds,
    /// The callers of the queued jobs.
    queue: Vec<u64>,
    put_back: usize,
    running: usize,
    ended: u64,
}

impl World {
    fn own(&self, caller: u64) -> usize {
        self.queue.iter().filter(|&&other| other == caller).count()
    }

    /// Submits, and checks that a caller without a job is refused only beside as many as fill it.
    fn enter(&mut self, caller: u64) -> Result<bool, TestCaseError> {
        let result = enter(&self.door, caller);
        if result.is_ok() {
            self.queue.push(caller);
        }
        let own = self.own(caller);
        let others: std::collections::BTreeSet<u64> =
            self.queue.iter().copied().filter(|&other| other != caller).collect();
        if own == 0 {
            prop_assert!(others.len() >= callers_that_fill(self.bounds.total), "{others:?}");
        }
        prop_assert!(own <= self.bounds.per_caller);
        prop_assert!(self.queue.len() <= self.bounds.total);
        Ok(result.is_ok())
    }

    fn apply(&mut self, act: &Act) -> Result<(), TestCaseError> {
        match act {
            Act::Enter(caller) => drop(self.enter(*caller)?),
            Act::EnterMany(caller) => while self.enter(*caller)? {},
            Act::Start(index) if !self.queue.is_empty() => {
                self.door.start(queued(self.queue.swap_remove(index.index(self.queue.len()))));
                self.running += 1;
            }
            Act::Leave(index) if !self.queue.is_empty() => {
                let caller = self.queue.swap_remove(index.index(self.queue.len()));
                self.door.end_waiting(queued(caller), End::Cancelled);
                self.ended += 1;
            }
            Act::LeaveAll(caller) => {
                for _ in 0..self.own(*caller) {
                    self.door.end_waiting(queued(*caller), End::Failed);
                    self.ended += 1;
                }
                self.queue.retain(|other| other != caller);
            }
            Act::PutBack if self.running > 0 => {
                self.door.put_back();
                self.running -= 1;
                self.put_back += 1;
            }
            Act::Finish if self.put_back > 0 => {
                self.door.start(Waiting::PutBack);
                self.door.end_running(End::Finished);
                self.put_back -= 1;
                self.ended += 1;
            }
            _ => {}
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn a_caller_without_a_job_is_refused_only_beside_many_others(
        total in 1usize..150,
        per_caller in prop_oneof![Just(usize::MAX), 1usize..100],
        acts in (1u64..16).prop_flat_map(acts),
    ) {
        let bounds = Bounds { total, per_caller };
        let mut world = World {
            door: Door::new(bounds),
            bounds,
            queue: Vec::new(),
            put_back: 0,
            running: 0,
            ended: 0,
        };
        for act in &acts {
            world.apply(act)?;
            let counts = world.door.counts();
            let waiting = world.queue.len() + world.put_back;
            prop_assert_eq!((counts.waiting, counts.running), (waiting, world.running));
            let ends = counts.finished + counts.cancelled + counts.failed;
            prop_assert_eq!(ends, world.ended);
            prop_assert_eq!(counts.accepted, (waiting + world.running) as u64 + ends);
        }
        let mut own = BTreeMap::new();
        for caller in world.queue {
            *own.entry(CallerId(caller)).or_insert(0) += 1;
        }
        let inside = world.door.lock();
        prop_assert_eq!(inside.queued, own.values().sum::<usize>());
        prop_assert_eq!(inside.callers.iter().map(|(&c, &n)| (c, n)).collect::<BTreeMap<_, _>>(), own);
    }
}
