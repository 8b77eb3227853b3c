//! Passes over a complete logit row, in single precision and in lanes that the compiler turns into vector
//! instructions. A row has 100,000 logits and more, so these are what sampling costs.

/// Values that are handled side by side.
const LANES: usize = 16;

/// Values whose sum is kept in single precision; larger sums are of these, in double precision. A multiple
/// of [`LANES`].
const BLOCK: usize = 512;

/// How far below the highest logit, in times of the temperature, weights still count, besides the
/// logarithm of the row's length: all that is left out weighs less than single precision rounds away.
const TAIL: f32 = 17.0;

/// The likeliest token and its logit, the lowest id of equals; `None` if the highest logit is not finite.
pub(super) fn highest(logits: &[f32]) -> Option<(u32, f32)> {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = logits.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, &logit) in lanes.iter_mut().zip(chunk) {
            // False for what is not a number, which so is never chosen.
            *lane = if logit > *lane { logit } else { *lane };
        }
    }
    let best = lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    let mut index = None;
    scan(logits, best, |token, _| {
        index.get_or_insert(token);
        f32::INFINITY
    });
    best.is_finite().then_some((index?, best))
}

/// Calls `found` with each token and logit of at least `least`, in ascending order of tokens. It returns the
/// least logit from then on. Fast if few are found.
pub(super) fn scan(logits: &[f32], mut least: f32, mut found: impl FnMut(u32, f32) -> f32) {
    let (whole, rest) = logits.as_chunks::<LANES>();
    let mut look =
        |first: u32, chunk: &[f32], least: f32| {
            (first..).zip(chunk).fold(least, |least, (token, &logit)| {
                if logit >= least { found(token, logit) } else { least }
            })
        };
    let mut firsts = (0..).step_by(LANES);
    for (chunk, first) in whole.iter().zip(firsts.by_ref()) {
        // Without a branch for each logit, which vectorises.
        if chunk.iter().fold(false, |any, &logit| any | (logit >= least)) {
            least = look(first, chunk, least);
        }
    }
    if let Some(first) = firsts.next() {
        look(first, rest, least);
    }
}

/// `exp(x)` for x in [-87, 0], to 2 units in the last place; lower ones count as -87. In plain arithmetic,
/// which vectorises.
#[inline]
fn exp(x: f32) -> f32 {
    /// Adding this rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, so that the product with an integer is exact in the first.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    let x = if x > -87.0 { x } else { -87.0 };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let power = shifted - ROUND;
    let x = x - power * LN_2[0] - power * LN_2[1];
    // The Taylor series of exp on [-ln 2 / 2, ln 2 / 2]; what is left out is below 2e-8.
    let series = 1.0
        + x * (1.0
            + x * (1.0 / 2.0
                + x * (1.0 / 6.0 + x * (1.0 / 24.0 + x * (1.0 / 120.0 + x * (1.0 / 720.0))))));
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    series * f32::from_bits(exponent)
}

/// The weights of a row's tokens relative to its likeliest one: `exp((logit - best) / temperature)`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    best: f32,
    inverse: f32,
    /// Lower logits weigh nothing.
    least: f32,
}

impl Scale {
    /// For a row of `length` logits, of which `best` is the highest.
    pub(super) fn new(best: f32, temperature: f32, length: usize) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a logarithm")]
        let tail = TAIL + (length.max(1) as f32).ln();
        Self { best, inverse: temperature.recip(), least: best - temperature * tail }
    }

    /// The same, without logits below `least`.
    pub(super) fn at_least(self, least: f32) -> Self {
        Self { least: self.least.max(least), ..self }
    }

    #[inline]
    fn weight(self, logit: f32) -> f32 {
        // False for what is not a number.
        if logit >= self.least { exp((logit - self.best) * self.inverse) } else { 0.0 }
    }

    /// The sum of all weights.
    pub(super) fn total(self, logits: &[f32]) -> f64 {
        logits.chunks(BLOCK).map(|block| f64::from(self.block(block))).sum()
    }

    /// The sum of the weights of at most [`BLOCK`] logits.
    fn block(self, logits: &[f32]) -> f32 {
        let mut lanes = [0.0_f32; LANES];
        let (whole, rest) = logits.as_chunks::<LANES>();
        for chunk in whole {
            for (lane, &logit) in lanes.iter_mut().zip(chunk) {
                *lane += self.weight(logit);
            }
        }
        lanes.iter().sum::<f32>() + rest.iter().map(|&logit| self.weight(logit)).sum::<f32>()
    }

    /// The token at `point`, in [0, 1), of the cumulative distribution of all tokens. `sums` is scratch.
    pub(super) fn pick(self, logits: &[f32], point: f64, sums: &mut Vec<f32>) -> usize {
        sums.clear();
        sums.extend(logits.chunks(BLOCK).map(|block| self.block(block)));
        let total: f64 = sums.iter().copied().map(f64::from).sum();
        let mut left = point * total;
        let found = logits.chunks(BLOCK).zip(&*sums).enumerate().find(|(_, (_, sum))| {
            let within = left < f64::from(**sum);
            left -= if within { 0.0 } else { f64::from(**sum) };
            within
        });
        // The sums round, so `left` may stay just above 0: then it is the last token that weighs anything.
        let (first, block) = match found {
            Some((index, (block, _))) => (index * BLOCK, block),
            None => (0, logits),
        };
        left = if found.is_some() { left } else { f64::INFINITY };
        let mut last = 0;
        for (index, &logit) in block.iter().enumerate() {
            let weight = self.weight(logit);
            if weight > 0.0 {
                last = first + index;
                left -= f64::from(weight);
                if left < 0.0 {
                    break;
                }
            }
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn exp_is_exact_to_single_precision() {
        let mut worst = 0.0_f64;
        for step in 0..870_000_u32 {
            let x = -1e-4 * step as f32;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) / exact - 1.0).abs());
        }
        assert!(worst < 2.5e-7, "{worst}");
        assert_eq!((exp(0.0), exp(-1000.0), exp(f32::NEG_INFINITY)), (1.0, exp(-87.0), exp(-87.0)));
    }

    /// Rows longer than a block, with values that are not finite.
    fn row() -> impl Strategy<Value = Vec<f32>> {
        let logit = prop_oneof![
            20 => -40f32..30.0,
            1 => Just(f32::NEG_INFINITY),
            1 => Just(f32::NAN),
        ];
        prop::collection::vec(logit, 1..3000)
    }

    proptest! {
        #[test]
        fn totals_and_draws_are_those_of_double_precision(
            row in row(), temperature in 0.1f32..3.0, point in 0f64..1.0,
        ) {
            let Some((index, best)) = highest(&row) else { return Ok(()) };
            prop_assert_eq!(row.iter().position(|&logit| logit >= best), Some(index as usize));
            let scale = Scale::new(best, temperature, row.len());
            let weight = |logit: f32| (f64::from(logit - best) / f64::from(temperature)).exp();
            let weights: Vec<f64> =
                row.iter().map(|&logit| if logit.is_nan() { 0.0 } else { weight(logit) }).collect();
            let total: f64 = weights.iter().sum();
            prop_assert!((scale.total(&row) / total - 1.0).abs() < 5e-6);
            // The token's part of [0, total) has the point in it.
            let token = scale.pick(&row, point, &mut Vec::new());
            let before: f64 = weights[..token].iter().sum();
            let slack = total * 1e-5;
            prop_assert!(before <= point * total + slack);
            prop_assert!(before + weights[token] >= point * total - slack);
            prop_assert!(weights[token] > 0.0);
        }
    }

    #[test]
    fn the_end_of_the_distribution_is_a_token_that_weighs_something() {
        let mut row = vec![f32::NEG_INFINITY; 2000];
        row[700] = 1.0;
        row[900] = 1.0;
        let scale = Scale::new(1.0, 1.0, row.len());
        let mut sums = Vec::new();
        assert_eq!(scale.pick(&row, 0.0, &mut sums), 700);
        assert_eq!(scale.pick(&row, 1.0, &mut sums), 900);
    }
}
