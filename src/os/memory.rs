//! How much memory this process may still take.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::sysinfo::sysinfo;

/// Bytes that could be taken now without swapping or meeting a cgroup's limit: what the system has
/// free or can free, and what the process's cgroups leave, whichever is least. `None` if neither
/// tells.
#[must_use]
pub fn available_memory() -> Option<u64> {
    let system = from_meminfo(Path::new("/proc/meminfo")).or_else(from_sysinfo);
    let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let cgroup = left_by_cgroups(Path::new("/sys/fs/cgroup"), &membership);
    system.into_iter().chain(cgroup).min()
}

/// The kernel's own estimate; hidden from hardened services.
fn from_meminfo(file: &Path) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// What lies unused, without the page cache that could be freed.
fn from_sysinfo() -> Option<u64> {
    sysinfo().ok().map(|info| info.ram_unused())
}

/// The files of one version of cgroups.
struct Files {
    limit: &'static str,
    usage: &'static str,
}

const VERSION_1: Files = Files { limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes" };
const VERSION_2: Files = Files { limit: "memory.max", usage: "memory.current" };

/// The least that a cgroup of `membership` (`/proc/self/cgroup`) or one above it leaves; `None` if
/// none has a limit.
fn left_by_cgroups(root: &Path, membership: &str) -> Option<u64> {
    let groups = membership.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let path = path.trim_start_matches('/');
        if number == "0" && controllers.is_empty() {
            Some((root.to_owned(), path, VERSION_2))
        } else if controllers.split(',').any(|name| name == "memory") {
            Some((root.join("memory"), path, VERSION_1))
        } else {
            None
        }
    });
    groups.filter_map(|(root, path, files)| left_upwards(&root, path, &files)).min()
}

fn left_upwards(root: &Path, path: &str, files: &Files) -> Option<u64> {
    let folder: PathBuf = root.join(path);
    let within = folder.ancestors().take_while(|folder| folder.starts_with(root));
    within.filter_map(|folder| left_by(folder, files)).min()
}

fn left_by(folder: &Path, files: &Files) -> Option<u64> {
    let number = |file: &str| -> Option<u64> {
        fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()
    };
    // "max" is no number; version 1 has a number that no memory reaches, which is never the least.
    let limit = number(files.limit)?;
    let used = number(files.usage)?;
    Some(limit.saturating_sub(used.saturating_sub(cached_files(folder))))
}

/// Page cache that is counted as used but freed when memory is wanted.
fn cached_files(folder: &Path) -> u64 {
    let text = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.trim().parse::<u64>().ok()
    };
    // Version 1 counts the groups below under the second name.
    value("total_inactive_file").or_else(|| value("inactive_file")).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(root: &Path, path: &str, files: &[(&str, &str)]) {
        let folder = root.join(path);
        fs::create_dir_all(&folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
    }

    #[test]
    fn the_tightest_group_above_counts_less_what_it_caches() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let slice = [
            ("memory.max", "1000\n"),
            ("memory.current", "700\n"),
            ("memory.stat", "anon 400\ninactive_file 300\n"),
        ];
        group(root, "system.slice", &slice);
        let service = [("memory.max", "max\n"), ("memory.current", "500\n")];
        group(root, "system.slice/phi4d.service", &service);
        let membership = "0::/system.slice/phi4d.service\n";
        assert_eq!(left_by_cgroups(root, membership), Some(600));
        assert_eq!(left_by_cgroups(root, "0::/\n"), None);
        let tight = [("memory.max", "100"), ("memory.current", "700")];
        group(root, "system.slice/phi4d.service", &tight);
        assert_eq!(left_by_cgroups(root, membership), Some(0));
    }

    #[test]
    fn version_1_has_a_tree_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let files = [("memory.limit_in_bytes", "900"), ("memory.usage_in_bytes", "200")];
        group(root.path(), "memory/a", &files);
        let membership = "9:name=systemd:/b\n4:cpu,memory:/a\n0::/\n";
        assert_eq!(left_by_cgroups(root.path(), membership), Some(700));
        assert_eq!(left_by_cgroups(root.path(), "junk\n\n1:2\n"), None);
    }

    #[test]
    fn the_system_itself_tells_something() {
        let available = available_memory().unwrap();
        assert!(available > 0 && available < 1 << 50, "{available}");
        assert_eq!(from_meminfo(Path::new("/nowhere")), None);
        assert!(from_sysinfo().is_some());
    }
}
