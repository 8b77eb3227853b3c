//! Sets of token ids whose cost depends on the vocabulary, not on the client's list.

use std::fmt;
use std::sync::Arc;

/// Token ids as a bitmap (bit `id % 32` of word `id / 32`). Copies share one bitmap, which is at
/// most as long as the greatest id needs, however often a list repeats its ids.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct TokenSet(Option<Arc<[u32]>>);

impl TokenSet {
    /// Whether the set contains `token`.
    #[must_use]
    pub fn contains(&self, token: u32) -> bool {
        let word = self.words().get(token as usize / 32).copied().unwrap_or(0);
        word >> (token % 32) & 1 == 1
    }

    /// Whether the set has no tokens.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The tokens in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        (0_u32..).zip(self.words()).flat_map(|(index, &word)| {
            (0..32).filter(move |bit| word >> bit & 1 == 1).map(move |bit| index * 32 + bit)
        })
    }

    /// One bit for each token, without trailing words of zeros.
    pub(super) fn words(&self) -> &[u32] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl FromIterator<u32> for TokenSet {
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> Self {
        let mut words = Vec::new();
        for id in ids {
            let index = id as usize / 32;
            if index >= words.len() {
                words.resize(index + 1, 0);
            }
            words[index] |= 1 << (id % 32);
        }
        // Equal sets are equal bitmaps: words grow only up to the greatest id, so none trail.
        Self((!words.is_empty()).then(|| words.into()))
    }
}

impl<const N: usize> From<[u32; N]> for TokenSet {
    fn from(ids: [u32; N]) -> Self {
        ids.into_iter().collect()
    }
}

impl fmt::Debug for TokenSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_set_is_its_distinct_ids_and_no_larger_for_repeated_ones(
            ids in prop::collection::vec(0u32..300, 0..60),
            times in 1usize..20,
        ) {
            let expected: BTreeSet<u32> = ids.iter().copied().collect();
            let repeated = ids.iter().cycle().take(ids.len() * times).copied();
            let set: TokenSet = repeated.collect();
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), expected.iter().copied().collect::<Vec<_>>());
            for id in 0..400 {
                prop_assert_eq!(set.contains(id), expected.contains(&id));
            }
            prop_assert_eq!(set.is_empty(), expected.is_empty());
            let most = expected.last().map_or(0, |&last| last as usize / 32 + 1);
            prop_assert_eq!(set.words().len(), most);
            prop_assert_eq!(&set, &expected.into_iter().collect::<TokenSet>());
        }
    }
}
