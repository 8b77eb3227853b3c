//! Filters by the distribution's shape, as llama.cpp defines them.

use super::super::message::Xtc;
use super::filters::Candidate;

/// The least logit that `top_n_sigma` keeps: `best` less that many standard deviations of the
/// finite logits (Tang et al., arXiv:2411.07641). Minus infinity where it keeps all.
pub(super) fn sigma_threshold(logits: &[f32], best: f32, top_n_sigma: f32) -> f64 {
    if top_n_sigma <= 0.0 {
        return f64::NEG_INFINITY;
    }
    let finite = || logits.iter().copied().filter(|logit| logit.is_finite()).map(f64::from);
    #[expect(clippy::cast_precision_loss, reason = "vocabularies stay far below 2^52")]
    let count = finite().count() as f64;
    let mean = finite().sum::<f64>() / count;
    let variance = finite().map(|logit| (logit - mean).powi(2)).sum::<f64>() / count;
    f64::from(best) - f64::from(top_n_sigma) * variance.sqrt()
}

/// Keeps the candidates whose surprise is nearest to the distribution's entropy, until their
/// probabilities exceed `typical_p` (Meister et al., arXiv:2202.00666).
pub(super) fn keep_typical(candidates: &mut Vec<Candidate>, typical_p: f64) {
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

/// Leaves out all candidates at least as likely as the threshold but the least likely of them.
/// The order of those that stay is kept. The caller has thrown the dice.
pub(super) fn exclude_top(candidates: &mut Vec<Candidate>, xtc: Xtc) {
    let total: f64 = candidates.iter().map(|candidate| candidate.weight).sum();
    let least = f64::from(xtc.threshold) * total;
    let likely = |candidate: &Candidate| candidate.weight >= least;
    let last = candidates.iter().copied().filter(likely).max_by(Candidate::rank);
    if let Some(last) = last {
        candidates.retain(|candidate| !likely(candidate) || candidate.token == last.token);
    }
}
