//! The paged runner over the stand-in of its operator, beside the runner of the plain export of the
//! same weights.

use crate::tests::{check_moves, close, folder_of, options, prompt, with_graph};
use crate::{LoadOptions, Rotary, Runner, load};

/// Positions in a block of the model's cache.
const BLOCK: usize = 16;

/// Between the two kernels' sums.
const NEAR: f32 = 1e-3;

fn runner(graph: &str, config: &str, slots: usize) -> Box<dyn Runner> {
    let folder = with_graph(graph, config);
    let options = LoadOptions { folder: folder.path().into(), ..options(slots) };
    load(&options).unwrap_or_else(|error| panic!("{error}")).runner
}

fn paged(slots: usize) -> Box<dyn Runner> {
    runner("paged.onnx", "paged.json", slots)
}

fn plain(slots: usize) -> Box<dyn Runner> {
    runner("model.onnx", "genai_config.json", slots)
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
fn a_paged_export_is_known_by_its_inputs_and_counts_blocks() {
    let (paged, plain) = (paged(3), plain(3));
    let (limits, other) = (paged.limits(), plain.limits());
    assert_eq!(limits.kv_block_tokens, BLOCK);
    assert_eq!(limits.kv_bytes_per_token, other.kv_bytes_per_token);
    assert_eq!((limits.rotary_switch, limits.many_rows), (Some(64), true));
}

#[test]
fn prompts_in_chunks_and_batches_of_all_lengths_give_what_the_plain_export_gives() {
    let (mut paged, mut plain) = (paged(4), plain(4));
    for (rotary, lengths) in [(Rotary::Short, [1, BLOCK, 17, 40]), (Rotary::Long, [100, 3, 64, 33])]
    {
        for runner in [&mut paged, &mut plain] {
            runner.set_rotary(rotary);
        }
        for ((slot, &length), seed) in lengths.iter().enumerate().zip(7..) {
            let tokens = prompt(seed, length);
            let expected = read(&mut plain, slot, &tokens, 64);
            let given = read(&mut paged, slot, &tokens, 5 + 6 * slot);
            assert!(close(&given, &expected, NEAR), "{length}");
        }
        let tokens = [3, 5, 7, 9];
        for (first, count) in [(0, 4), (1, 2), (3, 1)] {
            let past = &lengths[first..first + count];
            let expected = plain.decode(first, &tokens[..count], past).unwrap();
            let given = paged.decode(first, &tokens[..count], past).unwrap();
            assert_eq!(given.rows(), count);
            for row in 0..count {
                assert!(close(given.row(row), expected.row(row), NEAR), "{first} and {row}");
            }
        }
    }
}

#[test]
fn the_last_tokens_of_a_prefill_have_their_logits() {
    let (mut paged, mut plain) = (paged(2), plain(2));
    let tokens = prompt(4, 30);
    let expected = plain.prefill(0, 0, &tokens, 4).unwrap();
    let given = paged.prefill(0, 0, &tokens, 4).unwrap();
    assert_eq!(given.rows(), 4);
    for row in 0..4 {
        assert!(close(given.row(row), expected.row(row), NEAR), "{row}");
    }
}

#[test]
fn what_is_shared_is_a_slot_s_own_once_it_writes() {
    let mut runner = paged(3);
    let tokens = prompt(2, 40);
    read(&mut runner, 0, &tokens, 16);
    let own = runner.decode(0, &[11], &[40]).unwrap().row(0).to_vec();
    // In the middle of a block, and at the end of one.
    for kept in [20, 32] {
        runner.copy(0, 1, kept);
        let other = prompt(9, 30);
        let whole = [&tokens[..kept], &other].concat();
        let expected = read(&mut runner, 2, &whole, 16);
        let given = runner.prefill(1, kept, &other, 1).unwrap().row(0).to_vec();
        assert!(close(&given, &expected, NEAR), "{kept}");
        assert_eq!(runner.decode(0, &[11], &[40]).unwrap().row(0), own);
        for slot in [1, 2] {
            runner.release(slot, 0);
        }
    }
    // The slot that was shared may go before the one that shares.
    runner.copy(0, 1, 40);
    runner.release(0, 0);
    read(&mut runner, 2, &prompt(5, 60), 16);
    assert_eq!(runner.decode(1, &[11], &[40]).unwrap().row(0), own);
}

#[test]
fn slots_are_exchanged_copied_written_out_and_read_back() {
    check_moves(&mut paged(3));
}

#[test]
fn a_provider_without_the_operator_is_refused_and_both_are_named() {
    let folder = folder_of("demo-gpu", "paged.onnx", "paged.json");
    for own_kernels in [true, false] {
        let options = LoadOptions { folder: folder.path().into(), own_kernels, ..options(2) };
        let error = load(&options).unwrap_err().to_string();
        assert!(error.contains("PagedAttention is not there on CPUExecutionProvider"), "{error}");
        assert!(error.contains("CUDA, WebGPU"), "{error}");
    }
}
