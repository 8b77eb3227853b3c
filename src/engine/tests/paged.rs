//! The engine over an export with a paged cache, whose operator is the tests' stand-in: the tokens
//! are those of `models/golden/longrope.json`, made with the plain export of the same weights.

use serde_json::Value;

use super::*;
use crate::model::tests::{options as load_options, with_graph};
use crate::model::{LoadOptions, load};

fn paged_engine(budget_tokens: usize, draft_tokens: usize) -> Engine {
    let folder = with_graph("paged.onnx", "paged.json");
    let load_options = LoadOptions {
        folder: folder.path().into(),
        max_prefill_tokens: 24,
        ..load_options(SLOTS + 10)
    };
    let loaded = load(&load_options).unwrap();
    let bytes = loaded.runner.limits().kv_bytes_per_token;
    let options = Options { kv_cache_bytes: budget_tokens * bytes, draft_tokens, ..options() };
    start(loaded.runner, loaded.interrupt, options).unwrap()
}

/// Prompt and output of each case.
fn cases() -> Vec<(Vec<u32>, Vec<u32>)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/golden/longrope.json");
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
