//! Who runs next: the jobs that wait for a row.
//!
//! Callers take turns, so that one with many jobs does not hold up the others. Of one caller's
//! jobs the one with the highest priority is next, where each [`AGEING`] of waiting counts as one
//! step of priority so that none starves; of equals the one that came first. Pure: time comes in
//! as an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use phi4d_door::CallerId;

/// Waiting time that counts as much as one step of priority.
const AGEING: Duration = Duration::from_secs(10);

/// What the order goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// Whose job it is.
    pub caller: CallerId,
    /// Higher goes first.
    pub priority: i32,
    /// When it came.
    pub arrived: Instant,
}

#[derive(Debug)]
struct Waiting<J> {
    ticket: Ticket,
    job: J,
}

/// Jobs that wait.
#[derive(Debug)]
pub struct Queue<J> {
    /// Callers with jobs, the one whose turn it is first.
    callers: VecDeque<(CallerId, VecDeque<Waiting<J>>)>,
}

impl<J> Queue<J> {
    /// An empty queue.
    #[must_use]
    pub fn new() -> Self {
        Self { callers: VecDeque::new() }
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.callers.is_empty()
    }

    /// All jobs, by caller.
    pub fn iter(&self) -> impl Iterator<Item = &J> {
        self.callers.iter().flat_map(|(_, jobs)| jobs.iter().map(|waiting| &waiting.job))
    }

    /// Adds a job behind the others of its caller.
    pub fn push(&mut self, ticket: Ticket, job: J) {
        let waiting = Waiting { ticket, job };
        match self.callers.iter_mut().find(|(caller, _)| *caller == ticket.caller) {
            Some((_, jobs)) => jobs.push_back(waiting),
            None => self.callers.push_back((ticket.caller, VecDeque::from([waiting]))),
        }
    }

    /// Puts back a job that had its turn and could not go on: it is next.
    pub fn put_back(&mut self, ticket: Ticket, job: J) {
        // Above every priority that its caller's others can have aged to.
        let ticket = Ticket { priority: i32::MAX, ..ticket };
        let place = self.callers.iter().position(|(caller, _)| *caller == ticket.caller);
        let (caller, mut jobs) = place
            .and_then(|place| self.callers.remove(place))
            .unwrap_or_else(|| (ticket.caller, VecDeque::new()));
        jobs.push_front(Waiting { ticket, job });
        self.callers.push_front((caller, jobs));
    }

    /// The job whose turn it is.
    #[must_use]
    pub fn next(&self, now: Instant) -> Option<&J> {
        let (_, jobs) = self.callers.front()?;
        Self::first(jobs, now).map(|index| &jobs[index].job)
    }

    /// Takes the job that [`Queue::next`] tells, and gives the turn to the next caller.
    pub fn take(&mut self, now: Instant) -> Option<J> {
        let (caller, mut jobs) = self.callers.pop_front()?;
        let waiting = Self::first(&jobs, now).and_then(|index| jobs.remove(index));
        if !jobs.is_empty() {
            self.callers.push_back((caller, jobs));
        }
        waiting.map(|waiting| waiting.job)
    }

    /// Removes and returns the jobs for which `leaves` holds.
    pub fn remove(&mut self, mut leaves: impl FnMut(&J) -> bool) -> Vec<J> {
        let mut gone = Vec::new();
        for (_, jobs) in &mut self.callers {
            for _ in 0..jobs.len() {
                let Some(waiting) = jobs.pop_front() else { break };
                if leaves(&waiting.job) {
                    gone.push(waiting.job);
                } else {
                    jobs.push_back(waiting);
                }
            }
        }
        self.callers.retain(|(_, jobs)| !jobs.is_empty());
        gone
    }

    fn first(jobs: &VecDeque<Waiting<J>>, now: Instant) -> Option<usize> {
        let rank = |ticket: &Ticket| {
            let waited = now.saturating_duration_since(ticket.arrived).as_secs();
            i64::from(ticket.priority).saturating_add_unsigned(waited / AGEING.as_secs())
        };
        let best = jobs.iter().map(|waiting| rank(&waiting.ticket)).max()?;
        jobs.iter().position(|waiting| rank(&waiting.ticket) == best)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ticket(caller: u64, priority: i32, arrived: Instant) -> Ticket {
        Ticket { caller: CallerId(caller), priority, arrived }
    }

    fn drain(queue: &mut Queue<u32>, now: Instant) -> Vec<u32> {
        std::iter::from_fn(|| queue.take(now)).collect()
    }

    #[test]
    fn callers_take_turns_whatever_each_has_queued() {
        let now = Instant::now();
        let mut queue = Queue::new();
        for job in 0..4 {
            queue.push(ticket(1, 0, now), job);
        }
        queue.push(ticket(2, 0, now), 10);
        queue.push(ticket(3, 0, now), 20);
        queue.push(ticket(2, 0, now), 11);
        assert_eq!(drain(&mut queue, now), [0, 10, 20, 1, 11, 2, 3]);
    }

    #[test]
    fn priority_goes_first_and_waiting_makes_up_for_it() {
        let now = Instant::now();
        let mut queue = Queue::new();
        queue.push(ticket(1, 0, now), 0);
        queue.push(ticket(1, 2, now), 1);
        assert_eq!(queue.next(now), Some(&1));
        let later = now + 3 * AGEING;
        queue.push(ticket(1, 2, later), 2);
        assert_eq!(drain(&mut queue, later), [1, 0, 2]);
    }

    #[test]
    fn what_is_put_back_is_next() {
        let now = Instant::now();
        let mut queue = Queue::new();
        queue.push(ticket(1, 5, now), 0);
        queue.push(ticket(2, 0, now), 1);
        queue.push(ticket(2, 9, now), 2);
        queue.put_back(ticket(2, 0, now), 3);
        assert_eq!(drain(&mut queue, now), [3, 0, 2, 1]);
    }

    #[test]
    fn leaving_jobs_are_given_out_and_the_order_of_the_others_stays() {
        let now = Instant::now();
        let mut queue = Queue::new();
        for job in 0..6 {
            queue.push(ticket(u64::from(job % 2), 0, now), job);
        }
        assert_eq!(queue.remove(|job| job % 3 == 0), [0, 3]);
        assert_eq!(drain(&mut queue, now), [2, 1, 4, 5]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_no_caller_waits_more_than_a_round(
            jobs in prop::collection::vec((0u64..4, -3i32..3), 1..60),
        ) {
            let now = Instant::now();
            let mut queue = Queue::new();
            for (index, &(caller, priority)) in jobs.iter().enumerate() {
                queue.push(ticket(caller, priority, now), index);
            }
            let mut seen = Vec::new();
            while let Some(job) = queue.take(now) {
                seen.push((jobs[job].0, job));
            }
            let mut all: Vec<usize> = seen.iter().map(|&(_, job)| job).collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..jobs.len()).collect::<Vec<_>>());
            for (place, &(caller, _)) in seen.iter().enumerate() {
                // Between two turns of a caller each other caller has one at most.
                let next = seen[place + 1..].iter().position(|&(other, _)| other == caller);
                if let Some(distance) = next {
                    prop_assert!(distance <= 3);
                }
            }
        }
    }
}
