//! Streams: a response body that a future produces, as server-sent events or as lines of JSON.
//!
//! The future runs only while hyper polls the body, which it does only while the connection has
//! room: that is the backpressure. Dropping the body drops the future and all that it owns, which
//! cancels the work.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Bytes, Frame};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use super::guard::CatchPanic;

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

/// An event with a name.
pub(super) fn named_event(name: &str, data: &str) -> String {
    format!("event: {name}\n{}", event(data))
}

/// The sending end of a stream. Sending waits until the connection has taken the event before.
#[derive(Debug)]
pub(super) struct Events(mpsc::Sender<Bytes>);

impl Events {
    /// Sends events in the stream's format, if there are any.
    pub(super) async fn send(&self, events: String) {
        if !events.is_empty() {
            // Can't fail: the receiver is dropped only together with the future that sends.
            let _ = self.0.send(Bytes::from(events)).await;
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
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::sync::Arc;

    async fn all(mut stream: EventStream) -> String {
        let mut text = String::new();
        while let Some(bytes) = poll_fn(|cx| stream.poll_bytes(cx)).await {
            text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
        text
    }

    const HOUR: Duration = Duration::from_secs(3600);

    fn no_panic() -> String {
        "unexpected".to_owned()
    }

    #[tokio::test]
    async fn events_come_framed_and_in_order() {
        let stream = EventStream::new(Format::Events, HOUR, no_panic, |events| async move {
            for number in 0..5 {
                events.send(event(&number.to_string())).await;
                tokio::task::yield_now().await;
            }
        });
        let expected = "data: 0\n\ndata: 1\n\ndata: 2\n\ndata: 3\n\ndata: 4\n\n";
        assert_eq!(all(stream).await, expected);
    }

    #[tokio::test]
    async fn an_empty_stream_ends() {
        let stream = EventStream::new(Format::Events, HOUR, no_panic, |_events| async {});
        assert_eq!(all(stream).await, "");
    }

    #[tokio::test]
    async fn a_silent_stream_sends_comments() {
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let interval = Duration::from_millis(1);
        let mut stream =
            EventStream::new(Format::Events, interval, no_panic, |events| async move {
                receiver.await.unwrap();
                events.send(event("end")).await;
            });
        for _ in 0..3 {
            let comment = poll_fn(|cx| stream.poll_bytes(cx)).await.unwrap();
            assert_eq!(&comment[..], Format::Events.idle().unwrap());
        }
        sender.send(()).unwrap();
        assert!(all(stream).await.ends_with("data: end\n\n"));
    }

    #[tokio::test]
    async fn a_panic_is_the_last_event() {
        let last = || event("failed");
        let stream = EventStream::new(Format::Events, HOUR, last, |events| async move {
            events.send(event("first")).await;
            panic!("in the producer");
        });
        assert_eq!(all(stream).await, "data: first\n\ndata: failed\n\n");
    }

    #[tokio::test]
    async fn the_producer_is_pulled_and_dropped_with_the_stream() {
        let made = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = Arc::clone(&made);
        let mut stream = EventStream::new(Format::Events, HOUR, no_panic, |events| async move {
            loop {
                counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                events.send(event("x")).await;
            }
        });
        poll_fn(|cx| stream.poll_bytes(cx)).await.unwrap();
        // One was taken, one waits in the channel, one waits to be sent.
        assert!(made.load(std::sync::atomic::Ordering::SeqCst) <= 3);
        assert_eq!(Arc::strong_count(&made), 2);
        drop(stream);
        assert_eq!(Arc::strong_count(&made), 1);
    }
}
