//! Server-sent events: a response body that is pulled from a future.
//!
//! The future runs only while hyper polls the body, which it does only while the connection has
//! room. Dropping the body drops the future and all that it owns.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Bytes, Frame};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use super::guard::CatchPanic;

/// What a silent stream sends; clients skip it.
const COMMENT: &[u8] = b": keep-alive\n\n";

/// Where the future puts its events. Waits until the last one was taken.
#[derive(Debug)]
pub(super) struct Events(mpsc::Sender<Bytes>);

impl Events {
    /// Sends one event; `data` holds no line break.
    pub(super) async fn send(&self, data: &str) {
        debug_assert!(!data.contains(['\n', '\r']), "JSON text has no line break");
        // The receiver is dropped only together with the future that waits here.
        let _ = self.0.send(Bytes::from(format!("data: {data}\n\n"))).await;
    }
}

/// The body of a stream.
pub(super) struct EventStream {
    producer: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    events: mpsc::Receiver<Bytes>,
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
        interval: Duration,
        on_panic: impl FnOnce() -> String + Send + 'static,
        produce: impl FnOnce(Events) -> F,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // One event: the future is at most that far ahead of the connection.
        let (sender, events) = mpsc::channel(1);
        let last_words = Events(sender.clone());
        let produced = CatchPanic::new(produce(Events(sender)));
        let producer = async move {
            if let Err(panicked) = produced.await {
                log::error!("a stream's handler panicked: {}", panicked.0);
                last_words.send(&on_panic()).await;
            }
        };
        Self {
            producer: Some(Box::pin(producer)),
            events,
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
            return Poll::Ready(Some(Bytes::from_static(COMMENT)));
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
        // With the producer gone, so is the sender: the channel ends after what is in it.
        self.events.poll_recv(cx)
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
        let stream = EventStream::new(HOUR, no_panic, |events| async move {
            for number in 0..5 {
                events.send(&number.to_string()).await;
                tokio::task::yield_now().await;
            }
        });
        let expected = "data: 0\n\ndata: 1\n\ndata: 2\n\ndata: 3\n\ndata: 4\n\n";
        assert_eq!(all(stream).await, expected);
    }

    #[tokio::test]
    async fn an_empty_stream_ends() {
        let stream = EventStream::new(HOUR, no_panic, |_events| async {});
        assert_eq!(all(stream).await, "");
    }

    #[tokio::test]
    async fn a_silent_stream_sends_comments() {
        let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
        let interval = Duration::from_millis(1);
        let mut stream = EventStream::new(interval, no_panic, |events| async move {
            receiver.await.unwrap();
            events.send("end").await;
        });
        for _ in 0..3 {
            let comment = poll_fn(|cx| stream.poll_bytes(cx)).await.unwrap();
            assert_eq!(&comment[..], COMMENT);
        }
        sender.send(()).unwrap();
        assert!(all(stream).await.ends_with("data: end\n\n"));
    }

    #[tokio::test]
    async fn a_panic_is_the_last_event() {
        let last = || "failed".to_owned();
        let stream = EventStream::new(HOUR, last, |events| async move {
            events.send("first").await;
            panic!("in the producer");
        });
        assert_eq!(all(stream).await, "data: first\n\ndata: failed\n\n");
    }

    #[tokio::test]
    async fn the_producer_is_pulled_and_dropped_with_the_stream() {
        let made = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = Arc::clone(&made);
        let mut stream = EventStream::new(HOUR, no_panic, |events| async move {
            loop {
                counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                events.send("x").await;
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
