//! Turns a panic inside a future into an error, so that it fails one request and not its
//! connection.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

/// The message of a panic.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Panicked(pub(super) String);

/// A future that ends with `Err` if the inner one panics. The inner one is not polled again
/// afterwards, so its broken state is only ever dropped; hence `AssertUnwindSafe`.
#[derive(Debug)]
pub(super) struct CatchPanic<F>(Pin<Box<F>>);

impl<F: Future> CatchPanic<F> {
    pub(super) fn new(inner: F) -> Self {
        Self(Box::pin(inner))
    }
}

impl<F: Future> Future for CatchPanic<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(cx))) {
            Ok(polled) => polled.map(Ok),
            Err(payload) => Poll::Ready(Err(Panicked(message(payload.as_ref())))),
        }
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_an_error_with_its_message() {
        let failed = CatchPanic::new(async {
            tokio::task::yield_now().await;
            panic!("value {}", 7)
        });
        assert_eq!(failed.await, Err::<(), _>(Panicked("value 7".to_owned())));
    }

    #[tokio::test]
    async fn a_result_passes_through() {
        assert_eq!(CatchPanic::new(async { 5 }).await, Ok(5));
    }
}
