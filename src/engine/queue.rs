//! The jobs that wait for a slot, and which of them is next.
//!
//! Callers take round-robin turns, so a caller with many jobs does not delay the others. Of one caller's
//! jobs the one with the highest priority is next, the oldest of equals. Each [`AGEING`] of waiting
//! raises a job by one step of priority, so none starves. A job that does not fit is passed over by those
//! that do, a bounded number of times. Pure: time is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use phi4d_door::CallerId;

/// Waiting time that counts like one step of priority. Requests take seconds, so ten of them are a wait
/// that a client notices, while a short burst keeps the order that its priorities ask for.
const AGEING: Duration = Duration::from_secs(10);

/// How often a job that does not fit may be overtaken. Then the others wait, too, until enough of those
/// that run have ended.
const OVERTAKEN: u32 = 16;

/// How long the jobs wait to be tried again when none fitted, unless one came or left or memory has become
/// free: each try compares prompts with what is cached, which beside steps of a millisecond shows.
const RETRY: Duration = Duration::from_millis(50);

/// What a job is ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// Who submitted the job.
    pub caller: CallerId,
    /// Higher priorities start first.
    pub priority: i32,
    /// When it was submitted.
    pub arrived: Instant,
}

#[derive(Debug)]
struct Waiting<J> {
    ticket: Ticket,
    job: J,
    /// Jobs that started before this one, although it was next.
    overtaken: u32,
}

/// The waiting jobs.
#[derive(Debug)]
pub struct Queue<J> {
    /// Callers that have jobs, in the order of their turns. A caller's jobs are in order of arrival.
    callers: VecDeque<(CallerId, VecDeque<Waiting<J>>)>,
    /// Until then no job fits, if nothing changes.
    futile_until: Option<Instant>,
}

impl<J> Queue<J> {
    /// A queue without jobs.
    #[must_use]
    pub fn new() -> Self {
        Self { callers: VecDeque::new(), futile_until: None }
    }

    /// Whether no job waits.
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
        let waiting = Waiting { ticket, job, overtaken: 0 };
        self.retry();
        // A new caller comes last, so that none skips the others by leaving and coming back.
        match self.callers.iter_mut().find(|(caller, _)| *caller == ticket.caller) {
            Some((_, jobs)) => jobs.push_back(waiting),
            None => self.callers.push_back((ticket.caller, VecDeque::from([waiting]))),
        }
    }

    /// Puts back a job that was preempted. It is next, before all others: it has had its turn, and cached
    /// tokens that it can continue from.
    pub fn put_back(&mut self, ticket: Ticket, job: J) {
        // Higher than the priority of any other job of its caller with its ageing.
        let ticket = Ticket { priority: i32::MAX, ..ticket };
        self.retry();
        let place = self.callers.iter().position(|(caller, _)| *caller == ticket.caller);
        let (caller, mut jobs) = place
            .and_then(|place| self.callers.remove(place))
            .unwrap_or_else(|| (ticket.caller, VecDeque::new()));
        jobs.push_front(Waiting { ticket, job, overtaken: 0 });
        self.callers.push_front((caller, jobs));
    }

    /// Jobs that may be changed, by caller. Their tickets stay as they are.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut J> {
        self.callers
            .iter_mut()
            .flat_map(|(_, jobs)| jobs.iter_mut().map(|waiting| &mut waiting.job))
    }

    /// Notes that no job fits, so that none is tried for [`RETRY`].
    pub fn rest(&mut self, now: Instant) {
        self.futile_until = Some(now + RETRY);
    }

    /// Has all jobs tried again, since a sequence has ended or has given back memory.
    pub fn retry(&mut self) {
        self.futile_until = None;
    }

    /// Whether no job would fit if it were tried.
    #[must_use]
    pub fn is_resting(&self, now: Instant) -> bool {
        self.futile_until.is_some_and(|until| now < until)
    }

    /// Takes the next job that `fits` of the callers that `may` have a turn, and ends its caller's turn. Their
    /// jobs before it were passed over; `None` if nothing fits, or what does may not pass.
    pub fn take(
        &mut self,
        now: Instant,
        may: impl Fn(CallerId) -> bool,
        mut fits: impl FnMut(&J) -> bool,
    ) -> Option<J> {
        let (place, index) = self.find(now, &may, &mut fits)?;
        let (caller, mut jobs) = self.callers.remove(place)?;
        let waiting = jobs.remove(index);
        // Behind the others, and dropped when it has no more jobs: callers come and go without end. Callers
        // that were passed over keep their turn.
        if !jobs.is_empty() {
            self.callers.push_back((caller, jobs));
        }
        waiting.map(|waiting| waiting.job)
    }

    /// The place of the caller and of its job that is next of those that fit. Counts whom it overtakes.
    fn find(
        &mut self,
        now: Instant,
        may: &dyn Fn(CallerId) -> bool,
        fits: &mut dyn FnMut(&J) -> bool,
    ) -> Option<(usize, usize)> {
        let mut passed = Vec::new();
        let mut found = None;
        let callers = self.callers.iter().enumerate();
        'search: for (place, (_, jobs)) in callers.filter(|(_, (caller, _))| may(*caller)) {
            for index in Self::ranked(jobs, now) {
                if fits(&jobs[index].job) {
                    found = Some((place, index));
                    break 'search;
                }
                if jobs[index].overtaken >= OVERTAKEN {
                    break 'search;
                }
                passed.push((place, index));
            }
        }
        found?;
        for (place, index) in passed {
            self.callers[place].1[index].overtaken += 1;
        }
        found
    }

    /// Removes and returns the jobs that `leaves` selects; the others keep their order.
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
        // One that might not be passed may be among them.
        if !gone.is_empty() {
            self.retry();
        }
        gone
    }

    /// The indices of one caller's jobs, the next one first. Sorted at each call, since ageing reorders jobs
    /// as time passes and a caller has few of them.
    fn ranked(jobs: &VecDeque<Waiting<J>>, now: Instant) -> Vec<usize> {
        let rank = |ticket: &Ticket| {
            let waited = now.saturating_duration_since(ticket.arrived).as_secs();
            i64::from(ticket.priority).saturating_add_unsigned(waited / AGEING.as_secs())
        };
        let mut order: Vec<usize> = (0..jobs.len()).collect();
        // Stable: of equals the oldest is first.
        order.sort_by_key(|&index| std::cmp::Reverse(rank(&jobs[index].ticket)));
        order
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
        std::iter::from_fn(|| queue.take(now, |_| true, |_| true)).collect()
    }

    #[test]
    fn callers_take_round_robin_turns_whatever_each_has_queued() {
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
        let later = now + 3 * AGEING;
        queue.push(ticket(1, 2, later), 2);
        assert_eq!(drain(&mut queue, later), [1, 0, 2]);
    }

    #[test]
    fn a_job_that_was_put_back_is_next() {
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

    #[test]
    fn what_does_not_fit_is_passed_over_a_bounded_number_of_times_and_keeps_its_turn() {
        let now = Instant::now();
        let mut queue = Queue::new();
        queue.push(ticket(1, 0, now), 1000);
        queue.push(ticket(1, 0, now), 1);
        queue.push(ticket(2, 0, now), 2);
        // Of the caller whose turn it is first.
        assert_eq!(queue.take(now, |_| true, |&job| job < 1000), Some(1));
        assert_eq!(queue.take(now, |_| true, |&job| job < 1000), Some(2));
        for job in 1..OVERTAKEN {
            queue.push(ticket(3, 0, now), job);
            assert_eq!(queue.take(now, |_| true, |&job| job < 1000), Some(job));
        }
        queue.push(ticket(3, 0, now), 500);
        assert_eq!(queue.take(now, |_| true, |&job| job < 1000), None);
        assert_eq!(drain(&mut queue, now), [1000, 500]);
    }

    #[test]
    fn jobs_that_do_not_fit_are_tried_again_after_a_while_or_a_change() {
        let now = Instant::now();
        let mut queue = Queue::new();
        queue.push(ticket(1, 0, now), 0);
        queue.push(ticket(2, 0, now), 1);
        let tries = |queue: &mut Queue<u32>, now| {
            let mut tries = 0;
            while !queue.is_resting(now) {
                let none = queue.take(
                    now,
                    |_| true,
                    |_| {
                        tries += 1;
                        false
                    },
                );
                assert_eq!(none, None);
                queue.rest(now);
            }
            tries
        };
        assert_eq!(tries(&mut queue, now), 2);
        assert_eq!(tries(&mut queue, now), 0);
        assert_eq!(tries(&mut queue, now + RETRY), 2);
        queue.push(ticket(3, 0, now), 2);
        assert_eq!(tries(&mut queue, now), 3);
        assert_eq!(queue.remove(|&job| job == 1), [1]);
        assert_eq!(tries(&mut queue, now), 2);
        queue.put_back(ticket(3, 0, now), 1);
        assert_eq!(tries(&mut queue, now), 3);
        queue.retry();
        assert!(!queue.is_resting(now));
        assert_eq!(queue.take(now, |_| true, |_| true), Some(1));
    }

    proptest! {
        #[test]
        fn every_job_starts_although_others_that_fit_come_without_end(
            larger in prop::collection::vec(0u64..4, 1..4),
            caller in 0u64..5,
        ) {
            let now = Instant::now();
            let mut queue = Queue::new();
            for &caller in &larger {
                queue.push(ticket(caller, 0, now), true);
            }
            let mut starts = 0;
            let mut left = larger.len();
            while left > 0 {
                queue.push(ticket(caller, 0, now), false);
                // While nothing small starts, what runs ends, and the large ones fit.
                let small = queue.take(now, |_| true, |&large| !large);
                let job = small.or_else(|| queue.take(now, |_| true, |_| true));
                left -= usize::from(job == Some(true));
                starts += 1;
                prop_assert!(starts <= (OVERTAKEN as usize + 2) * larger.len());
            }
        }

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
            while let Some(job) = queue.take(now, |_| true, |_| true) {
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
