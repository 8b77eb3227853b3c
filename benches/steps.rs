//! Times bare steps of a model: decode at several widths and prefill at several lengths. Beside them,
//! in turns: how fast the machine reads memory, which decode at batch 1 can't outrun.
//!
//! `cargo bench --bench steps -- MODEL_FOLDER [PROMPT_TOKENS ...]`; the demo model without a folder.
//! `OWN_KERNELS=0` has ONNX Runtime's kernels do the int4 products.
//! Rounds of the different shapes take turns, so that a noisy machine disturbs all alike; medians
//! are printed.

#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark: it prints, and has nothing better to do than stop"
)]

use std::path::PathBuf;
use std::time::Instant;

use phi4d_model::{LoadOptions, Provider, Runner, WeightsMemory, load};

const WIDTHS: [usize; 4] = [1, 2, 4, 8];
const PAST: usize = 64;
/// More than caches hold.
const READ_BYTES: usize = 256 << 20;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let folder = arguments.first().map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models/demo"),
        PathBuf::from,
    );
    let mut lengths: Vec<usize> =
        arguments.iter().skip(1).map(|text| text.parse().expect("a number of tokens")).collect();
    if lengths.is_empty() {
        lengths = vec![16, 128, 512];
    }
    let chunk = 512;
    let options = LoadOptions {
        folder,
        provider: Provider::Cpu.into(),
        threads: 0,
        slots: WIDTHS[WIDTHS.len() - 1],
        context_tokens: 4096,
        max_prefill_tokens: chunk,
        kv_cache_bytes: 0,
        own_kernels: std::env::var("OWN_KERNELS").as_deref() != Ok("0"),
        int8_activations: phi4d_model::Int8Activations::Export,
        kv_cache_type: phi4d_model::KvType::F16,
        weights_memory: WeightsMemory::Auto,
        runtime_library: None,
    };
    let began = Instant::now();
    let mut runner = load(&options).expect("the model loads").runner;
    println!("loaded in {:.2} s", began.elapsed().as_secs_f64());
    let vocab = u32::try_from(runner.limits().vocab_size).expect("a vocabulary");
    let tokens: Vec<u32> = (0..4096).map(|i| i * 37 % vocab.min(900)).collect();
    for slot in 0..options.slots {
        runner.prefill(slot, 0, &tokens[..PAST], 1).expect("a step");
    }
    let mut decode = vec![Vec::new(); WIDTHS.len()];
    let memory = vec![1_u64; READ_BYTES / size_of::<u64>()];
    let mut reads = Vec::new();
    for position in PAST..PAST + 40 {
        reads.push(READ_BYTES as f64 / read(&memory) / 1e9);
        for (times, width) in decode.iter_mut().zip(WIDTHS) {
            let began = Instant::now();
            runner.decode(0, &tokens[..width], &vec![position; width]).expect("a step");
            times.push(began.elapsed().as_secs_f64());
        }
    }
    println!("memory read: {:.1} GB/s", median(reads));
    let base = median(decode[0].clone());
    for (times, width) in decode.into_iter().zip(WIDTHS) {
        let seconds = median(times);
        println!(
            "decode, batch {width}: {:.2} ms a step, {:.1} tokens/s, {:.2} times batch 1",
            seconds * 1e3,
            width as f64 / seconds,
            width as f64 * base / seconds,
        );
    }
    for &length in &lengths {
        let rounds = if length * 5 > 1000 { 3 } else { 9 };
        let times =
            (0..rounds).map(|_| prefill(runner.as_mut(), &tokens[..length], chunk)).collect();
        let seconds = median(times);
        println!(
            "prefill of {length}: {:.1} ms, {:.1} tokens/s",
            seconds * 1e3,
            length as f64 / seconds
        );
    }
}

/// Seconds in which all cores together read `memory`.
fn read(memory: &[u64]) -> f64 {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for part in memory.chunks(memory.len().div_ceil(threads)) {
            scope.spawn(move || {
                // Several sums, so that none waits for the one before.
                let mut sums = [0_u64; 32];
                for numbers in part.as_chunks::<32>().0 {
                    sums.iter_mut().zip(numbers).for_each(|(sum, number)| *sum ^= number);
                }
                std::hint::black_box(sums);
            });
        }
    });
    began.elapsed().as_secs_f64()
}

fn prefill(runner: &mut dyn Runner, tokens: &[u32], chunk: usize) -> f64 {
    let began = Instant::now();
    for (index, part) in tokens.chunks(chunk).enumerate() {
        runner.prefill(0, index * chunk, part, 1).expect("a step");
    }
    began.elapsed().as_secs_f64()
}
