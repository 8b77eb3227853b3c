//! One connection: HTTP/1 over any byte stream, until it closes or the daemon drains.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::activity::Activity;
use super::app::{App, Phase};
use super::caller::Origin;
use super::heads::HeadGuard;
use super::route::respond;
use super::stall::StallGuard;

/// The largest request head, and the most bytes of an answer that wait for the socket. A client that
/// doesn't read is noticed once this buffer and the socket's own are full.
const BUFFER_BYTES: usize = 64 * 1024;

/// Serves the requests from `origin` on `stream` until it ends, and keeps `activity` up to date. Errors
/// of a connection are the client's; they are only logged.
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
    let stream = StallGuard::new(stream, app.options().write_timeout);
    let io = TokioIo::new(HeadGuard::new(stream, Arc::clone(&activity)));
    let (shared, unasked) = (app.clone(), Cell::new(Some(app.unasked())));
    let service = service_fn(move |request| {
        let (app, origin) = (shared.clone(), Arc::clone(&origin));
        // The phase is read before the connection counts as asked: a drain that waits for this first
        // request must not refuse it.
        let phase = app.phase();
        drop(unasked.take());
        let open = activity.request();
        async move {
            let mut reply = respond(app, &origin, phase, request).await;
            reply.body_mut().keep_open(open);
            Ok::<_, Infallible>(reply)
        }
    });
    // Half-closed clients count as gone (hyper's default): that is how a disconnect is noticed while
    // an answer is being generated.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(app.options().header_timeout)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(io, service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = app.reached(Phase::Draining) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        log::debug!("a connection ended early: {error}");
    }
}
