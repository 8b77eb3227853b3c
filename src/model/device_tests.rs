//! The real runner with its KV cache on a device: the WebGPU provider, on whatever Vulkan driver
//! there is. `tests/webgpu/run` makes a place for it and runs these.

use std::path::Path;

use super::load::{opened, rows_runner};
use super::onnx::OnnxRunner;
use super::source::Source;
use super::stop::LoadCancel;
use super::{LoadOptions, Provider, ProviderSettings, Runner};

/// How far logits may be from the CPU's on the same export: half precision in other orders.
const MARGIN: f32 = 0.2;

fn options(provider: Provider, slots: usize) -> LoadOptions {
    let library = std::env::var_os("PHI4D_TEST_WEBGPU").map(Into::into);
    LoadOptions {
        folder: Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo-gpu"),
        provider: ProviderSettings {
            library: library.filter(|_| provider == Provider::WebGpu),
            ..provider.into()
        },
        max_prefill_tokens: 16,
        kv_cache_type: crate::KvType::F16,
        ..crate::tests::options(slots)
    }
}

fn load(options: &LoadOptions) -> OnnxRunner {
    let source = Source::read(&options.folder).unwrap();
    let loaded = opened(&source, options, &LoadCancel::default())
        .and_then(|opened| rows_runner(opened.session, &source, options, &opened.chosen));
    loaded.unwrap_or_else(|error| panic!("{error}"))
}

fn on_device(slots: usize) -> OnnxRunner {
    let runner = load(&options(Provider::WebGpu, slots));
    assert!(runner.work_done().1.is_some(), "the KV cache is not on the device");
    runner
}

fn prompt(seed: u32, length: usize) -> Vec<u32> {
    (0..).map(|i| (seed * 31 + i * 7) % 900).take(length).collect()
}

fn fill(runner: &mut OnnxRunner, slot: usize, tokens: &[u32]) {
    for (index, chunk) in tokens.chunks(16).enumerate() {
        runner.prefill(slot, index * 16, chunk, 1).unwrap();
    }
}

fn next(runner: &mut OnnxRunner, slot: usize, past: usize) -> Vec<f32> {
    runner.decode(slot, &[11], &[past]).unwrap().row(0).to_vec()
}

#[track_caller]
fn assert_close(left: &[f32], right: &[f32]) {
    let off = left.iter().zip(right).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(left.len() == right.len() && off <= MARGIN, "off by {off}");
}

#[test]
#[ignore = "needs a device: tests/webgpu/run"]
fn logits_are_those_of_the_cpu_for_prompts_chunks_guesses_and_tokens() {
    let mut device = on_device(2);
    let mut cpu = load(&options(Provider::Cpu, 2));
    assert!(cpu.work_done().1.is_none());
    for (seed, length) in [(1, 1), (2, 60), (3, 300)] {
        let tokens = prompt(seed, length);
        let (rest, last) = tokens.split_at(length - length.min(3));
        for (index, chunk) in rest.chunks(16).enumerate() {
            let expected = cpu.prefill(1, index * 16, chunk, 1).unwrap().row(0).to_vec();
            assert_close(device.prefill(1, index * 16, chunk, 1).unwrap().row(0), &expected);
        }
        let expected = cpu.prefill(1, rest.len(), last, last.len()).unwrap();
        let rows = device.prefill(1, rest.len(), last, last.len()).unwrap();
        assert_eq!(rows.rows(), expected.rows());
        for row in 0..rows.rows() {
            assert_close(rows.row(row), expected.row(row));
        }
        assert_close(&next(&mut device, 1, length), &next(&mut cpu, 1, length));
    }
}

#[test]
#[ignore = "needs a device: tests/webgpu/run"]
fn rows_of_different_lengths_decode_as_they_do_alone() {
    let mut runner = on_device(5);
    let lengths = [5, 130, 300, 1, 64];
    let prompts: Vec<Vec<u32>> = (1..).zip(lengths).map(|(seed, n)| prompt(seed, n)).collect();
    let mut alone = Vec::new();
    for tokens in &prompts {
        fill(&mut runner, 2, tokens);
        alone.push(next(&mut runner, 2, tokens.len()));
    }
    for (slot, tokens) in prompts.iter().enumerate() {
        fill(&mut runner, slot, tokens);
    }
    // All, a part not from the first, exchanged, and one by one again.
    for _ in 0..2 {
        let together = runner.decode(0, &[11; 5], &lengths).unwrap();
        for (row, alone) in alone.iter().enumerate() {
            assert_close(together.row(row), alone);
        }
    }
    let part = runner.decode(1, &[11; 2], &lengths[1..3]).unwrap();
    assert_close(part.row(0), &alone[1]);
    assert_close(part.row(1), &alone[2]);
    runner.swap([0, 2], [5, 300]);
    let together = runner.decode(0, &[11; 3], &[300, 130, 5]).unwrap();
    assert_close(together.row(0), &alone[2]);
    assert_close(together.row(2), &alone[0]);
    for (slot, original) in [2, 1, 0, 3, 4].into_iter().enumerate() {
        assert_close(&next(&mut runner, slot, lengths[original]), &alone[original]);
    }
}

/// The provider here records nothing, but what recording asks for is all there: masks of full width,
/// logits in the device's memory, and a number for each run.
#[test]
#[ignore = "needs a device: tests/webgpu/run"]
fn steps_set_up_to_be_recorded_give_the_same_logits() {
    let mut plain = on_device(3);
    let mut recorded = on_device(3).recording(true).unwrap();
    let lengths = [5, 130, 64];
    for runner in [&mut plain, &mut recorded] {
        for (slot, length) in lengths.into_iter().enumerate() {
            fill(runner, slot, &prompt(7, length));
        }
    }
    for rows in [1, 3, 1, 2] {
        let expected = plain.decode(0, &[11, 12, 13][..rows], &lengths[..rows]).unwrap();
        let logits = recorded.decode(0, &[11, 12, 13][..rows], &lengths[..rows]).unwrap();
        for row in 0..rows {
            assert_close(logits.row(row), expected.row(row));
        }
    }
}

#[test]
#[ignore = "needs a device: tests/webgpu/run"]
fn slots_are_copied_written_out_and_read_back() {
    let mut runner = on_device(4);
    let (short, long) = (prompt(3, 20), prompt(5, 290));
    fill(&mut runner, 0, &short);
    fill(&mut runner, 1, &long);
    let expected = [next(&mut runner, 0, 20), next(&mut runner, 1, 290)];
    runner.copy(1, 2, 290);
    assert_close(&next(&mut runner, 2, 290), &expected[1]);
    let mut written = Vec::new();
    runner.export(1, 290, &mut written).unwrap();
    assert_eq!(written.len(), 290 * runner.limits().kv_bytes_per_token);
    runner.release(1, 0);
    assert!(runner.decode(1, &[11], &[290]).is_err());
    runner.import(3, 290, &mut written.as_slice()).unwrap();
    assert_close(&next(&mut runner, 3, 290), &expected[1]);
    assert_close(&next(&mut runner, 0, 20), &expected[0]);
    let mut again = Vec::new();
    runner.export(3, 290, &mut again).unwrap();
    assert!(again == written, "what was read back is written out as it was");
    // The host's cache writes the same form.
    let mut cpu = load(&options(Provider::Cpu, 1));
    cpu.import(0, 290, &mut written.as_slice()).unwrap();
    assert_close(&next(&mut cpu, 0, 290), &expected[1]);
}

#[test]
#[ignore = "needs a device: tests/webgpu/run"]
fn a_step_makes_nothing_that_the_step_before_it_made() {
    let mut runner = on_device(3);
    for slot in 0..3 {
        fill(&mut runner, slot, &prompt(7, 20 + slot));
    }
    let mut past = [20, 21, 22];
    runner.decode(0, &[11; 3], &past).unwrap();
    let made = runner.work_done();
    for _ in 0..50 {
        past.iter_mut().for_each(|past| *past += 1);
        runner.decode(0, &[11; 3], &past).unwrap();
    }
    assert_eq!(runner.work_done(), made);
    // The same for one that decodes alone: on the bench.
    runner.decode(1, &[11], &past[1..2]).unwrap();
    let made = runner.work_done();
    for more in 1..50 {
        runner.decode(1, &[11], &[past[1] + more]).unwrap();
    }
    assert_eq!(runner.work_done(), made);
}
