//! The web page in a real Chromium and Firefox, by Playwright, with the real daemon behind it. What is
//! done there stands in `tests/page`; `tests/page/setup` installs what it needs. Screenshots are left
//! in `target/page/screenshots`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop where something is wrong"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Daemon, Setup};

/// What the setup installed in `target`.
fn installed(what: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let path = target.join(what);
    assert!(path.exists(), "{} is missing; run tests/page/setup", path.display());
    path
}

/// Runs a script of `tests/page` on the daemon's page, in Chromium.
fn browse(script: &str, daemon: Daemon, arguments: &[&str]) {
    browse_in("chromium", script, daemon, arguments);
}

fn browse_in(browser: &str, script: &str, daemon: Daemon, arguments: &[&str]) {
    let folder = installed("page/node_modules");
    let folder = folder.parent().unwrap();
    let shots = folder.join("screenshots");
    std::fs::create_dir_all(&shots).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page").join(script);
    let output = Command::new(installed("clients/venv/bin/node"))
        .arg(script)
        .arg(format!("http://{}", daemon.address()))
        .args(arguments)
        .env("SCREENSHOTS", shots)
        .env("PAGE_BROWSER", browser)
        .current_dir(folder)
        .output()
        .unwrap();
    // Its log, of each file that was asked for, would bury what the script says.
    drop(daemon);
    let said = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{failed}");
}

#[test]
fn chats() {
    // Without speculation: an answer that repeats itself would end before it is stopped.
    browse("chat.mjs", Setup::new().with(&["--draft-tokens", "0"]).start(), &[]);
}

#[test]
fn answers_are_laid_out() {
    browse("render.mjs", Daemon::start(), &[]);
}

#[test]
fn conversations_stay() {
    browse("keep.mjs", Daemon::start(), &[]);
}

#[test]
fn conversations_stay_in_firefox() {
    browse_in("firefox", "keep.mjs", Daemon::start(), &[]);
}

#[test]
fn files_are_attached() {
    browse("attach.mjs", Daemon::start(), &[]);
}

#[test]
fn files_are_attached_in_firefox() {
    browse_in("firefox", "attach.mjs", Daemon::start(), &[]);
}

#[test]
fn long_conversations() {
    browse("long.mjs", Daemon::start(), &[]);
}

#[test]
fn installed_and_offline() {
    browse("offline.mjs", Daemon::start(), &[]);
}

#[test]
fn looks_and_ways() {
    browse("look.mjs", Daemon::start(), &[]);
}

#[test]
fn keys() {
    let setup = Setup::new();
    let file = setup.folder.path().join("api-keys");
    let made = Command::new(env!("CARGO_BIN_EXE_phi4d"))
        .args(["key", "add", "browser", "--api-keys-file"])
        .arg(&file)
        .output()
        .unwrap();
    let key = String::from_utf8(made.stdout).unwrap();
    let daemon = setup.with(&["--api-keys-file", file.to_str().unwrap()]).start();
    browse("key.mjs", daemon, &[key.trim()]);
}
