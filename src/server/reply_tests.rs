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
    let mut stream = EventStream::new(Format::Events, interval, no_panic, |events| async move {
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
