//! Guesses of the next tokens from what a sequence has already seen (prompt lookup, after
//! Saxena's prompt-lookup decoding and arXiv:2304.04487): what followed the same words before
//! often follows again, in quotations, code and lists. Guesses cost nothing; the model checks them.

/// The longest run of newest tokens to look for; longer ones make better guesses.
const LONGEST: usize = 4;

/// The shortest.
const SHORTEST: usize = 2;

/// Where a guess comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guess {
    /// Looked up in the sequence's own text.
    Looked,
    /// The output's mask leaves nothing else, though other tokens may spell the same.
    Forced,
}

/// Up to `most` tokens that followed the latest earlier occurrence of the newest tokens; empty
/// where they did not occur before.
#[must_use]
pub fn propose(tokens: &[u32], most: usize) -> &[u32] {
    if most == 0 {
        return &[];
    }
    for length in (SHORTEST..=LONGEST).rev() {
        let Some(start) = tokens.len().checked_sub(length) else { continue };
        let newest = &tokens[start..];
        // Windows that end before the last token, so that something follows each.
        let earlier = tokens[..tokens.len() - 1].windows(length).rposition(|at| at == newest);
        if let Some(place) = earlier {
            let follows = &tokens[place + length..];
            return &follows[..follows.len().min(most)];
        }
    }
    &[]
}

/// How often a sequence's guesses have been right of late.
#[derive(Debug, Clone, Copy)]
pub struct Acceptance(f64);

impl Acceptance {
    /// Weight of a new guess.
    const FRESH: f64 = 0.1;

    /// Of a sequence of which nothing is known.
    #[must_use]
    pub fn new(kind: Guess) -> Self {
        Self(match kind {
            Guess::Looked => 0.5,
            Guess::Forced => 0.9,
        })
    }

    /// The share of right guesses.
    #[must_use]
    pub fn rate(self) -> f64 {
        self.0
    }

    /// Notes a guess.
    pub fn note(&mut self, right: bool) {
        self.0 += Self::FRESH * (f64::from(u8::from(right)) - self.0);
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
    fn acceptance_follows_the_guesses() {
        let mut acceptance = Acceptance::new(Guess::Looked);
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
