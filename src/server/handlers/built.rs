//! Work that grows with a request: large work runs on the generator's pool, and its memory is counted
//! in the request's.

use std::sync::Arc;

use crate::access::Exchange;
use crate::app::App;
use crate::error::ApiError;
use crate::memory::NoRoom;
use phi4d_generate::{GenerateError, is_large};

/// Does `work`, which takes up to `bytes` bytes to the request's end. What else the request took is
/// given back, but for what it keeps.
///
/// # Errors
/// If there is no memory for it, or the pool is busy.
pub(super) async fn built<T: Send + 'static>(
    app: &App,
    exchange: &Arc<Exchange>,
    bytes: usize,
    work: impl FnOnce(&App) -> T + Send + 'static,
) -> Result<T, ApiError> {
    keep(app, exchange, bytes)?;
    done(app, exchange, is_large(bytes.max(exchange.weight())), work).await
}

/// Does `work`, by the pool if it is `large`.
///
/// # Errors
/// If the pool is busy.
pub(crate) async fn done<T: Send + 'static>(
    app: &App,
    exchange: &Arc<Exchange>,
    large: bool,
    work: impl FnOnce(&App) -> T + Send + 'static,
) -> Result<T, ApiError> {
    if !large {
        return Ok(work(app));
    }
    let here = app.clone();
    let work = move || work(&here);
    let done = app.generator().pool().run(exchange.caller().id(), None, work).await;
    done.map_err(|undone| GenerateError::from(undone).into())
}

/// The request has been prepared, and takes `bytes` from now on beside what it keeps of its body.
///
/// # Errors
/// If there is no memory for that.
pub(super) fn keep(app: &App, exchange: &Exchange, bytes: usize) -> Result<(), ApiError> {
    exchange.keeps(bytes).map_err(|NoRoom| {
        let most = app.request_memory().most();
        if bytes > most {
            return ApiError::answer_too_large(bytes, most);
        }
        ApiError::no_memory_for_answer()
    })
}
