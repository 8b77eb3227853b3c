//! The Unix socket's file: its mode, what is done with what lies at its path, and its end.

#![expect(clippy::unwrap_used, reason = "tests may stop where something is wrong")]

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::common::{Daemon, Setup};

/// The exit code of a socket that can't be made.
const CANNOT_CREATE: i32 = 73;

fn text(answer: &Value) -> String {
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

/// Takes the setup out of a daemon that has ended, to start another on the same paths.
fn reuse(daemon: &mut Daemon) -> Setup {
    let setup = std::mem::replace(&mut daemon.setup, Setup::new());
    std::fs::remove_file(setup.folder.path().join("notify.sock")).unwrap();
    setup
}

#[test]
fn the_file_has_the_mode_that_was_set_and_goes_at_the_end() {
    for (arguments, mode) in
        [(&[][..], 0o660), (&["--socket-mode", "0600"], 0o600), (&["--socket-mode", "0666"], 0o666)]
    {
        let mut daemon = Setup::new().with(arguments).start();
        let metadata = std::fs::symlink_metadata(daemon.socket()).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o7777, mode);
        assert_eq!(daemon.unix().get("/health").status, 200);
        daemon.signal("TERM");
        assert_eq!(daemon.wait_end().code(), Some(0));
        assert!(!daemon.socket().exists());
    }
}

#[test]
fn what_a_killed_daemon_left_is_taken_over() {
    let mut killed = Daemon::start();
    killed.signal("KILL");
    assert_eq!(killed.wait_end().code(), None);
    let path = killed.socket();
    assert!(path.exists());
    assert!(UnixStream::connect(&path).is_err());
    let successor = reuse(&mut killed).start();
    assert_eq!(successor.socket(), path);
    assert_eq!(successor.unix().get("/health").status, 200);
}

#[test]
fn a_path_in_use_is_refused_and_its_daemon_undisturbed() {
    let daemon = Daemon::start();
    let inode = || std::fs::symlink_metadata(daemon.socket()).unwrap().ino();
    let before = (inode(), text(&daemon.unix().chat("hello", &json!({}))));
    let (status, said) = daemon.setup.run_to_end();
    assert_eq!(status.code(), Some(CANNOT_CREATE), "{said}");
    let expected = format!(
        "phi4d: cannot listen on {}: another program is listening there",
        daemon.socket().display()
    );
    assert_eq!(said.lines().filter(|line| *line == expected).count(), 1, "{said}");
    let after = (inode(), text(&daemon.unix().chat("hello", &json!({}))));
    assert_eq!(after, before);
}

#[test]
fn a_path_of_something_else_is_left_alone() {
    let setup = Setup::new();
    std::fs::write(setup.socket(), "precious").unwrap();
    let (status, said) = setup.run_to_end();
    assert_eq!(status.code(), Some(CANNOT_CREATE), "{said}");
    let line = said.lines().find(|line| line.starts_with("phi4d: ")).unwrap();
    assert!(line.contains("phi4d.sock") && line.contains("left alone"), "{said}");
    assert_eq!(std::fs::read_to_string(setup.socket()).unwrap(), "precious");

    let setup = Setup::new();
    std::fs::create_dir(setup.socket()).unwrap();
    assert_eq!(setup.run_to_end().0.code(), Some(CANNOT_CREATE));
    assert!(setup.socket().is_dir());
}

#[test]
fn both_sockets_serve_at_once() {
    let daemon = Daemon::start();
    let expected = text(&daemon.tcp().chat("hello", &json!({})));
    let clients = [daemon.tcp(), daemon.unix()];
    std::thread::scope(|scope| {
        for client in clients.iter().cycle().take(8) {
            let expected = &expected;
            scope.spawn(move || {
                for _ in 0..4 {
                    assert_eq!(&text(&client.chat("hello", &json!({}))), expected);
                }
            });
        }
    });
    let health = daemon.wait_idle();
    assert_eq!((&health["accepted"], &health["finished"]), (&json!(33), &json!(33)));
}

#[test]
fn a_successor_takes_the_path_while_its_predecessor_drains() {
    let mut old = Setup::new().with(&["--drain-timeout-s", "3600"]).start();
    let running = json!({
        "messages": [{ "role": "user", "content": "hello" }], "max_tokens": 3000,
        "ignore_eos": true, "logprobs": true, "top_logprobs": 20, "stream": true,
    });
    let headers = [("Content-Type", "application/json")];
    let body = running.to_string();
    let mut unread = old.unix().send("POST", "/v1/chat/completions", &headers, body.as_bytes());
    crate::common::wait_for("the stream to run", || (old.health()["running"] == 1).then_some(()));
    old.signal("TERM");
    old.wait_notified("STOPPING=1");
    crate::common::wait_for("the path to be free", || (!old.socket().exists()).then_some(()));

    // The folder goes with the setup, so that the new daemon is to be dropped last.
    let new = reuse(&mut old).start();
    assert_eq!(new.unix().get("/health").status, 200);
    assert!(crate::common::Response::read(&mut unread).chunks().len() > 1);
    assert_eq!(old.wait_end().code(), Some(0));
    // The old one's end does not take the new one's socket away.
    assert_eq!(new.unix().get("/health").status, 200);
}
