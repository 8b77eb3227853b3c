//! Do the process's limits leave room for what the settings ask for?

use super::Case;
use super::findings::Findings;
use phi4d_os as os;

const CHECK: &str = "limits";

pub(super) fn check(case: &Case, findings: &mut Findings) {
    let connections = case.settings.max_connections;
    if let Ok(room) = os::room_for_connections() {
        judge_files(room, connections, findings);
    }
    // Not there on other systems than Linux.
    if let Ok(text) = std::fs::read_to_string("/proc/self/limits") {
        judge_memory(&text, findings);
    }
}

/// `serve` raises the limit as this has done, and takes no more connections than fit it.
fn judge_files(room: usize, connections: usize, findings: &mut Findings) {
    if room < connections {
        findings.note(
            CHECK,
            format!(
                "the limit of open files has room for {room} connections, and max_connections is \
                 {connections}; a daemon started from here takes {room} at once"
            ),
            "raise LimitNOFILE= of the unit (ulimit -Hn in a shell), or lower max_connections",
        );
    } else {
        findings.good(CHECK, format!("open files suffice for {connections} connections"));
    }
}

fn judge_memory(text: &str, findings: &mut Findings) {
    if let Some(bytes) = hard_limit(text, "Max address space") {
        findings.fault(
            CHECK,
            format!("the address space is limited to {bytes} bytes; the cache reserves more than it uses"),
            "take the limit away (LimitAS=infinity, ulimit -v unlimited); MemoryMax= is the one to use",
        );
    } else {
        findings.good(CHECK, "the address space is not limited");
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
    fn too_many_connections_are_noted_and_a_limited_address_space_is_a_fault() {
        let told = |room, connections| {
            let mut findings = Findings::default();
            judge_files(room, connections, &mut findings);
            assert_eq!(findings.faults(), 0);
            findings.text()
        };
        assert!(told(1024, 1024).starts_with("ok"));
        assert!(
            told(976, 1024).starts_with("note  limits    the limit of open files has room for 976")
        );
        let judged = |text: &str| {
            let mut findings = Findings::default();
            judge_memory(text, &mut findings);
            findings.text()
        };
        assert!(judged(TEXT).starts_with("ok"));
        let limited = TEXT.replace("unlimited            unlimited", "1000 1000");
        assert!(
            judged(&limited).contains("FAULT limits    the address space is limited to 1000 bytes")
        );
    }
}
