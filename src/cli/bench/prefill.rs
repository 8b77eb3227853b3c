//! Prefill by length, and a short prompt beside a long one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::super::exit::Fatal;
use super::report::{Report, median, ms};
use super::shared::lock;
use super::{Bench, client};

/// Tokens of a short prompt.
const SHORT: usize = 10;

/// How long a long prompt is read before a short one comes.
const HEAD_START: Duration = Duration::from_millis(20);

impl Bench<'_> {
    /// Prefill: bare, and the time to the first token through the daemon, in turns.
    pub(super) async fn prefill(&self, report: &mut Report) -> Result<(), Fatal> {
        let mut random = ChaCha8Rng::seed_from_u64(2);
        report.section("Prefill: bare, and the time to the first token through the daemon");
        for length in self.fitting(&self.arguments.prompts, 8) {
            let (mut bare, mut served) = (Vec::new(), Vec::new());
            let began = Instant::now();
            let mut rounds = 0;
            while self.goes_on(rounds, began) {
                let prompt = self.under_test.prompt(length, &mut random);
                bare.push(self.bare_prefill(&prompt, length)?);
                let prompt = self.under_test.prompt(length, &mut random);
                served.extend(self.ask(&prompt, 2).await?.first.map(ms));
                rounds += 1;
            }
            let (bare, served) = (median(bare), median(served));
            let (key, name) = (format!("prefill_{length}"), format!("{length} tokens"));
            report.compared([&key, &name], length, bare, served);
        }
        Ok(())
    }

    /// The first token of a short prompt, alone and while the longest one is read.
    pub(super) async fn beside(&self, report: &mut Report) -> Result<(), Fatal> {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let lengths = self.fitting(&self.arguments.prompts, 8);
        let Some(&longest) = lengths.iter().max() else { return Ok(()) };
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        let began = Instant::now();
        let mut rounds = 0;
        while self.goes_on(rounds, began) {
            let short = self.under_test.prompt(SHORT, &mut random);
            alone.extend(self.ask(&short, 2).await?.first.map(ms));
            let long = self.under_test.prompt(longest, &mut random);
            let daemon = Arc::clone(&self.under_test.daemon);
            let reads = tokio::spawn(async move { client::complete(&daemon, &long, 2).await });
            tokio::time::sleep(HEAD_START).await;
            let short = self.under_test.prompt(SHORT, &mut random);
            beside.extend(self.ask(&short, 2).await?.first.map(ms));
            reads.await.map_err(|error| Fatal::Internal(error.to_string()))??;
            rounds += 1;
        }
        report.section(&format!("First token of {SHORT} tokens, while {longest} are read"));
        report.figure("short_alone_ms", "alone", median(alone), "ms");
        report.figure("short_beside_ms", "beside", median(beside), "ms");
        Ok(())
    }

    /// Milliseconds of reading `prompt` into the benchmark's first slot, which will grow to `longest` tokens.
    pub(super) fn bare_prefill(&self, prompt: &[u32], longest: usize) -> Result<f64, Fatal> {
        let mut runner = lock(&self.under_test.inner);
        let rotary = runner.limits().rotary(longest);
        runner.set_rotary(rotary);
        let slot = self.under_test.own_slots;
        runner.release(slot, 0);
        let began = Instant::now();
        let chunk = self.under_test.prefill_chunk;
        for (index, part) in prompt.chunks(chunk).enumerate() {
            runner.prefill(slot, index * chunk, part, 1).map_err(|error| Self::failed(&error))?;
        }
        Ok(ms(began.elapsed()))
    }
}
