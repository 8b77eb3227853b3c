//! What the daemon writes is its owner's alone, whatever the umask.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{cache, cached, prompts};
use crate::common::{Setup, set_mode};

/// Everything below `folder` with its mode.
fn modes(folder: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            found.extend(modes(&path));
        }
        found.push((path, metadata.mode() & 0o7777));
    }
    found
}

/// Whether a user who is neither the daemon's nor root can read it; `None` where that can't be tried.
fn others_read(path: &Path) -> Option<bool> {
    let as_other = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=54321", "--regid=54321", "--clear-groups"]).args(words);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|it| it.success())
    };
    as_other(&["true"]).then(|| as_other(&["cat", path.to_str().unwrap()]))
}

#[test]
fn kept_prompts_are_their_owners_alone_whatever_the_umask() {
    for umask in ["000", "022", "077"] {
        let folder = tempfile::tempdir().unwrap();
        set_mode(folder.path(), 0o755);
        let store = folder.path().join("state/prefixes");
        let script = format!("umask {umask} && exec \"$@\"");
        let kept = prompts(2, 100);
        let run = |expected: u64| {
            let setup = Setup::new().within(&["sh", "-c", &script, "sh"]);
            let mut daemon = setup.with(&["--prefix-store", store.to_str().unwrap()]).start();
            assert_eq!(cached(&daemon.unix(), &kept[0]), expected);
            cache(&daemon.unix(), &kept);
            daemon.signal("TERM");
            assert!(daemon.wait_end().success());
            let log = daemon.log.text();
            assert!(!log.contains(" WARN "), "{log}");
        };
        run(0);
        let check = || {
            let found = modes(folder.path());
            assert!(found.len() >= 4, "{found:?}");
            for (path, mode) in found {
                assert_eq!(mode & 0o077, 0, "umask {umask}: {path:?} {mode:o}");
                match others_read(&path) {
                    Some(readable) => assert!(!readable, "{path:?}"),
                    None => eprintln!("skipped: this user can't act as another"),
                }
            }
        };
        check();
        // What an older release left open is closed, and still used.
        set_mode(&store, 0o755);
        for (path, _) in modes(&store) {
            set_mode(&path, 0o644);
        }
        run(99);
        check();
    }
}

#[test]
fn a_folder_that_is_a_link_or_another_users_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let (there, store) = (folder.path().join("there"), folder.path().join("prefixes"));
    fs::create_dir(&there).unwrap();
    std::os::unix::fs::symlink(&there, &store).unwrap();
    let mut daemon = Setup::new().with(&["--prefix-store", store.to_str().unwrap()]).start();
    cache(&daemon.unix(), &prompts(1, 100));
    daemon.signal("TERM");
    assert!(daemon.wait_end().success());
    let log = daemon.log.text();
    assert!(
        log.contains("cannot store cached prefixes in") && log.contains("it is a link"),
        "{log}"
    );
    assert_eq!(fs::read_dir(&there).unwrap().count(), 0);
}
