//! The filters that choose which tokens may be drawn, and the draw. Those by the distribution's shape
//! (top_n_sigma, typical_p, XTC) are as llama.cpp defines them.

use std::cmp::Ordering;

use super::super::message::{Sampling, Xtc};
use super::weights::{self, Scale};

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
    let (token, logit) = weights::highest(logits)?;
    Some(Candidate { token, logit, weight: 1.0 })
}

/// Whether `sampling` has no filter, so that the draw is over the complete row.
pub(super) fn keeps_all(sampling: &Sampling) -> bool {
    let least = sampling.min_p <= 0.0 && sampling.top_n_sigma <= 0.0;
    let shares = sampling.top_p >= 1.0 && sampling.typical_p >= 1.0;
    least && shares && sampling.top_k == 0 && sampling.xtc.is_none()
}

/// The lowest logit that `min_p` and `top_n_sigma` keep.
fn least_logit(logits: &[f32], best: f32, sampling: &Sampling) -> f32 {
    // ln 0 is minus infinity, which keeps all.
    let by_min_p =
        f64::from(best) + f64::from(sampling.min_p).ln() * f64::from(sampling.temperature);
    let least = by_min_p.max(sigma_threshold(logits, best, sampling.top_n_sigma));
    // At least finite: minus infinity is a ban. Rounded up: a logit is kept if it is at least that. The likeliest is kept in any case.
    #[expect(clippy::cast_possible_truncation, reason = "the next value up is looked for")]
    let rounded = least as f32;
    let up = if f64::from(rounded) < least { rounded.next_up() } else { rounded };
    up.max(f32::MIN).min(best)
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
    let mut least = least_logit(logits, best, sampling);
    let shape_counts = sampling.typical_p < 1.0;
    let cut = sampling.top_k > 0 && sampling.top_k < logits.len();
    let mut total = None;
    if !cut && !shape_counts && sampling.top_p < 1.0 {
        // Tokens below this share can't be in the nucleus: all of them together weigh less than what it
        // leaves out. So most of a row is neither kept nor sorted.
        let scale = Scale::new(best, sampling.temperature, logits.len()).at_least(least);
        let mass = scale.total(logits);
        #[expect(clippy::cast_precision_loss, reason = "vocabularies stay far below 2^52")]
        let share = mass * (1.0 - f64::from(sampling.top_p)) / logits.len() as f64;
        #[expect(clippy::cast_possible_truncation, reason = "a bound with room to spare")]
        let floor = best + ((share * 0.99).ln() * f64::from(sampling.temperature)) as f32;
        least = least.max(floor.min(best));
        total = Some(mass);
    }
    candidates.clear();
    if cut {
        keep_top(logits, least, sampling.top_k, candidates);
    } else {
        weights::scan(logits, least, |token, logit| {
            candidates.push(Candidate { token, logit, weight: 0.0 });
            least
        });
    }
    for candidate in candidates.iter_mut() {
        candidate.weight = weight_of(candidate.logit);
    }
    candidates.retain(|candidate| candidate.weight > 0.0);
    if shape_counts {
        keep_typical(candidates, f64::from(sampling.typical_p));
    }
    if sampling.top_p < 1.0 {
        keep_nucleus(candidates, f64::from(sampling.top_p), total);
    }
}

/// Keeps the `count` likeliest tokens with logits of at least `least`. One pass, in which most of a row is
/// below what has been found already.
fn keep_top(logits: &[f32], mut least: f32, count: usize, candidates: &mut Vec<Candidate>) {
    let shorten = |candidates: &mut Vec<Candidate>| {
        candidates.select_nth_unstable_by(count - 1, Candidate::rank);
        candidates.truncate(count);
        candidates[count - 1].logit
    };
    weights::scan(logits, least, |token, logit| {
        candidates.push(Candidate { token, logit, weight: 0.0 });
        // Now and then instead of at each find, so that finds are cheap.
        if candidates.len() >= 2 * count + 16 {
            // Of equals the lower id is kept, which came first.
            least = shorten(candidates).next_up();
        }
        least
    });
    if candidates.len() > count {
        shorten(candidates);
    }
    // Equal seeds have to draw equal tokens, and a selection leaves any order.
    candidates.sort_unstable_by_key(|candidate| candidate.token);
}

/// Keeps the smallest set of likeliest candidates whose probabilities reach `top_p` (Holtzman et
/// al., arXiv:1904.09751). `total` is the weight of all, if candidates were left out already.
fn keep_nucleus(candidates: &mut Vec<Candidate>, top_p: f64, total: Option<f64>) {
    let total = total.unwrap_or_else(|| candidates.iter().map(|candidate| candidate.weight).sum());
    keep_first(candidates, |candidate| -f64::from(candidate.logit), |sum| sum >= top_p * total);
}

/// Keeps the candidates that are first by `key` and by [`Candidate::rank`], up to the one with which the
/// sum of weights `reaches` the limit. They keep their order. In linear time: where the limit lies is
/// found by halving what is left, since sorting a vocabulary takes longer than a step.
fn keep_first(
    candidates: &mut Vec<Candidate>,
    key: impl Fn(&Candidate) -> f64,
    reaches: impl Fn(f64) -> bool,
) {
    /// What is sorted instead.
    const FEW: usize = 32;
    let mut keyed: Vec<(f64, Candidate)> =
        candidates.iter().map(|candidate| (key(candidate), *candidate)).collect();
    let order = |a: &(f64, Candidate), b: &(f64, Candidate)| {
        a.0.total_cmp(&b.0).then_with(|| a.1.rank(&b.1))
    };
    let mut left = keyed.as_mut_slice();
    let mut before = 0.0;
    while left.len() > FEW {
        let half = left.len() / 2;
        left.select_nth_unstable_by(half, order);
        let (first, second) = left.split_at_mut(half);
        let sum: f64 = first.iter().map(|(_, candidate)| candidate.weight).sum();
        if reaches(before + sum) {
            left = first;
        } else {
            before += sum;
            left = second;
        }
    }
    left.sort_unstable_by(order);
    let last = left.iter().find(|(_, candidate)| {
        before += candidate.weight;
        reaches(before)
    });
    if let Some(&last) = last {
        candidates.retain(|candidate| order(&(key(candidate), *candidate), &last).is_le());
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
    keep_first(candidates, distance, |sum| sum / total > typical_p);
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

    /// The same filters by a full sort, as written in the definitions. `None` if `top_p` is so close to a sum
    /// of probabilities that rounding decides.
    fn reference(logits: &[f32], sampling: &Sampling) -> Option<Vec<u32>> {
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
            if (sum - f64::from(sampling.top_p)).abs() < 1e-5 {
                return None;
            }
            if sum >= f64::from(sampling.top_p) {
                break;
            }
        }
        kept.sort_unstable();
        Some(kept)
    }

    proptest! {
        #[test]
        fn filters_equal_their_definitions(
            logits in prop::collection::vec(-8i32..8, 1..900),
            temperature in 0.2f32..2.0,
            top_k in 0usize..40,
            top_p in 0.05f32..1.0,
            min_p in 0.0f32..0.5,
            only in 0..4,
        ) {
            // Steps of 0.37 keep logits away from the thresholds' rounding.
            let logits: Vec<f32> = logits.into_iter().map(|x| x as f32 * 0.37).collect();
            let all = Sampling { temperature, top_k, top_p, min_p, ..Sampling::default() };
            let sampling = match only {
                0 => Sampling { top_k: 0, min_p: 0.0, ..all },
                1 => Sampling { top_p: 1.0, min_p: 0.0, ..all },
                2 => Sampling { top_p: 1.0, top_k: 0, ..all },
                _ => all,
            };
            let Some(expected) = reference(&logits, &sampling) else { return Ok(()) };
            prop_assert_eq!(selected(&logits, &sampling), expected);
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
