//! A model of how long steps take, fitted to the steps that ran. Pure: it gets durations as arguments.
//!
//! A step's time is a fixed part (reading the weights, starting the graph) plus a part for each token and
//! one for each position that a token attends to. Prompt chunks and decoding sequences have rates of
//! their own: kernels work on many rows of one sequence faster than on one row of many.

use std::time::Duration;

/// What a step does, as far as its time depends on it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Work {
    /// Tokens of prompt chunks.
    pub prefill_tokens: usize,
    /// Positions that these attend to, summed over the tokens.
    pub prefill_attended: usize,
    /// Sequences that decode a token.
    pub decode_rows: usize,
    /// Positions that these attend to, summed over the sequences.
    pub decode_attended: usize,
}

impl Work {
    /// A chunk of `tokens` tokens behind `past` cached ones.
    #[must_use]
    pub fn chunk(past: usize, tokens: usize) -> Self {
        // Each token attends to the cached ones, to those before it in the chunk and to itself.
        let prefill_attended = tokens * past + tokens * (tokens + 1) / 2;
        Self { prefill_tokens: tokens, prefill_attended, ..Self::default() }
    }

    /// A token of each of the sequences that have these numbers of cached tokens.
    #[must_use]
    pub fn decode(past: &[usize]) -> Self {
        let decode_attended = past.iter().map(|past| past + 1).sum();
        Self { decode_rows: past.len(), decode_attended, ..Self::default() }
    }

    /// Both in one step.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            prefill_tokens: self.prefill_tokens + other.prefill_tokens,
            prefill_attended: self.prefill_attended + other.prefill_attended,
            decode_rows: self.decode_rows + other.decode_rows,
            decode_attended: self.decode_attended + other.decode_attended,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
    fn features(self) -> [f64; TERMS] {
        [
            1.0,
            self.prefill_tokens as f64,
            self.prefill_attended as f64,
            self.decode_rows as f64,
            self.decode_attended as f64,
        ]
    }
}

/// Terms of the model: the fixed part, then those of [`Work`] in order.
const TERMS: usize = 5;

/// What a step weighs after the next one of its kind, so that about the last 50 count: enough to see
/// chunks of different sizes and places, few enough to follow a machine that others use, too.
const FORGET: f64 = 0.98;

/// A step that took more than this many times its estimate counts as that many times: one step that the
/// system held up changes little, a machine that slowed down is followed within some tens of steps.
const OUTLIER: f64 = 2.0;

/// Steps of a kind before its estimates are trusted to call a step an outlier.
const TRUSTED: usize = 8;

/// Keeps the equations solvable when steps differ too little to separate two terms; these then
/// share the time. Relative to each term's own weight.
const RIDGE: f64 = 1e-6;

/// Sums of the least-squares problem over the steps of one kind.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    steps: usize,
    products: [[f64; TERMS]; TERMS],
    targets: [f64; TERMS],
}

impl Sums {
    /// Adds a step that took `seconds`. Errors count relative to `scale`, the time that was expected;
    /// otherwise long chunks would decide everything.
    fn add(&mut self, features: [f64; TERMS], seconds: f64, scale: f64) {
        let row = features.map(|feature| feature / scale);
        for (i, value) in row.iter().enumerate() {
            for (j, other) in row.iter().enumerate() {
                self.products[i][j] = self.products[i][j] * FORGET + value * other;
            }
            self.targets[i] = self.targets[i] * FORGET + value * seconds / scale;
        }
        self.steps += 1;
    }

    /// Multiplies the weight of all steps.
    fn weigh(&mut self, factor: f64) {
        self.products.as_flattened_mut().iter_mut().for_each(|sum| *sum *= factor);
        self.targets.iter_mut().for_each(|sum| *sum *= factor);
    }
}

/// The fitted model.
#[derive(Debug, Default)]
pub struct StepCost {
    /// Steps with prompt chunks, and steps without. Apart, so that a long time of only one kind does not
    /// make it forget the other.
    prefill: Sums,
    decode: Sums,
    /// Seconds for each term, none negative; `None` before the first step.
    seconds: Option<[f64; TERMS]>,
}

impl StepCost {
    /// Counts a step that took `took`.
    pub fn record(&mut self, work: Work, took: Duration) {
        let mut seconds = took.as_secs_f64().max(1e-9);
        let estimate = self.seconds(work).max(1e-9);
        let sums = if work.prefill_tokens > 0 { &mut self.prefill } else { &mut self.decode };
        let trusted = sums.steps >= TRUSTED;
        let mut scale = seconds;
        if trusted {
            seconds = seconds.min(estimate * OUTLIER);
            scale = estimate.clamp(seconds / OUTLIER, seconds * OUTLIER);
        }
        sums.add(work.features(), seconds, scale);
        self.seconds = Some(self.solve());
        if trusted {
            // Older steps were weighed by what was expected of them then. On a machine that slowed down
            // they would outweigh newer ones.
            let change = self.seconds(work).max(1e-9) / estimate;
            let sums = if work.prefill_tokens > 0 { &mut self.prefill } else { &mut self.decode };
            sums.weigh(change.powi(-2));
        }
    }

    /// Whether a step with a prompt chunk was recorded.
    #[must_use]
    pub fn knows_prefill(&self) -> bool {
        self.prefill.steps > 0
    }

    /// The estimated time of a step in seconds; 0 if nothing was recorded.
    #[must_use]
    pub fn seconds(&self, work: Work) -> f64 {
        let seconds = self.seconds.unwrap_or_default();
        seconds.iter().zip(work.features()).map(|(rate, feature)| rate * feature).sum()
    }

    /// The seconds that a step takes whatever is in it.
    #[must_use]
    pub fn fixed(&self) -> f64 {
        self.seconds.unwrap_or_default()[0]
    }

    /// How many tokens of a prompt fit a step of `seconds` that also does `work`, behind `past` cached
    /// ones; at least 1. Unbounded if tokens seem to cost nothing.
    #[must_use]
    pub fn tokens_within(&self, seconds: f64, work: Work, past: usize) -> usize {
        let left = (seconds - self.seconds(work)).max(0.0);
        let [_, token, attended, ..] = self.seconds.unwrap_or_default();
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
        let linear = token + attended * (past as f64 + 0.5);
        // The root of `attended / 2 * n^2 + linear * n = left`, in the form that does not cancel.
        let root = (linear * linear + 2.0 * attended * left).sqrt();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float that is out of range becomes the nearest integer"
        )]
        let tokens = (2.0 * left / (linear + root).max(f64::MIN_POSITIVE)) as usize;
        tokens.max(1)
    }

    /// Solves the least-squares problem without negative terms. There are so few terms that all sets of
    /// them are tried: the best of the sets whose own solution has no negative term is the solution.
    fn solve(&self) -> [f64; TERMS] {
        let mut products = self.prefill.products;
        let mut targets = self.prefill.targets;
        let decode = self.decode.products.as_flattened();
        products.as_flattened_mut().iter_mut().zip(decode).for_each(|(sum, more)| *sum += more);
        targets.iter_mut().zip(self.decode.targets).for_each(|(sum, more)| *sum += more);
        // Scaled to ones on the diagonal, since counts of positions are thousands of times those of
        // tokens. A term that no step had stays out.
        let scale: [f64; TERMS] = std::array::from_fn(|i| products[i][i].sqrt());
        for (i, row) in products.iter_mut().enumerate() {
            for (product, other) in row.iter_mut().zip(scale) {
                *product /= (scale[i] * other).max(f64::MIN_POSITIVE);
            }
            row[i] += RIDGE;
            targets[i] /= scale[i].max(f64::MIN_POSITIVE);
        }
        let known: usize = (0..TERMS).filter(|&term| scale[term] > 0.0).map(|term| 1 << term).sum();
        let mut best = (0.0, [0.0; TERMS]);
        // From the full set down, which is the solution in most cases.
        for set in (1..=known).rev().filter(|set| set & !known == 0) {
            let solution = solve(&products, &targets, set);
            let explained = (0..TERMS).map(|i| solution[i] * targets[i]).sum();
            if solution.iter().all(|&x| x >= 0.0) && explained > best.0 {
                best = (explained, solution);
                if set == known {
                    break;
                }
            }
        }
        std::array::from_fn(|i| if scale[i] > 0.0 { best.1[i] / scale[i] } else { 0.0 })
    }
}

/// Solves the equations of the terms whose bits are in `set` by elimination; the other terms are 0. The
/// matrix is positive definite by its ridge, so no pivot is 0.
fn solve(products: &[[f64; TERMS]; TERMS], targets: &[f64; TERMS], set: usize) -> [f64; TERMS] {
    let within = |term: &usize| set >> term & 1 == 1;
    let (mut matrix, mut right) = (*products, *targets);
    for pivot in (0..TERMS).filter(within) {
        for row in (pivot + 1..TERMS).filter(within) {
            let source = matrix[pivot];
            let factor = matrix[row][pivot] / source[pivot];
            matrix[row].iter_mut().zip(source).for_each(|(value, above)| *value -= factor * above);
            right[row] -= factor * right[pivot];
        }
    }
    let mut solution = [0.0; TERMS];
    for row in (0..TERMS).rev().filter(within) {
        let known: f64 = (row + 1..TERMS).map(|term| matrix[row][term] * solution[term]).sum();
        solution[row] = (right[row] - known) / matrix[row][row];
    }
    solution
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A machine whose steps take exactly what the model says.
    fn took(rates: [f64; TERMS], work: Work) -> f64 {
        rates.iter().zip(work.features()).map(|(rate, feature)| rate * feature).sum()
    }

    /// Chunks over a prompt and decode steps of one to four sequences.
    fn steps() -> impl Iterator<Item = Work> {
        let chunks = (0..40).map(|i| Work::chunk(i * 100, 4 + i * 37 % 97));
        let decodes = (0..40).map(|i| Work::decode(&vec![50 + i * 60; 1 + i % 4]));
        chunks.chain(decodes)
    }

    proptest! {
        #[test]
        fn a_machine_that_follows_the_model_is_known_after_some_steps(
            fixed in 0.001f64..0.5, token in 1e-5f64..0.05, row in 1e-5f64..0.1,
            attended in 0f64..1e-5, read in 0f64..2e-5,
        ) {
            let rates = [fixed, token, attended, row, read];
            let mut cost = StepCost::default();
            for work in steps() {
                cost.record(work, Duration::from_secs_f64(took(rates, work)));
            }
            for work in [Work::chunk(0, 10), Work::chunk(3000, 200), Work::decode(&[100, 2000])] {
                let (estimate, exact) = (cost.seconds(work), took(rates, work));
                prop_assert!((estimate / exact - 1.0).abs() < 0.02, "{estimate} of {exact}");
            }
            // What fits is as long as was asked for.
            let target = fixed * 4.0;
            let tokens = cost.tokens_within(target, Work::default(), 1000);
            let exact = took(rates, Work::chunk(1000, tokens));
            let slack = token + attended * (1001.0 + tokens as f64);
            prop_assert!(exact < target * 1.03 && exact + slack > target * 0.97 || tokens == 1);
        }

        #[test]
        fn no_term_is_ever_negative_and_no_estimate_wild(
            seen in prop::collection::vec((any::<bool>(), 1usize..300, 0usize..9000, 1u64..900_000), 1..60),
        ) {
            let mut cost = StepCost::default();
            for (prefills, count, past, micros) in seen {
                let work =
                    if prefills { Work::chunk(past, count) } else { Work::decode(&vec![past; count % 8 + 1]) };
                cost.record(work, Duration::from_micros(micros));
                prop_assert!(cost.seconds.unwrap().iter().all(|&rate| rate >= 0.0 && rate.is_finite()));
                prop_assert!(cost.seconds(work) < 10.0);
            }
        }
    }

    #[test]
    fn one_step_that_was_held_up_changes_little_and_a_slower_machine_is_followed() {
        let rates = [0.05, 0.004, 1e-6, 0.001, 2e-6];
        let mut cost = StepCost::default();
        let run = |cost: &mut StepCost, factor: f64| {
            for work in steps() {
                cost.record(work, Duration::from_secs_f64(took(rates, work) * factor));
            }
        };
        run(&mut cost, 1.0);
        let work = Work::chunk(500, 100);
        cost.record(work, Duration::from_secs(60));
        assert!((cost.seconds(work) / took(rates, work) - 1.0).abs() < 0.25);
        for _ in 0..3 {
            run(&mut cost, 3.0);
        }
        assert!((cost.seconds(work) / took(rates, work) / 3.0 - 1.0).abs() < 0.1);
    }

    #[test]
    fn a_long_time_of_decoding_does_not_forget_what_chunks_take() {
        let rates = [0.05, 0.004, 1e-6, 0.001, 2e-6];
        let mut cost = StepCost::default();
        for work in steps().chain((0..5000).map(|_| Work::decode(&[700]))) {
            cost.record(work, Duration::from_secs_f64(took(rates, work)));
        }
        let work = Work::chunk(2000, 60);
        assert!((cost.seconds(work) / took(rates, work) - 1.0).abs() < 0.05);
    }

    #[test]
    fn before_the_first_step_nothing_is_known() {
        let cost = StepCost::default();
        assert_eq!((cost.seconds(Work::chunk(0, 9)), cost.knows_prefill()), (0.0, false));
    }
}
