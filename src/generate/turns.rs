//! A bounded queue with round-robin turns between callers, so that no caller waits for all items of
//! another. Pure data: no threads, no time.

use std::collections::VecDeque;

use phi4d_engine::CallerId;

/// Waiting items by caller. A full queue returns the item: see [`Turns::push`].
#[derive(Debug)]
pub(super) struct Turns<T> {
    /// Callers with items, in the order of their turns. No list is empty.
    callers: VecDeque<(CallerId, VecDeque<T>)>,
    count: usize,
    most: usize,
    most_of_caller: usize,
}

impl<T> Turns<T> {
    /// An empty queue of up to `most` items, `most_of_caller` of them of one caller.
    pub(super) fn new(most: usize, most_of_caller: usize) -> Self {
        Self { callers: VecDeque::new(), count: 0, most, most_of_caller }
    }

    /// Adds an item after the others of its caller. As in the engine's queue, a caller gets no more places than
    /// it leaves free, and its first item gets any free place.
    ///
    /// # Errors
    /// The item, if the queue or the caller's part of it is full.
    pub(super) fn push(&mut self, caller: CallerId, item: T) -> Result<(), T> {
        let Some(left) = self.most.checked_sub(self.count + 1) else { return Err(item) };
        let most = self.most_of_caller.min(left);
        match self.callers.iter_mut().find(|(known, _)| *known == caller) {
            Some((_, items)) if items.len() + 1 > most => return Err(item),
            Some((_, items)) => items.push_back(item),
            None => self.callers.push_back((caller, VecDeque::from([item]))),
        }
        self.count += 1;
        Ok(())
    }

    /// Puts back an item that needs another turn: it is its caller's next, after the other callers'
    /// turns. Never refused, even if the queue has filled up meanwhile.
    pub(super) fn put_back(&mut self, caller: CallerId, item: T) {
        match self.callers.iter_mut().find(|(known, _)| *known == caller) {
            Some((_, items)) => items.push_front(item),
            None => self.callers.push_back((caller, VecDeque::from([item]))),
        }
        self.count += 1;
    }

    /// Removes the next item. The turn passes to the next caller.
    pub(super) fn take(&mut self) -> Option<(CallerId, T)> {
        self.take_of(|_| Some(()))
    }

    /// As [`Self::take`], but for the caller of the lowest `rank`; among equals the turn passes on. Callers
    /// without a rank have no turn now.
    pub(super) fn take_of<R: Ord>(
        &mut self,
        rank: impl Fn(CallerId) -> Option<R>,
    ) -> Option<(CallerId, T)> {
        let ranks = self.callers.iter().enumerate();
        let ranks = ranks.filter_map(|(place, (caller, _))| Some((rank(*caller)?, place)));
        let (_, place) = ranks.min()?;
        let (caller, mut items) = self.callers.remove(place)?;
        let item = items.pop_front()?;
        if !items.is_empty() {
            self.callers.push_back((caller, items));
        }
        self.count -= 1;
        Some((caller, item))
    }

    /// The callers with items, in the order of their turns.
    pub(super) fn callers(&self) -> impl Iterator<Item = CallerId> + '_ {
        self.callers.iter().map(|(caller, _)| *caller)
    }

    /// The item that [`Self::take`] would remove.
    pub(super) fn peek(&self) -> Option<&T> {
        self.callers.front().and_then(|(_, items)| items.front())
    }

    /// How many items of a caller wait.
    pub(super) fn len_of(&self, caller: CallerId) -> usize {
        let own = self.callers.iter().find(|(known, _)| *known == caller);
        own.map_or(0, |(_, items)| items.len())
    }

    /// How many items wait.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Removes the items for which `keep` is false, and returns them.
    pub(super) fn remove_unless(&mut self, mut keep: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut removed = Vec::new();
        for (_, items) in &mut self.callers {
            let (kept, gone) = std::mem::take(items).into_iter().partition(|item| keep(item));
            *items = kept;
            removed.extend::<VecDeque<T>>(gone);
        }
        self.callers.retain(|(_, items)| !items.is_empty());
        self.count -= removed.len();
        removed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_full_queue_gives_the_item_back() {
        let mut turns = Turns::new(4, 2);
        assert_eq!(turns.push(CallerId(1), 'a'), Ok(()));
        assert_eq!(turns.push(CallerId(1), 'b'), Ok(()));
        assert_eq!(turns.push(CallerId(1), 'c'), Err('c'));
        assert_eq!(turns.push(CallerId(2), 'd'), Ok(()));
        // It would leave none free.
        assert_eq!(turns.push(CallerId(2), 'e'), Err('e'));
        assert_eq!(turns.push(CallerId(3), 'f'), Ok(()));
        assert_eq!(turns.push(CallerId(4), 'g'), Err('g'));
        assert_eq!((turns.len(), turns.len_of(CallerId(1)), turns.len_of(CallerId(4))), (4, 2, 0));
        assert_eq!(turns.take(), Some((CallerId(1), 'a')));
        assert_eq!(turns.push(CallerId(4), 'g'), Ok(()));
        assert_eq!(turns.remove_unless(|item| *item == 'g'), ['d', 'f', 'b']);
        assert_eq!(turns.take(), Some((CallerId(4), 'g')));
        assert_eq!(turns.take(), None);
    }

    #[test]
    fn it_takes_many_callers_to_fill_the_queue() {
        for most in [8, 128, 256, 512] {
            let mut turns = Turns::new(most, most);
            let mut callers = 0;
            while turns.push(CallerId(callers), ()).is_ok() {
                while turns.push(CallerId(callers), ()).is_ok() {}
                callers += 1;
            }
            assert_eq!(turns.len(), most);
            assert!(callers > u64::from(most.ilog2()), "{callers} fill {most} places");
        }
    }

    #[test]
    fn the_lowest_rank_is_next_and_equals_go_round() {
        let mut turns = Turns::new(8, 8);
        for (caller, item) in [(1, 'a'), (1, 'b'), (2, 'c'), (2, 'd'), (3, 'e')] {
            turns.push(CallerId(caller), item).unwrap();
        }
        assert_eq!(turns.callers().collect::<Vec<_>>(), [1, 2, 3].map(CallerId));
        let rank = |caller: CallerId| Some(u64::from(caller.0 == 1));
        let order: String =
            std::iter::from_fn(|| turns.take_of(rank).map(|(_, item)| item)).collect();
        assert_eq!(order, "cedab");
        turns.push(CallerId(1), 'f').unwrap();
        assert_eq!(turns.take_of(|_| None::<u64>), None);
        assert_eq!(turns.len(), 1);
    }

    #[test]
    fn what_needs_more_waits_for_the_others() {
        let mut turns = Turns::new(8, 8);
        turns.push(CallerId(1), 'a').unwrap();
        turns.push(CallerId(1), 'b').unwrap();
        turns.push(CallerId(2), 'c').unwrap();
        let mut order = String::new();
        for _ in 0..5 {
            let (caller, item) = turns.take().unwrap();
            order.push(item);
            // The first needs three turns.
            if item == 'a' && order.matches('a').count() < 3 {
                turns.put_back(caller, item);
            }
        }
        assert_eq!(order, "acaab");
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_no_caller_waits_more_than_a_round(
            pushed in prop::collection::vec(0u64..5, 1..80),
        ) {
            let mut turns = Turns::new(60, 20);
            let mut expected = Vec::new();
            for (index, &caller) in pushed.iter().enumerate() {
                let before = expected.iter().filter(|(known, _)| *known == caller).count();
                let left = 60_usize.checked_sub(expected.len() + 1);
                let fits = left.is_some_and(|left| before == 0 || before < left.min(20));
                prop_assert_eq!(turns.push(CallerId(caller), index).is_ok(), fits);
                if fits {
                    expected.push((caller, index));
                }
            }
            let mut seen = Vec::new();
            while let Some((caller, index)) = turns.take() {
                seen.push((caller.0, index));
            }
            for (place, &(caller, _)) in seen.iter().enumerate() {
                let next = seen[place + 1..].iter().position(|&(other, _)| other == caller);
                prop_assert!(next.is_none_or(|distance| distance <= 4));
            }
            for caller in 0..5 {
                let of = |list: &[(u64, usize)]| -> Vec<usize> {
                    list.iter().filter(|(known, _)| *known == caller).map(|item| item.1).collect()
                };
                prop_assert_eq!(of(&seen), of(&expected));
            }
        }
    }
}
