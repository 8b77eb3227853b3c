//! The time of day jumps by years, there and back: nothing that waits or ends by a limit minds.

use std::time::{Duration, Instant};

use serde_json::json;

use super::shim::preloaded;
use super::{begin_stream, endless};
use crate::common::Setup;

#[test]
fn limits_are_kept_by_a_clock_that_does_not_jump() {
    let setup = preloaded(Setup::new()).variable("PHI4D_TEST_CLOCK", "1");
    let daemon = setup.with(&["--slow-client-timeout-s", "30"]).start();
    for _ in 0..8 {
        let answer = daemon.tcp().chat("What is 12+7?", &json!({ "timeout": 30 }));
        assert_eq!(answer["choices"][0]["message"]["content"], "19");
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let created = answer["created"].as_u64().unwrap();
        // Which of the two it is goes by how often the daemon has looked before.
        assert!(created.abs_diff(now) > 300_000_000, "the clock did not jump: {created}");
    }
    // Neither at once nor in ten years.
    let mut body = endless();
    body["timeout"] = json!(0.5);
    let begun = Instant::now();
    let response = daemon.unix().post("/v1/completions", &body);
    let took = begun.elapsed();
    assert!(response.text().contains("deadline_exceeded"), "{}", response.text());
    assert!((Duration::from_millis(450)..Duration::from_secs(20)).contains(&took), "{took:?}");
    drop(begin_stream(&daemon.tcp()));
    assert_eq!(daemon.ends(), [10, 8, 1, 1]);
    let mut daemon = daemon;
    daemon.signal("TERM");
    assert_eq!(daemon.wait_end().code(), Some(0));
}
