//! Changes to the logits before a draw: bias and penalties.

use std::collections::HashMap;

use super::super::message::Sampling;

/// Which tokens a sequence has seen.
#[derive(Debug, Default)]
pub struct TokenHistory {
    /// Times each token was generated; 0 for tokens that only the prompt holds.
    generated: HashMap<u32, u32>,
}

impl TokenHistory {
    /// The history of a sequence that has only its prompt.
    #[must_use]
    pub fn of_prompt(prompt: &[u32]) -> Self {
        Self { generated: prompt.iter().map(|&token| (token, 0)).collect() }
    }

    /// Notes a generated token.
    pub fn push(&mut self, token: u32) {
        *self.generated.entry(token).or_insert(0) += 1;
    }
}

/// Whether `sampling` looks at what was seen before.
pub(super) fn uses_history(sampling: &Sampling) -> bool {
    sampling.repetition_penalty != 1.0
        || sampling.presence_penalty != 0.0
        || sampling.frequency_penalty != 0.0
}

/// Whether `sampling` leaves the logits as they are.
pub(super) fn is_neutral(sampling: &Sampling) -> bool {
    sampling.logit_bias.is_empty() && !uses_history(sampling)
}

/// Applies bias and penalties. Repetition: Keskar et al., CTRL (arXiv:1909.05858), section 4.1,
/// with negative logits multiplied as is usual; presence and frequency: the `OpenAI` API reference.
pub(super) fn apply(logits: &mut [f32], sampling: &Sampling, history: &TokenHistory) {
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
        if count > 0 {
            #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^24")]
            let times = count as f32;
            *logit -= sampling.presence_penalty + sampling.frequency_penalty * times;
        }
    }
}
