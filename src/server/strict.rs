//! Refuses ambiguous headers before anything is decided by them.
//!
//! Of two headers with one name, a proxy in front may read the first and the daemon the second. So
//! a header that decides something must be there at most once. What hyper does not show of a head
//! is checked in [`super::heads`].

use hyper::header::{
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONTENT_ENCODING,
    CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderName, ORIGIN, TRANSFER_ENCODING,
};
use hyper::http::uri::{Authority, Scheme};
use hyper::{Request, Version};

use super::access::{REQUEST_ID, TRACEPARENT};
use super::auth::X_API_KEY;
use super::error::ApiError;

/// Headers that the daemon reads, each of which has one value.
const SINGLE: [HeaderName; 13] = [
    HOST,
    ORIGIN,
    AUTHORIZATION,
    HeaderName::from_static(X_API_KEY),
    CONTENT_TYPE,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    TRANSFER_ENCODING,
    EXPECT,
    HeaderName::from_static(TRACEPARENT),
    HeaderName::from_static(REQUEST_ID),
    ACCESS_CONTROL_REQUEST_METHOD,
    ACCESS_CONTROL_REQUEST_HEADERS,
];

/// Refuses a request whose headers can be read in two ways.
///
/// # Errors
/// 400, which names the header.
pub(super) fn check<B>(request: &Request<B>) -> Result<(), ApiError> {
    let headers = request.headers();
    for name in &SINGLE {
        if headers.get_all(name).iter().nth(1).is_some() {
            return Err(refused(name, "is there more than once; send it once"));
        }
    }
    match headers.get(HOST) {
        None if request.version() == Version::HTTP_11 => {
            return Err(refused(&HOST, "is missing; every request needs it"));
        }
        None => {}
        Some(host) => {
            let host = host.to_str().ok().filter(|host| is_one_host(host));
            let host = host
                .ok_or_else(|| refused(&HOST, "is not one host's name, with a port or without"))?;
            if let Some(authority) = request.uri().authority()
                && !is_same_host(request.uri().scheme(), authority, host)
            {
                return Err(refused(&HOST, "names another host than the request's target"));
            }
        }
    }
    let is_list = |value: &[u8]| value.iter().any(|byte| b" \t,".contains(byte));
    if headers.get(ORIGIN).is_some_and(|origin| is_list(origin.as_bytes())) {
        return Err(refused(&ORIGIN, "names more than one origin; send one"));
    }
    Ok(())
}

fn refused(name: &HeaderName, problem: &str) -> ApiError {
    ApiError::invalid_header(name.as_str(), problem)
}

/// Whether `host` is one word that no program could read as a list, a path or a longer URL. It may
/// be empty, as RFC 9112 (3.2) wants it for targets without an authority.
fn is_one_host(host: &str) -> bool {
    host.bytes().all(|byte| byte.is_ascii_graphic() && !b",/\\?#".contains(&byte))
}

/// Whether a target in absolute form names `host`.
fn is_same_host(scheme: Option<&Scheme>, target: &Authority, host: &str) -> bool {
    let default_port = match scheme.map(Scheme::as_str) {
        Some("https") => ":443",
        _ => ":80",
    };
    let bare = |name: &str| {
        let name = name.to_ascii_lowercase();
        name.strip_suffix(default_port).map_or(name.clone(), ToOwned::to_owned)
    };
    bare(target.as_str()) == bare(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(target: &str, version: Version, headers: &[(&str, &str)]) -> Option<String> {
        let mut request = Request::builder().uri(target).version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let error = check(&request.body(()).unwrap()).err()?;
        assert_eq!((error.status.as_u16(), error.close), (400, true));
        Some(error.message)
    }

    #[test]
    fn http_1_1_needs_one_host_that_fits_the_target() {
        fn v11(target: &str, headers: &[(&str, &str)]) -> Option<String> {
            verdict(target, Version::HTTP_11, headers)
        }
        for (target, host) in [
            ("/", "localhost"),
            ("/", "localhost:8484"),
            ("/", "[::1]:8484"),
            ("/", ""),
            ("http://localhost:8484/health", "LOCALHOST:8484"),
            ("http://a.example/", "a.example:80"),
            ("https://a.example:443/", "a.example"),
        ] {
            assert_eq!(v11(target, &[("host", host)]), None, "{target} at {host:?}");
        }
        for (target, host) in [
            ("/", "a, b"),
            ("/", "a b"),
            ("/", "a/b"),
            ("/", "a\\b"),
            ("/", "a?b"),
            ("/", "a#b"),
            ("http://a.example/", "b.example"),
            ("http://a.example/", "a.example:81"),
            ("http://user@a.example/", "a.example"),
            ("http://a.example/", ""),
        ] {
            assert!(v11(target, &[("host", host)]).is_some(), "{target} at {host:?}");
        }
        assert!(v11("/", &[]).is_some());
        assert!(v11("http://a.example/", &[]).is_some());
        assert_eq!(verdict("/", Version::HTTP_10, &[]), None);
    }

    #[test]
    fn what_decides_comes_once() {
        for name in &SINGLE {
            let one = [("host", "a"), (name.as_str(), "a")];
            let one = if name == HOST { &one[1..] } else { &one[..] };
            assert_eq!(verdict("/", Version::HTTP_11, one), None, "{name}");
            let twice: Vec<_> = one.iter().copied().chain([(name.as_str(), "a")]).collect();
            let message = verdict("/", Version::HTTP_11, &twice).unwrap();
            assert!(message.contains(name.as_str()), "{message}");
        }
        for list in ["http://a.example http://b.example", "http://a.example,http://b.example"] {
            let headers = [("host", "a.example"), ("origin", list)];
            assert!(verdict("/", Version::HTTP_11, &headers).is_some(), "{list}");
        }
        // Those of which there may be more.
        let more = [("host", "a"), ("accept", "a"), ("accept", "b"), ("if-none-match", "a")];
        assert_eq!(verdict("/", Version::HTTP_11, &more), None);
    }
}
