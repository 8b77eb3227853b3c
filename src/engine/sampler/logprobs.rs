//! Log-probabilities by a logit row.

use super::super::message::TokenLogprobs;
use super::weights::Scale;

/// Log-probabilities of `chosen` and of the `count` likeliest tokens by `row`.
pub(super) fn of(row: &[f32], chosen: u32, count: usize) -> TokenLogprobs {
    let best = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum = Scale::new(best, 1.0, row.len()).total(row);
    #[expect(clippy::cast_possible_truncation, reason = "single precision is what is reported")]
    let log_sum = (f64::from(best) + sum.ln()) as f32;
    TokenLogprobs {
        chosen: row.get(chosen as usize).map_or(f32::NEG_INFINITY, |logit| logit - log_sum),
        top: likeliest(row, count).into_iter().map(|(id, logit)| (id, logit - log_sum)).collect(),
    }
}

/// The `count` highest logits, highest first, lower ids first among equals. One pass with an insertion, since
/// `count` is at most tens.
fn likeliest(row: &[f32], count: usize) -> Vec<(u32, f32)> {
    let mut top: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
    for (token, &logit) in (0_u32..).zip(row) {
        if logit.is_nan() || (top.len() == count && top.last().is_none_or(|last| last.1 >= logit)) {
            continue;
        }
        let place = top.partition_point(|&(_, other)| other >= logit);
        top.insert(place, (token, logit));
        top.truncate(count);
    }
    top
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likeliest_orders_by_logit_then_id() {
        let row = [1.0, 5.0, f32::NAN, 5.0, -1.0, 7.0];
        assert_eq!(likeliest(&row, 4), [(5, 7.0), (1, 5.0), (3, 5.0), (0, 1.0)]);
        assert_eq!(likeliest(&row, 0), []);
    }
}
