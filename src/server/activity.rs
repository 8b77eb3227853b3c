//! What a connection is doing, as the acceptor sees it when it needs places for others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How often a connection without a head checks whether places have become scarce.
const TICK: Duration = Duration::from_millis(250);

/// The longest wait for a head while nearly all connections are taken.
const CROWDED_HEAD_LIMIT: Duration = Duration::from_secs(2);

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// No head has arrived yet (the TLS handshake included), or one has begun.
    Head,
    /// It is kept open between two requests.
    Idle,
    /// The body of its request has not arrived completely.
    Body,
    /// Its request has arrived completely and is not fully answered.
    Request,
    /// Its requests are answered, but the client does not read the end of the last answer.
    Unread,
}

/// What the next byte from the client belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Expected {
    NextRequest,
    Head,
    Body,
}

/// Why a connection was closed although its client wanted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    /// Its head took too long.
    SlowHead,
    /// The acceptor wanted its place.
    Replaced(Doing),
}

/// A connection's state. Its own task writes it; the acceptor reads it and may ask it to close.
///
/// State and time are one atomic word, so that the acceptor never pairs one state with another's
/// time.
#[derive(Debug)]
pub(super) struct Activity {
    started: Instant,
    /// [`Doing`] in the lowest bits, and since when, in milliseconds from `started`.
    state: AtomicU64,
    requests: AtomicUsize,
    has_asked: AtomicBool,
    expected: AtomicU8,
    unread: AtomicBool,
    changed: Notify,
    /// Whether the acceptor asked it to close and it has not declined.
    asked_to_leave: AtomicBool,
    leave: Notify,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            state: AtomicU64::new(encode(Doing::Head, Duration::ZERO)),
            requests: AtomicUsize::new(0),
            has_asked: AtomicBool::new(false),
            expected: AtomicU8::new(Expected::NextRequest as u8),
            unread: AtomicBool::new(false),
            changed: Notify::new(),
            asked_to_leave: AtomicBool::new(false),
            leave: Notify::new(),
        })
    }

    /// What it is doing, and for how long.
    pub(super) fn now(&self) -> (Doing, Duration) {
        let (doing, since) = decode(self.state.load(Ordering::Acquire));
        (doing, self.started.elapsed().saturating_sub(since))
    }

    pub(super) fn set_expected(&self, expected: Expected) {
        if self.expected.swap(expected as u8, Ordering::AcqRel) != expected as u8 {
            self.update();
        }
    }

    pub(super) fn set_unread(&self, unread: bool) {
        if self.unread.swap(unread, Ordering::AcqRel) != unread {
            self.update();
        }
    }

    /// Counts a request until the returned guard is dropped.
    pub(super) fn request(self: &Arc<Self>) -> OpenRequest {
        self.requests.fetch_add(1, Ordering::AcqRel);
        self.has_asked.store(true, Ordering::Release);
        self.update();
        OpenRequest(Arc::clone(self))
    }

    fn update(&self) {
        let expected = self.expected.load(Ordering::Acquire);
        let doing = if self.requests.load(Ordering::Acquire) > 0 {
            if expected == Expected::Body as u8 { Doing::Body } else { Doing::Request }
        } else if self.unread.load(Ordering::Acquire) {
            Doing::Unread
        } else if expected == Expected::Head as u8 || !self.has_asked.load(Ordering::Acquire) {
            Doing::Head
        } else {
            Doing::Idle
        };
        if decode(self.state.load(Ordering::Acquire)).0 != doing {
            self.state.store(encode(doing, self.started.elapsed()), Ordering::Release);
            self.changed.notify_one();
        }
    }

    /// Asks the connection to close, so that another gets its place.
    pub(super) fn ask_to_leave(&self) {
        self.asked_to_leave.store(true, Ordering::Release);
        self.leave.notify_one();
    }

    /// Whether it was asked to close and has not declined.
    pub(super) fn is_leaving(&self) -> bool {
        self.asked_to_leave.load(Ordering::Acquire)
    }

    /// Returns when the connection must end: its head takes longer than `limit` (less while
    /// `crowded`), or the acceptor wants its place. A connection with a complete request declines.
    ///
    /// Await it in the task that serves the connection: then no request can arrive between the
    /// decision and the end.
    pub(super) async fn must_end(&self, limit: Duration, crowded: &AtomicBool) -> Closed {
        loop {
            let wait = match self.now() {
                (Doing::Head, took) => {
                    let is_crowded = crowded.load(Ordering::Acquire);
                    let limit = if is_crowded { limit.min(CROWDED_HEAD_LIMIT) } else { limit };
                    match limit.checked_sub(took).filter(|left| !left.is_zero()) {
                        Some(left) => left.min(TICK),
                        None => return Closed::SlowHead,
                    }
                }
                _ => Duration::MAX,
            };
            tokio::select! {
                () = self.leave.notified() => match self.now().0 {
                    Doing::Request => self.asked_to_leave.store(false, Ordering::Release),
                    doing => return Closed::Replaced(doing),
                },
                () = self.changed.notified() => {}
                () = tokio::time::sleep(wait), if wait != Duration::MAX => {}
            }
        }
    }
}

/// A request that is not fully answered.
#[derive(Debug)]
pub(super) struct OpenRequest(Arc<Activity>);

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::AcqRel);
        self.0.update();
    }
}

fn encode(doing: Doing, since: Duration) -> u64 {
    let kind = match doing {
        Doing::Head => 0,
        Doing::Idle => 1,
        Doing::Request => 2,
        Doing::Unread => 3,
        Doing::Body => 4,
    };
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX >> 3) << 3 | kind
}

fn decode(state: u64) -> (Doing, Duration) {
    let doing = match state & 7 {
        0 => Doing::Head,
        1 => Doing::Idle,
        2 => Doing::Request,
        3 => Doing::Unread,
        _ => Doing::Body,
    };
    (doing, Duration::from_millis(state >> 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn what_it_is_doing_follows_from_what_happened() {
        let activity = Activity::new();
        let doing = || activity.now().0;
        assert_eq!(doing(), Doing::Head);
        activity.set_expected(Expected::Head);
        let (first, second) = (activity.request(), activity.request());
        activity.set_expected(Expected::Body);
        assert_eq!(doing(), Doing::Body);
        activity.set_expected(Expected::NextRequest);
        assert_eq!(doing(), Doing::Request);
        drop(first);
        assert_eq!(doing(), Doing::Request);
        activity.set_unread(true);
        drop(second);
        assert_eq!(doing(), Doing::Unread);
        activity.set_unread(false);
        assert_eq!(doing(), Doing::Idle);
        activity.set_expected(Expected::Head);
        assert_eq!(doing(), Doing::Head);
    }

    #[tokio::test]
    async fn one_with_a_request_stays_and_one_without_goes() {
        let activity = Activity::new();
        let crowded = AtomicBool::new(true);
        let request = activity.request();
        activity.ask_to_leave();
        let stays = tokio::time::timeout(TICK, activity.must_end(LONG, &crowded)).await;
        assert!(stays.is_err() && !activity.is_leaving());
        drop(request);
        activity.ask_to_leave();
        let end = activity.must_end(LONG, &crowded).await;
        assert_eq!(end, Closed::Replaced(Doing::Idle));
    }

    #[tokio::test]
    async fn heads_have_less_time_in_a_crowd() {
        let activity = Activity::new();
        let crowded = AtomicBool::new(false);
        let end = activity.must_end(Duration::from_millis(20), &crowded).await;
        assert_eq!(end, Closed::SlowHead);
        let quiet = tokio::time::timeout(TICK, activity.must_end(LONG, &crowded)).await;
        assert!(quiet.is_err());
        crowded.store(true, Ordering::Release);
        let end = tokio::time::timeout(CROWDED_HEAD_LIMIT * 2, activity.must_end(LONG, &crowded));
        assert_eq!(end.await, Ok(Closed::SlowHead));
    }
}
