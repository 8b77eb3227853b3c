//! Tests in processes of their own: what they do to a process can't be undone, or wants a process that
//! runs no other test.

use std::process::Command;

/// Set for the process that runs one test.
const APART: &str = "PHI4D_TEST_APART";

/// Runs `within` in another process, which is the test `test` of `module` again.
pub(super) fn in_a_process(module: &str, test: &str, within: impl FnOnce()) {
    if std::env::var_os(APART).is_some() {
        return within();
    }
    let (_crate, path) = module.split_once("::").unwrap();
    let name = format!("{path}::{test}");
    let output = Command::new(std::env::current_exe().unwrap())
        .args([name.as_str(), "--exact", "--nocapture", "--test-threads=1"])
        .env(APART, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}\n{errors}");
}
