//! Draft tokens for speculative decoding, looked up in the sequence's own text (after Saxena's
//! prompt-lookup decoding and arXiv:2304.04487): what followed the same tokens before often follows
//! again, in quotations, code and lists. A draft costs nothing to make, and the model checks it.

/// The longest run of newest tokens to look for. Longer matches make better drafts, so they are tried
/// first; beyond 4 tokens they hardly get better.
const LONGEST_MATCH: usize = 4;

/// The shortest run. A single token occurs so often that what followed it says little.
const SHORTEST_MATCH: usize = 2;

/// Where draft tokens come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DraftSource {
    /// Looked up in the sequence's own text.
    Lookup,
    /// The only tokens that the output's mask allows. They may still be rejected, since other tokens
    /// may spell the same text.
    Forced,
}

/// Up to `most` tokens that followed the latest earlier occurrence of the newest tokens; empty if
/// there is none.
#[must_use]
pub fn propose(tokens: &[u32], most: usize) -> &[u32] {
    if most == 0 {
        return &[];
    }
    for length in (SHORTEST_MATCH..=LONGEST_MATCH).rev() {
        let Some(start) = tokens.len().checked_sub(length) else { continue };
        let newest = &tokens[start..];
        // A scan of some thousand tokens takes microseconds, far less than the step that it may save.
        // Windows that end before the last token, so that something follows each.
        let earlier = tokens[..tokens.len() - 1].windows(length).rposition(|at| at == newest);
        if let Some(place) = earlier {
            let follows = &tokens[place + length..];
            return &follows[..follows.len().min(most)];
        }
    }
    &[]
}

/// The share of a sequence's draft tokens that was accepted lately, as an exponential average.
#[derive(Debug, Clone, Copy)]
pub struct Acceptance(f64);

impl Acceptance {
    /// Weight of the newest draft token: the average covers about the last ten, so it follows a text
    /// that goes from prose to code within a line or two.
    const NEWEST: f64 = 0.1;

    /// The starting value for a sequence of which nothing is known yet.
    #[must_use]
    pub fn new(source: DraftSource) -> Self {
        Self(match source {
            DraftSource::Lookup => 0.5,
            DraftSource::Forced => 0.9,
        })
    }

    /// The probability that the next draft token is accepted, in [0, 1].
    #[must_use]
    pub fn rate(self) -> f64 {
        self.0
    }

    /// Counts a draft token that was accepted or rejected.
    pub fn note(&mut self, accepted: bool) {
        self.0 += Self::NEWEST * (f64::from(u8::from(accepted)) - self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_before_is_proposed() {
        assert_eq!(propose(&[1, 2, 3, 4, 9, 1, 2], 3), [3, 4, 9]);
        assert_eq!(propose(&[1, 2, 3, 4, 9, 1, 2], 1), [3]);
        // The later of two.
        assert_eq!(propose(&[1, 2, 5, 1, 2, 6, 1, 2], 1), [6]);
        // The longer match before the later one.
        assert_eq!(propose(&[7, 1, 2, 5, 1, 2, 6, 7, 1, 2], 1), [5]);
        // A run that repeats itself.
        assert_eq!(propose(&[8, 8, 8], 5), [8]);
    }

    #[test]
    fn nothing_is_proposed_where_nothing_recurs() {
        for tokens in [&[][..], &[1], &[1, 2], &[1, 2, 3, 4, 5]] {
            assert_eq!(propose(tokens, 4), [] as [u32; 0]);
        }
        assert_eq!(propose(&[1, 1, 1, 1], 0), [] as [u32; 0]);
    }

    #[test]
    fn acceptance_follows_the_draft_tokens() {
        let mut acceptance = Acceptance::new(DraftSource::Lookup);
        for _ in 0..40 {
            acceptance.note(true);
        }
        assert!(acceptance.rate() > 0.95);
        for _ in 0..40 {
            acceptance.note(false);
        }
        assert!(acceptance.rate() < 0.05);
    }
}
