//! Calls of a conversation that have no result yet, found by id or by name however many there are.

use std::collections::{HashMap, VecDeque};

/// Calls in their order. Each result takes one; what that costs does not grow with their number.
#[derive(Debug, Default)]
pub(super) struct OpenCalls {
    /// The ids; `None` once the call has its result.
    ids: Vec<Option<String>>,
    by_id: HashMap<String, VecDeque<usize>>,
    by_name: HashMap<String, VecDeque<usize>>,
    /// Calls before this one have their results.
    first: usize,
}

impl OpenCalls {
    /// Adds a call of the function `name`.
    pub(super) fn add(&mut self, id: &str, name: &str) {
        let index = self.ids.len();
        self.ids.push(Some(id.to_owned()));
        self.by_id.entry(id.to_owned()).or_default().push_back(index);
        self.by_name.entry(name.to_owned()).or_default().push_back(index);
    }

    /// Takes the first open call: the one of the id, if it is given, else of the name, if that is
    /// given. Returns its id.
    pub(super) fn answer(&mut self, id: Option<&str>, name: Option<&str>) -> Option<String> {
        let Self { ids, by_id, by_name, first } = self;
        let queue = match (id, name) {
            (Some(id), _) => by_id.get_mut(id)?,
            (None, Some(name)) => by_name.get_mut(name)?,
            (None, None) => {
                while ids.get(*first)?.is_none() {
                    *first += 1;
                }
                return ids[*first].take();
            }
        };
        loop {
            // Those that were answered by another way are dropped here, each once.
            if let Some(id) = ids[queue.pop_front()?].take() {
                return Some(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_first_that_fits_is_taken(
            acts in prop::collection::vec(
                (any::<bool>(), prop::option::of(0u8..4), prop::option::of(0u8..3)), 0..60),
        ) {
            let (mut open, mut naive) = (OpenCalls::default(), Vec::new());
            for (is_call, id, name) in acts {
                let (id, name) = (id.map(|id| format!("i{id}")), name.map(|name| format!("n{name}")));
                if is_call {
                    let call = (id.unwrap_or_default(), name.unwrap_or_default());
                    open.add(&call.0, &call.1);
                    naive.push(call);
                    continue;
                }
                let at = naive.iter().position(|(known, called)| match &id {
                    Some(id) => id == known,
                    None => name.as_ref().is_none_or(|name| name == called),
                });
                let expected = at.map(|at| naive.remove(at).0);
                prop_assert_eq!(open.answer(id.as_deref(), name.as_deref()), expected);
            }
        }
    }
}
