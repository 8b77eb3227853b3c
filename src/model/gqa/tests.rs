//! Own attention on the demo model and on one with two rotary tables.
#![expect(unsafe_code, reason = "reads and writes the memory of blocks")]

mod edit;
mod pool;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;

use crate::tests::{check_moves, close, folder_of, options, prompt};
use crate::{KvType, LoadOptions, ModelLimits, Rotary, Runner, Span, load};

fn models(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models").join(folder)
}

fn runner_of(folder: &str, slots: usize, kv_cache_type: KvType, threads: usize) -> Box<dyn Runner> {
    let options = LoadOptions { folder: models(folder), kv_cache_type, threads, ..options(slots) };
    load(&options).unwrap_or_else(|error| panic!("{error}")).runner
}

fn runner(slots: usize, kv_cache_type: KvType) -> Box<dyn Runner> {
    runner_of("demo", slots, kv_cache_type, 2)
}

/// ONNX Runtime's attention and matmuls.
fn runtimes(folder: &str, slots: usize) -> Box<dyn Runner> {
    let options = LoadOptions { folder: models(folder), own_kernels: false, ..options(slots) };
    load(&options).unwrap().runner
}

fn is_own(limits: &ModelLimits) -> bool {
    limits.mixed_steps && limits.kv_block_tokens == 64
}

/// Reads `tokens` into `slot` in chunks, and gives the last logits.
fn read(runner: &mut Box<dyn Runner>, slot: usize, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let mut last = Vec::new();
    for (index, part) in tokens.chunks(chunk).enumerate() {
        last = runner.prefill(slot, index * chunk, part, 1).unwrap().row(0).to_vec();
    }
    last
}

#[test]
fn keys_and_values_take_what_their_type_takes() {
    // 4 layers of 2 heads of 32 values, keys and values; 8 bytes of scales for each head.
    for (kind, bytes) in [(KvType::F32, 2048), (KvType::F16, 1024), (KvType::Int8, 512 + 64)] {
        let runner = runner(2, kind);
        assert!(is_own(runner.limits()));
        assert_eq!(runner.limits().kv_bytes_per_token, bytes, "{kind:?}");
    }
    assert!(!is_own(runtimes("demo", 1).limits()));
}

#[test]
fn logits_are_near_the_runtimes() {
    for (folder, lengths) in [("demo", [1, 37, 64, 150]), ("longrope", [3, 20, 63, 64])] {
        let mut expected = runtimes(folder, 4);
        // The matmuls of the demo model round activations to int8, which makes most of the difference.
        for (kind, margin) in [(KvType::F32, 0.04), (KvType::F16, 0.04), (KvType::Int8, 0.06)] {
            let mut own = runner_of(folder, 4, kind, 2);
            assert!(is_own(own.limits()));
            for (slot, &length) in lengths.iter().enumerate() {
                let tokens = prompt(5, length);
                let given = read(&mut own, slot, &tokens, 50);
                let expected = read(&mut expected, slot, &tokens, 64);
                let most = expected.iter().fold(0.0_f32, |most, logit| most.max(logit.abs()));
                assert!(close(&given, &expected, margin * most), "{folder} {kind:?} {length}");
            }
        }
    }
}

#[test]
fn the_long_rotary_table_is_used_on_request() {
    let (mut own, mut expected) =
        (runner_of("longrope", 2, KvType::F32, 1), runtimes("longrope", 2));
    let tokens = prompt(9, 100);
    let mut results = Vec::new();
    for runner in [&mut own, &mut expected] {
        runner.set_rotary(Rotary::Long);
        results.push(read(runner, 1, &tokens, 40));
    }
    assert!(close(&results[0], &results[1], 2e-3));
}

#[test]
fn slots_are_exchanged_copied_written_out_and_read_back() {
    for kind in [KvType::F32, KvType::F16, KvType::Int8] {
        check_moves(&mut runner(3, kind));
    }
}

#[test]
fn prefixes_are_shared_until_they_are_written() {
    let mut runner = runner(3, KvType::F16);
    let tokens = prompt(2, 150);
    read(&mut runner, 0, &tokens, 64);
    let own = runner.decode(0, &[11], &[150]).unwrap().row(0).to_vec();
    // In the middle of a block, and at the end of one.
    for kept in [20, 100, 128] {
        runner.copy(0, 1, kept);
        let other = prompt(9, 40);
        let whole = [&tokens[..kept], &other].concat();
        let expected = read(&mut runner, 2, &whole, 64);
        let given = runner.prefill(1, kept, &other, 1).unwrap().row(0).to_vec();
        assert_eq!(given, expected, "{kept}");
        assert_eq!(runner.decode(0, &[11], &[150]).unwrap().row(0), own);
        for slot in [1, 2] {
            runner.release(slot, 0);
        }
    }
}

#[test]
fn a_provider_other_than_the_cpu_and_other_graphs_keep_their_attention() {
    // Sinks, windows and other attributes; a quantised cache; a paged one.
    for graph in ["int8.onnx", "int4.onnx"] {
        let folder = folder_of("longrope", graph, "genai_config.json");
        let options = LoadOptions { folder: folder.path().into(), ..options(2) };
        assert!(!is_own(load(&options).unwrap().runner.limits()), "{graph}");
    }
}

#[test]
fn an_interrupted_step_says_so() {
    let crate::Loaded { mut runner, interrupt, .. } = load(&options(1)).unwrap();
    Arc::clone(&interrupt).interrupt();
    let error = runner.prefill(0, 0, &[1, 2], 1).unwrap_err();
    assert_eq!(error, crate::RunError::Interrupted);
}

/// What a sequence of a test has read.
struct Sequence {
    tokens: Vec<u32>,
    /// The logits of each token, read alone.
    expected: Vec<Vec<f32>>,
    read: usize,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Steps of any mix of sequences and widths give each token what it gets alone, bit for bit.
    #[test]
    fn mixed_steps_give_each_token_what_it_gets_alone(
        kind in prop::sample::select(vec![KvType::F16, KvType::Int8, KvType::F32]),
        lengths in prop::collection::vec(1_usize..180, 3),
        widths in prop::collection::vec((0_usize..3, 1_usize..22), 45),
        threads in 1_usize..=3,
    ) {
        let mut runner = runner_of("demo", 4, kind, threads);
        prop_assume!(runner.limits().width_invariant);
        let mut sequences: Vec<_> = lengths.iter().zip(1..).map(|(&length, seed)| {
            let tokens = prompt(seed, length);
            let expected = (0..length)
                .map(|at| runner.prefill(3, at, &tokens[at..=at], 1).unwrap().row(0).to_vec())
                .collect();
            Sequence { tokens, expected, read: 0 }
        }).collect();
        for plan in widths.chunks(3) {
            let mut spans: Vec<Span<'_>> = Vec::new();
            for &(slot, width) in plan {
                let Sequence { tokens, read, .. } = &sequences[slot];
                let part = &tokens[*read..tokens.len().min(read + width)];
                if part.is_empty() || spans.iter().any(|span| span.slot == slot) {
                    continue;
                }
                // All of a decoding sequence's logits, and some of a chunk's.
                let rows = if width % 2 == 0 { part.len() } else { width % (part.len() + 1) };
                spans.push(Span { slot, past: *read, tokens: part, rows });
            }
            if spans.is_empty() {
                continue;
            }
            let logits = runner.step(&spans).unwrap();
            let mut row = 0;
            for span in &spans {
                let end = span.past + span.tokens.len();
                for at in end - span.rows..end {
                    prop_assert_eq!(logits.row(row), &sequences[span.slot].expected[at][..]);
                    row += 1;
                }
            }
            prop_assert_eq!(logits.rows(), row);
            let read: Vec<_> = spans.iter().map(|span| (span.slot, span.past + span.tokens.len())).collect();
            for (slot, end) in read {
                sequences[slot].read = end;
            }
        }
    }
}
