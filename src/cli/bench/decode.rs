//! Decode steps by width and by context.

use std::time::Instant;

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

use super::super::exit::Fatal;
use super::client::Timing;
use super::report::{Report, median, ms};
use super::shared::lock;
use super::{Bench, WIDTHS};

/// Tokens behind the common part of prompts, so that requests differ.
const DISTINCT: usize = 4;

impl Bench<'_> {
    /// Decode at each context: bare steps at each width, and requests through the daemon, in turns.
    pub(super) async fn decode(&self, report: &mut Report) -> Result<(), Fatal> {
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let tokens = self.arguments.tokens;
        let widths: Vec<usize> =
            WIDTHS.into_iter().filter(|&width| width <= self.arguments.widest).collect();
        for context in self.fitting(&self.arguments.contexts, tokens as usize + DISTINCT) {
            let began = Instant::now();
            let common = self.under_test.prompt(context, &mut random);
            // Read once by each side: slots are filled by copies of it.
            self.bare_prefill(&common, context + tokens as usize)?;
            self.ask(&common, 2).await?;
            let mut bare = vec![Vec::new(); widths.len()];
            let mut served = vec![Vec::new(); widths.len()];
            let mut rounds = 0;
            while self.goes_on(rounds, began) {
                for (index, &width) in widths.iter().enumerate() {
                    bare[index].extend(self.bare_decode(width, context, &mut random)?);
                    let mut distinct = || self.under_test.prompt(DISTINCT, &mut random);
                    let prompts: Vec<Vec<u32>> =
                        (0..width).map(|_| [&*common, &*distinct()].concat()).collect();
                    let timings = self.ask_all(&prompts, tokens).await?;
                    served[index].extend(timings.iter().flat_map(Timing::settled_gaps).map(ms));
                }
                rounds += 1;
            }
            report.section(&format!(
                "Decode behind {context} tokens: a step bare, and a token's time through the daemon"
            ));
            let mut base = None;
            for ((bare, served), &width) in bare.into_iter().zip(served).zip(&widths) {
                let (key, name) = (format!("decode_{context}_{width}"), format!("batch {width}"));
                let rate = report.compared([&key, &name], width, median(bare), median(served));
                let base = *base.get_or_insert(rate);
                let key = format!("{key}_gain");
                report.figure(&key, &format!("{name}: of batch 1's rate"), rate / base, "");
            }
        }
        Ok(())
    }

    /// Milliseconds of each of some decode steps of `width` sequences behind the first `context` tokens of
    /// the benchmark's first slot.
    fn bare_decode(
        &self,
        width: usize,
        context: usize,
        random: &mut ChaCha8Rng,
    ) -> Result<Vec<f64>, Fatal> {
        let first = self.under_test.own_slots;
        let steps = self.arguments.tokens;
        let mut runner = lock(&self.under_test.inner);
        for slot in first + 1..first + width {
            runner.release(slot, 0);
            runner.copy(first, slot, context);
        }
        let rotary = runner.limits().rotary(context + steps as usize);
        runner.set_rotary(rotary);
        let mut times = Vec::new();
        let mut past = vec![context; width];
        for _ in 0..steps {
            let tokens = self.under_test.prompt(width, random);
            let began = Instant::now();
            runner.decode(first, &tokens, &past).map_err(|error| Self::failed(&error))?;
            times.push(ms(began.elapsed()));
            past.iter_mut().for_each(|past| *past += 1);
        }
        Ok(times)
    }
}
