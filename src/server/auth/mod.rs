//! Who may do what: the rules, and the one check of a request against them.
//!
//! [`Rules`] are made whole from the settings ([`rules_of`]) and replaced whole on a reload; a
//! request reads them once. A route has a [`Class`], a caller a [`Scope`]; [`admit`] joins them.

mod admit;
mod edit;
mod keys;
mod limits;
mod load;

pub use edit::{KeysFile, KeysFileError};
pub use keys::{Key, KeyLine, Limits, Scope};
pub use load::{AccessError, AccessFault, Environment, rules_of};

pub(super) use admit::{Admission, admit};

use std::sync::Arc;

use super::caller::Caller;
use crate::engine::CallerId;
use keys::Keys;

/// How closely a route is guarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Anyone who reaches the socket.
    Open,
    /// Anyone with access.
    Use,
    /// The same, counted against the key's limits.
    Generate,
    /// Administrators.
    Admin,
}

/// What is in force for all requests.
#[derive(Debug)]
pub struct Rules {
    /// The keys; `None` where access by TCP needs none.
    keys: Option<Keys>,
    /// The guard of `/metrics`.
    metrics: Class,
    /// What a caller over TCP may do where no key is needed.
    anonymous: Scope,
    /// Whether users by the Unix socket need a key, too.
    unix_needs_key: bool,
    /// This process's user, who is an administrator on the Unix socket as root is.
    own_uid: u32,
}

impl Default for Rules {
    /// No keys and no bounds: for servers that nobody but their maker reaches.
    fn default() -> Self {
        Self {
            keys: None,
            metrics: Class::Use,
            anonymous: Scope::Admin,
            unix_needs_key: false,
            own_uid: crate::os::effective_uid(),
        }
    }
}

impl Rules {
    /// The guard of `/metrics`.
    pub(super) fn metrics(&self) -> Class {
        self.metrics
    }

    /// Whether access by TCP needs a key.
    #[must_use]
    pub fn need_key(&self) -> bool {
        self.keys.is_some()
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
