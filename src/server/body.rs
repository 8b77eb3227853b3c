//! Request bodies, and the work that grows with them.
//!
//! Bodies are bounded in size, time and the memory that they become; JSON only. Large work runs on the
//! generator's pool, and its memory is counted in the request's.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, EXPECT, ORIGIN};
use hyper::{HeaderMap, Request};
use serde_json::Value;

use super::access::Exchange;
use super::app::App;
use super::error::{ApiError, Fault, shortened};
use super::memory::{Measured, NoRoom, Share, measure};
use phi4d_generate::{GenerateError, is_large};

/// How much of a body that is too large is still read, and for how long, before it is refused: a
/// connection that is closed with unread bytes is reset, and the client may lose the answer.
const DISCARD_FACTOR: u64 = 8;
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// The limit that this factor applies to where a request was refused by its head alone: its caller
/// may be anyone, so less is read for it.
const DISCARD_UNASKED: u64 = 64 * 1024;

/// First buffer of a body, whatever length it claims.
const INITIAL_BYTES: usize = 64 * 1024;

/// Copies of a body's values that exist at once, at most: the parsed JSON, the request that is
/// handled, and the fields that an answer of the responses API repeats.
const COPIES: usize = 3;

/// Reads a request's body and parses it, large ones on the generator's pool. The memory that the
/// result takes stays counted in `exchange` until the request ends.
///
/// # Errors
/// 415 or 413 for what is not accepted, 408 for a body that takes too long, 503 if there is no
/// memory for it or the pool is busy, 400 for one that breaks off or is not JSON, and the errors of
/// `parse`.
pub(super) async fn read<T: Send + 'static>(
    request: Request<Incoming>,
    app: &App,
    exchange: &Exchange,
    parse: impl FnOnce(&App, Value) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let mut share = app.request_memory().share(exchange.caller().id());
    let bytes = read_bytes(request, app, &mut share).await?;
    exchange.weighs(bytes.len());
    let most = app.request_memory().most();
    let large = is_large(bytes.len());
    let work = move |app: &App| parsed(bytes, most, share, |body| parse(app, body));
    let (parsed, share) = done(app, exchange, large, work).await??;
    exchange.holds(share);
    Ok(parsed)
}

/// Parses a body; also returns the memory that it takes.
fn parsed<T>(
    bytes: Vec<u8>,
    most: usize,
    mut share: Share,
    parse: impl FnOnce(Value) -> Result<T, ApiError>,
) -> Result<(T, Share), ApiError> {
    let Measured { values, bytes: measured, spelt } = measure(&bytes);
    let measured = measured.saturating_add(spelt);
    let wanted = bytes.len().saturating_add(measured.saturating_mul(COPIES));
    if wanted > most {
        return Err(Fault::TooManyValues { values, bytes: wanted, most }.into());
    }
    share.grow_to(wanted).map_err(|NoRoom| Fault::NoMemoryForBody)?;
    let length = bytes.len();
    let value = json_of(&bytes)?;
    drop(bytes);
    let parsed = parse(value)?;
    // The bytes are gone. The copies stay counted: preparing the request may make as many again.
    share.shrink_to(wanted - length);
    Ok((parsed, share))
}

async fn read_bytes(
    request: Request<Incoming>,
    app: &App,
    share: &mut Share,
) -> Result<Vec<u8>, ApiError> {
    let options = app.options();
    let (head, mut body) = request.into_parts();
    check_type(head.uri.path(), &head.headers)?;
    let limit = options.max_body_bytes;
    let claimed = body.size_hint().lower();
    if claimed > limit as u64 {
        // A client that asks first has not sent anything yet, and reading would invite it to.
        if !head.headers.contains_key(EXPECT) {
            discard(&mut body, limit as u64).await;
        }
        return Err(Fault::BodyTooLarge(limit).into());
    }
    let reading = read_within(&mut body, limit, share);
    match tokio::time::timeout(options.body_timeout, reading).await {
        Err(_) => Err(Fault::BodyTimeout(options.body_timeout).into()),
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => {
            share.shrink_to(0);
            if error.close {
                discard(&mut body, limit as u64).await;
            }
            Err(error)
        }
    }
}

async fn read_within(
    body: &mut Incoming,
    limit: usize,
    share: &mut Share,
) -> Result<Vec<u8>, ApiError> {
    let claimed = usize::try_from(body.size_hint().lower()).unwrap_or(limit);
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Fault::BrokenBody(error.to_string()))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > limit {
            return Err(Fault::BodyTooLarge(limit).into());
        }
        let length = bytes.len() + data.len();
        if length > bytes.capacity() {
            // Doubles, up to the length that the client announced.
            let doubled = bytes.capacity().saturating_mul(2).max(INITIAL_BYTES);
            let capacity = doubled.min(claimed).max(length);
            share.grow_to(capacity).map_err(|NoRoom| Fault::NoMemoryForBody)?;
            // A client chooses this size, so an allocation that fails must not abort the process.
            let more = bytes.try_reserve_exact(capacity - bytes.len());
            more.map_err(|_| Fault::NoMemoryForBody)?;
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

async fn discard(body: &mut Incoming, limit: u64) {
    let mut left = limit.saturating_mul(DISCARD_FACTOR);
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            let read = frame.data_ref().map_or(0, |data| data.len() as u64);
            match left.checked_sub(read) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIME, reading).await;
}

/// Reads and drops a refused request's body, within bounds, so that its client sees the answer.
pub(super) async fn discard_rest(request: Request<Incoming>) {
    if !request.headers().contains_key(EXPECT) {
        discard(&mut request.into_body(), DISCARD_UNASKED).await;
    }
}

/// The content types that a web page may send to any server without asking it first. curl sends the
/// first by default, and Ollama's documentation relies on that.
const SIMPLE: [&str; 3] =
    ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data"];

/// Accepts JSON or no content type, and no compression. On Ollama's routes a simple type is taken for
/// JSON as well, but not from a web page: browsers name the page in `Origin`, and only JSON makes
/// them ask first.
fn check_type(path: &str, headers: &HeaderMap) -> Result<(), ApiError> {
    if let Some(value) = headers.get(CONTENT_TYPE) {
        let value = String::from_utf8_lossy(value.as_bytes());
        let essence = value.split(';').next().unwrap_or_default().trim();
        let is = |kind: &str| essence.eq_ignore_ascii_case(kind);
        let takes_simple = path.starts_with("/api/") && !headers.contains_key(ORIGIN);
        if !(is("application/json") || takes_simple && SIMPLE.into_iter().any(is)) {
            let (header, accepted) = ("content-type", "application/json");
            return Err(Fault::MediaType { header, value: &value, accepted }.into());
        }
    }
    if let Some(value) = headers.get(CONTENT_ENCODING) {
        let value = String::from_utf8_lossy(value.as_bytes());
        if !value.trim().eq_ignore_ascii_case("identity") {
            let (header, accepted) = ("content-encoding", "none or identity");
            return Err(Fault::MediaType { header, value: &value, accepted }.into());
        }
    }
    Ok(())
}

pub(super) fn json_of(bytes: &[u8]) -> Result<Value, ApiError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(ApiError::invalid_json("it is empty; expected a JSON object"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value: Value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        match path.as_str() {
            "" | "." | "?" => ApiError::invalid_json(error.inner()),
            // The path is made of the client's own names, which may be long.
            path => {
                ApiError::invalid_json(format_args!("at {}: {}", shortened(path), error.inner()))
            }
        }
    })?;
    deserializer.end().map_err(ApiError::invalid_json)?;
    Ok(value)
}

/// Does `work`, which takes up to `bytes` bytes to the request's end. What else the request took is
/// given back, but for what it keeps.
///
/// # Errors
/// If there is no memory for it, or the pool is busy.
pub(super) async fn built<T: Send + 'static>(
    app: &App,
    exchange: &Exchange,
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
pub(super) async fn done<T: Send + 'static>(
    app: &App,
    exchange: &Exchange,
    large: bool,
    work: impl FnOnce(&App) -> T + Send + 'static,
) -> Result<T, ApiError> {
    if !large {
        return Ok(work(app));
    }
    let here = app.clone();
    let work = move || work(&here);
    let done = app.pool().run(exchange.caller().id(), None, work).await;
    done.map_err(|undone| GenerateError::from(undone).into())
}

/// The request has been prepared, and takes `bytes` from now on beside what it keeps of its body.
///
/// # Errors
/// If there is no memory for that.
pub(super) fn keep(app: &App, exchange: &Exchange, bytes: usize) -> Result<(), ApiError> {
    exchange.keeps(bytes).map_err(|NoRoom| {
        let most = app.request_memory().most();
        let too_large = Fault::AnswerTooLarge { bytes, most };
        if bytes > most { too_large.into() } else { Fault::NoMemoryForAnswer.into() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;
    use serde_json::json;

    #[test]
    fn bad_json_is_refused_with_its_place() {
        let table: [(&[u8], &str); 12] = [
            (b"", "empty"),
            (b" \n", "empty"),
            (b"{", "line 1 column 1"),
            (b"{\"a\": 1,\n \"b\" 2}", "line 2 column 6"),
            (b"{} x", "line 1 column 4"),
            (b"{\"temperature\": 1e999}", "number out of range at line 1 column 21"),
            (b"{\"a\": NaN}", "line 1 column 7"),
            (b"{\"a\": 01}", "line 1 column 8"),
            (b"{'a': 1}", "line 1 column 2"),
            (b"{\"a\": \"\\ud800\"}", "line 1"),
            (b"{\"a\": \"\xff\"}", "line 1"),
            (b"\xef\xbb\xbf{}", "line 1 column 1"),
        ];
        for (body, part) in table {
            let error = json_of(body).unwrap_err();
            assert_eq!(error.code, "invalid_json");
            assert!(error.message.contains(part), "{body:?}: {}", error.message);
        }
        let deep = "[".repeat(1000);
        assert!(json_of(deep.as_bytes()).unwrap_err().message.contains("recursion limit"));
        let long = format!("{{\"{}\": e}}", "name".repeat(1000));
        assert!(json_of(long.as_bytes()).unwrap_err().message.len() < 1000);
        assert_eq!(json_of(b" {\"a\": [1]} ").unwrap(), json!({"a": [1]}));
    }

    #[test]
    fn only_json_is_taken() {
        let check = |name, value| {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            check_type("/v1/x", &headers).map_err(|error| error.status.as_u16())
        };
        for fine in ["application/json", "Application/JSON; charset=utf-8", "application/json ;x"] {
            assert_eq!(check(CONTENT_TYPE, fine), Ok(()), "{fine}");
        }
        for bad in ["text/plain", "", "multipart/form-data; boundary=x", "application/jsonx"] {
            assert_eq!(check(CONTENT_TYPE, bad), Err(415), "{bad}");
        }
        assert_eq!(check(CONTENT_ENCODING, "gzip"), Err(415));
        assert_eq!(check(CONTENT_ENCODING, "identity"), Ok(()));
        assert!(check_type("/v1/x", &HeaderMap::new()).is_ok());
    }

    #[test]
    fn ollamas_routes_take_simple_types_but_not_from_pages() {
        for kind in SIMPLE {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            assert!(check_type("/api/chat", &headers).is_ok(), "{kind}");
            assert!(check_type("/v1/chat/completions", &headers).is_err(), "{kind}");
            headers.insert(ORIGIN, HeaderValue::from_static("https://a.example"));
            assert!(check_type("/api/chat", &headers).is_err(), "{kind}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
        assert!(check_type("/api/chat", &headers).is_err());
    }
}
