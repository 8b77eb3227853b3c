//! `phi4d key`, and what the daemon says of bad keys files and open doors.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Output;

use super::{SETTINGS, USAGE, add_key, ask, key_command, keys_file};
use crate::common::Setup;

fn said(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn keys_are_added_listed_and_removed() {
    let setup = Setup::new();
    let file = keys_file(&setup);
    let first = add_key(&file, &["laptop", "--max-in-flight", "3"]);
    let second = add_key(&file, &["ops", "--admin", "--tokens-per-minute", "600"]);
    assert_ne!(first, second);
    assert!(first.len() > 60 && first.starts_with("sk-phi4d-"), "{first}");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains(&first[9..]) && text.contains("laptop"), "{text}");
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);

    let listed = String::from_utf8(key_command(&file, &["list"]).stdout).unwrap();
    let rows: Vec<Vec<&str>> =
        listed.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows, [["laptop", "use", "3", "-"], ["ops", "admin", "-", "600"]]);

    for (arguments, complaint) in [
        (&["add", "ops"][..], "already"),
        (&["add", "o ps"], "\"o ps\""),
        (&["add", "x", "--max-in-flight", "0"], "--max-in-flight"),
        (&["remove", "nobody"], "laptop, ops"),
    ] {
        let (code, text) = said(&key_command(&file, arguments));
        assert_eq!(code, Some(USAGE), "{arguments:?}: {text}");
        assert!(text.contains(complaint), "{arguments:?}: {text}");
    }
    assert!(key_command(&file, &["remove", "laptop"]).status.success());
    let listed = String::from_utf8(key_command(&file, &["list"]).stdout).unwrap();
    assert!(!listed.contains("laptop") && listed.contains("ops"), "{listed}");
}

#[test]
fn an_owner_is_kept() {
    let setup = Setup::new();
    let file = keys_file(&setup);
    add_key(&file, &["a"]);
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: only root can give a file to another user");
        return;
    }
    std::os::unix::fs::chown(&file, Some(65534), Some(65534)).unwrap();
    add_key(&file, &["b"]);
    let found = std::fs::metadata(&file).unwrap();
    assert_eq!(
        (found.uid(), found.gid(), found.permissions().mode() & 0o777),
        (65534, 65534, 0o640)
    );
}

#[test]
fn bad_lines_end_the_start_all_at_once() {
    let setup = Setup::new();
    let file = keys_file(&setup);
    add_key(&file, &["good"]);
    let mut text = std::fs::read_to_string(&file).unwrap();
    let line = text.lines().count();
    text.push_str("bad scope=root\nworse\n");
    std::fs::write(&file, text).unwrap();
    let (status, said) = setup.with(&["--api-keys-file", file.to_str().unwrap()]).run_to_end();
    assert_eq!(status.code(), Some(SETTINGS), "{said}");
    for part in [format!(":{}: ", line + 1), format!(":{}: ", line + 2), "use or admin".to_owned()]
    {
        assert!(said.contains(&part), "{said}");
    }
}

#[test]
fn keys_open_the_network_and_their_lack_does_not() {
    let listen = "0.0.0.0:0";
    let (status, said) = Setup::new().listen(listen).run_to_end();
    assert_eq!(status.code(), Some(SETTINGS), "{said}");
    assert!(said.contains("0.0.0.0:0") && said.contains("phi4d key add"), "{said}");

    let setup = Setup::new();
    let file = keys_file(&setup);
    let key = add_key(&file, &["a"]);
    let daemon = setup.listen(listen).with(&["--api-keys-file", file.to_str().unwrap()]).start();
    assert_eq!(ask(&daemon.tcp(), "GET", "/v1/models", Some(&key)).status, 200);
    assert_eq!(ask(&daemon.tcp(), "GET", "/v1/models", None).status, 401);

    let daemon = Setup::new().listen(listen).with(&["--allow-unauthenticated-lan", "true"]).start();
    assert_eq!(ask(&daemon.tcp(), "GET", "/v1/models", None).status, 200);
}

#[test]
fn the_service_managers_credential_has_the_keys() {
    let setup = Setup::new();
    let folder = setup.folder.path().join("credentials");
    std::fs::create_dir(&folder).unwrap();
    let key = add_key(&folder.join("api-keys"), &["a"]);
    let daemon = setup.variable("CREDENTIALS_DIRECTORY", folder.to_str().unwrap()).start();
    assert_eq!(ask(&daemon.tcp(), "GET", "/v1/models", Some(&key)).status, 200);
    assert_eq!(ask(&daemon.tcp(), "GET", "/v1/models", None).status, 401);
}
