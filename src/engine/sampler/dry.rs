//! The DRY penalty on repetitions, as llama.cpp defines it.

use std::collections::HashMap;

use super::super::message::Dry;

/// Subtracts the penalty from the logit of every token that would extend a repetition of the end of
/// `tokens` (prompt and output).
pub(super) fn apply(logits: &mut [f32], dry: &Dry, tokens: &[u32]) {
    for (token, length) in repetitions(dry, tokens) {
        if dry.breakers.contains(token) {
            continue;
        }
        if let Some(logit) = logits.get_mut(token as usize) {
            #[expect(clippy::cast_precision_loss, reason = "lengths stay far below 2^24")]
            let exponent = (length - dry.allowed_length) as f32;
            let penalty = dry.multiplier * dry.base.powf(exponent);
            // Finite, so that there is still a choice if every token repeats something.
            *logit -= penalty.min(f32::MAX / 4.0);
        }
    }
}

/// Each token that followed an earlier occurrence of the newest tokens, with the length of the longest such
/// occurrence, which is at least `allowed_length`.
fn repetitions(dry: &Dry, tokens: &[u32]) -> HashMap<u32, usize> {
    let window = &tokens[tokens.len() - dry.last_tokens.min(tokens.len())..];
    // Reversed, the newest tokens are a prefix and their occurrences matches of it, which the Z function finds
    // all in linear time.
    let newest_first: Vec<u32> = window.iter().rev().copied().collect();
    // A repetition does not reach across a breaker.
    let limit = newest_first
        .iter()
        .position(|&token| dry.breakers.contains(token))
        .unwrap_or(newest_first.len());
    let mut longest = HashMap::new();
    if limit < dry.allowed_length {
        return longest;
    }
    for (place, length) in matches_of_start(&newest_first).into_iter().enumerate().skip(1) {
        let length = length.min(limit);
        if length >= dry.allowed_length {
            let followed_by = newest_first[place - 1];
            let known = longest.entry(followed_by).or_insert(length);
            *known = length.max(*known);
        }
    }
    longest
}

/// The Z function: for each place, how many items from there on equal the first ones. Linear, since the
/// window `left..right` of the match that reaches furthest only moves on, and what lies within it is known.
fn matches_of_start(items: &[u32]) -> Vec<usize> {
    let mut lengths = vec![0; items.len()];
    let (mut left, mut right) = (0, 0);
    for place in 1..items.len() {
        let mut length = if place < right { lengths[place - left].min(right - place) } else { 0 };
        while place + length < items.len() && items[length] == items[place + length] {
            length += 1;
        }
        if place + length > right {
            (left, right) = (place, place + length);
        }
        lengths[place] = length;
    }
    lengths
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dry(allowed_length: usize, last_tokens: usize, breakers: &[u32]) -> Dry {
        let breakers = breakers.iter().copied().collect();
        Dry { multiplier: 0.8, base: 1.75, allowed_length, last_tokens, breakers }
    }

    /// As the definition says: each token tried after each earlier occurrence, of any length.
    fn reference(dry: &Dry, tokens: &[u32]) -> HashMap<u32, usize> {
        let window = &tokens[tokens.len().saturating_sub(dry.last_tokens)..];
        let mut longest = HashMap::new();
        for length in dry.allowed_length..window.len() {
            let end = &window[window.len() - length..];
            if end.iter().any(|&token| dry.breakers.contains(token)) {
                break;
            }
            for start in 0..window.len() - length {
                if window[start..start + length] == *end {
                    longest.insert(window[start + length], length);
                }
            }
        }
        longest
    }

    proptest! {
        #[test]
        fn repetitions_equal_their_definition(
            tokens in prop::collection::vec(0u32..4, 0..60),
            allowed_length in 1usize..5,
            last_tokens in 0usize..70,
            breaker in 0u32..6,
        ) {
            let dry = dry(allowed_length, last_tokens, &[breaker]);
            prop_assert_eq!(repetitions(&dry, &tokens), reference(&dry, &tokens));
        }
    }

    #[test]
    fn a_longer_repetition_costs_more_and_a_breaker_nothing() {
        let mut logits = [0.0; 10];
        apply(&mut logits, &dry(2, usize::MAX, &[]), &[1, 2, 3, 4, 9, 1, 2, 3]);
        assert!((logits[4] + 0.8 * 1.75).abs() < 1e-6, "{logits:?}");
        assert_eq!(logits.iter().filter(|&&logit| logit == 0.0).count(), 9);
        let mut logits = [0.0; 10];
        apply(&mut logits, &dry(2, usize::MAX, &[4]), &[1, 2, 3, 4, 9, 1, 2, 3]);
        assert_eq!(logits, [0.0; 10]);
        let mut logits = [0.0; 10];
        apply(&mut logits, &dry(2, usize::MAX, &[2]), &[1, 2, 3, 4, 9, 1, 2, 3]);
        assert_eq!(logits, [0.0; 10]);
        let mut logits = [0.0; 10];
        apply(&mut logits, &dry(2, 5, &[]), &[1, 2, 3, 4, 9, 1, 2, 3]);
        assert_eq!(logits, [0.0; 10]);
    }

    #[test]
    fn an_endless_repetition_leaves_finite_logits() {
        let mut logits = [0.0; 2];
        apply(&mut logits, &dry(1, usize::MAX, &[]), &[1; 5000]);
        assert!(logits[1] < -1e30 && logits[1].is_finite());
    }
}
