//! Decides how large prefill chunks are, when prompts wait for decoding, and how long drafts are, by the
//! times that steps took. Pure: it gets durations as arguments.

use std::time::Duration;

use super::cost::{StepCost, Work};

/// Weight of the newest measurement in the averages of draft widths. They cover about the last five steps:
/// enough to smooth out scheduling noise, few enough to follow a context that grows.
const NEWEST: f64 = 0.2;

/// The first chunk, before anything is known about the machine. Larger models take a second for it on
/// small machines.
const FIRST_CHUNK: usize = 16;

/// A chunk may be this many times the largest one measured: the model of times extrapolates no further.
const STRETCH: usize = 2;

/// A chunk takes at least this many times the fixed part of a step, so that reading weights again for
/// each chunk costs a prompt no more than a third of its speed, however low the target is.
const LEAST_FIXED: f64 = 4.0;

/// A chunk of a prompt that is alone takes up to this many times the target. A prompt that comes meanwhile and
/// fits a chunk then still has its first token within three: this one and its own.
const ALONE: f64 = 2.0;

/// A step with which a short prompt ends is filled with others' tokens until it takes this many times the fixed
/// part of a step: with fewer the weights would be read too often, and with more the first token would be late.
const FILLED_FIXED: f64 = 3.0;

/// From this size on, chunks are multiples of [`GRAIN`]: kernels compute that many rows at once.
const GRAIN_FROM: usize = 32;
const GRAIN: usize = 16;

/// Time of a chunk that decoding is owed for, in times of the estimate. What the system held up beyond
/// that is nobody's fault.
const MOST_OWED: f64 = 2.0;

/// An exponential average; `None` before the first value.
#[derive(Debug, Clone, Copy, Default)]
struct Average(Option<f64>);

impl Average {
    fn add(&mut self, value: f64) {
        self.0 = Some(self.0.map_or(value, |old| old + NEWEST * (value - old)));
    }
}

/// Callers that wait for a step of sequences that decode.
#[derive(Debug)]
pub struct Crowd {
    /// How many they are, those included that wait for a prompt only.
    pub callers: usize,
    /// What a step of each one's own sequences would do.
    pub own: Vec<Work>,
    /// Whether prompts wait.
    pub prompts: bool,
}

/// Who waits for a step without decoding sequences, and so how long prompts may make it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Company {
    /// Nobody: the engine has this one sequence.
    Nobody,
    /// Other sequences.
    Others,
    /// A prompt that is read to its end in this step, and whose first token comes with the step's end.
    Ending,
}

/// What the engine's settings ask of the pace.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Aims {
    /// Prefill's share of the time while others decode, in (0, 1).
    pub share: f64,
    /// How long a chunk may take.
    pub chunk: Duration,
    /// The largest chunk in tokens.
    pub most_tokens: usize,
    /// The most draft tokens of a step.
    pub draft_tokens: usize,
}

/// The times that steps have taken so far, and what follows from them.
#[derive(Debug)]
pub struct Pace {
    aims: Aims,
    cost: StepCost,
    /// The largest chunk that was measured, in tokens.
    measured: usize,
    /// Seconds for a step over `index + 1` tokens of one sequence, as verifying a draft takes. Apart from
    /// the model of times, since kernels change at these small widths.
    widths: Vec<Average>,
    /// Seconds of decode steps that have to run before the next chunk. Negative by what the last of them
    /// ran longer.
    owed: f64,
}

impl Pace {
    /// A pace without measurements.
    #[must_use]
    pub fn new(aims: Aims) -> Self {
        Self {
            aims: Aims {
                share: aims.share.clamp(0.01, 0.99),
                most_tokens: aims.most_tokens.max(1),
                ..aims
            },
            cost: StepCost::default(),
            measured: 0,
            widths: vec![Average::default(); aims.draft_tokens + 1],
            owed: 0.0,
        }
    }

    /// Records a prefill step of `tokens` tokens behind `past` cached ones. `others_decode` says whether
    /// sequences that are ready to decode waited for it.
    pub fn prefilled(&mut self, past: usize, tokens: usize, took: Duration, others_decode: bool) {
        let work = Work::chunk(past, tokens);
        self.cost.record(work, took);
        self.measured = self.measured.max(tokens);
        self.prefill_owes(self.cost.seconds(work), took, others_decode);
    }

    /// Records a step with decoding sequences and prompt chunks. Nothing is owed: decoding was part of it.
    pub fn mixed(&mut self, work: Work, took: Duration) {
        self.cost.record(work, took);
        self.measured = self.measured.max(work.prefill_tokens);
        self.owed = 0.0;
    }

    /// Records a prefill step whose time says nothing about others, since prompt tokens were reported.
    pub fn reported(&mut self, took: Duration, others_decode: bool) {
        self.prefill_owes(took.as_secs_f64(), took, others_decode);
    }

    /// Decoding sequences get their share of the time after a chunk that they waited for. If nobody waited,
    /// nothing is owed, nor is what was owed to sequences that have ended since.
    fn prefill_owes(&mut self, estimate: f64, took: Duration, others_decode: bool) {
        if !others_decode {
            self.owed = 0.0;
            return;
        }
        let seconds = took.as_secs_f64().min(estimate * MOST_OWED);
        self.owed += seconds * (1.0 - self.aims.share) / self.aims.share;
    }

    /// Whether decoding sequences get further steps before the next chunk.
    #[must_use]
    pub fn prefill_waits(&self) -> bool {
        self.owed > 0.0
    }

    /// Records a decode step of sequences with these numbers of cached tokens. `prompts_wait` says whether
    /// any prompt was ready to be read.
    pub fn decoded(&mut self, past: &[usize], took: Duration, prompts_wait: bool) {
        self.cost.record(Work::decode(past), took);
        if let (&[_], Some(plain)) = (past, self.widths.first_mut()) {
            plain.add(took.as_secs_f64());
        }
        self.pays(took, prompts_wait);
    }

    /// Records a step over `tokens` tokens of one decoding sequence: the newest and its draft.
    pub fn verified(&mut self, tokens: usize, took: Duration, prompts_wait: bool) {
        if let Some(width) = self.widths.get_mut(tokens - 1) {
            width.add(took.as_secs_f64());
        }
        self.pays(took, prompts_wait);
    }

    fn pays(&mut self, took: Duration, prompts_wait: bool) {
        let took = took.as_secs_f64();
        // What the last step ran longer than was owed counts for the next chunk, so that the shares hold
        // however coarse the steps are. A time without prompts earns them nothing.
        let least = if prompts_wait { -took } else { 0.0 };
        self.owed = (self.owed - took).max(least);
    }

    /// The size in tokens of the next chunk behind `past` cached tokens.
    #[must_use]
    pub fn chunk(&self, past: usize) -> usize {
        if !self.cost.knows_prefill() {
            return FIRST_CHUNK.min(self.aims.most_tokens);
        }
        let seconds = self.chunk_seconds(1.0);
        let tokens = self.cost.tokens_within(seconds, Work::default(), past);
        let most = self.aims.most_tokens.min(self.measured.saturating_mul(STRETCH));
        let tokens = tokens.min(most);
        if tokens < GRAIN_FROM { tokens } else { tokens / GRAIN * GRAIN }
    }

    /// Whether sequences that decode may do `work` in one step, so that each of `crowd` has its part: with `n`
    /// callers a step takes no more than `n` times what it would take for one of them alone. Where prompts wait,
    /// which lengthen the step by their share, it is that much less that others' sequences may add.
    #[must_use]
    pub fn fits(&self, work: Work, crowd: &Crowd) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "callers are no more than slots")]
        let others = crowd.callers.saturating_sub(1) as f64;
        let left = if crowd.prompts { 1.0 - self.aims.share } else { 1.0 };
        // Of one caller it is the same work, whose sum may differ in its last digits.
        let most = (1.0 + others * left) * (1.0 + 1e-9);
        crowd.own.iter().all(|own| self.cost.seconds(work) <= self.cost.seconds(*own) * most)
    }

    /// How many tokens of a prompt, behind `past` cached ones, join a step that does `work` and that `company`
    /// waits for; 0 if it is full. Beside decoding sequences prompts take their share of the step, so that it
    /// takes 1 / (1 - share) of its time without them.
    #[must_use]
    pub fn joins(&self, work: Work, past: usize, company: Company) -> usize {
        let none_yet = work.prefill_tokens == 0;
        if !self.cost.knows_prefill() {
            return if none_yet { FIRST_CHUNK.min(self.aims.most_tokens) } else { 0 };
        }
        let decode = Work { prefill_tokens: 0, prefill_attended: 0, ..work };
        let seconds = match (work.decode_rows, company) {
            (0, Company::Nobody) => self.chunk_seconds(ALONE),
            (0, Company::Others) => self.chunk_seconds(1.0),
            (0, Company::Ending) => self.cost.fixed() * FILLED_FIXED,
            _ => self.cost.seconds(decode) / (1.0 - self.aims.share),
        };
        if !none_yet && self.cost.seconds(work) >= seconds {
            return 0;
        }
        let most = self.aims.most_tokens.min(self.measured.saturating_mul(STRETCH));
        let left = most.max(1).saturating_sub(work.prefill_tokens);
        // Rounded up beside others: of a small share a token is a large part.
        let up = usize::from(work.decode_rows > 0);
        self.cost.tokens_within(seconds, work, past).saturating_add(up).min(left)
    }

    /// How long a chunk may take that gets `times` the target, in seconds.
    fn chunk_seconds(&self, times: f64) -> f64 {
        (self.aims.chunk.as_secs_f64() * times).max(self.cost.fixed() * LEAST_FIXED)
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

    fn pace(share: f64) -> Pace {
        Pace::new(Aims { share, chunk: 250 * MS, most_tokens: 256, draft_tokens: 7 })
    }

    /// Reads a prompt on a machine with 20 ms a pass and 5 ms a token; returns the chunks.
    fn read(pace: &mut Pace, prompt: usize) -> Vec<usize> {
        let (mut past, mut chunks) = (0, Vec::new());
        while past < prompt {
            let tokens = pace.chunk(past).min(prompt - past);
            let took = (20 + 5 * u32::try_from(tokens).unwrap()) * MS;
            pace.prefilled(past, tokens, took, false);
            chunks.push(tokens);
            past += tokens;
        }
        chunks
    }

    #[test]
    fn chunks_start_small_and_take_the_time_that_is_asked_for() {
        let mut pace = pace(0.5);
        let first = read(&mut pace, 150);
        assert!(first[0] == 16 && first.iter().all(|&tokens| tokens <= 46), "{first:?}");
        // 46 tokens take 250 ms, and kernels like multiples of 16.
        assert_eq!(read(&mut pace, 100), [32, 32, 32, 4]);
        pace.aims.chunk = 2000 * MS;
        assert_eq!(read(&mut pace, 2000)[..4], [64, 128, 256, 256]);
    }

    #[test]
    fn a_chunk_takes_several_passes_over_the_weights_even_if_the_target_is_less() {
        let mut pace = pace(0.5);
        pace.aims.chunk = 10 * MS;
        read(&mut pace, 400);
        // 80 ms, of which 20 are fixed.
        assert!((11..=13).contains(&pace.chunk(0)), "{}", pace.chunk(0));
    }

    #[test]
    fn what_joins_a_step_depends_on_who_waits_for_it() {
        let mut pace = pace(0.5);
        read(&mut pace, 2000);
        let joins = |pace: &Pace, read: usize, company| {
            let work = if read == 0 { Work::default() } else { Work::chunk(0, read) };
            i32::try_from(pace.joins(work, 0, company)).unwrap()
        };
        let all = |pace: &Pace, read| {
            [Company::Nobody, Company::Others, Company::Ending]
                .map(|company| joins(pace, read, company))
        };
        let near = |pace: &Pace, read, expected: [i32; 3]| {
            let is = all(pace, read);
            assert!(is.iter().zip(expected).all(|(is, should)| (is - should).abs() <= 1), "{is:?}");
        };
        // 500, 250 and 3 * 20 ms, of which 20 are fixed and each token takes 5.
        pace.measured = 256;
        near(&pace, 0, [96, 46, 8]);
        near(&pace, 10, [86, 36, 0]);
        // The least is four times the fixed part, alone or not.
        pace.aims.chunk = 10 * MS;
        near(&pace, 0, [12, 12, 8]);
    }

    #[test]
    fn prefill_waits_until_decoding_has_had_its_share() {
        for (share, chunk, step) in [(0.2, 40, 30), (0.5, 250, 40), (0.9, 100, 60)] {
            let mut pace = pace(share);
            let (mut prefill, mut decode) = (0, 0);
            for _ in 0..2000 {
                if pace.prefill_waits() {
                    pace.decoded(&[10, 10], step * MS, true);
                    decode += step;
                } else {
                    pace.prefilled(0, 4, chunk * MS, true);
                    prefill += chunk;
                }
            }
            let is = f64::from(prefill) / f64::from(prefill + decode);
            assert!((is - share).abs() < 0.01, "{is} instead of {share}");
        }
    }

    #[test]
    fn nothing_is_owed_for_chunks_that_nobody_waited_for() {
        let mut pace = pace(0.5);
        pace.prefilled(0, 256, 1000 * MS, false);
        assert!(!pace.prefill_waits());
        // Nor to sequences that have ended since, nor for what the system held up.
        pace.prefilled(0, 256, 1000 * MS, true);
        assert!(pace.prefill_waits());
        pace.prefilled(0, 16, 100 * MS, false);
        assert!(!pace.prefill_waits());
        for _ in 0..20 {
            pace.prefilled(0, 256, 1000 * MS, false);
        }
        pace.prefilled(0, 256, 60_000 * MS, true);
        pace.decoded(&[10], 3000 * MS, true);
        assert!(!pace.prefill_waits());
        // Decoding without prompts earns them nothing: the next chunk is owed for in full.
        for _ in 0..100 {
            pace.decoded(&[10], 40 * MS, false);
        }
        pace.prefilled(0, 256, 1000 * MS, true);
        pace.decoded(&[10], 900 * MS, true);
        assert!(pace.prefill_waits());
    }

    #[test]
    fn drafts_are_as_long_as_pays() {
        let mut pace = pace(0.5);
        pace.decoded(&[10], 100 * MS, false);
        // A second token costs half a step: it pays only if it is right often enough.
        for width in 2..=8 {
            pace.verified(width, (100 + 50 * (u32::try_from(width).unwrap() - 1)) * MS, false);
        }
        assert_eq!(pace.best_draft(0.2, 7), 0);
        assert!(pace.best_draft(0.7, 7) >= 1);
        assert_eq!(pace.best_draft(1.0, 7), 7);
        assert_eq!(pace.best_draft(1.0, 3), 3);
        assert_eq!(pace.best_draft(1.0, 0), 0);
    }
}
