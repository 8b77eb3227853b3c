//! Each call of a kind fails in turn: threads, large mappings, files. Each run ends as
//! `docs/faults.md` says: the start with a documented code and one line, a daemon that is up by going
//! on.

use std::fs;
use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::shim::preloaded;
use super::{cache, prompts};
use crate::common::{Daemon, PATIENCE, Response, Setup, demo_folder, set_mode, wait_for};

/// Codes of a start that the system refused something, or that has no ONNX Runtime for it.
const CODES: [i32; 2] = [69, 71];

/// No kind has so many calls.
const MOST: usize = 200;

/// The setup with calls of `kind` failing, by what `PHI4D_TEST_FAIL` says after it.
pub(super) fn failing(kind: &str, which: &str) -> Setup {
    let setup = preloaded(Setup::new());
    let hit = setup.folder.path().join("hit");
    setup
        .variable("PHI4D_TEST_FAIL", format!("{kind}:{which}"))
        .variable("PHI4D_TEST_FAIL_HIT", hit.to_str().unwrap())
}

pub(super) fn was_hit(setup: &Setup) -> bool {
    setup.folder.path().join("hit").exists()
}

/// Runs `phi4d check`, which starts all that the daemon has but its sockets.
fn check(setup: &Setup) -> Output {
    let mut command = setup.command();
    let folder = demo_folder();
    // Of three threads ONNX Runtime would make two: with one made and the other missing it hangs.
    let words = ["check", "--threads", "2", "--model", folder.to_str().unwrap()];
    let mut own = std::process::Command::new(command.get_program());
    own.args(words).args(["--listen", "off", "--log-level", "error"]).env_clear();
    own.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        own.env(name, value.unwrap());
    }
    command = own;
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("{:?}: it hangs: {:?}", command.get_envs(), child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// Has each call of `kind` fail in turn while a model is checked.
fn each_fails(kind: &str, more: &str) -> usize {
    let mut refused = 0;
    for nth in 1..MOST {
        let setup = failing(kind, &format!("{nth}{more}"));
        let output = check(&setup);
        let said = String::from_utf8_lossy(&output.stderr);
        let what = format!("{kind} {nth}{more}: {}: {said}", output.status);
        if !was_hit(&setup) {
            assert!(output.status.success(), "{what}");
            assert!(refused > 0, "nothing that fails matters");
            return nth - 1;
        }
        match output.status.code() {
            // It does without.
            Some(0) => {}
            Some(code) => {
                assert!(CODES.contains(&code), "{what}");
                refused += 1;
                assert_eq!(
                    said.lines().filter(|line| line.starts_with("phi4d: ")).count(),
                    1,
                    "{what}"
                );
            }
            None => panic!("{what}"),
        }
        assert!(!said.contains("panicked"), "{what}");
    }
    panic!("{kind} fails without an end");
}

#[test]
fn each_thread_that_a_start_wants_may_be_missing() {
    assert!(each_fails("thread", "") >= 4);
    assert!(each_fails("thread", "+") >= 1);
}

#[test]
fn each_mapping_that_a_start_wants_may_be_refused() {
    assert!(each_fails("memory", "") >= 2);
}

/// Starts the daemon, and stops it if it gets ready: it serves and ends well, or ends by itself with a
/// documented code and one reason. Returns whether it got ready.
fn serves_or_says_why(setup: &Setup, what: &str) -> bool {
    let notify_path = setup.folder.path().join("notify.sock");
    let notify = std::os::unix::net::UnixDatagram::bind(&notify_path).unwrap();
    set_mode(&notify_path, 0o666);
    notify.set_nonblocking(true).unwrap();
    let mut command = setup.command();
    command.env("NOTIFY_SOCKET", &notify_path).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let begun = Instant::now();
    let ended = loop {
        let mut text = [0; 4096];
        let length = notify.recv(&mut text).unwrap_or(0);
        let ready = text[..length].starts_with(b"READY=1");
        if let Some(ended) = child.try_wait().unwrap().map(Some).or(ready.then_some(None)) {
            break ended;
        }
        if begun.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("{what}: it hangs: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    if ended.is_none() {
        crate::common::send_signal(child.id(), "TERM");
    }
    let status = wait_for("the end", || child.try_wait().unwrap());
    let said = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
    match ended {
        None => assert_eq!(status.code(), Some(0), "{what}: {said}"),
        Some(status) => {
            let documented = status.code().is_some_and(|code| CODES.contains(&code));
            assert!(documented, "{what}: {status} {said}");
            let reasons = said.lines().filter(|line| line.starts_with("phi4d: ")).count();
            assert_eq!(reasons, 1, "{what}: {said}");
        }
    }
    assert!(!said.contains("panicked"), "{what}: {said}");
    ended.is_none()
}

/// The daemon itself, whose runtime has threads of its own.
#[test]
fn each_thread_that_the_daemon_wants_may_be_missing() {
    for which in ["1", "2", "9", "13", "14", "15", "22", "23", "1+", "5+", "12+", "24+"] {
        let setup = failing("thread", which).with(&["--log-level", "error"]);
        serves_or_says_why(&setup, &format!("thread {which}"));
    }
}

/// The kernel's own refusal, wherever the limit lies: RLIMIT_NPROC. It does not hold for root, so the
/// daemon runs as a user who has no other process, with root's rights to files.
#[test]
fn a_limit_of_processes_ends_the_start_or_leaves_a_daemon_that_serves() {
    let root = nix::unistd::Uid::effective().is_root();
    let user = [
        "setpriv",
        "--reuid=64999",
        "--clear-groups",
        "--inh-caps=+dac_override,+dac_read_search",
        "--ambient-caps=+dac_override,+dac_read_search",
    ];
    let mut served = Vec::new();
    // Of another user's processes the number is not known: one is always too few.
    for most in if root { &[1, 2, 3, 6, 10, 14, 18, 22, 100][..] } else { &[1] } {
        let limit = format!("--nproc={most}");
        let words = ["prlimit", &limit];
        let wrapper = if root { [user.as_slice(), &words].concat() } else { words.to_vec() };
        let setup = Setup::new().within(&wrapper).with(&["--log-level", "error"]);
        served.push(serves_or_says_why(&setup, &limit));
    }
    assert!(!served[0] && (!root || served[served.len() - 1]), "{served:?}");
}

/// Asks in every way that may want a thread.
fn ask_all(daemon: &Daemon) {
    let form = json!({ "response_format": { "type": "json_object" }, "max_tokens": 8 });
    let requests: [(&str, Value); 4] = [
        ("/v1/completions", json!({ "prompt": "x ".repeat(2000), "max_tokens": 1 })),
        ("/tokenize", json!({ "prompt": "x ".repeat(200_000) })),
        ("/v1/chat/completions", {
            let mut body = json!({ "messages": [{ "role": "user", "content": "Hi" }] });
            crate::common::merge(&mut body, &form);
            body
        }),
        ("/v1/completions", json!({ "prompt": "The", "max_tokens": 4 })),
    ];
    for client in [daemon.tcp(), daemon.unix()] {
        for (path, body) in &requests {
            let answer = client.post(path, body);
            assert!([200, 400, 503].contains(&answer.status), "{path}: {}", answer.text());
        }
        assert_eq!(client.get("/health").status, 200);
    }
    let answer = daemon.unix().chat("What is 12+7?", &json!({}));
    assert_eq!(answer["choices"][0]["message"]["content"], "19");
}

#[test]
fn a_daemon_that_gets_no_more_threads_serves_on_and_stops() {
    let setup = failing("thread", "1+");
    let armed = setup.folder.path().join("armed");
    let setup = setup.variable("PHI4D_TEST_FAIL_ARMED", armed.to_str().unwrap());
    let mut daemon = setup.start();
    // The first form starts the grammars' thread.
    ask_all(&daemon);
    fs::write(&armed, "").unwrap();
    ask_all(&daemon);
    daemon.signal("HUP");
    daemon.wait_notified("READY=1");
    daemon.wait_idle();
    daemon.signal("TERM");
    assert_eq!(daemon.wait_end().code(), Some(0), "{}", daemon.log.text());
    assert!(!daemon.log.text().contains("panicked"), "{}", daemon.log.text());
}

/// A body that cannot be held is refused; where something else lacks memory the daemon ends and says so.
#[test]
fn each_large_allocation_for_a_request_may_fail() {
    let body = json!({ "prompt": "x ".repeat(1 << 19) });
    let (mut refused, mut ended, mut next) = (0, 0, 1);
    while next < MOST {
        let nth = next;
        // The first ones are for the body; of the tokenizer's, which are alike, some will do.
        next += 1 + nth / 3;
        let setup = failing("heap", &nth.to_string());
        let armed = setup.folder.path().join("armed");
        let setup = setup.variable("PHI4D_TEST_FAIL_ARMED", armed.to_str().unwrap());
        let mut daemon = setup.start();
        fs::write(&armed, "").unwrap();
        let headers = [("Content-Type", "application/json")];
        let text = body.to_string();
        let mut answer = Vec::new();
        let mut connection = daemon.tcp().send("POST", "/tokenize", &headers, text.as_bytes());
        // The connection of a daemon that ended may be reset.
        let _ = connection.read_to_end(&mut answer);
        let hit = was_hit(&daemon.setup);
        if answer.is_empty() {
            let status = daemon.wait_end();
            assert!(hit && status.signal() == Some(6), "{nth}: {status} {}", daemon.log.text());
            assert!(daemon.log.text().contains("memory allocation of"), "{}", daemon.log.text());
            ended += 1;
            continue;
        }
        let answer = Response::parse(&answer);
        match (hit, answer.status) {
            (true, 503) => {
                assert_eq!(answer.json()["error"]["code"], "out_of_memory", "{}", answer.text());
                refused += 1;
            }
            (_, 200) => {}
            _ => panic!("{nth}: {}", answer.text()),
        }
        daemon.unix().chat("What is 12+7?", &json!({}));
        assert_eq!(daemon.wait_idle()["failed"], 0, "{nth}");
        if !hit {
            eprintln!("{refused} refused, {ended} ended it");
            assert!(refused > 0);
            return;
        }
    }
    panic!("allocations fail without an end");
}

pub(super) fn files_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).map(|entries| {
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    });
    entries.unwrap_or_default()
}

#[test]
fn each_change_of_the_prefix_store_may_fail() {
    for nth in 1..MOST {
        let store = tempfile::tempdir().unwrap();
        let setup = failing("file", &nth.to_string());
        let setup = setup.variable("PHI4D_TEST_FAIL_BELOW", store.path().to_str().unwrap());
        let mut daemon = setup.with(&["--prefix-store", store.path().to_str().unwrap()]).start();
        cache(&daemon.unix(), &prompts(2, 100));
        daemon.signal("TERM");
        assert_eq!(daemon.wait_end().code(), Some(0), "{nth}: {}", daemon.log.text());
        let (log, hit) = (daemon.log.text(), was_hit(&daemon.setup));
        let warnings =
            log.lines().filter(|line| line.contains("cannot store cached prefixes in")).count();
        assert_eq!(warnings, usize::from(hit), "{nth}: {log}");
        let left = files_in(store.path());
        assert!(left.iter().all(|name| name.ends_with(".kv")), "{nth}: {left:?}");
        if !hit {
            assert_eq!(left.len(), 2);
            assert!(nth > 4, "only {nth} calls");
            return;
        }
    }
    panic!("files fail without an end");
}

#[test]
fn each_change_of_the_keys_file_may_fail() {
    for nth in 1..MOST {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        let setup = failing("file", &nth.to_string());
        let setup = setup.variable("PHI4D_TEST_FAIL_BELOW", folder.path().to_str().unwrap());
        let base = setup.command();
        let mut command = std::process::Command::new(base.get_program());
        command.args(["key", "add", "me", "--api-keys-file", keys.to_str().unwrap()]).env_clear();
        for (name, value) in base.get_envs() {
            command.env(name, value.unwrap());
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        if !was_hit(&setup) {
            assert!(output.status.success() && nth > 3, "{nth}: {said}");
            return;
        }
        assert_eq!(output.status.code(), Some(73), "{nth}: {said}");
        assert_eq!(said.lines().count(), 1, "{nth}: {said}");
        // Whole or not at all.
        let left = files_in(folder.path());
        assert!(left.is_empty() || left == ["keys"], "{nth}: {left:?}");
    }
    panic!("files fail without an end");
}
