//! The machine: its processor, memory, GPUs and the limits of this process.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use phi4d_model as model;
use phi4d_os as os;

/// Makers of GPUs by their number on the bus.
const MAKERS: [(&str, &str); 4] =
    [("0x10de", "NVIDIA"), ("0x1002", "AMD"), ("0x8086", "Intel"), ("0x1af4", "virtual")];

/// Bytes of each of the two blocks that a thread reads for [`read_rate`]: more than caches hold.
pub(crate) const READ_BYTES: usize = 128 << 20;

/// How much of the read bandwidth a decode step was found to use (benches/RESULTS.md).
pub(crate) const SHARE_OF_BANDWIDTH: f64 = 0.75;

const READ_TIME: Duration = Duration::from_millis(400);

/// What the machine is.
pub(crate) struct Machine {
    /// The processor's name.
    pub(crate) processor: String,
    pub(crate) cores: os::Cores,
    pub(crate) threads: usize,
    /// Its instruction sets that matter to kernels.
    pub(crate) features: Vec<&'static str>,
    pub(crate) total_memory: Option<u64>,
    pub(crate) spare_memory: u64,
    /// Maker and device of each, in order.
    pub(crate) gpus: Vec<String>,
    pub(crate) nvidia_driver: Option<String>,
}

impl Machine {
    pub(crate) fn find() -> Self {
        Self {
            processor: processor_name().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cores: os::cores(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            features: model::processor_features(),
            total_memory: total_memory(),
            spare_memory: os::spare_memory() as u64,
            gpus: gpus(Path::new("/sys/class/drm")),
            nvidia_driver: nvidia_driver(Path::new("/proc/driver/nvidia/version")),
        }
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

/// The hard limit of the process's address space in bytes; `Some(None)` where there is none, `None`
/// on systems that do not say.
pub(crate) fn address_space() -> Option<Option<u64>> {
    let text = fs::read_to_string("/proc/self/limits").ok()?;
    Some(hard_limit(&text, "Max address space"))
}

/// A limit of `/proc/self/limits` that the process can't raise; `None` where it is unlimited.
fn hard_limit(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Bytes that `threads` threads read a second, all at once.
#[expect(clippy::cast_precision_loss, reason = "sizes far below where that shows")]
pub(crate) fn read_rate(threads: usize) -> f64 {
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
    let (left, right) = (vec![1_u8; READ_BYTES], vec![1_u8; READ_BYTES]);
    let begun = Instant::now();
    let mut bytes = 0;
    while begun.elapsed() < READ_TIME {
        black_box(black_box(&left) == black_box(&right));
        bytes += 2 * READ_BYTES;
    }
    (bytes, begun.elapsed())
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

    #[test]
    fn a_limit_is_a_number_or_none() {
        let text = "\
Limit                     Soft Limit           Hard Limit           Units     
Max open files            1024                 4096                 files     
Max address space         unlimited            unlimited            bytes     
";
        assert_eq!(hard_limit(text, "Max open files"), Some(4096));
        assert_eq!(hard_limit(text, "Max address space"), None);
    }
}
