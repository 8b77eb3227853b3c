//! The masks of the forms that were asked for last: programs ask for the same few again and again.

use std::sync::{Mutex, PoisonError};

use super::super::request::Form;
use super::mask::GrammarMask;

/// How many are kept.
const MOST: usize = 32;

/// Unused masks by form, the one that was used last behind.
///
/// A lock and not a thread, since it is held for a look or a copy only.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<Vec<(Form, GrammarMask)>>);

impl Kept {
    /// A copy of `form`'s mask, if it is kept.
    pub(super) fn get(&self, form: &Form) -> Option<GrammarMask> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = kept.iter().position(|(known, _)| known == form)?;
        let used = kept.remove(place);
        let copy = used.1.fresh_copy();
        kept.push(used);
        Some(copy)
    }

    /// Keeps `mask`, in place of the one not used for longest if there are too many.
    pub(super) fn put(&self, form: Form, mask: GrammarMask) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.iter().any(|(known, _)| *known == form) {
            return;
        }
        if kept.len() >= MOST {
            kept.remove(0);
        }
        kept.push((form, mask));
    }
}
