//! What the machine is.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::findings::Findings;
use crate::plan::bytes;
use phi4d_model as model;
use phi4d_os as os;

const CHECK: &str = "hardware";

/// Makers of GPUs by their number on the bus.
const MAKERS: [(&str, &str); 4] =
    [("0x10de", "NVIDIA"), ("0x1002", "AMD"), ("0x8086", "Intel"), ("0x1af4", "virtual")];

pub(super) fn check(findings: &mut Findings) {
    processor(findings);
    let spare = os::spare_memory() as u64;
    let total = total_memory();
    let total = total.map_or_else(|| "unknown".to_owned(), bytes);
    findings.good(CHECK, format!("memory of {total}, of which {} can be had", bytes(spare)));
    findings.figure("spare_memory_bytes", json!(spare));
    let gpus = gpus(Path::new("/sys/class/drm"));
    let driver = nvidia_driver(Path::new("/proc/driver/nvidia/version"));
    let text =
        if gpus.is_empty() { "no GPU".to_owned() } else { format!("GPUs: {}", gpus.join(", ")) };
    findings.good(CHECK, text);
    if let Some(driver) = driver {
        findings.good(CHECK, format!("NVIDIA's driver: {driver}"));
    } else if gpus.iter().any(|gpu| gpu.starts_with("NVIDIA")) {
        findings.note(
            CHECK,
            "an NVIDIA GPU without its maker's driver can't run models",
            "install nvidia-driver and load its module",
        );
    }
    findings.figure("gpus", json!(gpus));
}

fn processor(findings: &mut Findings) {
    let cores = os::physical_cores();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let features = model::processor_features();
    let name = processor_name().unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    findings.good(
        CHECK,
        format!(
            "{name}: {cores} cores ({threads} threads) for this process, {}",
            features.join(" ")
        ),
    );
    findings.figure("cores", json!(cores));
    findings.figure("features", json!(features));
    if cfg!(target_arch = "x86_64") && !features.contains(&"avx2") {
        findings.note(CHECK, "without AVX2 answers are very slow", "take another machine");
    } else if !model::has_own_kernel() {
        findings.note(
            CHECK,
            "the processor lacks AVX-512 VNNI, which phi4d's own kernel needs: ONNX Runtime's run",
            "",
        );
    }
}

fn processor_name() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start_matches([' ', '\t', ':']).trim().to_owned())
}

fn total_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// GPUs that the kernel knows, by their makers.
fn gpus(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        // card0 is a GPU; card0-HDMI-A-1 one of its sockets.
        let is_card = name
            .strip_prefix("card")
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()));
        let read = |file: &str| fs::read_to_string(entry.path().join("device").join(file));
        let Ok(vendor) = read("vendor") else { continue };
        if is_card {
            let vendor = vendor.trim();
            let known = MAKERS.iter().find(|(number, _)| *number == vendor);
            let device = read("device").unwrap_or_default();
            found.push(format!("{} {}", known.map_or(vendor, |(_, name)| name), device.trim()));
        }
    }
    found.sort();
    found
}

fn nvidia_driver(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().next()?;
    Some(line.trim_start_matches("NVRM version:").trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_gpus_and_their_sockets_are_not() {
        let folder = tempfile::tempdir().unwrap();
        for (card, vendor) in
            [("card1", "0x10de\n"), ("card0", "0x9999\n"), ("card1-DP-1", "0x10de")]
        {
            let device = folder.path().join(card).join("device");
            fs::create_dir_all(&device).unwrap();
            fs::write(device.join("vendor"), vendor).unwrap();
            fs::write(device.join("device"), "0x2330\n").unwrap();
        }
        assert_eq!(gpus(folder.path()), ["0x9999 0x2330", "NVIDIA 0x2330"]);
        assert_eq!(gpus(&folder.path().join("none")), Vec::<String>::new());
    }
}
