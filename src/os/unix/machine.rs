//! How much of the machine the process can use: memory, open files, processors.

#![expect(unsafe_code, reason = "a thread's priority is set by number")]

use std::io;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

/// Bytes that this process can take without swapping or running into its cgroup's limit.
///
/// The machine's part comes from `/proc/meminfo`, or from sysinfo(2) where a hardened unit hides
/// that; the cgroup's from the files of both cgroup versions, of the process's own group and those
/// above it.
#[must_use]
pub fn spare_memory() -> usize {
    let machine = available_of_machine(Path::new("/proc/meminfo")).or_else(free_by_sysinfo);
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = spare_of_groups(Path::new("/sys/fs/cgroup"), &own);
    match (machine, group) {
        (Some(machine), Some(group)) => machine.min(group),
        (machine, group) => machine.or(group).unwrap_or(0),
    }
}

/// Lowers the priority of the calling thread by `steps` of nice, for as long as it lives. Only beside others
/// that want the same processor does it get less time. If the system refuses, the priority stays.
pub fn lower_priority(steps: i32) {
    // On Linux the number 0 stands for the calling thread.
    // SAFETY: takes numbers and touches no memory.
    let now = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    // SAFETY: as above.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, now.saturating_add(steps)) };
}

/// Bytes of this process that are in memory, mapped files included.
#[must_use]
pub fn resident_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The kernel's estimate of what is available without swapping.
fn available_of_machine(meminfo: &Path) -> Option<usize> {
    let text = std::fs::read_to_string(meminfo).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Free memory and buffers: less than what is available, since it leaves out the page cache.
fn free_by_sysinfo() -> Option<usize> {
    let info = nix::sys::sysinfo::sysinfo().ok()?;
    usize::try_from(info.ram_unused()).ok()
}

/// The least that any memory cgroup of the process has to spare; `None` where none has a limit.
/// `own` is the text of `/proc/self/cgroup`.
fn spare_of_groups(root: &Path, own: &str) -> Option<usize> {
    own.lines().filter_map(|line| spare_of_hierarchy(root, line)).min()
}

/// By one line of `/proc/self/cgroup`: `ID:CONTROLLERS:PATH`.
fn spare_of_hierarchy(root: &Path, line: &str) -> Option<usize> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, group) = (parts.next()?, parts.next()?.trim_start_matches('/'));
    let (mount, limit, usage): (PathBuf, _, _) = if controllers.is_empty() {
        (root.to_path_buf(), "memory.max", "memory.current")
    } else if controllers.split(',').any(|name| name == "memory") {
        (root.join("memory"), "memory.limit_in_bytes", "memory.usage_in_bytes")
    } else {
        return None;
    };
    let number = |path: PathBuf| -> Option<usize> {
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    };
    let folder = mount.join(group);
    let groups = folder.ancestors().take_while(|path| path.starts_with(&mount));
    groups
        .filter_map(|path| {
            let limit = number(path.join(limit))?;
            let used = number(path.join(usage)).unwrap_or(0);
            Some(limit.saturating_sub(used.saturating_sub(cached_files(path))))
        })
        .min()
}

/// Page cache of a group, such as that of the model's files: counted as used, but given back when
/// memory is wanted. Version 1 counts the groups below under the first name.
fn cached_files(group: &Path) -> usize {
    let text = std::fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.trim().parse().ok()
    };
    value("total_inactive_file").or_else(|| value("inactive_file")).unwrap_or(0)
}

/// Descriptors for what are not connections: listeners, logs, the runtime's own, files that are read
/// or written at times. At rest there are about a dozen.
const KEPT: u64 = 48;

/// Raises the limit of open descriptors as far as the process may, and returns how many connections
/// fit beside what else is open; at least one.
///
/// # Errors
/// If the limit can't be read.
pub fn room_for_connections() -> io::Result<usize> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let raised = soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    let limit = if raised { hard } else { soft };
    let room = limit.saturating_sub(KEPT.min(limit / 2)).max(1);
    Ok(usize::try_from(room).unwrap_or(usize::MAX))
}

/// Bytes of address space that the process may take, if that is limited.
#[must_use]
pub fn address_space() -> Option<u64> {
    let (soft, _) = getrlimit(Resource::RLIMIT_AS).ok()?;
    (soft != RLIM_INFINITY).then_some(soft)
}

#[cfg(test)]
mod tests {
    use super::*;
    fn write(folder: &Path, name: &str, text: &str) {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join(name), text).unwrap();
    }

    #[test]
    fn the_tightest_group_of_either_version_counts() {
        let root = tempfile::tempdir().unwrap();
        let service = root.path().join("system.slice/phi4d.service");
        write(&service, "memory.max", "max\n");
        write(&service, "memory.current", "10\n");
        let own = "0::/system.slice/phi4d.service\n";
        assert_eq!(spare_of_groups(root.path(), own), None);
        write(&root.path().join("system.slice"), "memory.max", "1000\n");
        write(&root.path().join("system.slice"), "memory.current", "400\n");
        assert_eq!(spare_of_groups(root.path(), own), Some(600));
        let slice = root.path().join("system.slice");
        write(&slice, "memory.stat", "anon 100\nactive_file 7\ninactive_file 300\n");
        assert_eq!(spare_of_groups(root.path(), own), Some(900));
        let old = root.path().join("memory/phi4d");
        write(&old, "memory.limit_in_bytes", "500\n");
        write(&old, "memory.usage_in_bytes", "450\n");
        let both = "4:memory:/phi4d\n3:cpu,cpuacct:/x\n0::/system.slice/phi4d.service\n";
        assert_eq!(spare_of_groups(root.path(), both), Some(50));
    }

    #[test]
    fn the_machine_tells_in_one_way_or_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let meminfo = "MemTotal: 100 kB\nMemAvailable:   2048 kB\n";
        write(folder.path(), "meminfo", meminfo);
        assert_eq!(available_of_machine(&folder.path().join("meminfo")), Some(2 << 20));
        assert_eq!(available_of_machine(&folder.path().join("hidden")), None);
        assert!(free_by_sysinfo().is_some());
        assert!(spare_memory() > 0);
    }
}
