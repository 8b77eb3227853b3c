//! One connection: HTTP/1 over any byte stream, until it closes or the daemon drains.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::activity::{Activity, Doing};
use super::app::{App, Phase};
use super::caller::Origin;
use super::heads::Heads;
use super::route::respond;

/// The largest request head, and the most bytes of an answer that wait for the socket. A client
/// that doesn't read is noticed once this buffer and the socket's own are full.
const BUFFER_BYTES: usize = 64 * 1024;

/// What hyper reads in place of the refused byte and all after it. A NUL is not allowed in a head,
/// a chunk size or a trailer, so hyper answers 400 and closes. The empty line makes hyper parse the
/// head.
const REFUSAL: &[u8] = b"\0\r\n\r\n";

/// Serves the requests from `origin` on `stream` until it ends, and keeps `activity` up to date.
/// Errors of a connection are the client's; they are only logged.
pub(super) async fn serve_connection<S>(
    app: App,
    origin: Origin,
    stream: S,
    activity: Arc<Activity>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let transport = origin.transport();
    let origin = Arc::new(origin);
    let _open = app.metrics().connection(transport);
    let limit = app.options().write_timeout;
    let io = TokioIo::new(Guarded::new(stream, Arc::clone(&activity), limit));
    let (shared, unasked) = (app.clone(), Cell::new(Some(app.unasked())));
    let asked = Arc::clone(&activity);
    let service = service_fn(move |request| {
        let (app, origin) = (shared.clone(), Arc::clone(&origin));
        // The phase is read before the connection counts as asked: a drain that waits for this
        // first request must not refuse it.
        let phase = app.phase();
        drop(unasked.take());
        let open = asked.request();
        async move {
            let mut reply = respond(app, &origin, phase, request).await;
            reply.body_mut().keep_open(open);
            Ok::<_, Infallible>(reply)
        }
    });
    // Half-closed clients count as gone (hyper's default): that is how a disconnect is noticed
    // while an answer is being generated.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(app.options().header_timeout)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let mut partings = app.partings();
    let must_close = async {
        // Only from here is it sure that no request has begun to arrive: nothing is read meanwhile.
        while partings.changed().await.is_ok() && activity.now().0 != Doing::Idle {}
    };
    let ended = tokio::select! {
        // A request that has arrived is read before the connection closes as idle.
        biased;
        ended = connection.as_mut() => ended,
        () = app.reached(Phase::Draining) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = must_close => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        log::debug!("a connection ended early: {error}");
    }
}

/// A connection's stream: what is read passes [`Heads`], a write fails with `TimedOut` if the peer
/// reads nothing for `limit` (hyper has no such limit), and both keep the [`Activity`] up to date.
#[derive(Debug)]
pub(super) struct Guarded<S> {
    stream: S,
    heads: Heads,
    /// What is left of [`REFUSAL`], once a head was refused.
    refusal: Option<&'static [u8]>,
    activity: Arc<Activity>,
    limit: Duration,
    /// Set while a write waits for room.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Guarded<S> {
    pub(super) fn new(stream: S, activity: Arc<Activity>, limit: Duration) -> Self {
        Self { stream, heads: Heads::new(), refusal: None, activity, limit, deadline: None }
    }

    /// The result of a write, or an error once it has waited for `limit`.
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.activity.set_unread(polled.is_pending());
        if polled.is_ready() {
            self.deadline = None;
            return polled;
        }
        let limit = self.limit;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.refusal.is_none() {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
            let scanned = self.heads.scan(&buffer.filled()[before..]);
            self.activity.set_expected(self.heads.expected());
            let Err(at) = scanned else { return Poll::Ready(Ok(())) };
            self.refusal = Some(REFUSAL);
            buffer.set_filled(before + at);
            if at > 0 {
                return Poll::Ready(Ok(()));
            }
        }
        // hyper sees the end of the stream after the refusal.
        let left = self.refusal.unwrap_or_default();
        let (now, later) = left.split_at(left.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.refusal = Some(later);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.watch(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // With TLS, written bytes may still be in rustls's buffers, so a flush can stall as well.
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_reader_that_stops_fails_the_write() {
        let (near, _far) = tokio::io::duplex(8);
        let mut near = Guarded::new(near, Activity::new(), Duration::from_millis(20));
        near.write_all(b"12345678").await.unwrap();
        let error = near.write_all(b"9").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_slow_reader_is_waited_for() {
        let (near, mut far) = tokio::io::duplex(8);
        let mut near = Guarded::new(near, Activity::new(), Duration::from_secs(60));
        let writing = tokio::spawn(async move { near.write_all(&[7; 64]).await });
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.unwrap();
        writing.await.unwrap().unwrap();
        assert_eq!(all, [7; 64]);
    }
}
