//! Is the machine fit: hardware, limits, and how fast answers come?

use std::path::Path;

use serde_json::json;

use super::findings::{Check, Findings};
use crate::fleet;
use crate::report::machine::{Machine, READ_BYTES, SHARE_OF_BANDWIDTH, address_space, read_rate};
use crate::report::{ModelReport, bytes, memory_lines};
use phi4d_model::{self as model, MemoryPlan, Provider};
use phi4d_os as os;
use phi4d_settings::Settings;

pub(super) fn hardware(findings: &mut Findings) {
    let mut check = findings.of("hardware");
    let machine = Machine::find();
    check.good(format!(
        "{}: {} cores ({} threads) for this process, {}",
        machine.processor,
        machine.cores.all,
        machine.threads,
        machine.features.join(" ")
    ));
    check.figure("cores", json!(machine.cores.all));
    let os::Cores { all, used } = machine.cores;
    if used < all {
        check.good(format!(
            "threads = 0 takes {used} of the {all} cores: the others are slow and few"
        ));
    }
    check.figure("features", json!(machine.features));
    if cfg!(target_arch = "x86_64") && !machine.features.contains(&"avx2") {
        check.note("without AVX2 answers are very slow", "take another machine");
    } else if model::own_kernel().is_none() {
        check.note(
            "the processor has no instruction set that phi4d's own matmul uses: ONNX Runtime's runs",
            "",
        );
    }
    if model::has_huge_pages() {
        check.good("weights get huge pages");
    } else if cfg!(target_os = "linux") {
        check.note(
            "transparent huge pages are off: weights are read up to a third slower",
            "write madvise to /sys/kernel/mm/transparent_hugepage/enabled (kernel parameter \
             transparent_hugepage=madvise)",
        );
    }
    let total = machine.total_memory.map_or_else(|| "unknown".to_owned(), bytes);
    let spare = machine.spare_memory;
    check.good(format!("memory of {total}, of which {} can be had", bytes(spare)));
    check.figure("spare_memory_bytes", json!(spare));
    let gpus = &machine.gpus;
    let text =
        if gpus.is_empty() { "no GPU".to_owned() } else { format!("GPUs: {}", gpus.join(", ")) };
    check.good(text);
    if let Some(driver) = machine.nvidia_driver {
        check.good(format!("NVIDIA's driver: {driver}"));
    } else if gpus.iter().any(|gpu| gpu.starts_with("NVIDIA")) {
        check.note(
            "an NVIDIA GPU without its maker's driver can't run models",
            "install nvidia-driver and load its module",
        );
    }
    check.figure("gpus", json!(gpus));
}

/// Settings of the kernel, in `folder`, that keep the daemon from running or slow it down.
pub(super) fn kernel(folder: &Path, findings: &mut Findings) {
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    if read("overcommit_memory").trim() == "2" {
        findings.of("kernel").fault(
            "vm.overcommit_memory is 2: the kernel counts the KV cache's address space as if it were \
             used, and refuses it",
            "sysctl vm.overcommit_memory=0, and the same in /etc/sysctl.d",
        );
    }
}

/// Whether the process's limits leave room for what the settings ask for.
pub(super) fn limits(settings: &Settings, findings: &mut Findings) {
    let mut check = findings.of("limits");
    if let Ok(room) = os::room_for_connections() {
        judge_files(room, settings.max_connections, &mut check);
    }
    if let Some(limit) = address_space() {
        judge_memory(limit, &mut check);
    }
}

/// `serve` raises the limit as this has done, and takes no more connections than fit it.
fn judge_files(room: usize, connections: usize, check: &mut Check<'_>) {
    if room < connections {
        check.note(
            format!(
                "the limit of open files has room for {room} connections, and max_connections is \
                 {connections}; a daemon started from here takes {room} at once"
            ),
            "raise LimitNOFILE= of the unit (ulimit -Hn in a shell), or lower max_connections",
        );
    } else {
        check.good(format!("open files suffice for {connections} connections"));
    }
}

fn judge_memory(limit: Option<u64>, check: &mut Check<'_>) {
    match limit {
        Some(bytes) => check.fault(
            format!("the address space is limited to {bytes} bytes; the cache reserves more than it uses"),
            "take the limit away (LimitAS=infinity, ulimit -v unlimited); MemoryMax= is the one to use",
        ),
        None => check.good("the address space is not limited"),
    }
}

/// What the memory plan is, and whether the machine has the memory for it.
pub(super) fn memory(plan: &MemoryPlan, findings: &mut Findings) {
    let mut check = findings.of("memory");
    judge_plan(plan, &mut check);
    for (name, text) in memory_lines(plan) {
        check.good(format!("{name}: {text}"));
    }
    check.figure("memory", json!(plan));
}

/// Whether the model fits the memory, with its cache.
pub(super) fn judge_plan(plan: &MemoryPlan, check: &mut Check<'_>) {
    let spare = plan.spare_bytes as u64;
    let wanted = fleet::bytes(plan);
    if plan.weight_bytes > spare {
        check.fault(
            format!(
                "the weights take {} and {} can be had",
                bytes(plan.weight_bytes),
                bytes(spare)
            ),
            "stop other programs, raise the cgroup's limit (MemoryMax=), or take a smaller model",
        );
    } else if wanted > spare {
        check.fault(
            format!(
                "weights and kv_cache_bytes take {} and {} can be had",
                bytes(wanted),
                bytes(spare)
            ),
            "lower kv_cache_bytes, or set it to 0 for half of what is left",
        );
    } else if let Some(fault) = plan.too_small {
        check.fault(fault.to_string(), "raise kv_cache_bytes, or free memory");
    } else if plan.slot_tokens < plan.context_tokens {
        check.note(
            format!(
                "the cache holds {} tokens, less than one context of {}",
                plan.kv_budget_tokens, plan.context_tokens
            ),
            "lower context_tokens, so that requests that can't fit are refused at once",
        );
    }
}

/// How fast the memory is read, and so how fast answers come.
///
/// A decode step reads every weight but the table of embeddings once. The time of a step is hardly
/// more than that, so tokens a second are at most the bytes read a second by the bytes of a step.
pub(super) fn speed(settings: &Settings, model: &ModelReport, findings: &mut Findings) {
    let mut check = findings.of("speed");
    if !matches!(model.runs.provider, Ok((Provider::Cpu, _))) {
        return;
    }
    let threads = match settings.threads {
        0 => os::cores().used,
        threads => threads,
    };
    if os::spare_memory() / 4 < threads.saturating_mul(2 * READ_BYTES) {
        check.note("not measured: too little memory is free", "");
        return;
    }
    let rate = read_rate(threads);
    let step = model.export.step_bytes();
    let most = tokens_per_second(rate, step);
    check.good(format!(
        "{threads} threads read {:.1} GB/s; about {:.1} tokens/s for one answer, at most {most:.1}",
        rate / 1e9,
        most * SHARE_OF_BANDWIDTH
    ));
    check.figure("read_bytes_per_second", json!(rate));
    check.figure("step_bytes", json!(step));
    check.figure("expected_tokens_per_second", json!(most * SHARE_OF_BANDWIDTH));
}

#[expect(clippy::cast_precision_loss, reason = "sizes far below where that shows")]
fn tokens_per_second(rate: f64, step: u64) -> f64 {
    rate / step.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_connections_are_noted_and_a_limited_address_space_is_a_fault() {
        let note_of = |room, connections| {
            let mut findings = Findings::default();
            judge_files(room, connections, &mut findings.of("limits"));
            assert_eq!(findings.faults(), 0);
            findings.text()
        };
        assert!(note_of(1024, 1024).starts_with("ok"));
        assert!(
            note_of(976, 1024)
                .starts_with("note  limits    the limit of open files has room for 976")
        );
        let judged = |limit| {
            let mut findings = Findings::default();
            judge_memory(limit, &mut findings.of("limits"));
            findings.text()
        };
        assert!(judged(None).starts_with("ok"));
        assert!(
            judged(Some(1000))
                .contains("FAULT limits    the address space is limited to 1000 bytes")
        );
    }

    #[test]
    fn strict_overcommit_is_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        for (value, faults) in [("0\n", 0), ("1\n", 0), ("2\n", 1)] {
            std::fs::write(folder.path().join("overcommit_memory"), value).unwrap();
            let mut findings = Findings::default();
            kernel(folder.path(), &mut findings);
            assert_eq!(findings.faults(), faults, "{value}");
        }
        kernel(&folder.path().join("none"), &mut Findings::default());
    }

    #[test]
    fn tokens_follow_from_bandwidth_and_the_bytes_of_a_step() {
        assert!((tokens_per_second(50e9, 10_000_000_000) - 5.0).abs() < 1e-9);
        assert!(tokens_per_second(1.0, 0).is_finite());
    }
}
