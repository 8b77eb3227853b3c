//! Measures how long steps take, and derives the size of prefill chunks and of drafts from it. Pure: it
//! gets durations as arguments.

use std::time::Duration;

/// Weight of the newest measurement in the averages. They cover about the last five steps: enough to
/// smooth out scheduling noise, few enough to follow a context that grows.
const NEWEST: f64 = 0.2;

/// The smallest chunk beside decoding sequences. A smaller one takes nearly as long, since a step's time
/// is dominated by reading the weights.
const LEAST_CHUNK: usize = 4;

/// An exponential average; `None` before the first value.
#[derive(Debug, Clone, Copy, Default)]
struct Average(Option<f64>);

impl Average {
    fn add(&mut self, value: f64) {
        self.0 = Some(self.0.map_or(value, |old| old + NEWEST * (value - old)));
    }
}

/// The times that steps have taken so far.
#[derive(Debug)]
pub struct Pace {
    /// Share of the time that prefill gets while others decode, in (0, 1).
    share: f64,
    /// The largest chunk, in tokens.
    most: usize,
    /// Seconds for each token of a prefill step.
    token: Average,
    /// Seconds for a decode step of the widths used lately.
    decode: Average,
    /// Seconds for a step over `index + 1` tokens of one sequence.
    widths: Vec<Average>,
    /// Seconds of decode steps that have to run before the next chunk.
    owed: f64,
}

impl Pace {
    /// A pace without measurements. `share` is prefill's share of the time while others decode, `most`
    /// the largest chunk in tokens, `widths` the widest step that [`Pace::best_draft`] considers.
    #[must_use]
    pub fn new(share: f64, most: usize, widths: usize) -> Self {
        Self {
            share: share.clamp(0.01, 0.99),
            most: most.max(1),
            token: Average::default(),
            decode: Average::default(),
            widths: vec![Average::default(); widths.max(1)],
            owed: 0.0,
        }
    }

    /// Records a prefill step of `tokens`.
    pub fn prefilled(&mut self, tokens: usize, took: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "chunks are far below 2^52 tokens")]
        let tokens = tokens.max(1) as f64;
        self.token.add(took.as_secs_f64() / tokens);
        // Decoding beyond the last debt pays for this one in advance, but for no more than this: else a
        // long time without prompts would let a burst of them hold up every decoding sequence.
        let pay = took.as_secs_f64() * (1.0 - self.share) / self.share;
        self.owed = self.owed.clamp(-pay, 0.0) + pay;
    }

    /// Whether decoding sequences get further steps before the next chunk. Even the smallest chunk takes
    /// about as long as a decode step, so with one of each in turn prefill would have half of the time.
    #[must_use]
    pub fn prefill_waits(&self) -> bool {
        self.owed > 0.0
    }

    /// Records a decode step over `slots` sequences.
    pub fn decoded(&mut self, slots: usize, took: Duration) {
        self.decode.add(took.as_secs_f64());
        self.owed -= took.as_secs_f64();
        if slots == 1 {
            self.widths[0].add(took.as_secs_f64());
        }
    }

    /// Records a step over `tokens` tokens of one decoding sequence: the newest and its draft.
    pub fn verified(&mut self, tokens: usize, took: Duration) {
        if let Some(width) = self.widths.get_mut(tokens - 1) {
            width.add(took.as_secs_f64());
        }
        self.decode.add(took.as_secs_f64());
        self.owed -= took.as_secs_f64();
    }

    /// The size of the next chunk in tokens. While others decode, a chunk takes prefill's share of the time
    /// of a round of one chunk and one decode step.
    #[must_use]
    pub fn chunk(&self, others_decode: bool) -> usize {
        let (true, Some(token), Some(decode)) = (others_decode, self.token.0, self.decode.0) else {
            return self.most;
        };
        let seconds = decode * self.share / (1.0 - self.share);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float that is out of range becomes the nearest integer"
        )]
        let tokens = (seconds / token.max(f64::MIN_POSITIVE)) as usize;
        tokens.clamp(LEAST_CHUNK.min(self.most), self.most)
    }

    /// The number of draft tokens, up to `most`, with the most output tokens a second, if each is accepted
    /// with probability `accept`; 0 if plain decoding is fastest.
    #[must_use]
    pub fn best_draft(&self, accept: f64, most: usize) -> usize {
        let mut best = (0, 0.0);
        // A draft token counts only if all before it are accepted, so the expected number of tokens is
        // the sum of `accept`'s powers. A step always yields one token.
        let (mut tokens, mut chance) = (1.0, 1.0);
        for draft in 0..=most.min(self.widths.len() - 1) {
            if draft > 0 {
                chance *= accept;
                tokens += chance;
            }
            let rate = tokens / self.seconds(draft + 1);
            if rate > best.1 {
                best = (draft, rate);
            }
        }
        best.0
    }

    /// Seconds for a step over `tokens` tokens of one sequence. If that width was never measured, the
    /// nearest narrower one and a tenth of a plain step for each further token: optimistic, so that wider
    /// steps are tried and then measured.
    fn seconds(&self, tokens: usize) -> f64 {
        let plain = self.widths[0].0.unwrap_or(1.0);
        let mut further = 0.0;
        for width in self.widths[..tokens].iter().rev() {
            if let Some(measured) = width.0 {
                return measured + further;
            }
            further += plain * 0.1;
        }
        plain + further
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_chunk_takes_prefills_share_of_the_time_while_others_decode() {
        let mut pace = Pace::new(0.5, 256, 8);
        assert_eq!((pace.chunk(true), pace.chunk(false)), (256, 256));
        pace.prefilled(100, 200 * MS);
        pace.decoded(1, 50 * MS);
        assert_eq!((pace.chunk(true), pace.chunk(false)), (25, 256));
        let mut greedy = Pace::new(0.8, 256, 8);
        greedy.prefilled(100, 200 * MS);
        greedy.decoded(1, 50 * MS);
        assert_eq!(greedy.chunk(true), 100);
        pace.decoded(1, MS);
        assert!(pace.chunk(true) >= LEAST_CHUNK);
    }

    #[test]
    fn prefill_waits_until_decoding_has_had_its_share() {
        let mut pace = Pace::new(0.2, 256, 8);
        assert!(!pace.prefill_waits());
        let (mut prefill, mut decode) = (0, 0);
        for _ in 0..200 {
            if pace.prefill_waits() {
                pace.decoded(2, 30 * MS);
                decode += 30;
            } else {
                pace.prefilled(4, 40 * MS);
                prefill += 40;
            }
        }
        assert!((f64::from(prefill) / f64::from(prefill + decode) - 0.2).abs() < 0.01);
        // A long chunk in a time without others is not paid for by all that came before.
        pace.prefilled(256, 1000 * MS);
        pace.prefilled(256, 1000 * MS);
        pace.decoded(2, 4001 * MS);
        assert!(!pace.prefill_waits());
    }

    #[test]
    fn drafts_are_as_long_as_pays() {
        let mut pace = Pace::new(0.5, 256, 8);
        pace.decoded(1, 100 * MS);
        // A second token costs half a step: it pays only if it is right often enough.
        for width in 2..=8 {
            pace.verified(width, (100 + 50 * (u32::try_from(width).unwrap() - 1)) * MS);
        }
        assert_eq!(pace.best_draft(0.2, 7), 0);
        assert!(pace.best_draft(0.7, 7) >= 1);
        assert_eq!(pace.best_draft(1.0, 7), 7);
        assert_eq!(pace.best_draft(1.0, 3), 3);
        assert_eq!(pace.best_draft(1.0, 0), 0);
    }
}
