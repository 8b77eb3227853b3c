//! Accepts connections on all listeners until asked to stop, then drains.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;

use super::activity::{Activity, Closed, Doing};
use super::app::{App, Phase};
use super::caller::Origin;
use super::conn::serve_connection;
use super::idle::unwanted;
use super::places::{Bounds, Holder, Places, Verdict};
use phi4d_os::{Listener, UnixStream};

/// Pause after an accept that failed for want of descriptors or memory; without it the loop would
/// spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often a lasting failure is logged.
const ACCEPT_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How long a drain waits for the first request on connections that were accepted before it.
const SETTLE: Duration = Duration::from_millis(250);

/// How long cancelled requests have to send their clients an error.
const CUT_GRACE: Duration = Duration::from_millis(500);

/// How often a connection that waits for a place checks whether another can be closed for it.
const PENDING_TICK: Duration = Duration::from_millis(20);

/// How long a handshake may take; the wait for a request's head may be set shorter.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// The first byte of a TLS connection; no HTTP method begins with it.
const TLS_HANDSHAKE: u8 = 22;

/// The answer to plain HTTP on a TLS port.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\
    content-type: text/plain\r\ncontent-length: 43\r\n\r\nthis port speaks TLS; ask by https:// here\n";

/// How long idle connections have to close before the daemon ends for want of requests. New ones wait
/// meanwhile.
const PARTING: Duration = Duration::from_millis(250);

/// How long until the next try if they did not all close, or were not all idle.
const PARTING_PAUSE: Duration = Duration::from_millis(100);

/// Why a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// There was no request for `idle_exit`. All connections are closed.
    Idle,
    /// It was asked to stop.
    Drained(DrainOutcome),
}

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

/// Serves `app` on all `listeners` until `stop` holds true (or its sender is gone), then drains; or until
/// there has been no request for `idle_exit`, where nothing is left to drain. See [`super::idle`].
///
/// Draining: listeners close at once, connections without a request yet have a moment to send one,
/// idle ones close, running requests may take `drain` to end, new requests get 503. After that,
/// what still runs gets an error and its connection is closed.
pub async fn serve(
    app: App,
    listeners: Vec<Listener>,
    mut stop: watch::Receiver<bool>,
    drain: Duration,
) -> Ended {
    let mut connections = JoinSet::new();
    tokio::select! {
        () = accept_until_idle(&app, &listeners, &mut connections) => return Ended::Idle,
        _ = stop.wait_for(|stop| *stop) => {}
    }
    drop(listeners);
    // With socket activation a successor serves what is in the backlog, but not what was accepted
    // here.
    let _ = tokio::time::timeout(SETTLE, app.until_unasked(0)).await;
    app.enter(Phase::Draining);
    if all_ended_within(&mut connections, drain).await {
        return Ended::Drained(DrainOutcome { cut_connections: 0 });
    }
    let cut_connections = connections.len();
    log::warn!("the drain limit passed; cutting {cut_connections} connections");
    app.enter(Phase::Cutting);
    if !all_ended_within(&mut connections, CUT_GRACE).await {
        connections.shutdown().await;
    }
    Ended::Drained(DrainOutcome { cut_connections })
}

async fn all_ended_within(connections: &mut JoinSet<()>, limit: Duration) -> bool {
    let all = async { while connections.join_next().await.is_some() {} };
    tokio::time::timeout(limit, all).await.is_ok()
}

/// Accepts, never more connections at once than allowed, until the daemon is idle.
async fn accept_until_idle(app: &App, listeners: &[Listener], connections: &mut JoinSet<()>) {
    let options = app.options();
    let mut places = Places::new(Bounds::new(
        options.max_connections,
        listeners.iter().any(|one| matches!(one, Listener::Unix(_))),
        options.connections_per_address,
        options.connections_per_local,
    ));
    let mut accepting = Accepting::new(listeners);
    let mut rejections = Rejections::default();
    // At most one connection of each kind (TCP, Unix) is accepted without a place. While it waits
    // for one, the kernel's backlog holds the rest, and a full TCP does not hold up the Unix
    // socket.
    let mut pending: [Option<Newcomer>; 2] = [None, None];
    let mut part_at = tokio::time::Instant::now();
    loop {
        for slot in &mut pending {
            let Some(newcomer) = slot.take() else { continue };
            let verdict = places.judge(newcomer.holder);
            match verdict {
                Verdict::Enter => newcomer.enter(app, &mut places, connections),
                Verdict::Wait => *slot = Some(newcomer),
                Verdict::OverBound(_) | Verdict::Crowded(_) => {
                    rejections.note(app, newcomer.holder, verdict);
                }
            }
        }
        let full = Full { tcp: pending[0].is_some(), unix: pending[1].is_some() };
        tokio::select! {
            Some(ended) = connections.join_next_with_id(), if !connections.is_empty() => {
                places.leave(id_of(ended));
            }
            accepted = accepting.next(full), if !(full.tcp && full.unix) => {
                let at = usize::from(matches!(accepted, Accepted::Unix(_)));
                pending[at] = Newcomer::of(accepted);
            }
            () = tokio::time::sleep(PENDING_TICK), if full.tcp || full.unix => {}
            () = unwanted(app.demand(), || app.idle_exit(), part_at), if !(full.tcp || full.unix) => {
                if places.are_idle() && all_part(app, &mut places, connections).await {
                    return;
                }
                part_at = tokio::time::Instant::now() + PARTING_PAUSE;
            }
        }
    }
}

/// Closes the idle connections. Returns whether none is left and none sent a request meanwhile.
async fn all_part(app: &App, places: &mut Places, connections: &mut JoinSet<()>) -> bool {
    let seen = app.demand().seen();
    app.part_with_idle();
    let all = async {
        while let Some(ended) = connections.join_next_with_id().await {
            places.leave(id_of(ended));
        }
    };
    tokio::time::timeout(PARTING, all).await.is_ok() && app.demand().seen() == seen
}

/// The task that has ended.
fn id_of(ended: Result<(Id, ()), JoinError>) -> Id {
    match ended {
        Ok((id, ())) => id,
        Err(error) => {
            log::error!("a connection's task failed: {error}");
            error.id()
        }
    }
}

/// The kinds of socket for which a connection already waits for a place: no more are accepted.
#[derive(Debug, Clone, Copy)]
struct Full {
    tcp: bool,
    unix: bool,
}

enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// An accepted connection that has no place yet. Nothing is read from it.
struct Newcomer {
    stream: Connected,
    holder: Holder,
}

enum Connected {
    Tcp(TcpStream),
    Unix(UnixStream, Origin),
}

impl Newcomer {
    /// `None` if the kernel does not name the peer.
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

/// Serves a connection until it ends, or closes it early: for a slow head, or to free its place.
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

/// Serves one TCP connection, over TLS if the rules ask for it. The handshake runs in the connection's
/// task and has a time limit, so that a slow client does not hold up the accept loop.
async fn serve_tcp(app: App, stream: TcpStream, activity: Arc<Activity>) {
    // Each token of a stream is a small write that must not wait for the acknowledgement of the
    // last.
    let _ = stream.set_nodelay(true);
    let origin = Origin::of_tcp(&stream);
    let Some(config) = app.rules().tls() else {
        return serve_connection(app, origin, stream, activity).await;
    };
    let limit = HANDSHAKE_LIMIT.min(app.options().header_timeout);
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(limit, handshake(config, stream)) => shaken,
        // There is no request yet that would need an answer.
        () = app.reached(Phase::Draining) => return,
    };
    match shaken {
        Ok(Ok(stream)) => serve_connection(app, origin, stream, activity).await,
        Ok(Err(error)) => log::debug!(from:% = origin.caller(); "no TLS: {error}"),
        Err(_) => log::debug!(from:% = origin.caller(); "no TLS within {limit:?}"),
    }
}

async fn handshake(
    config: Arc<ServerConfig>,
    mut stream: TcpStream,
) -> io::Result<TlsStream<TcpStream>> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first[0] != TLS_HANDSHAKE {
        stream.write_all(PLAIN_HTTP).await?;
        // Closing a socket with unread bytes resets it, and the client may lose the answer.
        let mut rest = [0; 4096];
        let _ = stream.shutdown().await;
        while tokio::io::AsyncReadExt::read(&mut stream, &mut rest).await? > 0 {}
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the client speaks plain HTTP"));
    }
    TlsAcceptor::from(config).accept(stream).await
}

/// Connections that were closed on arrival, for the log.
#[derive(Debug, Default)]
struct Rejections {
    logged: Option<Instant>,
    since: usize,
}

impl Rejections {
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

/// Accepts from the listeners in round-robin turns, and pauses while the system has no resources.
struct Accepting<'a> {
    listeners: &'a [Listener],
    first: usize,
    paused_until: Option<tokio::time::Instant>,
    logged: Option<Instant>,
}

impl<'a> Accepting<'a> {
    fn new(listeners: &'a [Listener]) -> Self {
        Self { listeners, first: 0, paused_until: None, logged: None }
    }

    /// The next connection of a kind that is not `full`. Cancel-safe: an accepted connection is
    /// never held across an await.
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
            let index = (self.first + offset) % self.listeners.len();
            let polled = match &self.listeners[index] {
                Listener::Tcp(_) if full.tcp => Poll::Pending,
                Listener::Unix(_) if full.unix => Poll::Pending,
                Listener::Tcp(tcp) => {
                    tcp.poll_accept(cx).map_ok(|(s, from)| Accepted::Tcp(s, from))
                }
                Listener::Unix(unix) => unix.poll_accept(cx).map_ok(|(s, _)| Accepted::Unix(s)),
            };
            if polled.is_ready() {
                self.first = index + 1;
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

/// Whether the error belongs to a connection that its client closed before it was accepted.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
