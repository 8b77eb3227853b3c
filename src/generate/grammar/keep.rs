//! The compiled forms that were asked for last: programs ask for the same few again and again.

use std::sync::{Arc, Mutex, PoisonError};

use super::host::FormLink;
use super::ledger::Account;
use super::protocol::{Ask, Following};

/// How many are kept.
const MOST: usize = 16;

/// Bytes that those may take.
const MOST_BYTES: usize = 64 << 20;

/// A hash of a form and all that its compiling goes by.
pub(super) type Key = [u8; 32];

/// A compiled form: a process that has compiled it and follows no output, but is copied for each.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) link: Box<dyn FormLink>,
    pub(super) first: Arc<Following>,
    pub(super) account: Arc<Account>,
}

impl Form {
    /// A copy that has not said yet that it is there.
    pub(super) fn copy(&mut self) -> Option<Self> {
        let link = self.link.fork(&Ask::Fork.encode()).ok()?;
        Some(Self { link, first: Arc::clone(&self.first), account: Arc::clone(&self.account) })
    }
}

/// Compiled forms by key, the one that was used last behind.
///
/// A lock and not a thread, since it is held to ask for a copy only.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<Vec<(Key, Form)>>);

impl Kept {
    /// A copy of the form, if it is kept.
    pub(super) fn copy(&self, key: &Key) -> Option<Form> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = kept.iter().position(|(known, _)| known == key)?;
        let (_, mut used) = kept.remove(place);
        // A process that takes nothing is not kept.
        let copy = used.copy()?;
        kept.push((*key, used));
        Some(copy)
    }

    /// Drops the form, if it is kept.
    pub(super) fn forget(&self, key: &Key) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(known, _)| known != key);
    }

    /// Drops the forms not used for longest until `fits`.
    pub(super) fn make_room(&self, fits: impl Fn() -> bool) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !kept.is_empty() && !fits() {
            kept.remove(0);
        }
    }

    /// Keeps a form, in place of those not used for longest if there are too many.
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
