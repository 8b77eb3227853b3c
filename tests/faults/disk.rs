//! A disk that is full, a folder that can't be written, a log that goes nowhere.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use super::{begin_stream, cache, cached, prompts, take_setup};
use crate::common::{Daemon, Setup};

/// A command that runs `script` (in which `$0` is `folder`) in a mount namespace of its own and then
/// becomes what it is given. `None`, with a word on standard error, where the system allows none.
fn in_namespace(script: &str, folder: &Path) -> Option<Vec<String>> {
    let ways: [&[&str]; 2] = [&["--user", "--map-root-user", "--mount"], &["--mount"]];
    let allowed = |way: &&&[&str]| {
        let mut command = Command::new("unshare");
        let mount = "mount -t tmpfs none /tmp";
        let tried = command.args(**way).args(["sh", "-c", mount]).stderr(Stdio::null()).status();
        tried.is_ok_and(|status| status.success())
    };
    let Some(way) = ways.iter().find(allowed) else {
        eprintln!("skipped: this user may make no mount namespace (unshare --user --mount fails)");
        return None;
    };
    let script = format!("{{ {script}; }} >&2 && exec \"$@\"");
    let words = ["unshare"].iter().chain(*way).chain(&["sh", "-c"]).map(ToString::to_string);
    Some(words.chain([script, folder.to_str().unwrap().to_owned()]).collect())
}

fn start_in(wrapper: &[String], store: &Path) -> Daemon {
    let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    Setup::new().within(&wrapper).with(&["--prefix-store", store.to_str().unwrap()]).start()
}

/// Answers, is stopped, and has nothing but `said` to complain of.
fn serves_and_stops(mut daemon: Daemon, said: &str) {
    cache(&daemon.tcp(), &prompts(4, 800));
    drop(begin_stream(&daemon.unix()));
    assert_eq!(daemon.ends(), [5, 4, 1, 0]);
    daemon.signal("TERM");
    assert_eq!(daemon.wait_end().code(), Some(0));
    let log = daemon.log.text();
    let complaints: Vec<&str> = log.lines().filter(|line| line.contains(" WARN ")).collect();
    assert!(
        complaints.len() == 1 && complaints[0].contains("cannot store cached prefixes in"),
        "{log}"
    );
    assert!(complaints[0].contains(said), "{log}");
}

#[test]
fn a_disk_that_was_full_before_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let fill = "mount -t tmpfs -o size=256k none \"$0\" && ! head -c 1m /dev/zero >\"$0/fill\"";
    let Some(wrapper) = in_namespace(fill, folder.path()) else { return };
    let daemon = start_in(&wrapper, folder.path());
    serves_and_stops(daemon, "No space left on device");
}

#[test]
fn a_disk_that_gets_full_while_prefixes_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=2m none \"$0\"";
    let Some(wrapper) = in_namespace(mount, folder.path()) else { return };
    let daemon = start_in(&wrapper, folder.path());
    // Open, it outlives the namespace.
    let within = format!("/proc/{}/root{}", daemon.id(), folder.path().display());
    let held = File::open(within).unwrap();
    serves_and_stops(daemon, "No space left on device");
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
    let left = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
    let mut left: Vec<String> = left.map(|name| name.into_string().unwrap()).collect();
    left.sort();
    let whole: Vec<String> = (0..left.len()).map(|n| format!("prefix-{n:04}.kv")).collect();
    assert_eq!(left, whole, "those that fitted, and nothing half-written");
    assert!((1..4).contains(&left.len()), "{left:?}");
}

#[test]
fn a_folder_that_is_only_to_be_read_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let bind = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\"";
    let Some(wrapper) = in_namespace(bind, folder.path()) else { return };
    let kept = prompts(1, 200);
    let mut daemon =
        Setup::new().with(&["--prefix-store", folder.path().to_str().unwrap()]).start();
    cache(&daemon.unix(), &kept);
    daemon.signal("TERM");
    assert!(daemon.wait_end().success());
    drop(take_setup(&mut daemon));
    let file = folder.path().join("prefix-0000.kv");
    let before = std::fs::read(&file).unwrap();

    let daemon = start_in(&wrapper, folder.path());
    assert_eq!(cached(&daemon.unix(), &kept[0]), 199);
    assert_eq!(daemon.ends(), [1, 1, 0, 0]);
    let mut daemon = daemon;
    daemon.signal("TERM");
    assert_eq!(daemon.wait_end().code(), Some(0));
    let log = daemon.log.text();
    assert!(
        log.contains("cannot store cached prefixes in") && log.contains("Read-only file"),
        "{log}"
    );
    assert_eq!(std::fs::read(&file).unwrap(), before);
}

#[test]
fn a_log_that_takes_nothing_costs_the_log_only() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    for log in [Stdio::from(full), Stdio::from(writer)] {
        let mut daemon = Setup::new().start_with_log(log);
        let answer = daemon.unix().chat("What is 12+7?", &json!({}));
        assert_eq!(answer["choices"][0]["message"]["content"], "19");
        assert_eq!(daemon.ends(), [1, 1, 0, 0]);
        daemon.signal("HUP");
        daemon.signal("TERM");
        assert_eq!(daemon.wait_end().code(), Some(0));
    }
}
