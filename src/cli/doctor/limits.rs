//! Do the process's limits leave room for what the settings ask for?

use super::Case;
use super::findings::Findings;

const CHECK: &str = "limits";

/// Descriptors beside connections: files, sockets, the runtime's own.
const OTHER_FILES: u64 = 64;

pub(super) fn check(case: &Case, findings: &mut Findings) {
    // Not there on other systems than Linux.
    let Ok(text) = std::fs::read_to_string("/proc/self/limits") else { return };
    let connections = case.settings.max_connections as u64;
    judge(&text, connections, findings);
}

fn judge(text: &str, connections: u64, findings: &mut Findings) {
    let before = findings.faults();
    if let Some(files) = hard_limit(text, "Max open files")
        && files < connections + OTHER_FILES
    {
        findings.fault(
            CHECK,
            format!("{files} files may be open, and max_connections is {connections}"),
            "raise LimitNOFILE= of the unit (ulimit -n in a shell), or lower max_connections",
        );
    }
    if let Some(bytes) = hard_limit(text, "Max address space") {
        findings.fault(
            CHECK,
            format!("the address space is limited to {bytes} bytes; the cache reserves more than it uses"),
            "take the limit away (LimitAS=infinity, ulimit -v unlimited); MemoryMax= is the one to use",
        );
    }
    if findings.faults() == before {
        findings.good(CHECK, "files and address space suffice");
    }
}

/// A limit of `/proc/self/limits` that the process can't raise; `None` where it is unlimited.
fn hard_limit(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
Limit                     Soft Limit           Hard Limit           Units     
Max open files            1024                 4096                 files     
Max address space         unlimited            unlimited            bytes     
";

    #[test]
    fn files_are_counted_and_a_limited_address_space_is_a_fault() {
        let judged = |text: &str, connections| {
            let mut findings = Findings::default();
            judge(text, connections, &mut findings);
            findings.text()
        };
        assert!(judged(TEXT, 1024).starts_with("ok"));
        assert!(judged(TEXT, 4096).contains("FAULT limits    4096 files may be open"));
        let limited = TEXT.replace("unlimited            unlimited", "1000 1000");
        assert!(judged(&limited, 10).contains("limited to 1000 bytes"));
    }
}
