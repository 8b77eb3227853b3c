//! Accepts connections on all listeners until told to stop, then drains.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::app::{App, Phase};
use super::caller::Origin;
use super::conn::serve_connection;
use super::secure::serve_tcp;
use crate::os::{Listener, UnixStream};

/// How long to leave accepting alone when the system has no descriptors or memory for it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A lasting accept failure is logged this often.
const ACCEPT_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How long a drain waits for the first question of connections that were made before it.
const SETTLE: Duration = Duration::from_millis(250);

/// How long requests that were cut have to tell their clients.
const CUT_GRACE: Duration = Duration::from_millis(500);

/// Where there is TCP and a Unix socket, one in so many connections is the Unix socket's alone, so that
/// a crowd from the network can't shut out the programs on this machine.
const UNIX_SHARE: usize = 8;

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

/// How many of `most` connections TCP may hold, beside a Unix socket or alone.
fn tcp_share(most: usize, beside_unix: bool) -> usize {
    // A single connection is for whoever comes first.
    let kept = if beside_unix { most.div_ceil(UNIX_SHARE).min(most - 1) } else { 0 };
    most - kept
}

/// Accepts for ever, never more than the allowed connections at once.
async fn accept_all(app: &App, listeners: &[Listener], connections: &mut JoinSet<()>) {
    let most = app.options().max_connections;
    let beside_unix = listeners.iter().any(|one| matches!(one, Listener::Unix(_)));
    let share = tcp_share(most, beside_unix).min(Semaphore::MAX_PERMITS);
    let tcp = Arc::new(Semaphore::new(share));
    let mut accepting = Accepting::new(listeners, Arc::clone(&tcp));
    loop {
        tokio::select! {
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                if let Err(error) = ended {
                    log::error!("a connection's task failed: {error}");
                }
            }
            accepted = accepting.next(), if connections.len() < most => {
                match accepted {
                    Accepted::Tcp(stream, place) => {
                        let app = app.clone();
                        connections.spawn(async move {
                            serve_tcp(app, stream).await;
                            drop(place);
                        });
                    }
                    Accepted::Unix(stream) => {
                        if let Some(origin) = Origin::of_unix(&stream) {
                            connections.spawn(serve_connection(app.clone(), origin, stream));
                        }
                    }
                }
            }
        }
    }
}

enum Accepted {
    /// With its place among those of TCP, which it holds to its end.
    Tcp(TcpStream, OwnedSemaphorePermit),
    Unix(UnixStream),
}

/// Takes turns between listeners, and pauses while the system can't give connections.
struct Accepting<'a> {
    listeners: &'a [Listener],
    /// Places for TCP. While all are taken its listeners are left alone; that one is free is heard
    /// by the end of the connection that held it.
    tcp: Arc<Semaphore>,
    turn: usize,
    paused_until: Option<tokio::time::Instant>,
    logged: Option<Instant>,
}

impl<'a> Accepting<'a> {
    fn new(listeners: &'a [Listener], tcp: Arc<Semaphore>) -> Self {
        Self { listeners, tcp, turn: 0, paused_until: None, logged: None }
    }

    /// The next connection. Cancel-safe: what has been accepted is returned at once.
    async fn next(&mut self) -> Accepted {
        loop {
            if let Some(until) = self.paused_until {
                tokio::time::sleep_until(until).await;
                self.paused_until = None;
            }
            match poll_fn(|cx| self.poll_accept(cx)).await {
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

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        for offset in 0..self.listeners.len() {
            let index = (self.turn + offset) % self.listeners.len();
            let polled = match &self.listeners[index] {
                Listener::Tcp(tcp) => match Arc::clone(&self.tcp).try_acquire_owned() {
                    Ok(place) => tcp.poll_accept(cx).map_ok(|(s, _)| Accepted::Tcp(s, place)),
                    Err(_) => Poll::Pending,
                },
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_has_what_is_not_kept_for_the_unix_socket() {
        for (most, share) in [(1, 1), (2, 1), (8, 7), (9, 7), (20, 17), (1024, 896)] {
            assert_eq!(tcp_share(most, true), share, "of {most}");
            assert_eq!(tcp_share(most, false), most, "without a Unix socket");
        }
    }
}
