//! The paged runner with its cache on a device, by ONNX Runtime's own operator: the WebGPU provider,
//! on whatever Vulkan driver there is. `tests/webgpu/run` makes a place for it and runs these.
//!
//! What it gives is held to the plain export of the same weights on the CPU.

use std::path::Path;

use super::PagedRunner;
use crate::load::{opened, paged_runner};
use crate::source::Source;
use crate::stop::LoadCancel;
use crate::tests::{folder_of, options as cpu_options, prompt};
use crate::{KvGrowth, LoadOptions, Provider, ProviderSettings, RunError, Runner, load};

/// How far logits may be from the CPU's: half precision in other orders.
const MARGIN: f32 = 0.2;

/// The same step twice on the device, alone and among others.
const SAME: f32 = 0.1;

/// Positions in a block of the model's cache.
const BLOCK: usize = 16;

fn options(folder: &Path, slots: usize) -> LoadOptions {
    LoadOptions { folder: folder.into(), max_prefill_tokens: BLOCK, ..cpu_options(slots) }
}

/// A runner with room for `blocks` blocks, or for what there is by default.
fn on_device(slots: usize, blocks: Option<usize>) -> PagedRunner {
    /// 4 layers, keys and values, 2 heads of 32 halves.
    const BLOCK_BYTES: usize = 4 * 2 * 2 * 32 * 2 * BLOCK;
    let library = std::env::var_os("PHI4D_TEST_WEBGPU").map(Into::into);
    let folder = folder_of("demo-gpu", "paged.onnx", "paged.json");
    let options = LoadOptions {
        provider: ProviderSettings { library, ..Provider::WebGpu.into() },
        kv_cache_bytes: blocks.map_or(0, |blocks| blocks * BLOCK_BYTES),
        ..options(folder.path(), slots)
    };
    let source = Source::read(&options.folder).unwrap();
    let opened = opened(&source, &options, &LoadCancel::default()).unwrap();
    // Keys and values stay on the device: whatever uses them runs there.
    let there = &opened.placement.nodes["WebGpuExecutionProvider"];
    assert_eq!(there.get("PagedAttention"), Some(&4), "{:?}", opened.placement);
    let runner = paged_runner(opened.session, &source, &options, &opened.chosen).unwrap();
    assert!(runner.work_done().1.is_some(), "the KV cache is not on the device");
    runner
}

fn on_cpu(slots: usize) -> Box<dyn Runner> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo-gpu");
    load(&options(&folder, slots)).unwrap().runner
}

fn fill(runner: &mut dyn Runner, slot: usize, tokens: &[u32]) -> Vec<f32> {
    let mut last = Vec::new();
    for (index, part) in tokens.chunks(BLOCK).enumerate() {
        last = runner.prefill(slot, index * BLOCK, part, 1).unwrap().row(0).to_vec();
    }
    last
}

fn next(runner: &mut dyn Runner, slot: usize, past: usize) -> Vec<f32> {
    runner.decode(slot, &[11], &[past]).unwrap().row(0).to_vec()
}

#[track_caller]
fn assert_within(margin: f32, left: &[f32], right: &[f32]) {
    let off = left.iter().zip(right).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(left.len() == right.len() && off <= margin, "off by {off}");
}

#[test]
#[ignore = "needs a device: tests/webgpu/run"]
fn logits_are_those_of_the_plain_export_on_the_cpu_in_chunks_and_in_batches_of_all_lengths() {
    let (mut device, mut cpu) = (on_device(5, None), on_cpu(5));
    assert_eq!(device.limits().kv_block_tokens, BLOCK);
    assert!(matches!(device.limits().kv_growth, KvGrowth::Blocks { .. }));
    assert_eq!(device.limits().kv_bytes_per_token, cpu.limits().kv_bytes_per_token);
    let lengths = [1, BLOCK, 17, 130, 64];
    for ((slot, &length), seed) in lengths.iter().enumerate().zip(7..) {
        let tokens = prompt(seed, length);
        let expected = fill(cpu.as_mut(), slot, &tokens);
        assert_within(MARGIN, &fill(&mut device, slot, &tokens), &expected);
    }
    let mut alone = Vec::new();
    for (slot, &length) in lengths.iter().enumerate() {
        alone.push(next(&mut device, slot, length));
        assert_within(MARGIN, &alone[slot], &next(cpu.as_mut(), slot, length));
    }
    for (first, count) in [(0, 5), (1, 2), (3, 1)] {
        let together = device.decode(first, &[11; 5][..count], &lengths[first..first + count]);
        let together = together.unwrap();
        assert_eq!(together.rows(), count);
        for row in 0..count {
            assert_within(SAME, together.row(row), &alone[first + row]);
        }
    }
    // The last tokens of a chunk, as draft tokens need them.
    let tokens = prompt(4, 14);
    let expected = cpu.prefill(0, 0, &tokens, 4).unwrap();
    let given = device.prefill(0, 0, &tokens, 4).unwrap();
    for row in 0..4 {
        assert_within(MARGIN, given.row(row), expected.row(row));
    }
}

#[test]
#[ignore = "needs a device: tests/webgpu/run"]
fn what_is_shared_is_a_slot_s_own_once_it_writes() {
    let (mut device, mut cpu) = (on_device(3, None), on_cpu(1));
    let tokens = prompt(2, 90);
    fill(&mut device, 0, &tokens);
    let own = next(&mut device, 0, 90);
    let [there, free] = device.blocks();
    // In the middle of a block, and at the end of one.
    for kept in [40, 80] {
        device.copy(0, 1, kept);
        assert_eq!(device.blocks(), [there, free], "sharing takes no block");
        let other = prompt(9, 30);
        let given = {
            device.prefill(1, kept, &other[..BLOCK], 1).unwrap();
            device.prefill(1, kept + BLOCK, &other[BLOCK..], 1).unwrap().row(0).to_vec()
        };
        let expected = fill(cpu.as_mut(), 0, &[&tokens[..kept], &other].concat());
        assert_within(MARGIN, &given, &expected);
        assert_within(SAME, &next(&mut device, 0, 90), &own);
        device.release(1, 0);
        assert_eq!(device.blocks(), [there, free], "all are given back");
    }
    // The slot that was shared may go before the one that shares.
    device.copy(0, 1, 90);
    device.release(0, 0);
    fill(&mut device, 2, &prompt(5, 60));
    assert_within(SAME, &next(&mut device, 1, 90), &own);
    for slot in 0..3 {
        device.release(slot, 0);
    }
    assert_eq!(device.blocks(), [there; 2]);
}

#[test]
#[ignore = "needs a device: tests/webgpu/run"]
fn slots_are_exchanged_cut_written_out_and_read_back() {
    let (mut device, mut cpu) = (on_device(3, None), on_cpu(1));
    let (short, long) = (prompt(3, 20), prompt(5, 140));
    fill(&mut device, 0, &short);
    fill(&mut device, 1, &long);
    let expected = [next(&mut device, 0, 20), next(&mut device, 1, 140)];
    device.swap([0, 1], [20, 140]);
    assert_within(SAME, &next(&mut device, 1, 20), &expected[0]);
    assert_within(SAME, &next(&mut device, 0, 140), &expected[1]);
    let mut written = Vec::new();
    device.export(0, 140, &mut written).unwrap();
    assert_eq!(written.len(), 140 * device.limits().kv_bytes_per_token);
    device.release(0, 0);
    device.import(2, 140, &mut written.as_slice()).unwrap();
    assert_within(SAME, &next(&mut device, 2, 140), &expected[1]);
    let mut again = Vec::new();
    device.export(2, 140, &mut again).unwrap();
    assert!(again == written, "what was read back is written out as it was");
    assert!(device.import(0, 291, &mut written.as_slice()).is_err());
    // What is cut off is read again as it was.
    device.release(2, 100);
    for (index, part) in long[100..].chunks(BLOCK).enumerate() {
        device.prefill(2, 100 + index * BLOCK, part, 1).unwrap();
    }
    assert_within(SAME, &next(&mut device, 2, 140), &expected[1]);
    assert_within(MARGIN, &expected[0], &{
        fill(cpu.as_mut(), 0, &short);
        next(cpu.as_mut(), 0, 20)
    });
}

#[test]
#[ignore = "needs a device: tests/webgpu/run"]
fn the_pool_grows_under_what_it_holds_up_to_its_budget_and_says_when_it_is_full() {
    let mut device = on_device(4, Some(36));
    assert_eq!(device.blocks(), [0, 0], "nothing is taken before it is used");
    let length = 150;
    fill(&mut device, 0, &prompt(1, length));
    let before = next(&mut device, 0, length);
    let laid = device.work_done().1;
    assert_eq!(device.blocks()[0], 16);
    for slot in 1..3 {
        fill(&mut device, slot, &prompt(1, length));
    }
    assert_eq!(device.blocks(), [32, 32 - 3 * 10]);
    assert!(device.work_done().1 > laid);
    let together = device.decode(0, &[11; 3], &[length; 3]).unwrap();
    for row in 0..3 {
        assert_within(SAME, together.row(row), &before);
    }
    let full = (0..)
        .map(|index| device.prefill(3, index * BLOCK, &[5; BLOCK], 1).map(|_| ()))
        .find_map(Result::err);
    let Some(RunError::Runtime(reason)) = full else { panic!("{full:?}") };
    assert_eq!(reason, "the cache's 36 blocks of 16 tokens are all taken");
    assert_eq!(device.blocks(), [36, 0], "no more than the budget");
    // The others go on, and so does it once there is room.
    assert_within(SAME, &next(&mut device, 0, length), &before);
    device.release(1, 0);
    device.prefill(3, 6 * BLOCK, &[5; BLOCK], 1).unwrap();
}

#[test]
#[ignore = "needs a device: tests/webgpu/run"]
fn a_step_makes_nothing_that_the_step_before_it_made_and_many_rounds_take_no_more() {
    let mut device = on_device(3, None);
    for slot in 0..3 {
        fill(&mut device, slot, &prompt(7, 33 + slot));
    }
    let mut past = [33, 34, 35];
    device.decode(0, &[11; 3], &past).unwrap();
    let made = device.work_done();
    // Up to the end of the last block but the table's width, which is a power of two.
    while past[2] < 4 * BLOCK - 1 {
        past.iter_mut().for_each(|past| *past += 1);
        device.decode(0, &[11; 3], &past).unwrap();
    }
    assert_eq!(device.work_done(), made);
    let round = |device: &mut PagedRunner, seed: u32| {
        for slot in 0..3 {
            device.release(slot, 0);
            fill(device, slot, &prompt(seed, 10 + BLOCK * slot));
        }
        device.copy(2, 0, 20);
        device.decode(0, &[11; 3], &[20, 26, 42]).unwrap();
    };
    for seed in 0..4 {
        round(&mut device, seed);
    }
    let before = (device.work_done().1, device.blocks(), resident());
    for seed in 0..12 {
        round(&mut device, seed);
    }
    let after = (device.work_done().1, device.blocks(), resident());
    assert_eq!((before.0, before.1), (after.0, after.1));
    // On this driver the device's memory is the process's own.
    assert!(after.2 < before.2 + (8 << 20), "{before:?} {after:?}");
}

/// Resident memory in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = status.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * crate::memory::page_bytes()
}
