//! Accepts connections on all listeners until told to stop, then drains.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::activity::{Activity, Closed, Doing};
use super::app::{App, Phase};
use super::caller::Origin;
use super::conn::serve_connection;
use super::places::{Bounds, Holder, Places, Verdict};
use super::secure::serve_tcp;
use phi4d_os::{Listener, UnixStream};

/// How long to leave accepting alone when the system has no descriptors or memory for it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A lasting accept failure is logged this often.
const ACCEPT_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How long a drain waits for the first question of connections that were made before it.
const SETTLE: Duration = Duration::from_millis(250);

/// How long requests that were cut have to tell their clients.
const CUT_GRACE: Duration = Duration::from_millis(500);

/// How often a newcomer who waits for a place looks for one that serves nobody.
const DOOR_TICK: Duration = Duration::from_millis(20);

/// How draining ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainOutcome {
    /// Connections that were still busy when the drain limit passed.
    pub cut_connections: usize,
}

impl DrainOutcome {
    /// Whether every request that was running ended by itself.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.cut_connections == 0
    }
}

/// Serves `app` on all `listeners` until `stop` holds true (or its sender is gone), then drains.
///
/// Draining: listeners close at once, connections that have asked nothing yet have a moment to do so,
/// idle ones close, running requests have `drain` to end, new requests get 503. What runs after that
/// gets an error and its connection is closed.
pub async fn serve(
    app: App,
    listeners: Vec<Listener>,
    mut stop: watch::Receiver<bool>,
    drain: Duration,
) -> DrainOutcome {
    let mut connections = JoinSet::new();
    tokio::select! {
        () = accept_all(&app, &listeners, &mut connections) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
    drop(listeners);
    // Who was let in has been promised an answer, which no successor on the same socket can give.
    let _ = tokio::time::timeout(SETTLE, app.until_unasked(0)).await;
    app.enter(Phase::Draining);
    if all_ended_within(&mut connections, drain).await {
        return DrainOutcome { cut_connections: 0 };
    }
    let cut_connections = connections.len();
    log::warn!("the drain limit passed; cutting {cut_connections} connections");
    app.enter(Phase::Cutting);
    if !all_ended_within(&mut connections, CUT_GRACE).await {
        connections.shutdown().await;
    }
    DrainOutcome { cut_connections }
}

async fn all_ended_within(connections: &mut JoinSet<()>, limit: Duration) -> bool {
    let all = async { while connections.join_next().await.is_some() {} };
    tokio::time::timeout(limit, all).await.is_ok()
}

/// Accepts for ever, never more than the allowed connections at once.
async fn accept_all(app: &App, listeners: &[Listener], connections: &mut JoinSet<()>) {
    let options = app.options();
    let mut places = Places::new(Bounds::new(
        options.max_connections,
        listeners.iter().any(|one| matches!(one, Listener::Unix(_))),
        options.connections_per_address,
        options.connections_per_local,
    ));
    let mut accepting = Accepting::new(listeners);
    let mut turned_away = TurnedAway::default();
    // At most one of each kind waits inside for a place. While one does, the kernel's backlog holds
    // the rest of its kind.
    let mut door: [Option<Newcomer>; 2] = [None, None];
    loop {
        for waiting in &mut door {
            let Some(newcomer) = waiting.take() else { continue };
            let verdict = places.judge(newcomer.holder);
            match verdict {
                Verdict::Enter => newcomer.enter(app, &mut places, connections),
                Verdict::Wait => *waiting = Some(newcomer),
                Verdict::OverBound(_) | Verdict::Crowded(_) => {
                    turned_away.note(app, newcomer.holder, verdict);
                }
            }
        }
        let full = Full { tcp: door[0].is_some(), unix: door[1].is_some() };
        tokio::select! {
            Some(ended) = connections.join_next_with_id(), if !connections.is_empty() => {
                match ended {
                    Ok((id, ())) => places.leave(id),
                    Err(error) => {
                        places.leave(error.id());
                        log::error!("a connection's task failed: {error}");
                    }
                }
            }
            accepted = accepting.next(full), if !(full.tcp && full.unix) => {
                let at = usize::from(matches!(accepted, Accepted::Unix(_)));
                door[at] = Newcomer::of(accepted);
            }
            () = tokio::time::sleep(DOOR_TICK), if full.tcp || full.unix => {}
        }
    }
}

/// For which kind of socket somebody waits at the door, so that no more are accepted.
#[derive(Debug, Clone, Copy)]
struct Full {
    tcp: bool,
    unix: bool,
}

enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// An accepted connection that has no place yet. Nothing of it is read.
struct Newcomer {
    stream: Connected,
    holder: Holder,
}

enum Connected {
    Tcp(TcpStream),
    Unix(UnixStream, Origin),
}

impl Newcomer {
    /// `None` if the kernel does not say who is there.
    fn of(accepted: Accepted) -> Option<Self> {
        Some(match accepted {
            Accepted::Tcp(stream, address) => {
                Self { stream: Connected::Tcp(stream), holder: Holder::of(address.ip()) }
            }
            Accepted::Unix(stream) => {
                let origin = Origin::of_unix(&stream)?;
                let holder = Holder::User(origin.peer()?.uid);
                Self { stream: Connected::Unix(stream, origin), holder }
            }
        })
    }

    fn enter(self, app: &App, places: &mut Places, connections: &mut JoinSet<()>) {
        let activity = Activity::new();
        let crowded = places.crowded(self.holder);
        let task = serve_while_wanted(app.clone(), self.stream, Arc::clone(&activity), crowded);
        let id = connections.spawn(task).id();
        places.enter(id, self.holder, activity);
    }
}

/// Serves a connection until it ends, or until it must for its slowness or for others.
async fn serve_while_wanted(
    app: App,
    stream: Connected,
    activity: Arc<Activity>,
    crowded: Arc<AtomicBool>,
) {
    let options = app.options();
    let limit = options.first_head_timeout.min(options.header_timeout);
    let (served, shown) = (app.clone(), Arc::clone(&activity));
    let serving = async {
        match stream {
            Connected::Tcp(stream) => serve_tcp(served, stream, shown).await,
            Connected::Unix(stream, origin) => {
                serve_connection(served, origin, stream, shown).await;
            }
        }
    };
    tokio::select! {
        () = serving => {}
        closed = activity.must_end(limit, &crowded) => {
            app.metrics().shed(match closed {
                Closed::SlowHead => "slow_head",
                Closed::Replaced(Doing::Idle) => "idle",
                Closed::Replaced(Doing::Unread) => "unread",
                Closed::Replaced(Doing::Body) => "body",
                Closed::Replaced(_) => "head",
            });
        }
    }
}

/// Connections that were closed at once, for the log.
#[derive(Debug, Default)]
struct TurnedAway {
    logged: Option<Instant>,
    since: usize,
}

impl TurnedAway {
    fn note(&mut self, app: &App, holder: Holder, verdict: Verdict) {
        let (reason, why) = match verdict {
            Verdict::OverBound(held) => {
                ("address", format!("{holder} holds {held}, as many as it may"))
            }
            Verdict::Crowded(held) => {
                ("crowded", format!("all are taken, {held} of them by {holder}"))
            }
            Verdict::Enter | Verdict::Wait => return,
        };
        app.metrics().shed(reason);
        self.since += 1;
        let now = Instant::now();
        if self.logged.is_none_or(|at| now.duration_since(at) >= ACCEPT_LOG_INTERVAL) {
            log::warn!(connections = self.since; "closed new connections at once: {why}");
            (self.logged, self.since) = (Some(now), 0);
        }
    }
}

/// Takes turns between listeners, and pauses while the system can't give connections.
struct Accepting<'a> {
    listeners: &'a [Listener],
    turn: usize,
    paused_until: Option<tokio::time::Instant>,
    logged: Option<Instant>,
}

impl<'a> Accepting<'a> {
    fn new(listeners: &'a [Listener]) -> Self {
        Self { listeners, turn: 0, paused_until: None, logged: None }
    }

    /// The next connection of a kind that is not `full`. Cancel-safe: what has been accepted is returned
    /// at once.
    async fn next(&mut self, full: Full) -> Accepted {
        loop {
            if let Some(until) = self.paused_until {
                tokio::time::sleep_until(until).await;
                self.paused_until = None;
            }
            match poll_fn(|cx| self.poll_accept(cx, full)).await {
                Ok(stream) => {
                    self.logged = None;
                    return stream;
                }
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    self.report(&error);
                    self.paused_until = Some(tokio::time::Instant::now() + ACCEPT_PAUSE);
                }
            }
        }
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>, full: Full) -> Poll<io::Result<Accepted>> {
        for offset in 0..self.listeners.len() {
            let index = (self.turn + offset) % self.listeners.len();
            let polled = match &self.listeners[index] {
                Listener::Tcp(_) if full.tcp => Poll::Pending,
                Listener::Unix(_) if full.unix => Poll::Pending,
                Listener::Tcp(tcp) => {
                    tcp.poll_accept(cx).map_ok(|(s, from)| Accepted::Tcp(s, from))
                }
                Listener::Unix(unix) => unix.poll_accept(cx).map_ok(|(s, _)| Accepted::Unix(s)),
            };
            if polled.is_ready() {
                self.turn = index + 1;
                return polled;
            }
        }
        Poll::Pending
    }

    fn report(&mut self, error: &io::Error) {
        let now = Instant::now();
        if self.logged.is_none_or(|at| now.duration_since(at) >= ACCEPT_LOG_INTERVAL) {
            log::warn!("cannot accept connections for now: {error}");
            self.logged = Some(now);
        }
    }
}

/// Whether the error belongs to a connection that went away before it was taken.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
