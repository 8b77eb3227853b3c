//! The filters that choose which tokens may be drawn, and the draw. Those by the distribution's shape
//! (top_n_sigma, typical_p, XTC) are as llama.cpp defines them.

use std::cmp::Ordering;

use super::super::message::{Sampling, Xtc};

/// A token that may be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The token's id.
    pub token: u32,
    /// The token's logit.
    pub logit: f32,
    /// The token's probability relative to that of the likeliest token.
    pub weight: f64,
}

impl Candidate {
    /// Likelier tokens first, lower ids first among equals.
    pub(super) fn rank(&self, other: &Self) -> Ordering {
        other.logit.total_cmp(&self.logit).then(self.token.cmp(&other.token))
    }
}

/// The likeliest token; `None` if no logit is finite.
pub(super) fn argmax(logits: &[f32]) -> Option<Candidate> {
    let mut best = f32::NEG_INFINITY;
    let mut index = None;
    for (i, &logit) in logits.iter().enumerate() {
        if logit > best {
            best = logit;
            index = Some(i);
        }
    }
    let token = u32::try_from(index?).ok()?;
    best.is_finite().then_some(Candidate { token, logit: best, weight: 1.0 })
}

/// Fills `candidates` with the tokens that pass the filters of `sampling`, in ascending order of ids.
/// `best` is the highest logit. At least the likeliest token is left.
pub(super) fn select(
    logits: &[f32],
    best: f32,
    sampling: &Sampling,
    candidates: &mut Vec<Candidate>,
) {
    // Weights relative to the likeliest token are at most 1, so they can't overflow at any temperature.
    let inverse = 1.0 / f64::from(sampling.temperature);
    let weight_of = |logit: f32| (f64::from(logit - best) * inverse).exp();
    let min_p = f64::from(sampling.min_p);
    let least = sigma_threshold(logits, best, sampling.top_n_sigma);
    candidates.clear();
    for (token, &logit) in (0_u32..).zip(logits) {
        let weight = weight_of(logit);
        // All of these are false for a logit that is not a number.
        if weight >= min_p && weight > 0.0 && f64::from(logit) >= least {
            candidates.push(Candidate { token, logit, weight });
        }
    }
    // A selection takes linear time, where sorting a vocabulary of 200,000 tokens would show in a step.
    if sampling.top_k > 0 && sampling.top_k < candidates.len() {
        candidates.select_nth_unstable_by(sampling.top_k - 1, Candidate::rank);
        candidates.truncate(sampling.top_k);
    }
    if sampling.typical_p < 1.0 {
        keep_typical(candidates, f64::from(sampling.typical_p));
    }
    if sampling.top_p < 1.0 {
        keep_nucleus(candidates, f64::from(sampling.top_p));
    }
    // Equal seeds have to draw equal tokens, and the filters above leave any order.
    if sampling.top_k > 0 || sampling.top_p < 1.0 || sampling.typical_p < 1.0 {
        candidates.sort_unstable_by_key(|candidate| candidate.token);
    }
}

/// Keeps the smallest set of likeliest candidates whose probabilities reach `top_p` (Holtzman et
/// al., arXiv:1904.09751).
fn keep_nucleus(candidates: &mut Vec<Candidate>, top_p: f64) {
    let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
    // Candidates below this share can't be in the nucleus: all of them together weigh less than what it
    // leaves out. Dropping them first keeps the sort short with large vocabularies.
    #[expect(clippy::cast_precision_loss, reason = "vocabularies stay far below 2^52")]
    let floor = total * (1.0 - top_p) / candidates.len() as f64;
    candidates.retain(|candidate| candidate.weight >= floor);
    candidates.sort_unstable_by(Candidate::rank);
    let mut sum = 0.0;
    let reached = candidates.iter().position(|candidate| {
        sum += candidate.weight;
        sum >= top_p * total
    });
    if let Some(last) = reached {
        candidates.truncate(last + 1);
    }
}

/// The lowest logit that `top_n_sigma` keeps: that many standard deviations of the finite logits below
/// `best` (Tang et al., arXiv:2411.07641). Minus infinity if it keeps all.
fn sigma_threshold(logits: &[f32], best: f32, top_n_sigma: f32) -> f64 {
    if top_n_sigma <= 0.0 {
        return f64::NEG_INFINITY;
    }
    let finite = || logits.iter().copied().filter(|logit| logit.is_finite()).map(f64::from);
    #[expect(clippy::cast_precision_loss, reason = "vocabularies stay far below 2^52")]
    let count = finite().count() as f64;
    // In two passes and double precision: the usual formula of one pass cancels at large means.
    let mean = finite().sum::<f64>() / count;
    let variance = finite().map(|logit| (logit - mean).powi(2)).sum::<f64>() / count;
    f64::from(best) - f64::from(top_n_sigma) * variance.sqrt()
}

/// Keeps the candidates whose surprise is nearest to the distribution's entropy, until their
/// probabilities exceed `typical_p` (Meister et al., arXiv:2202.00666).
fn keep_typical(candidates: &mut Vec<Candidate>, typical_p: f64) {
    let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
    let surprise = |candidate: &Candidate| -(candidate.weight / total).ln();
    let entropy: f64 =
        candidates.iter().map(|candidate| candidate.weight / total * surprise(candidate)).sum();
    let distance = |candidate: &Candidate| (surprise(candidate) - entropy).abs();
    candidates.sort_unstable_by(|a, b| distance(a).total_cmp(&distance(b)).then_with(|| a.rank(b)));
    let mut sum = 0.0;
    let exceeded = candidates.iter().position(|candidate| {
        sum += candidate.weight / total;
        sum > typical_p
    });
    if let Some(last) = exceeded {
        candidates.truncate(last + 1);
    }
}

/// Removes all candidates at least as likely as the threshold, except the least likely of them. The others
/// keep their order. Whether this token is one of XTC's share is the caller's draw.
pub(super) fn exclude_top(candidates: &mut Vec<Candidate>, xtc: Xtc) {
    let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
    let least = f64::from(xtc.threshold) * total;
    let likely = |candidate: &Candidate| candidate.weight >= least;
    let last = candidates.iter().copied().filter(likely).max_by(Candidate::rank);
    if let Some(last) = last {
        candidates.retain(|candidate| !likely(candidate) || candidate.token == last.token);
    }
}

/// The candidate at `point` of the cumulative distribution, in [0, 1).
///
/// # Panics
/// If there is no candidate, which [`select`] never leaves.
pub(super) fn pick(candidates: &[Candidate], point: f64) -> u32 {
    let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
    let mut left = point * total;
    for candidate in candidates {
        left -= candidate.weight;
        if left < 0.0 {
            return candidate.token;
        }
    }
    // The weights' sum rounds, so `left` may stay just above 0.
    candidates[candidates.len() - 1].token
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn selected(logits: &[f32], sampling: &Sampling) -> Vec<u32> {
        let best = argmax(logits).unwrap();
        let mut candidates = Vec::new();
        select(logits, best.logit, sampling, &mut candidates);
        candidates.iter().map(|candidate| candidate.token).collect()
    }

    /// The same filters by a full sort, as written in the definitions.
    fn reference(logits: &[f32], sampling: &Sampling) -> Vec<u32> {
        let scaled: Vec<f64> =
            logits.iter().map(|&x| f64::from(x) / f64::from(sampling.temperature)).collect();
        let best = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        order.retain(|&i| (scaled[i] - best).exp() >= f64::from(sampling.min_p));
        if sampling.top_k > 0 {
            order.truncate(sampling.top_k);
        }
        let total: f64 = order.iter().map(|&i| (scaled[i] - best).exp()).sum();
        let mut sum = 0.0;
        let mut kept = Vec::new();
        for i in order {
            kept.push(u32::try_from(i).unwrap());
            sum += (scaled[i] - best).exp() / total;
            if sum >= f64::from(sampling.top_p) {
                break;
            }
        }
        kept.sort_unstable();
        kept
    }

    proptest! {
        #[test]
        fn filters_equal_their_definitions(
            logits in prop::collection::vec(-8i32..8, 1..200),
            temperature in 0.2f32..2.0,
            top_k in 0usize..20,
            top_p in 0.05f32..1.0,
            min_p in 0.0f32..0.5,
        ) {
            // Steps of 0.37 keep sums away from the thresholds' rounding.
            let logits: Vec<f32> = logits.into_iter().map(|x| x as f32 * 0.37).collect();
            let sampling = Sampling { temperature, top_k, top_p, min_p, ..Sampling::default() };
            prop_assert_eq!(selected(&logits, &sampling), reference(&logits, &sampling));
        }

        #[test]
        fn pick_always_finds_a_candidate(
            weights in prop::collection::vec(0.001f64..1.0, 1..50),
            point in 0.0f64..1.0,
        ) {
            let candidates: Vec<Candidate> = (0..)
                .zip(weights)
                .map(|(token, weight)| Candidate { token, logit: 0.0, weight })
                .collect();
            prop_assert!((pick(&candidates, point) as usize) < candidates.len());
        }
    }
}
