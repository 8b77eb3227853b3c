//! Upper bounds of the histograms' buckets, in seconds where it does not say else. All but the first
//! are vLLM's, so that its dashboards and alerts hold.

pub(super) const HTTP: [f64; 14] =
    [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0];

pub(super) const FIRST_TOKEN: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];

pub(super) const BETWEEN_TOKENS: [f64; 19] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];

pub(super) const REQUEST: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];

/// Numbers of tokens: 1, 2, 5, 10, 20 and so on, up to the longest context.
pub(super) fn tokens(most: usize) -> Vec<f64> {
    let decades = std::iter::successors(Some(1_u32), |decade| decade.checked_mul(10));
    let bounds =
        decades.flat_map(|decade| [1, 2, 5].map(|digit| f64::from(decade) * f64::from(digit)));
    #[expect(clippy::cast_precision_loss, reason = "contexts stay far below 2^52 tokens")]
    let most = most.max(1) as f64;
    bounds.take_while(|bound| *bound <= most).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn token_buckets_end_at_the_context() {
        let bounds = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0];
        assert_eq!(super::tokens(199), bounds);
        assert_eq!(super::tokens(100), bounds);
        assert_eq!(super::tokens(0), [1.0]);
        assert_eq!(super::tokens(usize::MAX).len(), 30);
    }
}
