//! Responses: one body type for complete answers and streams, and the headers that all of them
//! have.
//!
//! A stream is a body that a future produces, as server-sent events or as lines of JSON.
//! The future runs only while hyper polls the body, which it does only while the connection has
//! room: that is the backpressure. Dropping the body drops the future and all that it owns, which
//! cancels the work.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{HeaderMap, Response, StatusCode};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use super::access::{Exchange, REQUEST_ID};
use super::activity::OpenRequest;
use super::error::ApiError;
use super::guard::CatchPanic;
use super::wire::error::Dialect;

/// A response's body. Holds the request's record, so that the access line is written when the
/// last byte has been handed over or the client is gone.
#[derive(Debug)]
pub(super) struct ReplyBody {
    content: Content,
    exchange: Option<Arc<Exchange>>,
    request: Option<OpenRequest>,
}

impl ReplyBody {
    fn new(content: Content) -> Self {
        Self { content, exchange: None, request: None }
    }

    /// Keeps `request` open until the last byte has been handed to hyper.
    pub(super) fn keep_open(&mut self, request: OpenRequest) {
        self.request = Some(request);
    }
}

#[derive(Debug)]
enum Content {
    Whole(Option<Bytes>),
    Events(EventStream),
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.content {
            Content::Whole(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Content::Events(events) => events.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.content, Content::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64)
            }
            Content::Events(_) => SizeHint::default(),
        }
    }
}

/// A response before [`sealed`].
pub(super) type Reply = Response<ReplyBody>;

fn reply(status: StatusCode, content_type: &'static str, content: Content) -> Reply {
    let mut reply = Response::new(ReplyBody::new(content));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// A JSON answer.
pub(super) fn json(status: StatusCode, body: String) -> Reply {
    let content = Content::Whole(Some(Bytes::from(body)));
    reply(status, "application/json", content)
}

/// A file that is part of the program.
pub(super) fn file(content_type: &'static str, bytes: &'static [u8]) -> Reply {
    reply(StatusCode::OK, content_type, Content::Whole(Some(Bytes::from_static(bytes))))
}

/// 304: the client's copy is current.
pub(super) fn not_modified() -> Reply {
    let mut reply = Response::new(ReplyBody::new(Content::Whole(None)));
    *reply.status_mut() = StatusCode::NOT_MODIFIED;
    reply
}

/// A text in the format `content_type`.
pub(super) fn text(content_type: &'static str, body: String) -> Reply {
    reply(StatusCode::OK, content_type, Content::Whole(Some(Bytes::from(body))))
}

/// A stream, which intermediaries must neither cache nor buffer.
pub(super) fn events(stream: EventStream) -> Reply {
    let content_type = stream.format().content_type();
    let mut reply = reply(StatusCode::OK, content_type, Content::Events(stream));
    let headers = reply.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    reply
}

/// Most names in [`IGNORED_FIELDS`].
const MAX_IGNORED: usize = 20;

/// The header that names a body's unknown fields.
const IGNORED_FIELDS: HeaderName = HeaderName::from_static("x-phi4d-ignored-fields");

/// Adds the names of ignored fields to the response, as far as a header can hold them.
pub(super) fn telling_ignored(mut reply: Reply, ignored: &[String]) -> Reply {
    let plain = |name: &&str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.[]".contains(&byte);
        (1..=64).contains(&name.len()) && name.bytes().all(fits)
    };
    let names: Vec<&str> =
        ignored.iter().map(String::as_str).filter(plain).take(MAX_IGNORED).collect();
    if !names.is_empty()
        && let Ok(value) = HeaderValue::from_str(&names.join(", "))
    {
        reply.headers_mut().insert(IGNORED_FIELDS, value);
    }
    reply
}

/// The answer to a preflight request of a browser.
pub(super) fn permitted(headers: HeaderMap) -> Reply {
    let mut reply = Response::new(ReplyBody::new(Content::Whole(None)));
    *reply.status_mut() = StatusCode::NO_CONTENT;
    *reply.headers_mut() = headers;
    reply
}

/// An error as a response.
pub(super) fn failure(error: &ApiError, dialect: Dialect) -> Reply {
    let mut reply = json(error.status, dialect.fault(error));
    let headers = reply.headers_mut();
    if let Some(allow) = error.allow.as_deref().and_then(|allow| HeaderValue::from_str(allow).ok())
    {
        headers.insert(ALLOW, allow);
    }
    if error.challenge {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(after) = error.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
    }
    if error.close {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    reply
}

/// Completes a response: the request's id and record, and headers that all responses have.
pub(super) fn sealed(mut reply: Reply, exchange: Arc<Exchange>) -> Reply {
    exchange.answered(reply.status());
    if matches!(reply.body().content, Content::Whole(_)) {
        exchange.ended("complete");
    }
    let headers = reply.headers_mut();
    headers.insert(HeaderName::from_static(REQUEST_ID), exchange.id_header());
    // Answers contain text of clients and models, which no browser may interpret as a page or a
    // script.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    reply.body_mut().exchange = Some(exchange);
    reply
}

/// The framing of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Server-sent events. A silent stream sends comments, which clients skip.
    Events,
    /// Server-sent events with names. A silent stream sends events named `ping`.
    PingedEvents,
    /// Lines of JSON. A silent stream sends nothing: there is no line that clients would skip.
    Lines,
}

impl Format {
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Events | Self::PingedEvents => "text/event-stream",
            Self::Lines => "application/x-ndjson",
        }
    }

    fn idle(self) -> Option<&'static [u8]> {
        match self {
            Self::Events => Some(b": keep-alive\n\n"),
            Self::PingedEvents => Some(b"event: ping\ndata: {\"type\":\"ping\"}\n\n"),
            Self::Lines => None,
        }
    }
}

/// An event of JSON text, which holds no line break.
pub(super) fn event(data: &str) -> String {
    debug_assert!(!data.contains(['\n', '\r']), "JSON text has no line break");
    format!("data: {data}\n\n")
}

/// An event whose name is the first field of its JSON, `type`.
pub(super) fn named_event(data: &str) -> String {
    let name = data.strip_prefix("{\"type\":\"").and_then(|rest| rest.split('"').next());
    debug_assert!(name.is_some(), "{data} does not begin with its type");
    format!("event: {}\n{}", name.unwrap_or_default(), event(data))
}

/// The sending end of a stream. Sending waits until the connection has taken the event before.
#[derive(Debug, Clone)]
pub(super) struct Events(mpsc::Sender<Bytes>);

impl Events {
    /// Sends events in the stream's format, if there are any.
    pub(super) async fn send(&self, events: String) {
        if !events.is_empty() {
            // Can't fail: the receiver is dropped only together with the future that sends.
            let _ = self.0.send(Bytes::from(events)).await;
        }
    }

    /// Sends events that may be missed: they are dropped if the connection has not taken the event before.
    pub(super) fn offer(&self, events: String) {
        if !events.is_empty() {
            let _ = self.0.try_send(Bytes::from(events));
        }
    }
}

/// The body of a stream.
pub(super) struct EventStream {
    producer: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    events: mpsc::Receiver<Bytes>,
    format: Format,
    interval: Duration,
    comment_due: Pin<Box<Sleep>>,
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("EventStream")
            .field("running", &self.producer.is_some())
            .finish_non_exhaustive()
    }
}

impl EventStream {
    /// A stream of what `produce` sends. If it panics, `on_panic` is the last event.
    pub(super) fn new<F>(
        format: Format,
        interval: Duration,
        on_panic: impl FnOnce() -> String + Send + 'static,
        produce: impl FnOnce(Events) -> F,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // Room for one event, so that the future runs at most one ahead of the connection.
        let (sender, events) = mpsc::channel(1);
        let last_words = Events(sender.clone());
        let produced = CatchPanic::new(produce(Events(sender)));
        let producer = async move {
            if let Err(panicked) = produced.await {
                log::error!("a stream's handler panicked: {}", panicked.0);
                last_words.send(on_panic()).await;
            }
        };
        Self {
            producer: Some(Box::pin(producer)),
            events,
            format,
            interval,
            comment_due: Box::pin(tokio::time::sleep(interval)),
        }
    }

    /// The next event or comment; `None` after the last.
    pub(super) fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Poll::Ready(event) = self.poll_event(cx) {
            self.postpone_comment();
            return Poll::Ready(event);
        }
        if self.comment_due.as_mut().poll(cx).is_ready() {
            self.postpone_comment();
            if let Some(idle) = self.format.idle() {
                return Poll::Ready(Some(Bytes::from_static(idle)));
            }
            // A timer that was reset wakes the task only if it is polled again.
            let _ = self.comment_due.as_mut().poll(cx);
        }
        Poll::Pending
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Poll::Ready(Some(event)) = self.events.poll_recv(cx) {
            return Poll::Ready(Some(event));
        }
        if let Some(producer) = &mut self.producer
            && producer.as_mut().poll(cx).is_ready()
        {
            self.producer = None;
        }
        // If the producer has ended, so has the sender, and the channel ends after its last event.
        self.events.poll_recv(cx)
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    fn postpone_comment(&mut self) {
        self.comment_due.as_mut().reset(Instant::now() + self.interval);
    }

    /// As [`hyper::body::Body::poll_frame`].
    pub(super) fn poll_frame<E>(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        self.poll_bytes(cx).map(|event| event.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
#[path = "reply_tests.rs"]
mod tests;
