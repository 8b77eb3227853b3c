//! What a key may use: requests at once, by a lease, and tokens a minute, by a bucket.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::keys::Limits;

/// What a key uses now. Kept over reloads.
#[derive(Debug, Default)]
pub(super) struct Usage {
    in_flight: AtomicU32,
    bucket: Mutex<Bucket>,
}

/// Why a request has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exceeded {
    /// As many requests run as may.
    InFlight(u32),
    /// The minute's tokens are used up; there are some again after the time given.
    Tokens(u32, Duration),
}

/// A running request's share. Given back when dropped.
#[derive(Debug)]
pub(super) struct Lease {
    usage: Arc<Usage>,
    per_minute: Option<u32>,
}

impl Lease {
    /// A place for one more request.
    pub(super) fn take(usage: &Arc<Usage>, limits: Limits, now: Instant) -> Result<Self, Exceeded> {
        let per_minute = limits.tokens_per_minute.map(u32::from);
        if let Some(per_minute) = per_minute {
            let wait = usage.bucket().wait(per_minute, now);
            if !wait.is_zero() {
                return Err(Exceeded::Tokens(per_minute, wait));
            }
        }
        let most = limits.max_in_flight.map_or(u32::MAX, u32::from);
        let one_more = |running: u32| (running < most).then_some(running + 1);
        match usage.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(_) => Ok(Self { usage: Arc::clone(usage), per_minute }),
            Err(_) => Err(Exceeded::InFlight(most)),
        }
    }

    /// Counts what the request used, known only now: the next ones wait for it.
    pub(super) fn charge(&self, tokens: usize, now: Instant) {
        if let Some(per_minute) = self.per_minute {
            self.usage.bucket().take(tokens, per_minute, now);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.usage.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Usage {
    fn bucket(&self) -> std::sync::MutexGuard<'_, Bucket> {
        // A bucket is whole at any moment, whoever panicked with it.
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tokens that may be used: at most a minute's, refilled evenly. Answers are charged when their
/// length is known, so it may hold less than nothing.
#[derive(Debug, Default)]
struct Bucket {
    /// Tokens at a moment; full before the first use.
    level: Option<(f64, Instant)>,
}

impl Bucket {
    fn level(&self, per_minute: u32, now: Instant) -> f64 {
        let full = f64::from(per_minute);
        self.level.map_or(full, |(level, at)| {
            let refilled = now.saturating_duration_since(at).as_secs_f64() * full / 60.0;
            (level + refilled).min(full)
        })
    }

    /// How long until there is a whole token.
    fn wait(&self, per_minute: u32, now: Instant) -> Duration {
        let missing = 1.0 - self.level(per_minute, now);
        Duration::try_from_secs_f64(missing * 60.0 / f64::from(per_minute)).unwrap_or_default()
    }

    fn take(&mut self, tokens: usize, per_minute: u32, now: Instant) {
        #[expect(clippy::cast_precision_loss, reason = "no request has 2^53 tokens")]
        let tokens = tokens as f64;
        self.level = Some((self.level(per_minute, now) - tokens, now));
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use proptest::prelude::*;

    fn limits(in_flight: u32, tokens: u32) -> Limits {
        Limits {
            max_in_flight: NonZeroU32::new(in_flight),
            tokens_per_minute: NonZeroU32::new(tokens),
        }
    }

    #[test]
    fn places_are_given_back() {
        let usage = Arc::new(Usage::default());
        let now = Instant::now();
        let take = || Lease::take(&usage, limits(2, 0), now);
        let first = take().unwrap();
        let _second = take().unwrap();
        assert_eq!(take().unwrap_err(), Exceeded::InFlight(2));
        drop(first);
        let _third = take().unwrap();
        assert_eq!(take().unwrap_err(), Exceeded::InFlight(2));
    }

    #[test]
    fn a_request_over_the_minute_is_paid_off_before_the_next() {
        let usage = Arc::new(Usage::default());
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let take = |seconds| Lease::take(&usage, limits(0, 60), at(seconds)).map(|_| ());
        Lease::take(&usage, limits(0, 60), start).unwrap().charge(90, start);
        // 30 tokens in debt, one a second, and one more to begin with.
        assert_eq!(take(0), Err(Exceeded::Tokens(60, Duration::from_secs(31))));
        assert_eq!(take(30), Err(Exceeded::Tokens(60, Duration::from_secs(1))));
        assert_eq!(take(31), Ok(()));
        // A long pause fills no more than a minute's.
        Lease::take(&usage, limits(0, 60), at(10_000)).unwrap().charge(61, at(10_000));
        assert_eq!(take(10_000), Err(Exceeded::Tokens(60, Duration::from_secs(2))));
    }

    proptest! {
        #[test]
        fn over_any_time_no_more_is_begun_than_the_rate_allows(
            per_minute in 1u32..10_000,
            requests in proptest::collection::vec((0u64..120, 1usize..2_000), 1..60),
        ) {
            let usage = Arc::new(Usage::default());
            let start = Instant::now();
            let (mut seconds, mut used) = (0, 0);
            for (pause, tokens) in requests {
                seconds += pause;
                let now = start + Duration::from_secs(seconds);
                if let Ok(lease) = Lease::take(&usage, limits(0, per_minute), now) {
                    // What was used before must fit; only the last may run over.
                    let allowed = f64::from(per_minute) * (1.0 + seconds as f64 / 60.0);
                    prop_assert!(used as f64 <= allowed + 1e-6);
                    lease.charge(tokens, now);
                    used += tokens;
                }
            }
        }
    }
}
