//! A cache of compiled forms: programs use the same few again and again.

use std::sync::{Arc, Mutex, PoisonError};

use super::host::FormLink;
use super::ledger::Account;
use super::protocol::{Ask, Following};

/// The most forms in the cache.
const MOST: usize = 16;

/// The most bytes that they take.
const MOST_BYTES: usize = 64 << 20;

/// A hash of a form and everything else that its compilation depends on.
pub(super) type Key = [u8; 32];

/// A compiled form: the process that compiled it, which follows no output itself but is forked for
/// each.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) link: Box<dyn FormLink>,
    pub(super) first: Arc<Following>,
    pub(super) account: Arc<Account>,
}

impl Form {
    /// A fork that has not answered yet.
    pub(super) fn copy(&mut self) -> Option<Self> {
        let link = self.link.fork(&Ask::Fork.encode()).ok()?;
        Some(Self { link, first: Arc::clone(&self.first), account: Arc::clone(&self.account) })
    }
}

/// Compiled forms by key, the most recently used last.
///
/// A mutex will do: it is held only to ask for a fork.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<Vec<(Key, Form)>>);

impl Kept {
    /// A fork of the form, if it is cached.
    pub(super) fn copy(&self, key: &Key) -> Option<Form> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = kept.iter().position(|(known, _)| known == key)?;
        let (_, mut used) = kept.remove(place);
        // A process that can't be asked has ended.
        let copy = used.copy()?;
        kept.push((*key, used));
        Some(copy)
    }

    /// Removes the form from the cache.
    pub(super) fn forget(&self, key: &Key) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(known, _)| known != key);
    }

    /// Evicts the least recently used forms until `fits`.
    pub(super) fn make_room(&self, fits: impl Fn() -> bool) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !kept.is_empty() && !fits() {
            kept.remove(0);
        }
    }

    /// Adds a form, and evicts the least recently used ones if there are too many.
    pub(super) fn put(&self, key: Key, form: Form) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if form.first.weight > MOST_BYTES || kept.iter().any(|(known, _)| *known == key) {
            return;
        }
        kept.push((key, form));
        let bytes = |kept: &[(Key, Form)]| kept.iter().map(|(_, f)| f.first.weight).sum::<usize>();
        while kept.len() > MOST || bytes(&kept) > MOST_BYTES {
            kept.remove(0);
        }
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}
