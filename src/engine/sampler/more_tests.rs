//! Filters by shape, bans, and their effect on draws.

use proptest::prelude::*;

use super::super::message::{Dry, Xtc};
use super::super::token_set::TokenSet;
use super::tests::{chi_square, keep, softmax};
use super::*;

fn selected(logits: &[f32], sampling: &Sampling) -> Vec<u32> {
    let best = filters::argmax(logits).unwrap();
    let mut candidates = Vec::new();
    filters::select(logits, best.logit, sampling, &mut candidates);
    candidates.iter().map(|candidate| candidate.token).collect()
}

/// The tokens that typical sampling keeps, by the paper's words over plain probabilities.
fn typical(logits: &[f32], temperature: f64, typical_p: f64) -> Vec<u32> {
    let p = softmax(logits, temperature);
    let entropy: f64 = p.iter().map(|&p| -p * p.ln()).sum();
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| {
        let distance = |i: usize| (-p[i].ln() - entropy).abs();
        // Equal logits are equal distances whatever the rounding.
        if logits[a] == logits[b] { a.cmp(&b) } else { distance(a).total_cmp(&distance(b)) }
    });
    let mut sum = 0.0;
    let mut kept = Vec::new();
    for i in order {
        kept.push(u32::try_from(i).unwrap());
        sum += p[i];
        if sum > typical_p {
            break;
        }
    }
    kept.sort_unstable();
    kept
}

fn within_sigmas(logits: &[f32], sigmas: f32) -> Vec<u32> {
    let n = logits.len() as f64;
    let mean: f64 = logits.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let square: f64 = logits.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n;
    let sigma = (square - mean * mean).max(0.0).sqrt();
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (0_u32..)
        .zip(logits)
        .filter(|&(_, &x)| f64::from(x) >= f64::from(best) - f64::from(sigmas) * sigma - 1e-9)
        .map(|(id, _)| id)
        .collect()
}

fn logits() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(-8i32..8, 1..100)
        .prop_map(|values| values.into_iter().map(|x| x as f32 * 0.37).collect())
}

proptest! {
    #[test]
    fn typical_p_equals_its_definition(
        logits in logits(), temperature in 0.3f32..2.0, typical_p in 0.051f32..0.999,
    ) {
        let sampling = Sampling { temperature, typical_p, ..Sampling::default() };
        let expected = typical(&logits, temperature.into(), typical_p.into());
        prop_assert_eq!(selected(&logits, &sampling), expected);
    }

    #[test]
    fn top_n_sigma_equals_its_definition_at_any_temperature(
        logits in logits(), temperature in 0.3f32..2.0, top_n_sigma in 0.013f32..4.0,
    ) {
        let sampling = Sampling { temperature, top_n_sigma, ..Sampling::default() };
        prop_assert_eq!(selected(&logits, &sampling), within_sigmas(&logits, top_n_sigma));
    }

    #[test]
    fn xtc_leaves_the_least_likely_of_the_likely_and_all_below(
        logits in logits(), threshold in 0.0f32..0.5,
    ) {
        let best = filters::argmax(&logits).unwrap();
        let mut candidates = Vec::new();
        filters::select(&logits, best.logit, &Sampling::default(), &mut candidates);
        filters::exclude_top(&mut candidates, Xtc { probability: 1.0, threshold });
        let left: Vec<u32> = candidates.iter().map(|candidate| candidate.token).collect();
        let p = softmax(&logits, 1.0);
        let mut order: Vec<usize> = (0..p.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        let likely = order.iter().filter(|&&i| p[i] >= f64::from(threshold)).count();
        let mut expected: Vec<u32> = order[likely.saturating_sub(1)..]
            .iter()
            .map(|&i| u32::try_from(i).unwrap())
            .collect();
        expected.sort_unstable();
        prop_assert_eq!(left, expected);
    }

    #[test]
    fn no_banned_token_is_ever_chosen(
        seed in any::<u64>(),
        allowed in prop::collection::btree_set(0u32..8, 3..8),
        word in prop::collection::vec(0u32..8, 2..4),
        bad in 0u32..8,
    ) {
        let allowed: Vec<u32> = allowed.into_iter().collect();
        let last = word[word.len() - 1];
        prop_assume!(allowed.iter().any(|&t| t != bad && t != last));
        let sampling = Sampling {
            allowed_tokens: Some(allowed.iter().copied().collect()),
            bad_words: [word.clone(), vec![bad]].into(),
            seed: Some(seed),
            ..Sampling::default()
        };
        let mut sampler = Sampler::new(sampling, &word[..1], 0);
        let mut scratch = Scratch::default();
        let output: Vec<u32> =
            (0..60).map(|_| sampler.choose(&[0.0; 8], &mut scratch).unwrap().token).collect();
        prop_assert!(output.iter().all(|token| allowed.contains(token) && *token != bad));
        prop_assert!(!output.windows(word.len()).any(|part| part == word));
    }
}

#[test]
fn draws_follow_the_exact_distribution_under_each_new_filter() {
    let row = [2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -3.0];
    let plain = softmax(&row, 1.0);
    let default = Sampling::default;
    // Likely at 0.15 are the first two (0.39, 0.24) and just not the third (0.146).
    let excluded = keep(plain.clone(), &[1, 2, 3, 4, 5, 6, 7]);
    let xtc = |probability| Some(Xtc { probability, threshold: 0.15 });
    let half = plain.iter().zip(&excluded).map(|(a, b)| 0.5 * a + 0.5 * b).collect();
    let typical: Vec<usize> = typical(&row, 1.0, 0.5).iter().map(|&i| i as usize).collect();
    let sigma: Vec<usize> = within_sigmas(&row, 1.0).iter().map(|&i| i as usize).collect();
    assert!(typical.len() > 1 && typical.len() < 8 && sigma.len() > 1 && sigma.len() < 8);
    let cases = [
        (Sampling { typical_p: 0.5, ..default() }, keep(plain.clone(), &typical)),
        (Sampling { top_n_sigma: 1.0, ..default() }, keep(plain.clone(), &sigma)),
        (Sampling { xtc: xtc(1.0), ..default() }, excluded),
        (Sampling { xtc: xtc(0.5), ..default() }, half),
        (
            Sampling { allowed_tokens: Some([1, 4, 6].into()), ..default() },
            keep(plain.clone(), &[1, 4, 6]),
        ),
        (
            Sampling { bad_words: [vec![0]].into(), ..default() },
            keep(plain, &[1, 2, 3, 4, 5, 6, 7]),
        ),
    ];
    for (sampling, exact) in cases {
        let (statistic, freedom) = chi_square(&sampling, &row, &exact, 40_000);
        // Far beyond the 99.99% point for up to 7 degrees of freedom (29.9).
        assert!(statistic < 30.0, "{sampling:?}: {statistic} at {freedom}");
    }
}

#[test]
fn late_tokens_come_after_the_first_tokens_only() {
    let sampling = Sampling {
        temperature: 0.0,
        min_tokens: 2,
        late_tokens: [0].into(),
        ..Sampling::default()
    };
    let mut sampler = Sampler::new(sampling, &[], 0);
    let mut next = || sampler.choose(&[3.0, 1.0], &mut Scratch::default()).unwrap().token;
    assert_eq!([next(), next(), next()], [1, 1, 0]);
}

#[test]
fn bans_beat_biases_and_dry_counts_prompt_and_output() {
    let greedy = Sampling { temperature: 0.0, ..Sampling::default() };
    let sampling = Sampling {
        allowed_tokens: Some([1].into()),
        logit_bias: [(0, 100.0)].into(),
        ..greedy.clone()
    };
    let token = Sampler::new(sampling, &[], 0).choose(&[3.0, 1.0], &mut Scratch::default());
    assert_eq!(token.unwrap().token, 1);
    let dry = Dry {
        multiplier: 5.0,
        base: 2.0,
        allowed_length: 2,
        last_tokens: usize::MAX,
        breakers: TokenSet::default(),
    };
    let sampling = Sampling { dry: Some(dry), ..greedy };
    let mut sampler = Sampler::new(sampling, &[0, 1, 2, 0], 0);
    // After 0: nothing repeats; the row prefers 1, which makes "0 1" again, so 2 is penalised.
    let mut scratch = Scratch::default();
    assert_eq!(sampler.choose(&[0.0, 3.0, 2.0, 1.0], &mut scratch).unwrap().token, 1);
    assert_eq!(sampler.choose(&[0.0, 1.0, 3.0, 2.0], &mut scratch).unwrap().token, 3);
}
