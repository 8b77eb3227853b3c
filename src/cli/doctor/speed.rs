//! How fast the memory is read, and so how fast answers come.
//!
//! A decode step reads every weight but the table of embeddings once. The time of a step is hardly
//! more than that, so tokens a second are at most the bytes read a second by the bytes of a step.

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde_json::json;

use super::Case;
use super::findings::Findings;
use phi4d_model::Provider;
use phi4d_os as os;

const CHECK: &str = "speed";

/// How much of the read bandwidth a step was found to use (benches/RESULTS.md).
const SHARE: f64 = 0.75;

/// Read by each thread in one pass: more than caches hold.
const BYTES: usize = 128 << 20;

const TIME: Duration = Duration::from_millis(400);

pub(super) fn check(case: &Case, findings: &mut Findings) {
    let Some(export) = &case.export else { return };
    let on_cpu = matches!(
        crate::inspect::Runs::find(&case.settings, export).provider,
        Ok((Provider::Cpu, _))
    );
    if !case.measure || !on_cpu {
        return;
    }
    let threads = match case.settings.threads {
        0 => os::physical_cores(),
        threads => threads,
    };
    if os::spare_memory() / 4 < threads.saturating_mul(2 * BYTES) {
        findings.note(CHECK, "not measured: too little memory is free", "");
        return;
    }
    let rate = measure(threads);
    let most = tokens_per_second(rate, export.step_bytes());
    findings.good(
        CHECK,
        format!(
            "{threads} threads read {:.1} GB/s; about {:.1} tokens/s for one answer, at most {most:.1}",
            rate / 1e9,
            most * SHARE
        ),
    );
    findings.figure("read_bytes_per_second", json!(rate));
    findings.figure("step_bytes", json!(export.step_bytes()));
    findings.figure("expected_tokens_per_second", json!(most * SHARE));
}

#[expect(clippy::cast_precision_loss, reason = "sizes far below where that shows")]
fn tokens_per_second(rate: f64, step: u64) -> f64 {
    rate / step.max(1) as f64
}

/// Bytes that `threads` threads read a second, all at once.
#[expect(clippy::cast_precision_loss, reason = "sizes far below where that shows")]
fn measure(threads: usize) -> f64 {
    std::thread::scope(|scope| {
        let start = || std::thread::Builder::new().spawn_scoped(scope, read).ok();
        let readers: Vec<_> = (0..threads).filter_map(|_| start()).collect();
        readers
            .into_iter()
            .filter_map(|reader| reader.join().ok())
            .map(|(bytes, time)| bytes as f64 / time.as_secs_f64().max(1e-9))
            .sum()
    })
}

/// Compares two equal blocks until the time is over: what the library has for it reads as fast as the
/// processor can.
fn read() -> (usize, Duration) {
    // Written, or all of it would be one page of zeros.
    let (left, right) = (vec![1_u8; BYTES], vec![1_u8; BYTES]);
    let begun = Instant::now();
    let mut bytes = 0;
    while begun.elapsed() < TIME {
        black_box(black_box(&left) == black_box(&right));
        bytes += 2 * BYTES;
    }
    (bytes, begun.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_follow_from_bandwidth_and_the_bytes_of_a_step() {
        assert!((tokens_per_second(50e9, 10_000_000_000) - 5.0).abs() < 1e-9);
        assert!(tokens_per_second(1.0, 0).is_finite());
    }
}
