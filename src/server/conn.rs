//! One connection: HTTP/1 over any byte stream, until it closes or the daemon drains.
//!
//! # Ambiguous heads
//!
//! Heads that HTTP parsers read in different ways are refused before hyper reads them.
//!
//! hyper accepts lines that end in a bare LF, keeps one of two equal `Content-Length` lines, and
//! drops a `Content-Length` beside `Transfer-Encoding`. None of this shows in the request that it
//! hands on, and neither hyper nor httparse has an option for it. A proxy in front may read such a
//! head differently and see other requests on the connection (request smuggling). So a small state
//! machine checks the bytes as they pass. It copies only the first bytes of each line, and skips
//! bodies by their length. It can't disagree with hyper about where a body ends, since every
//! ambiguous head is refused.

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
use tokio::task::yield_now;
use tokio::time::{Sleep, sleep};

use super::activity::{Activity, Doing, Expected};
use super::app::{App, Phase};
use super::caller::Origin;
use super::route::respond;

/// The largest request head, and the most bytes of an answer that wait for the socket. A client
/// that doesn't read is noticed once this buffer and the socket's own are full.
const BUFFER_BYTES: usize = 64 * 1024;

/// What hyper reads in place of the refused byte and all after it. A NUL is not allowed in a head,
/// a chunk size or a trailer, so hyper answers 400 and closes. The empty line makes hyper parse the
/// head.
const REFUSAL: &[u8] = b"\0\r\n\r\n";

/// Bytes that are kept of a line: enough for the two headers that frame a body, and for a chunk's
/// size. If one of these is longer, it is refused.
const KEPT: usize = 64;

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
        let is_first = unasked.take().is_some();
        let open = asked.request();
        async move {
            // hyper answers as many requests as a client sent ahead without a pause. Each waits for the
            // other connections' turns.
            if !is_first {
                yield_now().await;
            }
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

/// The beginning of a line, and whether its last byte was a CR.
#[derive(Debug, Clone)]
struct Line {
    kept: [u8; KEPT],
    length: usize,
    after_cr: bool,
}

impl Line {
    const EMPTY: Self = Self { kept: [0; KEPT], length: 0, after_cr: false };

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.kept.get_mut(self.length) {
            *place = byte;
        }
        self.length = self.length.saturating_add(1);
    }

    fn start(&self) -> &[u8] {
        &self.kept[..self.length.min(KEPT)]
    }
}

/// Where in the stream of requests the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The request line, or an empty line before it.
    RequestLine,
    Header,
    /// A body of known length, with the bytes that are left.
    Body(u64),
    ChunkSize,
    Chunk(u64),
    /// The line break after a chunk's data.
    ChunkEnd,
    Trailer,
}

/// How a head says that its body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    NoBody,
    Length(u64),
    Chunked,
}

/// A head, chunk or trailer that parsers could read differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ambiguous;

/// Follows the requests on one connection.
#[derive(Debug, Clone)]
pub(super) struct Heads {
    part: Part,
    framing: Framing,
    line: Line,
}

impl Heads {
    pub(super) fn new() -> Self {
        Self { part: Part::RequestLine, framing: Framing::NoBody, line: Line::EMPTY }
    }

    /// What the next byte belongs to.
    pub(super) fn expected(&self) -> Expected {
        match self.part {
            Part::RequestLine if self.line.length == 0 && !self.line.after_cr => {
                Expected::NextRequest
            }
            Part::RequestLine | Part::Header => Expected::Head,
            _ => Expected::Body,
        }
    }

    /// Checks the next bytes of the connection.
    ///
    /// # Errors
    /// The index of the first byte that must not be passed on.
    pub(super) fn scan(&mut self, bytes: &[u8]) -> Result<(), usize> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match &mut self.part {
                Part::Body(left) | Part::Chunk(left) => {
                    let here = u64::try_from(bytes.len() - at).unwrap_or(u64::MAX).min(*left);
                    *left -= here;
                    at += usize::try_from(here).unwrap_or(usize::MAX);
                    match self.part {
                        Part::Body(0) => self.part = Part::RequestLine,
                        Part::Chunk(0) => self.part = Part::ChunkEnd,
                        _ => {}
                    }
                }
                _ => {
                    self.byte(byte).map_err(|Ambiguous| at)?;
                    at += 1;
                }
            }
        }
        Ok(())
    }

    fn byte(&mut self, byte: u8) -> Result<(), Ambiguous> {
        match (self.line.after_cr, byte) {
            (true, b'\n') => {
                let line = std::mem::replace(&mut self.line, Line::EMPTY);
                self.part = self.next_part(&line)?;
            }
            (true, _) | (false, b'\n') => return Err(Ambiguous),
            (false, b'\r') => self.line.after_cr = true,
            (false, byte) => self.line.push(byte),
        }
        Ok(())
    }

    /// What follows `line`.
    fn next_part(&mut self, line: &Line) -> Result<Part, Ambiguous> {
        Ok(match (self.part, line.length) {
            (Part::RequestLine, 0) => Part::RequestLine,
            (Part::RequestLine, _) => {
                self.framing = Framing::NoBody;
                Part::Header
            }
            (Part::Header, 0) => match self.framing {
                Framing::NoBody | Framing::Length(0) => Part::RequestLine,
                Framing::Length(length) => Part::Body(length),
                Framing::Chunked => Part::ChunkSize,
            },
            (Part::Header, _) => {
                self.framing = framing(line, self.framing)?;
                Part::Header
            }
            (Part::ChunkSize, _) => match chunk_size(line)? {
                0 => Part::Trailer,
                size => Part::Chunk(size),
            },
            (Part::ChunkEnd, 0) => Part::ChunkSize,
            (Part::ChunkEnd, _) => return Err(Ambiguous),
            (Part::Trailer, 0) => Part::RequestLine,
            (Part::Trailer, _) => Part::Trailer,
            // Bodies have no lines.
            (part @ (Part::Body(_) | Part::Chunk(_)), _) => part,
        })
    }
}

/// The framing after a header line. A head that frames its body twice is refused, even with equal
/// values, because RFC 9112 lets recipients merge or reject them.
fn framing(line: &Line, so_far: Framing) -> Result<Framing, Ambiguous> {
    let start = line.start();
    // Obsolete line folding continues the header before it; parsers differ on what that means.
    if matches!(start.first(), Some(b' ' | b'\t')) {
        return Err(Ambiguous);
    }
    let Some(colon) = start.iter().position(|byte| *byte == b':') else { return Ok(so_far) };
    let name = &start[..colon];
    let is_coding = name.eq_ignore_ascii_case(b"transfer-encoding");
    if !is_coding && !name.eq_ignore_ascii_case(b"content-length") {
        return Ok(so_far);
    }
    if so_far != Framing::NoBody || line.length > KEPT {
        return Err(Ambiguous);
    }
    let value = start[colon + 1..].trim_ascii();
    if is_coding {
        return match value.eq_ignore_ascii_case(b"chunked") {
            true => Ok(Framing::Chunked),
            false => Err(Ambiguous),
        };
    }
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| digits).ok_or(Ambiguous)?;
    text.parse().map(Framing::Length).map_err(|_| Ambiguous)
}

/// The size that a chunk's first line gives.
fn chunk_size(line: &Line) -> Result<u64, Ambiguous> {
    let start = line.start();
    let digits = start.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, rest) = start.split_at(digits);
    let goes_on = matches!(rest.first(), Some(b';' | b' ' | b'\t'));
    if size.is_empty() || !(goes_on || (rest.is_empty() && line.length <= KEPT)) {
        return Err(Ambiguous);
    }
    let text = std::str::from_utf8(size).map_err(|_| Ambiguous)?;
    u64::from_str_radix(text, 16).map_err(|_| Ambiguous)
}

#[cfg(test)]
#[path = "conn_tests.rs"]
mod tests;
