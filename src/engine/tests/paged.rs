//! The engine over an export with a paged cache, whose operator is the tests' stand-in: the tokens
//! are those of `models/golden/longrope.json`, made with the plain export of the same weights.

use std::io::{self, Read, Write};

use serde_json::Value;

use super::*;
use phi4d_model::blocks::{self, Blocks, Full};
use phi4d_model::{
    KvGrowth, LoadOptions, Loaded, Logits, ModelLimits, Provider, Rotary, RunError, Runner, Span,
    WeightsMemory, load,
};

fn loaded() -> Loaded {
    let models = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/longrope");
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in [
        ("paged.onnx", "model.onnx"),
        ("model.onnx.data", "model.onnx.data"),
        ("paged.json", "genai_config.json"),
    ] {
        std::fs::copy(format!("{models}/{from}"), folder.path().join(to)).unwrap();
    }
    let load_options = LoadOptions {
        folder: folder.path().into(),
        provider: Provider::Cpu.into(),
        threads: 1,
        slots: SLOTS + 10,
        context_tokens: 0,
        max_prefill_tokens: 24,
        kv_cache_bytes: 0,
        own_kernels: true,
        int8_activations: phi4d_model::Int8Activations::Export,
        kv_cache_type: phi4d_model::KvType::F16,
        weights_memory: WeightsMemory::Auto,
        runtime_library: None,
    };
    load(&load_options).unwrap()
}

fn paged_engine(budget_tokens: usize, draft_tokens: usize) -> Engine {
    let loaded = loaded();
    let bytes = loaded.runner.limits().kv_bytes_per_token;
    let options = Options { kv_cache_bytes: budget_tokens * bytes, draft_tokens, ..options() };
    start(loaded.runner, loaded.interrupt, options).unwrap()
}

/// Prompt and output of each case.
fn cases() -> Vec<(Vec<u32>, Vec<u32>)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/golden/longrope.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let list = |value: &Value| -> Vec<u32> { serde_json::from_value(value.clone()).unwrap() };
    let cases = golden["cases"].as_array().unwrap();
    cases.iter().map(|case| (list(&case["prompt_tokens"]), list(&case["tokens"]))).collect()
}

#[test]
fn greedy_tokens_are_the_plain_export_s_alone_and_together() {
    // Room for all, and so little that sequences are put back and prefixes evicted.
    for (budget_tokens, draft_tokens) in [(8192, 7), (512, 0)] {
        let engine = paged_engine(budget_tokens, draft_tokens);
        // From the prompt, and from parts of the output, of which the beginnings are cached.
        for keep in [0, 10, 50] {
            let submitted: Vec<_> = cases()
                .into_iter()
                .map(|(mut prompt, tokens)| {
                    prompt.extend_from_slice(&tokens[..keep]);
                    let (job, events) = job(&prompt, tokens.len() - keep, 64);
                    engine.handle().submit(job).unwrap();
                    (tokens, events)
                })
                .collect();
            for (tokens, mut events) in submitted {
                assert_eq!(wait(&mut events).0, tokens[keep..], "{budget_tokens} and {keep}");
            }
        }
        let stats = settle(&engine.handle());
        assert_settled(&stats);
        assert_eq!(stats.cached_prompt_tokens > 0, budget_tokens > 512);
        engine.stop().unwrap();
    }
}

/// Blocks that there are, and no more.
struct Budget(usize);

impl blocks::Memory for Budget {
    type Error = Full;

    fn grow(&mut self, blocks: usize) -> Result<usize, Full> {
        if blocks <= self.0 { Ok(blocks) } else { Err(Full { blocks: self.0, tokens: 16 }) }
    }

    fn copy(&mut self, _from: usize, _to: usize) -> Result<(), Full> {
        Ok(())
    }

    fn release(&mut self, _block: usize) {}
}

/// The runner as it is where its blocks are a device's: there are so many and no more.
struct Strict {
    inner: Box<dyn Runner>,
    limits: ModelLimits,
    /// What each slot has written to, or copied, and not given back.
    held: Blocks,
    there: Budget,
}

impl Strict {
    fn new(inner: Box<dyn Runner>, blocks: usize) -> Self {
        let mut limits = inner.limits().clone();
        let budget_bytes = blocks * limits.kv_block_tokens * limits.kv_bytes_per_token;
        limits.kv_growth = KvGrowth::Blocks { budget_bytes };
        let held = Blocks::new(limits.slots, 0, limits.kv_block_tokens);
        Self { held, there: Budget(blocks), inner, limits }
    }

    fn write(&mut self, slot: usize, past: usize, end: usize) {
        self.held.reach(&mut self.there, slot, past, end).unwrap();
    }
}

impl Runner for Strict {
    fn limits(&self) -> &ModelLimits {
        &self.limits
    }

    fn set_rotary(&mut self, rotary: Rotary) {
        self.inner.set_rotary(rotary);
    }

    fn step(&mut self, spans: &[Span<'_>]) -> Result<Logits<'_>, RunError> {
        for span in spans {
            self.write(span.slot, span.past, span.past + span.tokens.len());
        }
        self.inner.step(spans)
    }

    fn swap(&mut self, slots: [usize; 2], tokens: [usize; 2]) {
        self.held.swap(slots);
        self.inner.swap(slots, tokens);
    }

    fn copy(&mut self, from: usize, to: usize, tokens: usize) {
        self.held.share(&mut self.there, from, to, tokens);
        self.inner.copy(from, to, tokens);
    }

    fn export(&mut self, slot: usize, tokens: usize, sink: &mut dyn Write) -> io::Result<()> {
        self.inner.export(slot, tokens, sink)
    }

    fn import(&mut self, slot: usize, tokens: usize, source: &mut dyn Read) -> io::Result<()> {
        self.inner.import(slot, tokens, source)
    }

    fn release(&mut self, slot: usize, keep: usize) {
        self.held.release(&mut self.there, slot, keep);
        self.inner.release(slot, keep);
    }
}

#[test]
fn a_device_s_blocks_are_the_budget_whatever_the_host_has_and_none_is_wanted_that_is_not_there() {
    for (blocks, draft_tokens) in [(100, 7), (20, 7), (20, 0)] {
        let Loaded { runner, interrupt, .. } = loaded();
        let runner = Strict::new(runner, blocks);
        // The host's is not asked.
        let options = Options { kv_cache_bytes: 1, draft_tokens, ..options() };
        let engine = start(Box::new(runner), interrupt, options).unwrap();
        assert_eq!(settle(&engine.handle()).kv_budget_tokens, 16 * blocks);
        for keep in [0, 10] {
            let submitted: Vec<_> = cases()
                .into_iter()
                .map(|(mut prompt, tokens)| {
                    prompt.extend_from_slice(&tokens[..keep]);
                    let (job, events) = job(&prompt, tokens.len() - keep, 64);
                    engine.handle().submit(job).unwrap();
                    (tokens, events)
                })
                .collect();
            for (tokens, mut events) in submitted {
                assert_eq!(wait(&mut events).0, tokens[keep..], "{blocks} and {keep}");
            }
        }
        let stats = settle(&engine.handle());
        assert_settled(&stats);
        assert_eq!(stats.preempted > 0, blocks < 100, "{blocks}");
        engine.stop().unwrap();
    }
}
