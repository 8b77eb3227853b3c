//! A deterministic runner without a model, for tests of the layers above.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ndarray::{Array2, ArrayView1};

use super::error::RunError;
use super::plan::{ModelLimits, Rotary};
use super::runner::{Interrupt, Logits, Runner, Span};

/// Marks a cached token that the long rotary table rotated.
const LONG: u32 = 1 << 31;

/// Where a cached token keeps the width of the step that read it, if a test wants that.
const WIDTH_SHIFT: u32 = 16;
/// The token itself.
const TOKEN: u32 = (1 << WIDTH_SHIFT) - 1;

/// A runner whose logits depend on every token that a slot holds, in order, as a real model's do.
/// It panics where it is asked for what [`Runner`] forbids.
#[derive(Debug)]
pub struct FakeRunner {
    limits: ModelLimits,
    /// What each slot holds: a token, marked by [`LONG`] if the long table rotated it.
    slots: Vec<Vec<u32>>,
    rotary: Rotary,
    logits: Array2<f32>,
    control: Arc<FakeControl>,
}

/// What a test sets and reads while the engine owns the runner.
#[derive(Debug, Default)]
pub struct FakeControl {
    interrupted: AtomicBool,
    /// Makes the next step fail.
    pub fail_next: AtomicBool,
    /// Makes the next step panic.
    pub panic_next: AtomicBool,
    /// Makes the likeliest token one of a short while ago, so that text repeats.
    pub repeat: AtomicBool,
    /// Makes the logits depend on how many tokens of a sequence each step read, as rounding does
    /// in a real model.
    pub widths_show: AtomicBool,
    /// Microseconds that each step takes.
    pub step_us: AtomicU64,
}

impl Interrupt for FakeControl {
    fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Release);
    }
}

impl FakeRunner {
    /// A runner of these limits, and the handle by which a test steers it.
    pub fn new(limits: ModelLimits) -> (Self, Arc<FakeControl>) {
        let control = Arc::new(FakeControl::default());
        let slots = vec![Vec::new(); limits.slots];
        let rows = limits.slots + limits.max_prefill_tokens;
        let logits = Array2::zeros((rows, limits.vocab_size));
        let rotary = Rotary::Short;
        (Self { limits, slots, rotary, logits, control: Arc::clone(&control) }, control)
    }

    /// Small limits that tests can reach.
    pub fn small_limits(slots: usize) -> ModelLimits {
        ModelLimits {
            vocab_size: 50,
            context_tokens: 64,
            slots,
            max_prefill_tokens: 4,
            many_rows: true,
            kv_bytes_per_token: 8,
            kv_block_tokens: 4,
            rotary_switch: None,
            kv_growth: crate::KvGrowth::Own,
            width_invariant: false,
            mixed_steps: false,
        }
    }

    /// The token that greedy decoding chooses after `tokens`.
    pub fn next_token(tokens: &[u32], vocab_size: usize) -> u32 {
        let row = Self::row(tokens, vocab_size);
        (0..)
            .zip(&row)
            .fold((0, f32::MIN), |best, (i, &x)| if x > best.1 { (i, x) } else { best })
            .0
    }

    /// As [`Self::next_token`], with the long rotary table.
    pub fn next_token_by_long(tokens: &[u32], vocab_size: usize) -> u32 {
        let marked: Vec<u32> = tokens.iter().map(|token| token | LONG).collect();
        Self::next_token(&marked, vocab_size)
    }

    fn row(tokens: &[u32], vocab_size: usize) -> Vec<f32> {
        // FNV-1a over the tokens, then SplitMix64's finaliser for each logit.
        let step = |hash: u64, value: u64| (hash ^ value).wrapping_mul(0x0100_0000_01b3);
        let hash = tokens.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &t| step(hash, u64::from(t)));
        let mix = |i: u64| {
            let z = hash.wrapping_add((i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        (0..vocab_size as u64).map(|i| (mix(i) >> 40) as f32 / (1 << 21) as f32).collect()
    }

    fn run(&mut self) -> Result<(), RunError> {
        let step = Duration::from_micros(self.control.step_us.load(Ordering::Acquire));
        if !step.is_zero() {
            std::thread::sleep(step);
        }
        if self.control.interrupted.load(Ordering::Acquire) {
            return Err(RunError::Interrupted);
        }
        assert!(!self.control.panic_next.swap(false, Ordering::AcqRel), "asked to panic");
        if self.control.fail_next.swap(false, Ordering::AcqRel) {
            return Err(RunError::Runtime("asked to fail".into()));
        }
        Ok(())
    }

    fn feed(&mut self, slot: usize, past: usize, tokens: &[u32]) {
        let held = &mut self.slots[slot];
        assert!(past <= held.len(), "slot {slot} holds {} tokens, not {past}", held.len());
        held.truncate(past);
        assert!(tokens.iter().all(|&token| (token as usize) < self.limits.vocab_size));
        let mark = if self.rotary == Rotary::Long { LONG } else { 0 };
        let shows = self.control.widths_show.load(Ordering::Acquire);
        let width = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        let width = if shows { width << WIDTH_SHIFT } else { 0 };
        held.extend(tokens.iter().map(|token| token | width | mark));
        assert!(held.len() <= self.limits.context_tokens, "slot {slot} overflows");
        assert!(held.iter().all(|token| token & LONG == mark), "slot {slot} mixes rotary tables");
        let least = self.limits.rotary(held.len());
        assert!(least == Rotary::Short || mark == LONG, "slot {slot} outgrows its rotary table");
    }

    /// A row of logits for each prefix given by its slot and length.
    fn logits(&mut self, prefixes: impl Iterator<Item = (usize, usize)>) -> Logits<'_> {
        let mut rows = 0;
        for (row, (slot, length)) in prefixes.enumerate() {
            let prefix = &self.slots[slot][..length];
            let mut values = Self::row(prefix, self.limits.vocab_size);
            if self.control.repeat.load(Ordering::Acquire) && length >= 3 {
                values[(prefix[length - 3] & TOKEN) as usize] += 20.0;
            }
            self.logits.row_mut(row).assign(&ArrayView1::from(&values));
            rows = row + 1;
        }
        Logits(self.logits.slice(ndarray::s![..rows, ..]))
    }
}

impl Runner for FakeRunner {
    fn limits(&self) -> &ModelLimits {
        &self.limits
    }

    fn set_rotary(&mut self, rotary: Rotary) {
        self.rotary = rotary;
    }

    fn step(&mut self, spans: &[Span<'_>]) -> Result<Logits<'_>, RunError> {
        let mixed = self.limits.mixed_steps;
        let decodes = (spans[0].slot..)
            .zip(spans)
            .all(|(slot, span)| span.slot == slot && (span.tokens.len(), span.rows) == (1, 1));
        assert!(mixed || spans.len() == 1 || decodes, "a mixed step: {spans:?}");
        self.run()?;
        let mut rows = Vec::new();
        for span in spans {
            assert!((1..=self.limits.max_prefill_tokens).contains(&span.tokens.len()));
            assert!(span.rows <= span.tokens.len());
            self.feed(span.slot, span.past, span.tokens);
            let end = span.past + span.tokens.len();
            let wanted = if mixed { span.rows } else { span.rows.max(1) };
            rows.extend((end + 1 - wanted..=end).map(|length| (span.slot, length)));
        }
        Ok(self.logits(rows.into_iter()))
    }

    fn swap(&mut self, [a, b]: [usize; 2], tokens: [usize; 2]) {
        // A slot may hold more, from rejected draft tokens.
        assert!(self.slots[a].len() >= tokens[0] && self.slots[b].len() >= tokens[1]);
        self.slots.swap(a, b);
    }

    fn copy(&mut self, from: usize, to: usize, tokens: usize) {
        self.slots[to] = self.slots[from][..tokens].to_vec();
    }

    fn export(&mut self, slot: usize, tokens: usize, sink: &mut dyn Write) -> io::Result<()> {
        assert_eq!(self.limits.kv_bytes_per_token, 8);
        for &token in &self.slots[slot][..tokens] {
            sink.write_all(&u64::from(token).to_le_bytes())?;
        }
        Ok(())
    }

    fn import(&mut self, slot: usize, tokens: usize, source: &mut dyn Read) -> io::Result<()> {
        self.slots[slot].clear();
        for _ in 0..tokens {
            let mut bytes = [0; 8];
            source.read_exact(&mut bytes)?;
            let [a, b, c, d, ..] = bytes;
            self.slots[slot].push(u32::from_le_bytes([a, b, c, d]));
        }
        Ok(())
    }

    fn release(&mut self, slot: usize, keep: usize) {
        self.slots[slot].truncate(keep);
    }
}
