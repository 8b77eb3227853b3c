//! Chooses a token from a logit row.
//!
//! Order: the job's mask, bans (`allowed_tokens`, `bad_words`, `min_tokens`), `logit_bias`, repetition penalty,
//! presence and frequency penalties, DRY; then greedy at temperature 0, else temperature,
//! `min_p` and `top_n_sigma`, `top_k`, `typical_p`, `top_p`, XTC (each over what the one before it
//! left, renormalised; `min_p` and `top_n_sigma` over the complete row), and a draw. Up to XTC this is vLLM's
//! order with llama.cpp's filters put in where llama.cpp has them. Greedy ignores the filters.
//! Ties go to the lower token id, so that equal logits and an equal seed give an equal token.
//!
//! Pure: no clock, no global state; randomness comes from the sequence's own seeded generator.

mod adjust;
mod dry;
mod filters;
mod logprobs;
mod weights;

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub use adjust::TokenHistory;
pub use filters::Candidate;

use weights::Scale;

use super::message::{
    JobError, MaskError, Progress, PromptLogprobs, Sampling, TokenLogprobs, TokenMask,
};

/// Why no token could be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChooseError {
    /// The logit row has no finite value, which the model or the bans left.
    #[error("the model's logits are not finite")]
    NotFinite,
    /// The mask could not be computed or followed.
    #[error(transparent)]
    Mask(#[from] MaskError),
}

impl From<ChooseError> for JobError {
    fn from(error: ChooseError) -> Self {
        match error {
            ChooseError::NotFinite => Self::Model(error.to_string()),
            ChooseError::Mask(error) => Self::Mask(error),
        }
    }
}

/// Buffers that sampling reuses from step to step, of the vocabulary's size.
#[derive(Debug, Default)]
pub struct Scratch {
    logits: Vec<f32>,
    candidates: Vec<Candidate>,
    /// Weights of blocks of the row.
    sums: Vec<f32>,
}

/// Chooses the tokens of one sequence: its parameters, its random state and its history.
#[derive(Debug)]
pub struct Sampler {
    sampling: Sampling,
    mask: Option<Box<dyn TokenMask>>,
    history: TokenHistory,
    /// Prompt and output in order, if DRY or bad words need them; else empty.
    tokens: Vec<u32>,
    prompt_tokens: usize,
    /// Tokens chosen so far.
    generated: usize,
    random: ChaCha8Rng,
}

/// A chosen token.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The token's id.
    pub token: u32,
    /// Whether more may follow it.
    pub progress: Progress,
    /// Log-probabilities by the unmodified row, if the job asks for them.
    pub logprobs: Option<TokenLogprobs>,
}

impl Sampler {
    /// A sampler for a sequence that begins with `prompt`. `fallback_seed` is used if `sampling` has no
    /// seed.
    #[must_use]
    pub fn new(sampling: Sampling, prompt: &[u32], fallback_seed: u64) -> Self {
        let seed = sampling.seed.unwrap_or(fallback_seed);
        // A long prompt is copied only for parameters that look at it.
        let wants_history = adjust::uses_history(&sampling);
        let tokens = if wants_order(&sampling) { prompt.to_vec() } else { Vec::new() };
        Self {
            prompt_tokens: tokens.len(),
            tokens,
            generated: 0,
            history: if wants_history {
                TokenHistory::of_prompt(prompt)
            } else {
                TokenHistory::default()
            },
            random: ChaCha8Rng::seed_from_u64(seed),
            sampling,
            mask: None,
        }
    }

    /// The same sampler, constrained by `mask`.
    #[must_use]
    pub fn masked(self, mask: Option<Box<dyn TokenMask>>) -> Self {
        Self { mask, ..self }
    }

    /// The mask's [`TokenMask::forced`] tokens; none without a mask.
    pub fn forced(&mut self) -> &[u32] {
        self.mask.as_mut().map_or(&[], |mask| mask.forced())
    }

    /// Whether anything may follow the newest token; `None` if the mask does not know within `limit`.
    pub fn progress(&mut self, limit: Duration) -> Option<Progress> {
        self.mask.as_mut().map_or(Some(Progress::Open), |mask| mask.progress(limit))
    }

    /// Whether the mask is there within `limit`, so that choosing does not block.
    pub fn is_ready(&mut self, limit: Duration) -> bool {
        self.mask.as_mut().is_none_or(|mask| mask.ready(limit))
    }

    /// Whether tokens are drawn with a seed of the job's, so that the same job must get the same tokens.
    #[must_use]
    pub fn is_seeded(&self) -> bool {
        self.sampling.seed.is_some() && self.sampling.temperature > 0.0
    }

    /// Chooses the next token from the logit row `row`, which has a logit for each token id.
    ///
    /// # Errors
    /// If no logit is finite, or the mask fails.
    pub fn choose(&mut self, row: &[f32], scratch: &mut Scratch) -> Result<Choice, ChooseError> {
        // Without changes the row is not copied, which is the usual case.
        let Scratch { logits, candidates, sums } = scratch;
        let token = if self.mask.is_none() && leaves_logits(&self.sampling) {
            self.draw(row, candidates, sums)?
        } else {
            logits.clear();
            logits.extend_from_slice(row);
            if let Some(mask) = &mut self.mask {
                adjust::allow_only(logits, mask.allowed()?);
            }
            self.reshape(logits);
            self.draw(logits, candidates, sums)?
        };
        if adjust::uses_history(&self.sampling) {
            self.history.push(token);
        }
        if wants_order(&self.sampling) {
            self.tokens.push(token);
        }
        // All of this before the mask: if the mask fails, so does the job.
        self.generated += 1;
        let logprobs = self.sampling.top_logprobs.map(|count| logprobs::of(row, token, count));
        let progress = match &mut self.mask {
            Some(mask) => mask.accept(token)?,
            None => Progress::Open,
        };
        Ok(Choice { token, progress, logprobs })
    }

    /// Applies bans, bias and penalties.
    fn reshape(&self, logits: &mut [f32]) {
        if adjust::bans_anything(&self.sampling) {
            adjust::ban_tokens(
                logits,
                &self.sampling,
                &self.tokens[self.prompt_tokens..],
                self.generated,
            );
        }
        adjust::penalise(logits, &self.sampling, &self.history);
        if let Some(dry) = &self.sampling.dry {
            dry::apply(logits, dry, &self.tokens);
        }
    }

    fn draw(
        &mut self,
        logits: &[f32],
        candidates: &mut Vec<Candidate>,
        sums: &mut Vec<f32>,
    ) -> Result<u32, ChooseError> {
        // With top_k of 1 there is one candidate, so no randomness is used.
        let best = filters::argmax(logits).ok_or(ChooseError::NotFinite)?;
        if self.sampling.temperature <= 0.0 || self.sampling.top_k == 1 {
            return Ok(best.token);
        }
        if filters::keeps_all(&self.sampling) {
            let scale = Scale::new(best.logit, self.sampling.temperature, logits.len());
            let token = scale.pick(logits, self.random.random::<f64>(), sums);
            return Ok(u32::try_from(token).unwrap_or(best.token));
        }
        filters::select(logits, best.logit, &self.sampling, candidates);
        if let Some(xtc) = self.sampling.xtc
            && self.random.random::<f32>() < xtc.probability
        {
            filters::exclude_top(candidates, xtc);
        }
        // Drawn even if one candidate is left, so that later draws do not depend on what filters left.
        let point = self.random.random::<f64>();
        Ok(filters::pick(candidates, point))
    }
}

/// The log-probability and rank of `token` by the logit row `row`, with the `count` likeliest tokens.
#[must_use]
pub fn prompt_logprobs(row: &[f32], token: u32, count: usize) -> PromptLogprobs {
    let own = row.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    let above = row.iter().filter(|&&logit| logit > own).count();
    PromptLogprobs { logprobs: logprobs::of(row, token, count), rank: above + 1 }
}

/// Whether the parameters need the tokens in order.
fn wants_order(sampling: &Sampling) -> bool {
    sampling.dry.is_some() || adjust::uses_output(sampling)
}

/// Whether the parameters leave the logits unchanged.
fn leaves_logits(sampling: &Sampling) -> bool {
    adjust::is_neutral(sampling) && sampling.dry.is_none() && !adjust::bans_anything(sampling)
}

#[cfg(test)]
#[path = "more_tests.rs"]
mod more_tests;

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(sampling: Sampling, prompt: &[u32], row: &[f32]) -> u32 {
        Sampler::new(sampling, prompt, 7).choose(row, &mut Scratch::default()).unwrap().token
    }

    fn greedy() -> Sampling {
        Sampling { temperature: 0.0, ..Sampling::default() }
    }

    #[test]
    fn greedy_takes_the_highest_and_the_lower_id_on_a_tie() {
        assert_eq!(choose(greedy(), &[], &[0.0, 3.0, 3.0, 1.0]), 1);
    }

    #[test]
    fn greedy_ignores_not_a_number_and_refuses_a_row_without_finite_logits() {
        assert_eq!(choose(greedy(), &[], &[f32::NAN, 1.0, f32::NEG_INFINITY]), 1);
        let mut sampler = Sampler::new(greedy(), &[], 0);
        let row = [f32::NAN, f32::NEG_INFINITY];
        assert_eq!(sampler.choose(&row, &mut Scratch::default()), Err(ChooseError::NotFinite));
    }

    #[test]
    fn bias_moves_the_choice_also_when_greedy() {
        let sampling = Sampling { logit_bias: [(0, 5.0)].into(), ..greedy() };
        assert_eq!(choose(sampling, &[], &[0.0, 3.0]), 0);
        let ban = Sampling { logit_bias: [(1, -100.0)].into(), ..greedy() };
        assert_eq!(choose(ban, &[], &[0.0, 3.0]), 0);
    }

    #[test]
    fn repetition_penalty_counts_the_prompt_and_the_others_only_the_output() {
        let row = [2.0, 1.9];
        let repetition = Sampling { repetition_penalty: 2.0, ..greedy() };
        assert_eq!(choose(repetition, &[0], &row), 1);
        let presence = Sampling { presence_penalty: 1.0, ..greedy() };
        assert_eq!(choose(presence.clone(), &[0], &row), 0);
        let mut sampler = Sampler::new(presence, &[], 0);
        let mut next = || sampler.choose(&row, &mut Scratch::default()).unwrap().token;
        assert_eq!([next(), next(), next()], [0, 1, 0]);
    }

    #[test]
    fn an_equal_seed_gives_equal_tokens_and_another_seed_others() {
        let row: Vec<f32> = (0..64_u8).map(|i| f32::from(i % 7)).collect();
        let run = |seed| {
            let sampling = Sampling { seed: Some(seed), ..Sampling::default() };
            let mut sampler = Sampler::new(sampling, &[], 0);
            let mut scratch = Scratch::default();
            (0..32).map(|_| sampler.choose(&row, &mut scratch).unwrap().token).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    /// Pearson's statistic of `draws` against the exact distribution, with its degrees of freedom.
    pub(super) fn chi_square(
        sampling: &Sampling,
        row: &[f32],
        exact: &[f64],
        draws: usize,
    ) -> (f64, usize) {
        let mut sampler = Sampler::new(Sampling { seed: Some(5), ..sampling.clone() }, &[], 0);
        let mut scratch = Scratch::default();
        let mut seen = vec![0_usize; row.len()];
        for _ in 0..draws {
            seen[sampler.choose(row, &mut scratch).unwrap().token as usize] += 1;
        }
        let mut statistic = 0.0;
        let mut cells = 0;
        for (&count, &probability) in seen.iter().zip(exact) {
            if probability == 0.0 {
                assert_eq!(count, 0, "a token outside the filter was drawn");
                continue;
            }
            let expected = probability * draws as f64;
            statistic += (count as f64 - expected).powi(2) / expected;
            cells += 1;
        }
        (statistic, cells - 1)
    }

    pub(super) fn softmax(row: &[f32], temperature: f64) -> Vec<f64> {
        let weights: Vec<f64> = row.iter().map(|&x| (f64::from(x) / temperature).exp()).collect();
        let sum: f64 = weights.iter().sum();
        weights.into_iter().map(|w| w / sum).collect()
    }

    pub(super) fn keep(mut probabilities: Vec<f64>, kept: &[usize]) -> Vec<f64> {
        let sum: f64 = kept.iter().map(|&i| probabilities[i]).sum();
        for (i, p) in probabilities.iter_mut().enumerate() {
            *p = if kept.contains(&i) { *p / sum } else { 0.0 };
        }
        probabilities
    }

    #[test]
    fn draws_follow_the_exact_distribution_under_each_filter() {
        let row = [2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -3.0];
        let plain = softmax(&row, 1.0);
        let cases = [
            (Sampling::default(), plain.clone()),
            (Sampling { temperature: 0.5, ..Sampling::default() }, softmax(&row, 0.5)),
            (Sampling { top_k: 3, ..Sampling::default() }, keep(plain.clone(), &[0, 1, 2])),
            // Cumulative 0.399, 0.641, 0.788, 0.877, ...: 0.8 is reached by the fourth.
            (Sampling { top_p: 0.8, ..Sampling::default() }, keep(plain.clone(), &[0, 1, 2, 3])),
            // 0.2 of the likeliest: down to a logit of 2 + ln 0.2 = 0.39.
            (Sampling { min_p: 0.2, ..Sampling::default() }, keep(plain, &[0, 1, 2, 3])),
        ];
        for (sampling, exact) in cases {
            let (statistic, freedom) = chi_square(&sampling, &row, &exact, 40_000);
            // Far beyond the 99.99% point for up to 7 degrees of freedom (29.9).
            assert!(statistic < 30.0, "{sampling:?}: {statistic} at {freedom}");
        }
    }

    #[test]
    fn logprobs_are_of_the_unmodified_row() {
        let row = [1.0, 3.0, 2.0];
        let sampling =
            Sampling { logit_bias: [(0, 100.0)].into(), top_logprobs: Some(2), ..greedy() };
        let choice = Sampler::new(sampling, &[], 0).choose(&row, &mut Scratch::default()).unwrap();
        let logprobs = choice.logprobs.unwrap();
        let sum = (1f32.exp() + 2f32.exp() + 3f32.exp()).ln();
        assert_eq!(choice.token, 0);
        assert!((logprobs.chosen - (1.0 - sum)).abs() < 1e-5);
        assert_eq!(logprobs.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 2]);
        assert!((logprobs.top[0].1 - (3.0 - sum)).abs() < 1e-5);
    }
}
