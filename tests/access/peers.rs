//! Users of the Unix socket: a second real user asks.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use super::table::{Class, May, check_by};
use super::{SETTINGS, add_key, bearer, keys_file};
use crate::common::{Daemon, Response, Setup};

/// The user and group that everyone's machine has and nobody is.
const NOBODY: u32 = 65534;

/// Asks by curl as the user `nobody`.
fn ask_as_nobody(socket: &Path, method: &str, path: &str, key: Option<&str>) -> Response {
    let mut command = Command::new("curl");
    command.args(["-sS", "-i", "--raw", "-X", method, "--unix-socket"]).arg(socket);
    command.args(["-H", "Content-Type: application/json"]);
    if let Some(key) = key {
        command.args(["-H", &format!("Authorization: {}", bearer(key))]);
    }
    if method == "POST" {
        command.args(["-d", "{}"]);
    }
    command.arg(format!("http://localhost{path}")).uid(NOBODY).gid(NOBODY).current_dir("/");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Response::parse(&output.stdout)
}

/// Whether there can be a second user here; says so if not.
fn second_user() -> bool {
    let root = nix::unistd::geteuid().is_root();
    let curl = Command::new("curl").arg("--version").output().is_ok();
    if !(root && curl) {
        eprintln!("SKIPPED: a second user needs root and curl (root: {root}, curl: {curl})");
    }
    root && curl
}

/// A daemon whose socket everyone may connect to, by its mode.
fn start(setup: Setup, arguments: &[&str]) -> Daemon {
    let folder = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(setup.folder.path(), folder).unwrap();
    setup.with(&["--socket-mode", "0666"]).with(arguments).start()
}

#[test]
fn users_that_are_not_named_are_denied_whatever_key_they_have() {
    if !second_user() {
        return;
    }
    for (arguments, may) in [
        (&[][..], May::Use),
        (&["--socket-allow-users", "root"], May::Denied),
        (&["--socket-allow-users", "root, nobody"], May::Use),
        (&["--socket-allow-users", "65534"], May::Use),
        (&["--socket-allow-groups", "root,daemon"], May::Denied),
        (&["--socket-allow-groups", "65534"], May::Use),
        (&["--socket-allow-users", "root", "--socket-allow-groups", "65534"], May::Use),
    ] {
        let setup = Setup::new();
        let file = keys_file(&setup);
        let admin = add_key(&file, &["boss", "--admin"]);
        let setup = setup.with(&["--api-keys-file", file.to_str().unwrap()]);
        let daemon = start(setup, arguments);
        let socket = daemon.socket();
        let by = |key: Option<&'static str>| {
            let socket = socket.clone();
            move |method: &str, path: &str| ask_as_nobody(&socket, method, path, key)
        };
        check_by(by(None), may, Class::Use);
        check_by(by(Some("wrong")), may, Class::Use);
        let with_key =
            |method: &str, path: &str| ask_as_nobody(&socket, method, path, Some(admin.as_str()));
        let may_with_key = if matches!(may, May::Denied) { may } else { May::Administrate };
        check_by(with_key, may_with_key, Class::Use);
        // The daemon's own user needs no naming.
        assert_eq!(daemon.unix().get("/v1/models").status, 200, "{arguments:?}");
    }
}

#[test]
fn a_second_user_needs_a_key_where_the_socket_asks_for_one() {
    if !second_user() {
        return;
    }
    let setup = Setup::new();
    let file = keys_file(&setup);
    let plain = add_key(&file, &["plain"]);
    let setup = setup.with(&["--api-keys-file", file.to_str().unwrap()]);
    let daemon = start(setup, &["--socket-require-key", "true"]);
    let socket = daemon.socket();
    let ask = |key| ask_as_nobody(&socket, "GET", "/v1/models", key).status;
    assert_eq!((ask(None), ask(Some("wrong")), ask(Some(plain.as_str()))), (401, 401, 200));
}

#[test]
fn names_that_nobody_has_end_the_start() {
    let arguments =
        ["--socket-allow-users", "no-such-user", "--socket-allow-groups", "no-such-group"];
    let (status, said) = Setup::new().with(&arguments).run_to_end();
    assert_eq!(status.code(), Some(SETTINGS), "{said}");
    for part in ["socket_allow_users", "no-such-user", "socket_allow_groups", "no-such-group"] {
        assert!(said.contains(part), "{said}");
    }
}
