//! The engine's own thread fails, by an assertion that the system makes untrue.

use std::fs::File;

use super::shim::preloaded;
use super::{End, begin, begin_stream, endless, read_end};
use crate::common::{Setup, wait_for};

const INTERNAL: i32 = 70;

#[test]
fn a_panic_fails_every_request_and_ends_the_daemon() {
    let setup = preloaded(Setup::new());
    let armed = setup.folder.path().join("armed");
    let setup = setup.variable("PHI4D_TEST_PAGES", armed.to_str().unwrap());
    // Running ones come and go, so that rows are exchanged; others wait. phi4d's own attention exchanges
    // no pages, so the cache of ONNX Runtime's does it.
    let mut daemon = setup.with(&["--slots", "3", "--own-kernels", "false"]).start();
    let mut open: Vec<_> = (0..3).map(|_| begin_stream(&daemon.unix())).collect();
    open.extend((0..3).map(|_| begin(&daemon.tcp(), &endless())));
    wait_for("all to be accepted", || (daemon.health()["accepted"] == 6).then_some(()));
    File::create(&armed).unwrap();
    // The first row is free, and the last takes its place.
    drop(open.remove(0));
    assert_eq!(daemon.wait_end().code(), Some(INTERNAL), "{}", daemon.log.text());
    for connection in open {
        let end = read_end(connection);
        assert_eq!(end, End::Error("engine_stopped".to_owned()));
    }
    let log = daemon.log.text();
    let last = log.lines().last().unwrap();
    assert!(last.starts_with("phi4d: the engine failed in an unexpected way"), "{log}");
    assert!(log.contains("pages were moved away"), "{log}");
    assert!(!daemon.socket().exists(), "the socket was left behind");
}
