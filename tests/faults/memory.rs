//! Not as much memory as is wanted.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use super::{End, begin, begin_stream, cache, endless, prompts, read_end, take_setup};
use crate::common::{Daemon, Setup, wait_for};

#[test]
fn too_little_address_space_ends_the_start_with_one_clear_line() {
    let mut refused = 0;
    // In KiB; with little more than the program itself, and with nearly enough.
    for limit in [200_000, 250_000, 300_000, 400_000, 500_000, 600_000, 700_000] {
        let script = format!("ulimit -v {limit} && exec \"$@\"");
        let setup = Setup::new().within(&["sh", "-c", &script, "sh"]);
        let notify_path = setup.folder.path().join("notify.sock");
        let notify = UnixDatagram::bind(&notify_path).unwrap();
        notify.set_nonblocking(true).unwrap();
        let setup = setup.with(&["--log-level", "error"]);
        let mut command = setup.command();
        command.env("NOTIFY_SOCKET", &notify_path).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // It may be enough, too; then it comes up.
        let ended = wait_for("an end or a start", || {
            let mut text = [0; 4096];
            let length = notify.recv(&mut text).unwrap_or(0);
            let ready = text[..length].starts_with(b"READY=1");
            child.try_wait().unwrap().map(Some).or(ready.then_some(None))
        });
        child.kill().unwrap();
        let said = child.wait_with_output().unwrap().stderr;
        let said = String::from_utf8(said).unwrap();
        let Some(status) = ended else { continue };
        refused += 1;
        assert!(matches!(status.code(), Some(69..=71)), "{limit} KiB: {status} {said}");
        // Below what the libraries need they could end the process in any way.
        let least = said.contains("at least 640 MiB");
        assert_eq!(least, limit < 640 * 1024, "{limit} KiB: {said}");
        // ONNX Runtime itself prints what its own operators' schemas lack.
        let own: Vec<&str> =
            said.lines().filter(|line| *line != "Schema error: std::bad_alloc").collect();
        assert!(own.len() == 1 && own[0].starts_with("phi4d: "), "{limit} KiB: {said}");
    }
    assert!(refused > 3, "{refused} limits were too low");
}

/// A memory cgroup of either version, removed when dropped. `None`, with a word on standard error,
/// where this user can make none.
struct Group {
    folder: PathBuf,
    limit: &'static str,
}

impl Group {
    fn new() -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup");
        let name = format!("phi4d-test-{}", std::process::id());
        for (folder, limit) in [
            (root.join(&name), "memory.max"),
            (root.join("memory").join(&name), "memory.limit_in_bytes"),
        ] {
            if fs::create_dir(&folder).is_ok() {
                if folder.join(limit).exists() {
                    return Some(Self { folder, limit });
                }
                let _ = fs::remove_dir(&folder);
            }
        }
        eprintln!("skipped: this user can make no memory cgroup");
        None
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The last process may be on its way out.
        wait_for("the empty group to go", || fs::remove_dir(&self.folder).ok());
    }
}

#[test]
fn a_cgroups_limit_is_kept_by_giving_up_prefixes_not_by_being_killed() {
    const LIMIT: usize = 128 << 20;
    let Some(group) = Group::new() else { return };
    fs::write(group.folder.join(group.limit), LIMIT.to_string()).unwrap();
    let procs = group.folder.join("cgroup.procs");
    let script = format!("echo $$ >{} && exec \"$@\"", procs.display());
    // Far more prefixes than the limit holds.
    let setup = Setup::new().within(&["sh", "-c", &script, "sh"]);
    let daemon = setup.with(&["--prefix-slots", "64"]).start();
    let budget = daemon.health()["kv_budget_tokens"].as_u64().unwrap();
    let prompts = prompts(24, 2000);
    assert!(budget < 24 * 2000, "{budget} tokens: the limit is no limit");
    cache(&daemon.unix(), &prompts);
    assert_eq!(daemon.ends(), [24, 24, 0, 0]);
    let held = daemon.health()["kv_tokens"].as_u64().unwrap();
    assert!(held <= budget && held > budget / 2, "{held} of {budget}");
    let answer = daemon.tcp().chat("What is 12+7?", &json!({}));
    assert_eq!(answer["choices"][0]["message"]["content"], "19");
    drop(daemon);
}

/// Lets a running daemon have so much more address space than it has now.
fn limit_address_space(daemon: &Daemon, more: u64) {
    let id = daemon.id().to_string();
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let kib: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
    let limit = format!("--as={}:", kib * 1024 + more);
    assert!(Command::new("prlimit").args(["--pid", &id, &limit]).status().unwrap().success());
}

#[test]
fn an_allocation_that_fails_refuses_a_body_or_ends_the_daemon_with_a_word() {
    // The allocator's heaps have up to 64 MiB of their own: what is larger it has to ask the system for.
    let bodies = ["--max-body-bytes", "268435456", "--header-timeout-s", "600"];
    // A budget that is far more than there is.
    let memory = ["--request-memory-bytes", "17179869184"];
    let mut daemon = Setup::new().with(&bodies).with(&memory).start();
    let (tcp, unix) = (daemon.tcp(), daemon.unix());
    let json = [("Content-Type", "application/json")];
    let post = |body: &[u8]| tcp.send("POST", "/v1/chat/completions", &json, body);
    unix.chat("2+2=", &json!({}));
    let stream = begin_stream(&unix);
    limit_address_space(&daemon, 32 << 20);

    let answer = tcp.request("POST", "/v1/chat/completions", &json, &vec![b' '; 100 << 20]);
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.json()["error"]["code"], "out_of_memory");
    assert_eq!(daemon.health()["running"], 1, "the stream went on");
    unix.chat("2+2=", &json!({}));
    drop(stream);
    assert_eq!(daemon.ends(), [3, 2, 1, 0]);

    // It is small enough, and what it says is not: each number takes 16 times its bytes.
    let mut open = vec![begin_stream(&unix), begin(&tcp, &endless())];
    let mut body = b"{\"messages\":[0".to_vec();
    body.extend(b",0".iter().cycle().take(12 << 20));
    body.extend(b"]}");
    open.push(post(&body));
    assert_eq!(daemon.wait_end().signal(), Some(6), "{}", daemon.log.text());
    for connection in open {
        assert_eq!(read_end(connection), End::Cut);
    }
    wait_for("the log's last line", || {
        daemon.log.text().contains("memory allocation of").then_some(())
    });

    let mut daemon = take_setup(&mut daemon).start();
    for client in [daemon.unix(), daemon.tcp()] {
        client.chat("2+2=", &json!({}));
    }
    assert_eq!(daemon.ends(), [2, 2, 0, 0]);
    daemon.signal("TERM");
    assert_eq!(daemon.wait_end().code(), Some(0));
    assert!(!daemon.socket().exists());
}
