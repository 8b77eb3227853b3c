//! Who may do what: the rules, and the one check of a request against them.
//!
//! [`Rules`] are built from the settings ([`rules_of`]) and replaced as one on a reload; a request
//! reads them once, so it never sees half a reload. A route has a [`Class`], a caller a [`Scope`];
//! [`admit()`] decides by both.

mod cors;
mod edit;
mod fault;
mod hosts;
mod keys;
mod limits;
mod load;
mod peers;
mod tls;

pub use edit::{KeysFile, KeysFileError};
pub use fault::{AccessError, AccessFault};
pub use keys::{Key, KeyLine, Scope};
pub use limits::Limits;
pub use load::{Environment, rules_of};
pub use tls::certificate_fault;

pub(super) use cors::preflight;
pub(super) use limits::MINUTE as QUOTA_MINUTE;

use std::sync::Arc;
use std::time::Instant;

use hyper::header::AUTHORIZATION;
use hyper::{HeaderMap, Request, Uri};
use tokio_rustls::rustls::ServerConfig;

use super::caller::{Caller, Origin};
use super::error::{ApiError, Fault};
use cors::Cors;
use hosts::Hosts;
use keys::{Keys, LiveKey};
use limits::{Exceeded, Lease};
use peers::Peers;
use phi4d_engine::CallerId;
use phi4d_settings::WebPage;

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Anyone who reaches the socket.
    Open,
    /// Anyone whose user, host name and origin are allowed. No key is needed: a browser can't send
    /// one when it opens a page.
    Page,
    /// Anyone with access.
    Use,
    /// As [`Self::Use`], and counted against the key's limits: it uses the model or the tokenizer.
    Metered,
    /// Administrators.
    Admin,
    /// As the setting `metrics_access` has it: one of [`Self::Open`], [`Self::Use`],
    /// [`Self::Admin`].
    Metrics,
}

/// The access rules in force.
#[derive(Debug)]
pub struct Rules {
    /// The keys; `None` where access by TCP needs none.
    keys: Option<Keys>,
    /// What [`Class::Metrics`] stands for.
    metrics: Class,
    /// What a caller over TCP may do where no key is needed.
    anonymous: Scope,
    /// Whether users by the Unix socket need a key, too.
    unix_needs_key: bool,
    /// Who may use the Unix socket.
    peers: Peers,
    /// By which names TCP may be called.
    hosts: Hosts,
    /// Which web pages may ask.
    cors: Cors,
    /// Who gets our own web page.
    page: WebPage,
    /// Whether requests of other web pages are refused. With keys this is not needed, as a page has
    /// none; without, CORS would only keep it from reading the answers that it makes us compute.
    refuses_pages: bool,
    /// TLS for TCP.
    tls: Option<Arc<ServerConfig>>,
    /// This process's user, who is an administrator on the Unix socket as root is.
    own_uid: u32,
}

impl Default for Rules {
    /// No keys and no limits, for a server that only its own program can reach.
    fn default() -> Self {
        Self {
            keys: None,
            metrics: Class::Use,
            anonymous: Scope::Admin,
            unix_needs_key: false,
            peers: Peers::default(),
            hosts: Hosts::default(),
            cors: Cors::default(),
            page: WebPage::Auto,
            refuses_pages: false,
            tls: None,
            own_uid: phi4d_os::effective_uid(),
        }
    }
}

impl Rules {
    /// Whether there is a web page for whoever is at `origin`.
    pub(super) fn shows_page(&self, origin: &Origin) -> bool {
        match self.page {
            WebPage::Off => false,
            WebPage::On => true,
            WebPage::Auto => self.need_key() || origin.is_local(),
        }
    }

    /// TLS for connections by TCP, if there is to be any.
    pub(super) fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.tls.clone()
    }

    /// Whether the request asks, for a web page that may use the API, whether it may.
    pub(super) fn is_preflight<B>(&self, request: &Request<B>) -> bool {
        self.cors.is_preflight(request)
    }

    /// Headers that let an admitted web page read the answer to a request with `headers`.
    pub(super) fn permission(&self, headers: &HeaderMap) -> HeaderMap {
        self.cors.permission(headers)
    }

    /// Whether access by TCP needs a key.
    #[must_use]
    pub fn need_key(&self) -> bool {
        self.keys.is_some()
    }

    /// Whether a key has a quota of tokens.
    pub(super) fn have_quotas(&self) -> bool {
        self.keys.as_ref().is_some_and(Keys::have_quotas)
    }

    /// A caller's name, as the log has it.
    pub(super) fn name_of(&self, id: CallerId) -> String {
        let by_key = self.keys.as_ref().and_then(|keys| {
            keys.names().map(|name| Caller::Key(Arc::clone(name))).find(|caller| caller.id() == id)
        });
        by_key.map_or_else(|| Caller::name_of(id), |caller| caller.to_string())
    }

    /// These rules, with what their keys have used so far taken over from `old`.
    pub(super) fn counting_on_from(mut self, old: &Self) -> Self {
        if let (Some(keys), Some(old)) = (&mut self.keys, &old.keys) {
            keys.count_on_from(old);
        }
        self
    }
}

/// The header that Anthropic's clients send their key in.
pub(super) const X_API_KEY: &str = "x-api-key";

/// The caller that a request was admitted as, and its share of the key's limits. Lives as long as
/// the request's record.
#[derive(Debug)]
pub(super) struct Admission {
    caller: Caller,
    /// The key's name with the lease, where the route is metered.
    lease: Option<(Arc<str>, Lease)>,
}

impl Admission {
    /// Of a caller without a key.
    pub(super) fn anonymous(caller: Caller) -> Self {
        Self { caller, lease: None }
    }

    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Reserves places for as many answers as the request asks for.
    ///
    /// # Errors
    /// 400 if its key may never have so many, 429 if it may not now.
    pub(super) fn hold(&self, answers: usize) -> Result<(), ApiError> {
        self.ask(|lease| lease.hold(answers))
    }

    /// Reserves tokens that are used whatever becomes of the request.
    ///
    /// # Errors
    /// 400 if its key never has so many, 429 if it has not now.
    pub(super) fn pay(&self, tokens: usize) -> Result<(), ApiError> {
        self.ask(|lease| lease.pay(tokens, Instant::now()))
    }

    /// Reserves the most tokens that the request may take.
    ///
    /// # Errors
    /// As [`Self::pay`].
    pub(super) fn reserve(&self, tokens: usize) -> Result<(), ApiError> {
        self.ask(|lease| lease.reserve(tokens, Instant::now()))
    }

    /// The most that each of `answers` may take where the request does not say; `None` is no limit.
    pub(super) fn open_answer_tokens(&self, answers: usize) -> Option<usize> {
        self.lease.as_ref().and_then(|(_, lease)| lease.open_answer_tokens(answers))
    }

    /// The request's prompts and answers have taken `tokens`.
    pub(super) fn charge(&self, tokens: usize) {
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
    let fault = match exceeded {
        Exceeded::Answers { most } => Fault::KeyInFlight { name, most },
        Exceeded::AnswersOfOne { asked, most } => Fault::KeyNeverInFlight { name, asked, most },
        Exceeded::Tokens { most, wait } => Fault::KeyTokens { name, most, wait },
        Exceeded::TokensOfOne { asked, most } => Fault::KeyNeverTokens { name, asked, most },
    };
    fault.into()
}

/// Decides on a request of `class` from `origin`.
///
/// # Errors
/// 401 without a key where one is needed, 403 where the user, the host or the page is none of those
/// that may or the caller lacks the scope, 429 where its key's limits are used up.
pub(super) async fn admit(
    rules: &Rules,
    origin: &Origin,
    class: Class,
    request: &Parts<'_>,
) -> Result<Admission, ApiError> {
    let anonymous = || Admission::anonymous(origin.caller().clone());
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
        let has_key = given_keys(headers).next().is_some();
        return Err(if has_key { Fault::WrongKey } else { Fault::NoKey }.into());
    };
    if class == Class::Admin && scope < Scope::Admin {
        return Err(Fault::NotAdmin.into());
    }
    match key {
        Some(key) => with_key(key, class),
        None => Ok(anonymous()),
    }
}

/// The parts of a request that access control reads.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) uri: &'a Uri,
    pub(super) headers: &'a HeaderMap,
}

/// Checks where the request comes from. On the Unix socket, its user must be allowed; over TCP, it
/// must name this host and must not come from a foreign web page.
async fn check_source(rules: &Rules, origin: &Origin, request: &Parts<'_>) -> Result<(), ApiError> {
    if let Some(peer) = origin.peer() {
        let trusted = peer.uid == 0 || peer.uid == rules.own_uid;
        if trusted || rules.peers.admit(origin).await {
            return Ok(());
        }
        return Err(Fault::UserNotAllowed(peer.uid).into());
    }
    rules
        .hosts
        .check(request.uri, request.headers)
        .map_err(|host| ApiError::from(Fault::ForeignHost(&host)))?;
    match rules.cors.foreign(request.headers) {
        Some(page) if rules.refuses_pages => {
            Err(Fault::ForeignPage(&String::from_utf8_lossy(page.as_bytes())).into())
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
