//! Counts the memory of all processes of forms together.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The most bytes that compiled forms and running outputs take together.
pub(super) const MOST_BYTES: usize = 128 << 20;

/// The bytes of each process. A mutex will do: it is held only for a sum.
#[derive(Debug)]
pub(super) struct Ledger {
    most: usize,
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    taken: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    bytes: usize,
    /// Set if the process must end. `None` for compiled forms, which outputs depend on.
    overdrawn: Option<Arc<AtomicBool>>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self::of(MOST_BYTES)
    }
}

impl Ledger {
    pub(super) fn of(most: usize) -> Self {
        Self { most, entries: Mutex::default() }
    }

    /// The account of a compiled form of `bytes`, counted as long as anything holds it.
    pub(super) fn form(self: &Arc<Self>, bytes: usize) -> Arc<Account> {
        Arc::new(self.enter(bytes, None))
    }

    /// The account of an output that follows `form`, at first without bytes.
    pub(super) fn output(self: &Arc<Self>, form: Arc<Account>) -> Share {
        let overdrawn = Arc::<AtomicBool>::default();
        let account = self.enter(0, Some(Arc::clone(&overdrawn)));
        Share { account, overdrawn, before: None, _form: form }
    }

    fn enter(self: &Arc<Self>, bytes: usize, overdrawn: Option<Arc<AtomicBool>>) -> Account {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let id = entries.next;
        entries.next += 1;
        entries.taken.insert(id, Entry { bytes, overdrawn });
        drop(entries);
        Account { ledger: Arc::clone(self), id }
    }

    /// Updates an account. If all of them together take too much, the output with the most bytes is
    /// marked to fail.
    fn note(&self, id: u64, bytes: usize) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.taken.get_mut(&id) {
            entry.bytes = bytes;
        }
        let sum: usize = entries.taken.values().map(|entry| entry.bytes).sum();
        if sum > self.most {
            let outputs = entries.taken.values().filter(|entry| entry.overdrawn.is_some());
            let largest = outputs.max_by_key(|entry| entry.bytes);
            if let Some(overdrawn) = largest.and_then(|entry| entry.overdrawn.as_ref()) {
                overdrawn.store(true, Ordering::Release);
            }
        }
    }

    /// Bytes of all accounts.
    pub(super) fn bytes(&self) -> usize {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.taken.values().map(|entry| entry.bytes).sum()
    }

    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).taken.len()
    }

    /// Whether `more` bytes fit.
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.bytes().saturating_add(more) <= self.most
    }
}

/// An entry of the ledger, removed on drop.
#[derive(Debug)]
pub(super) struct Account {
    ledger: Arc<Ledger>,
    id: u64,
}

impl Drop for Account {
    fn drop(&mut self) {
        let mut entries = self.ledger.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.taken.remove(&self.id);
    }
}

/// An output's account.
#[derive(Debug)]
pub(super) struct Share {
    account: Account,
    overdrawn: Arc<AtomicBool>,
    /// Bytes of the process at its first report; these belong to the form's account.
    before: Option<usize>,
    _form: Arc<Account>,
}

impl Share {
    /// Updates the account: the process takes `bytes`, those of its compiled form included.
    pub(super) fn grown(&mut self, bytes: usize) {
        let before = *self.before.get_or_insert(bytes);
        self.account.ledger.note(self.account.id, bytes.saturating_sub(before));
    }

    /// Whether this output must fail, because all together take too much and it takes most.
    pub(super) fn is_overdrawn(&self) -> bool {
        self.overdrawn.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_output_is_marked_where_all_take_too_much() {
        let ledger = Arc::new(Ledger::of(100));
        let form = ledger.form(40);
        let mut small = ledger.output(Arc::clone(&form));
        let mut large = ledger.output(form);
        small.grown(40);
        large.grown(40);
        small.grown(50);
        large.grown(85);
        assert_eq!(ledger.bytes(), 95);
        assert!(!small.is_overdrawn() && !large.is_overdrawn() && !ledger.has_room(6));
        small.grown(56);
        assert!(!small.is_overdrawn() && large.is_overdrawn());
        drop(large);
        assert_eq!(ledger.bytes(), 56);
        drop(small);
        assert_eq!(ledger.bytes(), 0);
    }
}
