//! Counts the memory of all processes of forms together, and each caller's part of it.
//!
//! A new form is admitted if its caller then holds no more than it leaves free, so that the next caller finds
//! room. What runs grows beyond that while there is room; then outputs of the caller that holds most have to end.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use phi4d_engine::CallerId;

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
    /// Bytes of compiled forms, which any caller's outputs may depend on.
    forms: HashMap<u64, usize>,
    outputs: HashMap<u64, Output>,
}

#[derive(Debug)]
struct Output {
    caller: CallerId,
    form: u64,
    bytes: usize,
    /// Set if the process must end.
    overdrawn: Arc<AtomicBool>,
}

impl Entries {
    fn enter(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn all(&self) -> usize {
        let outputs = self.outputs.values().map(|output| output.bytes);
        self.forms.values().copied().chain(outputs).sum()
    }

    /// As [`Self::all`], without forms that are only cached.
    fn in_use(&self, form: u64) -> usize {
        let forms: BTreeSet<u64> =
            self.outputs.values().map(|one| one.form).chain([form]).collect();
        let cached = self.forms.iter().filter(|(form, _)| !forms.contains(form));
        self.all() - cached.map(|(_, bytes)| bytes).sum::<usize>()
    }

    /// Bytes of a caller's outputs, and of the forms that they and `form` depend on.
    fn held(&self, caller: CallerId, form: Option<u64>) -> usize {
        let own = || self.outputs.values().filter(|output| output.caller == caller);
        let forms: BTreeSet<u64> = own().map(|output| output.form).chain(form).collect();
        let forms = forms.iter().filter_map(|form| self.forms.get(form));
        own().map(|output| output.bytes).chain(forms.copied()).sum()
    }

    /// Marks the largest output that goes on of the caller that holds most.
    fn overdraw(&self) {
        let callers: BTreeSet<CallerId> = self.outputs.values().map(|one| one.caller).collect();
        let most = callers.into_iter().max_by_key(|caller| self.held(*caller, None));
        let goes_on = |output: &&Output| {
            Some(output.caller) == most && !output.overdrawn.load(Ordering::Acquire)
        };
        let largest = self.outputs.values().filter(goes_on).max_by_key(|output| output.bytes);
        if let Some(largest) = largest {
            largest.overdrawn.store(true, Ordering::Release);
        }
    }
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

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The account of a compiled form of `bytes`, counted as long as anything holds it.
    pub(super) fn form(self: &Arc<Self>, bytes: usize) -> Arc<Account> {
        let mut entries = self.lock();
        let id = entries.enter();
        entries.forms.insert(id, bytes);
        Arc::new(Account { ledger: Arc::clone(self), id })
    }

    /// The account of a caller's output that follows `form`, at first without bytes.
    pub(super) fn output(self: &Arc<Self>, caller: CallerId, form: Arc<Account>) -> Share {
        let overdrawn = Arc::<AtomicBool>::default();
        let mut entries = self.lock();
        let id = entries.enter();
        let output = Output { caller, form: form.id, bytes: 0, overdrawn: Arc::clone(&overdrawn) };
        entries.outputs.insert(id, output);
        let account = Account { ledger: Arc::clone(self), id };
        Share { account, overdrawn, before: None, _form: form }
    }

    /// Whether a caller may follow `form`, which is counted already: it takes no more than it leaves free.
    pub(super) fn has_room(&self, caller: CallerId, form: &Account) -> bool {
        let entries = self.lock();
        self.has_left(entries.all(), entries.held(caller, Some(form.id)))
    }

    /// Whether it might if nothing else were cached.
    pub(super) fn may_have_room(&self, caller: CallerId, form: &Account) -> bool {
        let entries = self.lock();
        self.has_left(entries.in_use(form.id), entries.held(caller, Some(form.id)))
    }

    fn has_left(&self, taken: usize, own: usize) -> bool {
        self.most.checked_sub(taken).is_some_and(|left| own <= left)
    }

    /// Makes room for a caller that has none for a form of `bytes`, if others hold more than it would: an output
    /// of the one that holds most has to end.
    pub(super) fn reclaim(&self, caller: CallerId, form: &Account) {
        let entries = self.lock();
        let own = entries.held(caller, Some(form.id));
        if entries.outputs.values().any(|other| entries.held(other.caller, None) > own) {
            entries.overdraw();
        }
    }

    /// Whether a form of `bytes` could be followed if nothing else were.
    pub(super) fn could_hold(&self, bytes: usize) -> bool {
        bytes <= self.most / 2
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.lock().all()
    }

    #[cfg(test)]
    pub(super) fn entries(&self) -> usize {
        let entries = self.lock();
        entries.forms.len() + entries.outputs.len()
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
        let mut entries = self.ledger.lock();
        // Numbers are given once, to a form or to an output.
        entries.forms.remove(&self.id);
        entries.outputs.remove(&self.id);
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
    /// Updates the account: the process takes `bytes`, those of its compiled form included. If all together take
    /// too much, an output of the caller that holds most has to end.
    pub(super) fn grown(&mut self, bytes: usize) {
        let before = *self.before.get_or_insert(bytes);
        let ledger = &self.account.ledger;
        let mut entries = ledger.lock();
        if let Some(output) = entries.outputs.get_mut(&self.account.id) {
            output.bytes = bytes.saturating_sub(before);
        }
        if entries.all() > ledger.most {
            entries.overdraw();
        }
    }

    /// Whether this output must fail, because all together take too much and its caller holds most.
    pub(super) fn is_overdrawn(&self) -> bool {
        self.overdrawn.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: CallerId = CallerId(1);
    const OTHER: CallerId = CallerId(2);

    #[test]
    fn the_largest_output_is_marked_where_all_take_too_much() {
        let ledger = Arc::new(Ledger::of(100));
        let form = ledger.form(40);
        let mut small = ledger.output(ONE, Arc::clone(&form));
        let mut large = ledger.output(ONE, form);
        small.grown(40);
        large.grown(40);
        small.grown(50);
        large.grown(85);
        assert_eq!(ledger.bytes(), 95);
        assert!(!small.is_overdrawn() && !large.is_overdrawn());
        small.grown(56);
        assert!(!small.is_overdrawn() && large.is_overdrawn());
        drop(large);
        assert_eq!(ledger.bytes(), 56);
        drop(small);
        assert_eq!((ledger.bytes(), ledger.entries()), (0, 0));
    }

    #[test]
    fn outputs_of_the_caller_that_holds_most_end_first_however_small_each_is() {
        let ledger = Arc::new(Ledger::of(100));
        let mut own = ledger.output(ONE, ledger.form(1));
        own.grown(1);
        own.grown(21);
        let mut others: Vec<Share> = (0..6).map(|_| ledger.output(OTHER, ledger.form(8))).collect();
        for other in &mut others {
            other.grown(8);
            other.grown(15);
        }
        // 21 and 90.
        assert!(!own.is_overdrawn());
        assert!(others.iter().any(Share::is_overdrawn));
        own.grown(22);
        assert!(!own.is_overdrawn());
        others.retain(|other| !other.is_overdrawn());
        assert!(ledger.bytes() <= 100 && !others.is_empty());
    }

    #[test]
    fn a_caller_takes_no_more_than_it_leaves_free_and_another_finds_room() {
        let ledger = Arc::new(Ledger::of(100));
        let mut taken = Vec::new();
        while taken.len() < 100 {
            let form = ledger.form(9);
            if !ledger.has_room(ONE, &form) {
                break;
            }
            taken.push(ledger.output(ONE, form));
        }
        assert_eq!((taken.len(), ledger.bytes()), (5, 45));
        // One that is only cached can make room.
        let cached = ledger.form(20);
        let form = ledger.form(20);
        assert!(!ledger.has_room(OTHER, &form) && ledger.may_have_room(OTHER, &form));
        assert!(!ledger.may_have_room(ONE, &form));
        drop(cached);
        assert!(ledger.has_room(OTHER, &form) && ledger.could_hold(50) && !ledger.could_hold(51));
        // What runs has grown.
        taken[0].grown(0);
        taken[0].grown(30);
        assert!(!ledger.has_room(OTHER, &form));
        ledger.reclaim(ONE, &form);
        assert!(!taken[0].is_overdrawn());
        ledger.reclaim(OTHER, &form);
        assert!(taken[0].is_overdrawn());
        drop(taken.remove(0));
        assert!(ledger.has_room(OTHER, &form));
    }
}
