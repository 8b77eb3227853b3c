//! Who gets in: keys, users, limits, against the real daemon.

#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests may stop where something is wrong"
)]

mod hosts;
mod keys;
mod limits;
mod page;
mod peers;
mod reload;
mod table;
mod tls;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::{Client, Response, Setup};

/// Exit codes, as `phi4d exit-codes` lists them.
const USAGE: i32 = 64;
const SETTINGS: i32 = 78;

/// Runs `phi4d key` on a file.
fn key_command(file: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phi4d"));
    command.arg("key").args(arguments).arg("--api-keys-file").arg(file);
    command.env_clear().output().unwrap()
}

/// Makes a key by the program and returns it.
pub(super) fn add_key(file: &Path, arguments: &[&str]) -> String {
    let output = key_command(file, &[&["add"], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A keys file beside the setup's socket.
pub(super) fn keys_file(setup: &Setup) -> PathBuf {
    setup.folder.path().join("api-keys")
}

/// A setup with a keys file, and a key of each scope in it.
fn with_keys() -> (Setup, String, String) {
    let setup = Setup::new();
    let file = keys_file(&setup);
    let plain = add_key(&file, &["plain"]);
    let admin = add_key(&file, &["boss", "--admin"]);
    (setup.with(&["--api-keys-file", file.to_str().unwrap()]), plain, admin)
}

fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

/// Asks with a key.
fn ask(client: &Client, method: &str, path: &str, key: Option<&str>) -> Response {
    let token = key.map(bearer);
    let mut headers = vec![("Content-Type", "application/json")];
    if let Some(token) = &token {
        headers.push(("Authorization", token));
    }
    client.request(method, path, &headers, if method == "POST" { b"{}" } else { b"" })
}

/// Status and `error.code`, the latter empty for answers that are no errors.
fn verdict(response: &Response) -> (u16, String) {
    if response.status < 400 || response.header("content-type") != Some("application/json") {
        return (response.status, String::new());
    }
    let body = response.json();
    (response.status, body["error"]["code"].as_str().unwrap_or_default().to_owned())
}
