//! Tokens that must not be chosen.

use super::super::message::Sampling;

/// Whether `sampling` bans anything.
pub(super) fn bans_anything(sampling: &Sampling) -> bool {
    sampling.allowed_tokens.is_some() || !sampling.bad_words.is_empty() || sampling.min_tokens > 0
}

/// Whether what is banned depends on the output's tokens.
pub(super) fn uses_output(sampling: &Sampling) -> bool {
    sampling.bad_words.iter().any(|word| word.len() > 1)
}

/// Bans by a logit of minus infinity. `output` is the output so far if [`uses_output`]; `made` is
/// its length.
pub(super) fn apply(logits: &mut [f32], sampling: &Sampling, output: &[u32], made: usize) {
    if let Some(allowed) = &sampling.allowed_tokens {
        keep(logits, allowed.words());
    }
    for word in sampling.bad_words.iter() {
        if let Some((&last, before)) = word.split_last()
            && output.ends_with(before)
        {
            ban(logits, last);
        }
    }
    if made < sampling.min_tokens {
        for token in sampling.late_tokens.iter() {
            ban(logits, token);
        }
    }
}

/// Bans what has no bit in `allowed` (see [`super::TokenMask::allowed`]).
pub(super) fn keep(logits: &mut [f32], allowed: &[u32]) {
    for (index, chunk) in logits.chunks_mut(32).enumerate() {
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
