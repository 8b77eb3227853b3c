//! The one check of a request against the rules.

use std::sync::Arc;
use std::time::Instant;

use hyper::header::AUTHORIZATION;
use hyper::{HeaderMap, Uri};

use super::keys::{LiveKey, Scope};
use super::limits::{Exceeded, Lease};
use super::{Class, Rules};
use crate::caller::{Caller, Origin};
use crate::error::ApiError;

/// The header that Anthropic's clients send their key in.
pub(crate) const X_API_KEY: &str = "x-api-key";

/// The caller that a request was admitted as, and its share of the key's limits. Lives as long as
/// the request's record.
#[derive(Debug)]
pub(crate) struct Admission {
    caller: Caller,
    /// The key's name with the lease, where the route is metered.
    lease: Option<(Arc<str>, Lease)>,
}

impl Admission {
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Reserves places for as many answers as the request asks for.
    ///
    /// # Errors
    /// 400 if its key may never have so many, 429 if it may not now.
    pub(crate) fn hold(&self, answers: usize) -> Result<(), ApiError> {
        self.ask(|lease| lease.hold(answers))
    }

    /// Reserves tokens that are used whatever becomes of the request.
    ///
    /// # Errors
    /// 400 if its key never has so many, 429 if it has not now.
    pub(crate) fn pay(&self, tokens: usize) -> Result<(), ApiError> {
        self.ask(|lease| lease.pay(tokens, Instant::now()))
    }

    /// Reserves the most tokens that the request may take.
    ///
    /// # Errors
    /// As [`Self::pay`].
    pub(crate) fn reserve(&self, tokens: usize) -> Result<(), ApiError> {
        self.ask(|lease| lease.reserve(tokens, Instant::now()))
    }

    /// The most that each of `answers` may take where the request does not say; `None` is no limit.
    pub(crate) fn open_answer_tokens(&self, answers: usize) -> Option<usize> {
        self.lease.as_ref().and_then(|(_, lease)| lease.open_answer_tokens(answers))
    }

    /// The request's prompts and answers have taken `tokens`.
    pub(crate) fn charge(&self, tokens: usize) {
        if let Some((_, lease)) = &self.lease {
            lease.charge(tokens);
        }
    }

    fn ask(&self, grant: impl FnOnce(&Lease) -> Result<(), Exceeded>) -> Result<(), ApiError> {
        match &self.lease {
            Some((name, lease)) => grant(lease).map_err(|exceeded| refusal(name, exceeded)),
            None => Ok(()),
        }
    }
}

/// The error for the holder of the key `name`.
fn refusal(name: &str, exceeded: Exceeded) -> ApiError {
    match exceeded {
        Exceeded::Answers { most } => ApiError::key_in_flight(name, most),
        Exceeded::AnswersOfOne { asked, most } => ApiError::key_never_in_flight(name, asked, most),
        Exceeded::Tokens { most, wait } => ApiError::key_tokens(name, most, wait),
        Exceeded::TokensOfOne { asked, most } => ApiError::key_never_tokens(name, asked, most),
    }
}

/// Decides on a request of `class` from `origin`.
///
/// # Errors
/// 401 without a key where one is needed, 403 where the user, the host or the page is none of those
/// that may or the caller lacks the scope, 429 where its key's limits are used up.
pub(crate) async fn admit(
    rules: &Rules,
    origin: &Origin,
    class: Class,
    request: &Parts<'_>,
) -> Result<Admission, ApiError> {
    let anonymous = || Admission { caller: origin.caller().clone(), lease: None };
    let class = if class == Class::Metrics { rules.metrics } else { class };
    if class == Class::Open {
        return Ok(anonymous());
    }
    check_source(rules, origin, request).await?;
    if class == Class::Page {
        return Ok(anonymous());
    }
    let headers = request.headers;
    let key =
        rules.keys.as_ref().and_then(|keys| given_keys(headers).find_map(|given| keys.find(given)));
    let own = own_scope(rules, origin);
    let Some(scope) = own.max(key.map(|key| key.scope)) else {
        return Err(if given_keys(headers).next().is_some() {
            ApiError::wrong_key()
        } else {
            ApiError::no_key()
        });
    };
    if class == Class::Admin && scope < Scope::Admin {
        return Err(ApiError::not_admin());
    }
    match key {
        Some(key) => with_key(key, class),
        None => Ok(anonymous()),
    }
}

/// The parts of a request that access control reads.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) uri: &'a Uri,
    pub(crate) headers: &'a HeaderMap,
}

/// Checks where the request comes from. On the Unix socket, its user must be allowed; over TCP, it
/// must name this host and must not come from a foreign web page.
async fn check_source(rules: &Rules, origin: &Origin, request: &Parts<'_>) -> Result<(), ApiError> {
    if let Some(peer) = origin.peer() {
        let trusted = peer.uid == 0 || peer.uid == rules.own_uid;
        if trusted || rules.peers.admit(origin).await {
            return Ok(());
        }
        return Err(ApiError::user_not_allowed(peer.uid));
    }
    rules
        .hosts
        .check(request.uri, request.headers)
        .map_err(|host| ApiError::foreign_host(&host))?;
    match rules.cors.foreign(request.headers) {
        Some(page) if rules.refuses_pages => {
            Err(ApiError::foreign_page(&String::from_utf8_lossy(page.as_bytes())))
        }
        _ => Ok(()),
    }
}

/// What a caller may do without a key; `None` if it needs one.
fn own_scope(rules: &Rules, origin: &Origin) -> Option<Scope> {
    match origin.peer() {
        Some(_) if rules.unix_needs_key && rules.keys.is_some() => None,
        Some(peer) if peer.uid == 0 || peer.uid == rules.own_uid => Some(Scope::Admin),
        Some(_) => Some(Scope::Use),
        None => rules.keys.is_none().then_some(rules.anonymous),
    }
}

fn with_key(key: &LiveKey, class: Class) -> Result<Admission, ApiError> {
    let mut lease = None;
    if class == Class::Metered {
        let taken = Lease::take(&key.usage, key.limits, Instant::now());
        let taken = taken.map_err(|exceeded| refusal(&key.name, exceeded))?;
        lease = Some((Arc::clone(&key.name), taken));
    }
    Ok(Admission { caller: Caller::Key(Arc::clone(&key.name)), lease })
}

/// The keys in a request: the bearer token, and Anthropic's header.
fn given_keys(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let bearer = headers.get_all(AUTHORIZATION).iter().filter_map(|value| {
        let (scheme, token) = value.as_bytes().split_at_checked(6)?;
        let token = token.strip_prefix(b" ")?.trim_ascii();
        scheme.eq_ignore_ascii_case(b"bearer").then_some(token)
    });
    let plain = headers.get_all(X_API_KEY).iter().map(|value| value.as_bytes().trim_ascii());
    bearer.chain(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    #[test]
    fn keys_are_found_in_both_headers() {
        let table: [(&str, &'static str, &[&str]); 8] = [
            ("authorization", "Bearer abc", &["abc"]),
            ("authorization", "bearer  abc ", &["abc"]),
            ("authorization", "BEARER abc", &["abc"]),
            ("authorization", "Bearerabc", &[]),
            ("authorization", "Basic abc", &[]),
            ("authorization", "abc", &[]),
            ("x-api-key", " abc", &["abc"]),
            ("api-key", "abc", &[]),
        ];
        for (name, value, expected) in table {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            let found: Vec<_> = given_keys(&headers).collect();
            let expected: Vec<&[u8]> = expected.iter().map(|key| key.as_bytes()).collect();
            assert_eq!(found, expected, "{name}: {value}");
        }
    }
}
