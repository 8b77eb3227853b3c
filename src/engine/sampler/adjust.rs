//! Changes to the logits before a draw: bans, bias and penalties.

use std::collections::HashMap;

use super::super::message::Sampling;

/// Whether `sampling` may ban tokens.
pub(super) fn bans_anything(sampling: &Sampling) -> bool {
    sampling.allowed_tokens.is_some() || !sampling.bad_words.is_empty() || sampling.min_tokens > 0
}

/// Whether bans depend on the tokens of the output.
pub(super) fn uses_output(sampling: &Sampling) -> bool {
    sampling.bad_words.iter().any(|word| word.len() > 1)
}

/// Bans tokens by a logit of minus infinity. `output` is the output so far if [`uses_output`], and
/// `generated` its length.
pub(super) fn ban_tokens(
    logits: &mut [f32],
    sampling: &Sampling,
    output: &[u32],
    generated: usize,
) {
    if let Some(allowed) = &sampling.allowed_tokens {
        allow_only(logits, allowed.words());
    }
    for word in sampling.bad_words.iter() {
        // A sequence of tokens is banned by its last one, once the others are there.
        if let Some((&last, before)) = word.split_last()
            && output.ends_with(before)
        {
            ban(logits, last);
        }
    }
    if generated < sampling.min_tokens {
        for token in sampling.late_tokens.iter() {
            ban(logits, token);
        }
    }
}

/// Bans tokens without a bit in `allowed` (see [`super::TokenMask::allowed`]).
pub(super) fn allow_only(logits: &mut [f32], allowed: &[u32]) {
    for (index, chunk) in logits.chunks_mut(32).enumerate() {
        // Masks are mostly runs of all or nothing, so whole words are the fast case.
        match allowed.get(index).copied().unwrap_or(0) {
            0 => chunk.fill(f32::NEG_INFINITY),
            u32::MAX => {}
            bits => {
                for (bit, logit) in chunk.iter_mut().enumerate() {
                    if bits >> bit & 1 == 0 {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

fn ban(logits: &mut [f32], token: u32) {
    if let Some(logit) = logits.get_mut(token as usize) {
        *logit = f32::NEG_INFINITY;
    }
}

/// The tokens that a sequence has seen. A map and no array of counts: a sequence sees far fewer tokens
/// than a vocabulary has.
#[derive(Debug, Default)]
pub struct TokenHistory {
    /// How often each token was generated; 0 for tokens that are only in the prompt.
    generated: HashMap<u32, u32>,
}

impl TokenHistory {
    /// The history of a sequence without output.
    #[must_use]
    pub fn of_prompt(prompt: &[u32]) -> Self {
        Self { generated: prompt.iter().map(|&token| (token, 0)).collect() }
    }

    /// Counts a generated token.
    pub fn push(&mut self, token: u32) {
        *self.generated.entry(token).or_insert(0) += 1;
    }
}

/// Whether `sampling` penalises tokens that were seen before.
pub(super) fn uses_history(sampling: &Sampling) -> bool {
    sampling.repetition_penalty != 1.0
        || sampling.presence_penalty != 0.0
        || sampling.frequency_penalty != 0.0
}

/// Whether `sampling` has neither bias nor penalties.
pub(super) fn is_neutral(sampling: &Sampling) -> bool {
    sampling.logit_bias.is_empty() && !uses_history(sampling)
}

/// Applies bias and penalties. Repetition: Keskar et al., CTRL (arXiv:1909.05858), section 4.1,
/// with negative logits multiplied, as other engines do, so that they fall, too. Presence and frequency:
/// the `OpenAI` API reference.
pub(super) fn penalise(logits: &mut [f32], sampling: &Sampling, history: &TokenHistory) {
    for &(token, bias) in sampling.logit_bias.iter() {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit += bias;
        }
    }
    if !uses_history(sampling) {
        return;
    }
    for (&token, &count) in &history.generated {
        let Some(logit) = logits.get_mut(token as usize) else {
            continue;
        };
        *logit = if *logit > 0.0 {
            *logit / sampling.repetition_penalty
        } else {
            *logit * sampling.repetition_penalty
        };
        // Presence and frequency count the output only; the repetition penalty counts the prompt, too.
        if count > 0 {
            #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^24")]
            let times = count as f32;
            *logit -= sampling.presence_penalty + sampling.frequency_penalty * times;
        }
    }
}
