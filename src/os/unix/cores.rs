//! Which of the processor's cores a model's work is best split over.

use std::collections::BTreeMap;
use std::path::Path;

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use crate::types::Cores;

/// What the kernel calls the capacity of the fastest core.
const FULL: u32 = 1024;

/// That of an Intel E core, where an older kernel names the kind of a core only.
const EFFICIENT: u32 = 615;

/// The cores of this process: those that its affinity allows, at most what its cgroup's quota is worth.
#[must_use]
pub fn cores() -> Cores {
    // Knows affinity and cgroup quotas, but counts hardware threads.
    let logical = std::thread::available_parallelism().map_or(1, usize::from);
    let Ok(allowed) = sched_getaffinity(Pid::from_raw(0)) else {
        return Cores { all: logical, used: logical };
    };
    let allowed = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    match capacities(Path::new("/sys/devices"), allowed) {
        Some(capacities) => split(&capacities, logical),
        None => Cores { all: logical, used: logical },
    }
}

/// The capacity of each core that `cpus` belong to; `None` if the folder does not say.
fn capacities(devices: &Path, cpus: impl Iterator<Item = usize>) -> Option<Vec<u32>> {
    let fast = std::fs::read_to_string(devices.join("cpu_core/cpus")).ok();
    let fast = fast.as_deref().map(|list| list_of(list.trim()));
    let mut cores = BTreeMap::new();
    for cpu in cpus {
        let folder = devices.join(format!("system/cpu/cpu{cpu}"));
        let siblings =
            std::fs::read_to_string(folder.join("topology/thread_siblings_list")).ok()?;
        let named = std::fs::read_to_string(folder.join("cpu_capacity")).ok();
        let capacity = named.and_then(|text| text.trim().parse().ok()).unwrap_or(match &fast {
            Some(fast) if !fast.contains(&cpu) => EFFICIENT,
            _ => FULL,
        });
        // Hardware threads of one core share the units that a matmul keeps busy, so counting them twice only
        // makes threads wait for each other.
        cores.insert(siblings, capacity);
    }
    Some(cores.into_values().collect())
}

/// Leaves out cores of less than three quarters of the fastest one's capacity, unless all of them together can
/// do more than the faster ones.
///
/// A step ends with its slowest thread, and memory limits it before all cores are busy. So a few slow cores cost
/// more than they bring; but two fast cores beside eight slow ones leave most of the machine idle.
fn split(capacities: &[u32], logical: usize) -> Cores {
    let most = capacities.iter().copied().max().unwrap_or(FULL);
    let (fast, slow): (Vec<u32>, Vec<u32>) =
        capacities.iter().partition(|capacity| **capacity >= most / 4 * 3);
    let total = |cores: &[u32]| cores.iter().map(|capacity| u64::from(*capacity)).sum::<u64>();
    let all = capacities.len();
    let used = if total(&slow) > total(&fast) { all } else { fast.len() };
    Cores { all: all.clamp(1, logical), used: used.clamp(1, logical) }
}

/// The numbers of a list such as `0-3,8`; what is no list has none.
fn list_of(text: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?.min(CpuSet::count()))
    };
    text.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A processor: for each logical CPU its siblings and its capacity, if the kernel names it.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new(cpus: &[(&str, Option<u32>)]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            for (cpu, (siblings, capacity)) in cpus.iter().enumerate() {
                let cpu = folder.path().join(format!("system/cpu/cpu{cpu}"));
                std::fs::create_dir_all(cpu.join("topology")).unwrap();
                std::fs::write(cpu.join("topology/thread_siblings_list"), siblings).unwrap();
                if let Some(capacity) = capacity {
                    std::fs::write(cpu.join("cpu_capacity"), format!("{capacity}\n")).unwrap();
                }
            }
            Self(folder)
        }

        /// Names Intel's P and E cores.
        fn kinds(self, core: &str, atom: &str) -> Self {
            for (kind, cpus) in [("cpu_core", core), ("cpu_atom", atom)] {
                let folder = self.0.path().join(kind);
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join("cpus"), format!("{cpus}\n")).unwrap();
            }
            self
        }

        fn cores(&self, cpus: impl Iterator<Item = usize>, logical: usize) -> (usize, usize) {
            let Cores { all, used } = split(&capacities(self.0.path(), cpus).unwrap(), logical);
            (all, used)
        }
    }

    #[test]
    fn hardware_threads_of_a_core_count_once() {
        let tree = Tree::new(&[("0,2", None), ("1,3", None), ("0,2", None), ("1,3", None)]);
        assert_eq!(tree.cores(0..4, 4), (2, 2));
        assert_eq!(tree.cores([0, 2].into_iter(), 4), (1, 1));
        assert_eq!(capacities(tree.0.path(), [0, 9].into_iter()), None);
    }

    #[test]
    fn a_quota_bounds_the_cores() {
        let tree = Tree::new(&[("0", None), ("1", None), ("2", None), ("3", None)]);
        assert_eq!(tree.cores(0..4, 4), (4, 4));
        // What the standard library makes of cpu.max.
        assert_eq!(tree.cores(0..4, 2), (2, 2));
    }

    #[test]
    fn efficient_cores_are_left_out_unless_they_are_most_of_the_machine() {
        // Two P cores of two threads and four E cores; then a third P core's threads are E cores.
        let alone = ["4", "5", "6", "7"].map(|cpu| (cpu, None));
        let fast = [("0-1", None), ("0-1", None), ("2-3", None), ("2-3", None)];
        let few = Tree::new(&[&fast[..], &alone[..2]].concat()).kinds("0-3", "4-5");
        assert_eq!(few.cores(0..6, 6), (4, 2));
        let many = Tree::new(&[&fast[..], &alone[..]].concat()).kinds("0-3", "4-7");
        assert_eq!(many.cores(0..8, 8), (6, 6));
        // A process that is bound to E cores uses them, as does a processor that has no others (N100).
        assert_eq!(many.cores(4..8, 8), (4, 4));
        let only = Tree::new(&[("0", None), ("1", None), ("2", None), ("3", None)]);
        assert_eq!(only.cores(0..4, 4), (4, 4));
    }

    #[test]
    fn little_cores_are_left_out_by_the_same_rule() {
        // Rockchip RK3588: four A55 and four A76.
        let names = ["0", "1", "2", "3", "4", "5", "6", "7"];
        let of = |capacities: [u32; 8]| {
            let cpus: Vec<_> = names.into_iter().zip(capacities.map(Some)).collect();
            Tree::new(&cpus).cores(0..8, 8)
        };
        assert_eq!(of([530, 530, 530, 530, 1024, 1024, 1024, 1024]), (8, 4));
        // One prime core, three that are nearly as fast, four little ones.
        assert_eq!(of([250, 250, 250, 250, 850, 850, 850, 1024]), (8, 4));
        assert_eq!(of([1024; 8]), (8, 8));
    }

    #[test]
    fn lists_of_processors_are_read() {
        assert_eq!(list_of("0-3,8,10-11"), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(list_of(""), Vec::<usize>::new());
        assert_eq!(list_of("x,3-,5"), [5]);
        assert!(list_of("0-99999999999").len() <= CpuSet::count() + 1);
    }

    #[test]
    fn there_is_at_least_one_and_no_more_than_the_system_grants() {
        let granted = std::thread::available_parallelism().unwrap().get();
        let Cores { all, used } = cores();
        assert!((1..=granted).contains(&all));
        assert!((1..=all).contains(&used));
    }
}
