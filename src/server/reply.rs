//! Responses: one body type for complete answers and streams, and the headers that all of them
//! have.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{HeaderMap, Response, StatusCode};

use super::access::{Exchange, REQUEST_ID};
use super::activity::OpenRequest;
use super::error::ApiError;
use super::sse::EventStream;
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
