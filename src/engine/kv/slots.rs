//! Which KV-cache slots are free.

/// The free slots of the KV cache. The lowest is given out first, so that live sequences stay
/// close together and one decode step covers many of them.
#[derive(Debug)]
pub struct Slots {
    taken: Vec<bool>,
}

impl Slots {
    /// `count` free slots.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self { taken: vec![false; count] }
    }

    /// Takes the lowest free slot.
    pub fn take(&mut self) -> Option<usize> {
        let slot = self.taken.iter().position(|taken| !taken)?;
        self.taken[slot] = true;
        Some(slot)
    }

    /// Gives `slot` back.
    pub fn give_back(&mut self, slot: usize) {
        debug_assert!(self.taken[slot], "slot {slot} was free already");
        self.taken[slot] = false;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_slot_is_held_twice_and_the_lowest_comes_first(
            count in 1usize..9,
            steps in prop::collection::vec((any::<bool>(), 0usize..9), 0..200),
        ) {
            let mut slots = Slots::new(count);
            let mut held = BTreeSet::new();
            for (take, which) in steps {
                if take {
                    let lowest_free = (0..count).find(|slot| !held.contains(slot));
                    prop_assert_eq!(slots.take(), lowest_free);
                    held.extend(lowest_free);
                } else if let Some(&slot) = held.iter().nth(which) {
                    slots.give_back(slot);
                    held.remove(&slot);
                }
            }
        }
    }
}
