use std::num::NonZeroU32;

use super::*;
use proptest::prelude::*;

fn limits(in_flight: u32, tokens: u32) -> Limits {
    Limits { max_in_flight: NonZeroU32::new(in_flight), tokens_per_minute: NonZeroU32::new(tokens) }
}

fn tokens_exceeded(most: u32, wait: u64) -> Exceeded {
    Exceeded::Tokens { most, wait: Some(Duration::from_secs(wait)) }
}

#[test]
fn places_are_counted_by_answers_and_given_back() {
    let usage = Arc::new(Usage::default());
    let now = Instant::now();
    let take = || Lease::take(&usage, limits(3, 0), now);
    let first = take().unwrap();
    let second = take().unwrap();
    assert_eq!(first.hold(3), Err(Exceeded::Answers { most: 3 }));
    assert_eq!(first.hold(4), Err(Exceeded::AnswersOfOne { asked: 4, most: 3 }));
    first.hold(2).unwrap();
    assert_eq!(take().unwrap_err(), Exceeded::Answers { most: 3 });
    drop(second);
    let _third = take().unwrap();
    assert_eq!(take().unwrap_err(), Exceeded::Answers { most: 3 });
    drop(first);
    take().unwrap().hold(2).unwrap();
}

#[test]
fn what_was_not_used_is_given_back_and_what_was_used_counts_for_a_minute() {
    let usage = Arc::new(Usage::default());
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let take = |seconds| Lease::take(&usage, limits(0, 60), at(seconds));
    let first = take(0).unwrap();
    first.reserve(60, start).unwrap();
    // All is reserved, and nothing says when it will not be.
    assert_eq!(take(0).unwrap_err(), Exceeded::Tokens { most: 60, wait: None });
    assert_eq!(first.reserve(61, start), Err(Exceeded::TokensOfOne { asked: 61, most: 60 }));
    first.charge(40);
    first.settle(at(10));
    let second = take(10).unwrap();
    assert_eq!(second.reserve(21, at(10)), Err(tokens_exceeded(60, 60)));
    second.reserve(20, at(10)).unwrap();
    second.charge(20);
    second.settle(at(30));
    assert_eq!(take(69).unwrap_err(), tokens_exceeded(60, 1));
    take(70).unwrap().reserve(40, at(70)).unwrap();
    let third = take(70).unwrap();
    assert_eq!(third.reserve(41, at(70)), Err(tokens_exceeded(60, 20)));
    third.reserve(60, at(90)).unwrap();
}

#[test]
fn the_tokenizers_work_is_paid_whatever_becomes_of_the_request() {
    let usage = Arc::new(Usage::default());
    let now = Instant::now();
    let lease = Lease::take(&usage, limits(0, 100), now).unwrap();
    lease.pay(70, now).unwrap();
    assert!(lease.reserve(101, now).is_err());
    lease.settle(now);
    let lease = Lease::take(&usage, limits(0, 100), now).unwrap();
    assert_eq!(lease.reserve(31, now), Err(tokens_exceeded(100, 60)));
    lease.reserve(30, now).unwrap();
}

#[test]
fn answers_of_no_stated_length_may_take_a_quarter_together() {
    let usage = Arc::new(Usage::default());
    let lease = |tokens| Lease::take(&usage, limits(0, tokens), Instant::now()).unwrap();
    assert_eq!(lease(0).open_answer_tokens(1), None);
    assert_eq!(lease(1000).open_answer_tokens(1), Some(250));
    assert_eq!(lease(1000).open_answer_tokens(5), Some(50));
}

/// What happens next to a key's requests.
#[derive(Debug, Clone)]
enum Act {
    Wait {
        milliseconds: u64,
    },
    Begin {
        tokens: usize,
        answers: usize,
    },
    /// A running request reserves more.
    More {
        which: prop::sample::Index,
        tokens: usize,
    },
    Pay {
        which: prop::sample::Index,
        tokens: usize,
    },
    /// A running request ends, having used a share of what it reserved.
    End {
        which: prop::sample::Index,
        percent: u64,
    },
}

fn act() -> impl Strategy<Value = Act> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        (0u64..40_000).prop_map(|milliseconds| Act::Wait { milliseconds }),
        (0u64..900).prop_map(|milliseconds| Act::Wait { milliseconds }),
        (1usize..150, 1usize..6).prop_map(|(tokens, answers)| Act::Begin { tokens, answers }),
        (1usize..150, 1usize..6).prop_map(|(tokens, answers)| Act::Begin { tokens, answers }),
        (index(), 1usize..150).prop_map(|(which, tokens)| Act::More { which, tokens }),
        (index(), 1usize..80).prop_map(|(which, tokens)| Act::Pay { which, tokens }),
        (index(), 0u64..=100).prop_map(|(which, percent)| Act::End { which, percent }),
        (index(), 0u64..=100).prop_map(|(which, percent)| Act::End { which, percent }),
    ]
}

/// A request as the model sees it.
struct Modelled {
    lease: Lease,
    /// When it had reserved how many tokens in all.
    grants: Vec<(Instant, u64)>,
    paid: u64,
    answers: u64,
}

impl Modelled {
    fn tokens(&self) -> u64 {
        self.grants.last().map_or(0, |&(_, tokens)| tokens)
    }

    fn granted(&mut self, tokens: usize, now: Instant) {
        self.grants.push((now, self.tokens().max(tokens as u64)));
    }
}

/// A request that ended: its grants, its end and what it used.
struct Life(Vec<(Instant, u64)>, Instant, u64);

impl Life {
    /// The most that it can have used from `from` until before `to`.
    fn most_within(&self, from: Instant, to: Instant) -> u64 {
        let Self(grants, ended, used) = self;
        let reserved =
            grants.iter().rev().find(|(at, _)| *at < to).map_or(0, |&(_, tokens)| tokens);
        if *ended < from { 0 } else { reserved.min(*used) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    /// Whatever the order of events, no 60 seconds see more used than the limit, even if every
    /// request uses its tokens at the worst moment of its life; places never exceed theirs; and
    /// nothing that fits is refused for longer than a minute and a second.
    #[test]
    fn no_minute_sees_more_than_the_quota(acts in prop::collection::vec(act(), 1..80)) {
        const MOST: u64 = 120;
        const PLACES: u64 = 8;
        let limits = limits(8, 120);
        let usage = Arc::new(Usage::default());
        let start = Instant::now();
        let mut now = start;
        let mut running: Vec<Modelled> = Vec::new();
        let mut lives: Vec<Life> = Vec::new();
        let end = |request: Modelled, percent: u64, now: Instant, lives: &mut Vec<Life>| {
            let used = request.tokens() * percent / 100;
            request.lease.charge(usize::try_from(used).unwrap());
            request.lease.settle(now);
            lives.push(Life(request.grants, now, used.max(request.paid)));
        };
        for act in acts {
            match act {
                Act::Wait { milliseconds } => now += Duration::from_millis(milliseconds),
                Act::Begin { tokens, answers } => {
                    let Ok(lease) = Lease::take(&usage, limits, now) else { continue };
                    let granted = lease.hold(answers).is_ok() && lease.reserve(tokens, now).is_ok();
                    if granted {
                        let grants = vec![(now, tokens as u64)];
                        running.push(Modelled { lease, grants, paid: 0, answers: answers as u64 });
                    } else {
                        lease.settle(now);
                    }
                }
                Act::More { which, tokens } if !running.is_empty() => {
                    let chosen = which.index(running.len());
                    if running[chosen].lease.reserve(tokens, now).is_ok() {
                        running[chosen].granted(tokens, now);
                    }
                }
                Act::Pay { which, tokens } if !running.is_empty() => {
                    let chosen = which.index(running.len());
                    if running[chosen].lease.pay(tokens, now).is_ok() {
                        running[chosen].granted(tokens, now);
                        running[chosen].paid = running[chosen].paid.max(tokens as u64);
                    }
                }
                Act::End { which, percent } if !running.is_empty() => {
                    let request = running.swap_remove(which.index(running.len()));
                    end(request, percent, now, &mut lives);
                }
                _ => {}
            }
            prop_assert!(running.iter().map(|request| request.answers).sum::<u64>() <= PLACES);
            prop_assert!(usage.books().spent.len() <= 62);
        }
        // Requests that never ended have used all that they reserved.
        for request in running {
            end(request, 100, now, &mut lives);
        }
        // A window matters only where it begins at some request's end.
        for from in lives.iter().map(|Life(_, ended, _)| *ended) {
            let used: u64 = lives.iter().map(|life| life.most_within(from, from + MINUTE)).sum();
            prop_assert!(used <= MOST, "{used} in the minute after {:?}", from - start);
        }
        let later = now + MINUTE + GRAIN;
        let fresh = Lease::take(&usage, limits, later).unwrap();
        prop_assert_eq!(fresh.reserve(120, later), Ok(()));
        prop_assert_eq!(fresh.hold(8), Ok(()));
    }
}
