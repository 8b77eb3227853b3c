//! The daemon confines itself, and does all of its work so.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::io::Read as _;

use serde_json::json;

use crate::common::{Daemon, Setup};

/// A field of the status of every thread of a process.
fn of_threads(id: u32, field: &str) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{id}/task")).unwrap();
    // Threads end meanwhile.
    let texts =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok());
    let begin = format!("{field}:\t");
    texts
        .filter_map(|text| {
            text.lines().find_map(|line| line.strip_prefix(&begin).map(str::to_owned))
        })
        .collect()
}

/// The processes below one.
fn children_of(id: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{id}/task")).unwrap();
    let texts = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("children")));
    texts
        .flat_map(|text| {
            let text = text.unwrap_or_default();
            text.split_whitespace().map(|id| id.parse().unwrap()).collect::<Vec<_>>()
        })
        .collect()
}

fn assert_confined(daemon: &Daemon) {
    for (field, value) in [("Seccomp", "2"), ("NoNewPrivs", "1")] {
        let found = of_threads(daemon.id(), field);
        assert!(found.len() > 3 && found.iter().all(|found| found == value), "{field}: {found:?}");
    }
}

#[test]
fn every_thread_is_confined_and_the_daemon_does_its_work() {
    let state = tempfile::tempdir().unwrap();
    let store = state.path().join("prefixes");
    let setup = Setup::new().with(&["--sandbox", "on", "--prefix-store", store.to_str().unwrap()]);
    let mut daemon = setup.start();
    daemon.log.says("confined by seccomp");
    assert_confined(&daemon);

    // Long enough for its prompt to be kept, with a thread of its own for the tokens.
    let long = "copy this ".repeat(600);
    let answer = daemon.tcp().chat("2+2=", &json!({ "max_tokens": 4 }));
    assert_eq!(answer["usage"]["completion_tokens"].as_u64().map(|tokens| tokens <= 4), Some(true));
    let answer = daemon.unix().chat(&long, &json!({ "max_tokens": 1 }));
    assert!(answer["usage"]["prompt_tokens"].as_u64().unwrap() > 100, "{answer}");
    let form = json!({ "max_tokens": 8, "response_format": { "type": "json_object" } });
    assert!(daemon.unix().chat("{", &form)["choices"].is_array());
    // The compiled constraint is kept, and with it its process, below the helper.
    let workers: Vec<u32> = children_of(daemon.id()).into_iter().flat_map(children_of).collect();
    assert!(!workers.is_empty());
    for worker in workers {
        assert_eq!(of_threads(worker, "Seccomp"), ["2"]);
        assert_eq!(of_threads(worker, "NoNewPrivs"), ["1"]);
    }
    let body = json!({ "prompt": "The", "max_tokens": 200, "ignore_eos": true, "stream": true });
    let headers = [("Content-Type", "application/json")];
    let body = body.to_string();
    let mut stream = daemon.tcp().send("POST", "/v1/completions", &headers, body.as_bytes());
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("data: [DONE]"), "{text}");

    // Settings are read again under the filter.
    daemon.signal("HUP");
    daemon.wait_notified("READY=1");
    assert_confined(&daemon);

    daemon.signal("TERM");
    assert!(daemon.wait_end().success(), "{}", daemon.log.text());
    assert!(std::fs::read_dir(&store).unwrap().count() > 0, "{}", daemon.log.text());
}

#[test]
fn it_can_be_left_out() {
    let daemon = Setup::new().with(&["--sandbox", "off"]).start();
    let own = of_threads(std::process::id(), "Seccomp").pop().unwrap();
    assert!(of_threads(daemon.id(), "Seccomp").iter().all(|mode| *mode == own));
    daemon.log.says("not confined");
}

/// Becomes its arguments, for which the kernel refuses `seccomp` with EPERM, as some containers do.
const WITHOUT_SECCOMP: &str = r"
import ctypes, os, platform, struct, sys
number = {'x86_64': 317, 'aarch64': 277}[platform.machine()]
code = b''.join(struct.pack('HBBI', *step) for step in [
    (0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7fff0000)])
kept = ctypes.create_string_buffer(code)
program = struct.pack('HxxxxxxP', 4, ctypes.addressof(kept))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.create_string_buffer(program), 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
";

#[test]
fn where_the_kernel_refuses_it_serves_on_unless_it_must() {
    let wrapper = ["python3", "-c", WITHOUT_SECCOMP];
    let daemon = Setup::new().within(&wrapper).start();
    daemon.log.says("WARN  not confined: ");
    assert_eq!(daemon.tcp().get("/health").status, 200);
    let (status, log) = Setup::new().within(&wrapper).with(&["--sandbox", "on"]).run_to_end();
    assert_eq!(status.code(), Some(71), "{log}");
    assert!(log.contains("sandbox = on"), "{log}");
}
