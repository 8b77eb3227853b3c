//! No descriptors left for connections.

use std::io::Write as _;
use std::process::Command;
use std::time::Instant;

use super::{begin_stream, ticks};
use crate::common::{Client, Connection, Daemon, Response, Setup, wait_for};

/// As long as an idle connection may stay, in seconds.
const IDLE: &str = "2";

/// Opens connections that ask for nothing.
fn crowd(client: &Client, count: usize) -> Vec<Connection> {
    (0..count).map(|_| client.connect()).collect()
}

/// `GET /health` on a connection that stays open.
fn health(connection: &mut Connection) {
    connection.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert_eq!(Response::read_one(connection, "GET").status, 200);
}

/// Share of one processor that the daemon takes until `until` gives something.
fn share<T>(daemon: &Daemon, what: &str, until: impl FnMut() -> Option<T>) -> (f64, T) {
    let (before, begun) = (ticks(daemon), Instant::now());
    let found = wait_for(what, until);
    let seconds = begun.elapsed().as_secs_f64();
    let used = ticks(daemon) - before;
    (used as f64 / 100.0 / seconds, found)
}

#[test]
fn connections_beyond_the_limit_of_open_files_wait_outside() {
    let limit = ["sh", "-c", "ulimit -n 80 && exec \"$@\"", "sh"];
    // One address makes up the crowd.
    let settings = ["--header-timeout-s", IDLE, "--max-connections-per-local", "40"];
    let daemon = Setup::new().within(&limit).with(&settings).start();
    let warning = "taking 40 at once";
    daemon.log.says(warning);
    let client = daemon.tcp();
    // By the Unix socket: on TCP an idle connection makes way for the crowd.
    let mut first = daemon.unix().connect();
    health(&mut first);
    let mut idle = crowd(&client, 100);
    let mut late = client.connect();
    late.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    // Whoever is in is served, and the last is let in when idle ones have been closed.
    let answer = std::thread::spawn(move || Response::read(&mut late));
    let (share, ()) = share(&daemon, "the late one's answer", || {
        health(&mut first);
        answer.is_finished().then_some(())
    });
    assert_eq!(answer.join().unwrap().status, 200);
    assert!(share < 0.8, "{share:.2} of a processor while all wait");
    idle.clear();
    let stream = begin_stream(&daemon.unix());
    drop(stream);
    assert_eq!(daemon.ends(), [1, 0, 1, 0]);
    assert!(!daemon.log.text().contains("cannot accept"), "{}", daemon.log.text());
}

#[test]
fn when_they_run_out_all_the_same_accepting_pauses_and_goes_on() {
    let daemon = Setup::new().with(&["--header-timeout-s", "60"]).start();
    let (client, id) = (daemon.tcp(), daemon.id().to_string());
    let open = || std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count();
    let limit = |soft: usize| {
        let limit = format!("--nofile={soft}:");
        assert!(Command::new("prlimit").args(["--pid", &id, &limit]).status().unwrap().success());
    };
    let mut first = client.connect();
    health(&mut first);
    let stream = begin_stream(&daemon.unix());
    limit(open() + 5);
    let idle = crowd(&client, 30);
    daemon.log.says("cannot accept connections for now");
    // The stream's engine works all the while, on one thread; accepting must not take another.
    let begun = Instant::now();
    let (used, ()) = share(&daemon, "a second", || {
        health(&mut first);
        (begun.elapsed().as_secs() >= 1).then_some(())
    });
    assert!(used < 1.5, "{used:.2} processors");
    let said = daemon.log.text().matches("cannot accept connections").count();
    assert!(said < 3, "{said} lines of the same");
    drop(stream);
    limit(1000);
    let mut late = client.connect();
    health(&mut late);
    drop(idle);
    assert_eq!(daemon.ends(), [1, 0, 1, 0]);
}
