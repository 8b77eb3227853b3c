//! Who may do what: the rules, and the one check of a request against them.
//!
//! [`Rules`] are built from the settings ([`rules_of`]) and replaced as one on a reload; a request
//! reads them once, so it never sees half a reload. A route has a [`Class`], a caller a [`Scope`];
//! [`admit()`] decides by both.

mod admit;
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

pub(super) use admit::{Admission, Parts, X_API_KEY, admit};
pub(super) use cors::preflight;
pub(super) use limits::MINUTE as QUOTA_MINUTE;

use std::sync::Arc;

use hyper::{HeaderMap, Request};
use tokio_rustls::rustls::ServerConfig;

use super::caller::{Caller, Origin};
use cors::Cors;
use hosts::Hosts;
use keys::Keys;
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
