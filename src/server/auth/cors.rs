//! Which web pages may use the API from a browser: none, unless the settings name them.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use hyper::{Method, Request};

use phi4d_settings::Settings;

/// How long a browser may keep a permission, in seconds.
const MAX_AGE: &str = "600";

/// Our headers that pages may read.
const EXPOSED: &str = "x-request-id, x-phi4d-ignored-fields, retry-after";

/// The origins that are allowed, such as `https://chat.example.org`.
#[derive(Debug, Default)]
pub(super) struct Cors {
    any: bool,
    origins: Vec<String>,
}

impl Cors {
    pub(super) fn of(settings: &Settings) -> Self {
        let origins = settings.cors_origins.clone();
        Self { any: origins.iter().any(|origin| origin == "*"), origins }
    }

    /// The request's origin, if it may use the API.
    fn admitted<'a>(&self, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        let named = |known: &String| known.as_bytes().eq_ignore_ascii_case(origin.as_bytes());
        (self.any || self.origins.iter().any(named)).then_some(origin)
    }

    /// The origin of a page that is neither admitted nor served from where the request goes.
    pub(super) fn foreign<'a>(&self, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        let own = headers.get(HOST).is_some_and(|host| {
            let text = origin.as_bytes();
            let rest = text.strip_prefix(b"http://").or_else(|| text.strip_prefix(b"https://"));
            rest.is_some_and(|rest| rest.eq_ignore_ascii_case(host.as_bytes()))
        });
        (!own && self.admitted(headers).is_none()).then_some(origin)
    }

    /// Whether this is a preflight request for a page that is allowed.
    pub(super) fn is_preflight<B>(&self, request: &Request<B>) -> bool {
        let headers = request.headers();
        request.method() == Method::OPTIONS
            && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
            && self.admitted(headers).is_some()
    }

    /// Headers that let the page read the answer; none if no pages are allowed.
    pub(super) fn permission(&self, headers: &HeaderMap) -> HeaderMap {
        let mut permission = HeaderMap::new();
        if !self.any && self.origins.is_empty() {
            return permission;
        }
        // The answer depends on the origin, so a cache must not reuse it for another.
        permission.insert(VARY, HeaderValue::from_static("origin"));
        if let Some(origin) = self.admitted(headers) {
            permission.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            permission.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        }
        permission
    }
}

/// The rest of the answer to a preflight request. Any header that was asked for is allowed: clients
/// differ in theirs, and the key is in one.
pub(crate) fn preflight(asked: &HeaderMap, methods: &str) -> HeaderMap {
    let mut answer = HeaderMap::new();
    if let Ok(methods) = HeaderValue::from_str(methods) {
        answer.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    }
    if let Some(headers) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, headers.clone());
    }
    answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (name.parse().unwrap(), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn pages_from_here_or_named_are_not_foreign() {
        let none = Cors::default();
        let one = Cors { any: false, origins: vec!["https://a.example".to_owned()] };
        let any = Cors { any: true, origins: Vec::new() };
        for (origin, host, foreign) in [
            ("http://localhost:8484", "localhost:8484", [false, false, false]),
            ("https://box", "box", [false, false, false]),
            ("http://localhost:3000", "localhost:8484", [true, true, false]),
            ("https://a.example", "localhost:8484", [true, false, false]),
            ("https://a.example.evil", "localhost:8484", [true, true, false]),
            ("http://a.example", "localhost:8484", [true, true, false]),
            ("null", "localhost:8484", [true, true, false]),
        ] {
            let headers = headers(&[("origin", origin), ("host", host)]);
            let found = [&none, &one, &any].map(|cors| cors.foreign(&headers).is_some());
            assert_eq!(found, foreign, "{origin} to {host}");
        }
        assert!(none.foreign(&headers(&[("host", "localhost")])).is_none());
    }
}
