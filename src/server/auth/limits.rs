//! What a key may use: answers at the same time, and tokens in a minute. Both are reserved before
//! the work begins and settled when the request ends, so that no number of requests at once gets
//! more than one after another would.
//!
//! The guarantee: in no 60 seconds, wherever they begin, does a key use more tokens than its
//! `tokens_per_minute`. At each grant, the tokens that running requests have reserved and those
//! that ended requests used in the 60 seconds before fit the limit together. A request's tokens are
//! used between its grant and its end and never exceed its reservation, so all that is used in some
//! 60 seconds belongs to requests that the last grant in them, or the last before them, counted.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long used tokens count.
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// Tokens used within this time are kept as one entry, which counts from its end.
const GRAIN: Duration = Duration::from_secs(1);

/// The part of a minute's tokens that the answers of one request may take where it gives no
/// `max_tokens`.
const OPEN_ANSWERS_DIVISOR: u32 = 4;

/// What one key may use; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Answers at the same time.
    pub max_in_flight: Option<NonZeroU32>,
    /// Tokens of prompts and answers in any 60 seconds.
    pub tokens_per_minute: Option<NonZeroU32>,
}

/// What a key uses now. Kept over reloads.
#[derive(Debug, Default)]
pub(super) struct Usage(Mutex<Books>);

impl Usage {
    fn books(&self) -> MutexGuard<'_, Books> {
        // Books are complete at any moment, whoever panicked with them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why something is not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exceeded {
    /// As many answers run as may.
    Answers {
        /// The limit.
        most: u32,
    },
    /// The request alone asks for more answers than may run.
    AnswersOfOne {
        /// What it asks for.
        asked: u64,
        /// The limit.
        most: u32,
    },
    /// The minute's tokens are used up or reserved.
    Tokens {
        /// The limit.
        most: u32,
        /// When enough of them count no more, whatever running requests use; `None` if only their
        /// end makes room.
        wait: Option<Duration>,
    },
    /// The request alone may take more tokens than a minute has.
    TokensOfOne {
        /// What it may take.
        asked: u64,
        /// The limit.
        most: u32,
    },
}

/// One request's share of its key's limits. Settled when dropped.
#[derive(Debug)]
pub(super) struct Lease {
    usage: Arc<Usage>,
    limits: Limits,
    held: Mutex<Held>,
}

/// What a request has reserved and used.
#[derive(Debug, Default)]
struct Held {
    answers: u64,
    tokens: u64,
    /// Used whatever comes: the tokenizer's work.
    paid: u64,
    /// Used by prompts and answers.
    used: u64,
}

impl Lease {
    /// A place for one more answer, and one token, of which more will be asked for when it is known
    /// how many the request may take.
    pub(super) fn take(usage: &Arc<Usage>, limits: Limits, now: Instant) -> Result<Self, Exceeded> {
        let lease = Self { usage: Arc::clone(usage), limits, held: Mutex::default() };
        lease.hold(1)?;
        lease.reserve(1, now)?;
        Ok(lease)
    }

    /// Reserves places for `answers` in all.
    pub(super) fn hold(&self, answers: usize) -> Result<(), Exceeded> {
        let (mut held, answers) = (self.held(), answers as u64);
        let more = answers.saturating_sub(held.answers);
        let mut books = self.usage.books();
        if let Some(most) = self.limits.max_in_flight.map(u32::from) {
            if answers > most.into() {
                return Err(Exceeded::AnswersOfOne { asked: answers, most });
            }
            if books.answers + more > most.into() {
                return Err(Exceeded::Answers { most });
            }
        }
        books.answers += more;
        held.answers += more;
        Ok(())
    }

    /// Reserves `tokens` in all.
    pub(super) fn reserve(&self, tokens: usize, now: Instant) -> Result<(), Exceeded> {
        let (mut held, tokens) = (self.held(), tokens as u64);
        let more = tokens.saturating_sub(held.tokens);
        let mut books = self.usage.books();
        books.forget(now);
        if let Some(most) = self.limits.tokens_per_minute.map(u32::from) {
            if tokens > most.into() {
                return Err(Exceeded::TokensOfOne { asked: tokens, most });
            }
            let wanted = books.reserved.saturating_add(books.used).saturating_add(more);
            let excess = wanted.saturating_sub(most.into());
            if more > 0 && excess > 0 {
                return Err(Exceeded::Tokens { most, wait: books.wait(excess, now) });
            }
        }
        books.reserved = books.reserved.saturating_add(more);
        held.tokens += more;
        Ok(())
    }

    /// Reserves `tokens` and counts them as used, whatever becomes of the request.
    pub(super) fn pay(&self, tokens: usize, now: Instant) -> Result<(), Exceeded> {
        self.reserve(tokens, now)?;
        let mut held = self.held();
        held.paid = held.paid.max(tokens as u64);
        Ok(())
    }

    /// The request's prompts and answers have taken `tokens`.
    pub(super) fn charge(&self, tokens: usize) {
        self.held().used = tokens as u64;
    }

    /// The most that each of `answers` may take where the request does not say; `None` is no limit.
    pub(super) fn open_answer_tokens(&self, answers: usize) -> Option<usize> {
        let most = u32::from(self.limits.tokens_per_minute?) / OPEN_ANSWERS_DIVISOR;
        Some(most as usize / answers.max(1))
    }

    /// Ends the request: gives back its places, and what it reserved and did not use.
    fn settle(&self, now: Instant) {
        let held = std::mem::take(&mut *self.held());
        let mut books = self.usage.books();
        books.answers = books.answers.saturating_sub(held.answers);
        books.reserved = books.reserved.saturating_sub(held.tokens);
        books.spend(held.used.max(held.paid), now);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.settle(Instant::now());
    }
}

/// What all requests of a key have reserved, and used lately.
#[derive(Debug, Default)]
struct Books {
    answers: u64,
    /// Tokens of running requests.
    reserved: u64,
    /// Tokens of ended requests in the last minute: the sum of `spent`.
    used: u64,
    /// In the order of time; at most one entry for each [`GRAIN`] of a minute, and one more.
    spent: VecDeque<Spent>,
}

/// Tokens used within [`GRAIN`].
#[derive(Debug)]
struct Spent {
    first: Instant,
    last: Instant,
    tokens: u64,
}

impl Books {
    /// Drops what counts no more.
    fn forget(&mut self, now: Instant) {
        while let Some(oldest) = self.spent.front()
            && oldest.last + MINUTE <= now
        {
            self.used -= oldest.tokens;
            self.spent.pop_front();
        }
    }

    fn spend(&mut self, tokens: u64, now: Instant) {
        self.forget(now);
        if tokens == 0 {
            return;
        }
        self.used = self.used.saturating_add(tokens);
        match self.spent.back_mut() {
            // A time that was read before another thread's counts as that one's.
            Some(last) if now < last.first + GRAIN => {
                last.tokens = last.tokens.saturating_add(tokens);
                last.last = last.last.max(now);
            }
            _ => self.spent.push_back(Spent { first: now, last: now, tokens }),
        }
    }

    /// How long until `excess` of the used tokens count no more.
    fn wait(&self, excess: u64, now: Instant) -> Option<Duration> {
        let mut freed = 0_u64;
        let entry = self.spent.iter().find(|spent| {
            freed = freed.saturating_add(spent.tokens);
            freed >= excess
        })?;
        Some((entry.last + MINUTE).saturating_duration_since(now))
    }
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
