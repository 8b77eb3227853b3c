//! How many cores a computation can use.

use std::collections::BTreeSet;
use std::path::Path;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

/// Physical cores that this process may run on, at most what its cgroup's quota is worth; at least
/// one. Hardware threads of one core share the units that a matrix product keeps busy, so that
/// counting them twice only makes threads wait for each other.
#[must_use]
pub fn physical_cores() -> usize {
    // Knows affinity and cgroup quotas, but counts hardware threads.
    let logical = std::thread::available_parallelism().map_or(1, usize::from);
    let Ok(allowed) = sched_getaffinity(Pid::from_raw(0)) else {
        return logical;
    };
    let allowed = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let cores = distinct_cores(Path::new("/sys/devices/system/cpu"), allowed);
    cores.map_or(logical, |cores| cores.clamp(1, logical))
}

/// How many different cores `cpus` belong to; `None` if the folder does not tell.
fn distinct_cores(folder: &Path, cpus: impl Iterator<Item = usize>) -> Option<usize> {
    let mut cores = BTreeSet::new();
    for cpu in cpus {
        let file = folder.join(format!("cpu{cpu}/topology/thread_siblings_list"));
        cores.insert(std::fs::read_to_string(file).ok()?);
    }
    Some(cores.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_threads_of_a_core_count_once() {
        let folder = tempfile::tempdir().unwrap();
        for (cpu, siblings) in [(0, "0,2"), (1, "1,3"), (2, "0,2"), (3, "1,3")] {
            let topology = folder.path().join(format!("cpu{cpu}/topology"));
            std::fs::create_dir_all(&topology).unwrap();
            std::fs::write(topology.join("thread_siblings_list"), siblings).unwrap();
        }
        let count = |cpus: &[usize]| distinct_cores(folder.path(), cpus.iter().copied());
        assert_eq!(count(&[0, 1, 2, 3]), Some(2));
        assert_eq!(count(&[0, 2]), Some(1));
        assert_eq!(count(&[0, 9]), None);
    }

    #[test]
    fn there_is_at_least_one_and_no_more_than_the_system_grants() {
        let granted = std::thread::available_parallelism().unwrap().get();
        assert!((1..=granted).contains(&physical_cores()));
    }
}
