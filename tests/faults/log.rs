//! Whoever reads the log stops reading: a pipe that is full, a terminal that is stopped.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::openpty;
use nix::sys::termios::{FlowArg, tcflow};
use serde_json::json;

use crate::common::{Daemon, Setup, wait_for};

/// Longer than the daemon needs where nothing runs, shorter than any patience.
const SOON: Duration = Duration::from_secs(10);

/// A pipe that takes no byte more.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while writer.write(&[b'\n'; 4096]).is_ok() {}
    while writer.write(b"\n").is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    (reader, writer)
}

/// Asks 500 times, and then as often as it takes to fill the queue.
fn ask_much(daemon: &Daemon) {
    let begun = Instant::now();
    for count in 0..8000 {
        assert_eq!(daemon.unix().get(&format!("/{count}")).status, 404);
        if count >= 500 && count % 100 == 0 && lost_lines(daemon) > 0 {
            break;
        }
    }
    let answer = daemon.unix().chat("What is 12+7?", &json!({}));
    assert_eq!(answer["choices"][0]["message"]["content"], "19");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

fn lost_lines(daemon: &Daemon) -> u64 {
    let page = daemon.unix().get("/metrics").text();
    let line = page.lines().find_map(|line| line.strip_prefix("phi4d_log_lines_lost_total "));
    line.unwrap().parse().unwrap()
}

/// Reads on until there is nobody who writes.
fn read_on(mut reader: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A terminal ends with an error.
        let _ = reader.read_to_end(&mut bytes);
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

fn stops_soon(daemon: &mut Daemon) {
    let begun = Instant::now();
    daemon.signal("TERM");
    assert_eq!(daemon.wait_end().code(), Some(0));
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

/// The daemon's log, read from now on: it says in one line how many lines are missing, and goes on.
fn is_reported_the_loss(daemon: &mut Daemon, log: &mpsc::Receiver<String>, lost: u64) {
    // The queue empties, so that lines that come now have room.
    wait_for("room for lines", || {
        let before = lost_lines(daemon);
        daemon.unix().get("/nothing-is-here");
        (lost_lines(daemon) == before).then_some(())
    });
    let lost = lost_lines(daemon).max(lost);
    stops_soon(daemon);
    let text = log.recv_timeout(SOON).unwrap();
    let notes: Vec<&str> = text.lines().filter(|line| line.contains(" log lines lost: ")).collect();
    let counts = notes.iter().map(|note| {
        let end = note.find(" log lines lost").unwrap();
        let digits = note[..end].rsplit(|c: char| !c.is_ascii_digit()).next().unwrap();
        digits.parse::<u64>().unwrap()
    });
    assert_eq!(counts.sum::<u64>(), lost, "{notes:?}");
    // Later lines are there, and in their order.
    let at = |what: &str| text.rfind(what).unwrap_or_else(|| panic!("no {what}: {notes:?}"));
    assert!(at("log lines lost") < at("/nothing-is-here"));
    assert!(at("SIGTERM") < at("stopped"));
}

#[test]
fn a_pipe_that_nobody_reads_costs_lines_of_the_log_only() {
    for format in ["text", "json"] {
        let (reader, writer) = full_pipe();
        let setup = Setup::new().with(&["--log-format", format]);
        let mut daemon = setup.start_with_log(Stdio::from(writer));
        ask_much(&daemon);
        let lost = lost_lines(&daemon);
        assert!(lost > 0, "the queue has no bound");
        assert_eq!(daemon.ends(), [1, 1, 0, 0]);
        let log = read_on(reader);
        is_reported_the_loss(&mut daemon, &log, lost);
    }
}

#[test]
fn a_stop_does_not_wait_for_whoever_reads_the_log() {
    let (_reader, writer) = full_pipe();
    let mut daemon = Setup::new().start_with_log(Stdio::from(writer));
    ask_much(&daemon);
    daemon.signal("HUP");
    stops_soon(&mut daemon);
}

#[test]
fn a_terminal_that_is_stopped_costs_lines_of_the_log_only() {
    let pair = openpty(None, None).unwrap();
    tcflow(&pair.slave, FlowArg::TCOOFF).unwrap();
    let slave = pair.slave.try_clone().unwrap();
    let setup = Setup::new().variable("TERM", "xterm");
    let mut daemon = setup.start_with_log(Stdio::from(slave));
    ask_much(&daemon);
    let lost = lost_lines(&daemon);
    assert!(lost > 0, "the queue has no bound");
    tcflow(&pair.slave, FlowArg::TCOON).unwrap();
    drop(pair.slave);
    let log = read_on(File::from(pair.master));
    is_reported_the_loss(&mut daemon, &log, lost);
}

#[test]
fn errors_of_a_start_do_not_wait_for_whoever_reads_them() {
    // Before the log is set up, and after.
    for (setup, code) in
        [(Setup::new().with(&["--slots", "0"]), 78), (Setup::new().model("/nowhere"), 66)]
    {
        let (_reader, writer) = full_pipe();
        let mut child = setup.command().stderr(Stdio::from(writer)).spawn().unwrap();
        let begun = Instant::now();
        let status = wait_for("the end", || child.try_wait().unwrap());
        assert_eq!(status.code(), Some(code));
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }
}

#[test]
fn a_panic_does_not_wait_for_whoever_reads_the_log() {
    let (_reader, writer) = full_pipe();
    let setup = super::shim::preloaded(Setup::new());
    let armed = setup.folder.path().join("armed");
    let setup = setup.variable("PHI4D_TEST_PAGES", armed.to_str().unwrap());
    // Only the cache of ONNX Runtime's attention moves pages.
    let setup = setup.with(&["--slots", "3", "--own-kernels", "false"]);
    let mut daemon = setup.start_with_log(Stdio::from(writer));
    let mut open: Vec<_> = (0..3).map(|_| super::begin_stream(&daemon.unix())).collect();
    File::create(&armed).unwrap();
    drop(open.remove(0));
    assert_eq!(daemon.wait_end().code(), Some(70));
}
