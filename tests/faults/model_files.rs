//! The model's files change while the daemon uses them. Its weights are mapped, not read.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;

use serde_json::json;

use super::{End, begin, begin_stream, endless, read_end, take_setup};
use crate::common::{Daemon, Setup, copy_demo, wait_for};

const DATA: i32 = 65;
const IO: i32 = 74;

fn serving_a_copy(more: &[&str]) -> Daemon {
    let mut setup = Setup::new().with(more);
    setup.model = copy_demo(setup.folder.path());
    setup.start()
}

#[test]
fn weights_cut_short_in_place_end_the_daemon_with_a_word_to_everyone() {
    for more in [&[][..], &["--own-kernels", "false"]] {
        let mut daemon = serving_a_copy(more);
        // Long enough for AMX, where there is one: then a signal's handler finds more on its stack.
        daemon.unix().chat(&"word ".repeat(100), &json!({ "max_tokens": 1 }));
        let mut open = vec![begin_stream(&daemon.tcp()), begin_stream(&daemon.unix())];
        let mut body = endless();
        body["stream"] = json!(false);
        open.push(begin(&daemon.tcp(), &body));
        wait_for("all to run", || (daemon.health()["running"] == 3).then_some(()));
        let weights = daemon.setup.model.join("model.onnx.data");
        File::options().write(true).open(&weights).unwrap().set_len(4096).unwrap();

        assert_eq!(daemon.wait_end().code(), Some(IO), "{}", daemon.log.text());
        for connection in open {
            assert_eq!(read_end(connection), End::Error("shutting_down".to_owned()));
        }
        let log = daemon.log.text();
        let reasons =
            log.lines().filter(|line| line.starts_with("phi4d: a file of the model can't"));
        assert_eq!(reasons.count(), 1, "{log}");

        // The next start names the problem, and is not tried again.
        let setup = take_setup(&mut daemon).with(&["--log-level", "error"]);
        let (status, said) = setup.run_to_end();
        assert_eq!(status.code(), Some(DATA), "{said}");
        assert!(said.contains("model.onnx"), "{said}");
    }
}

#[test]
fn files_replaced_by_renaming_or_removed_change_nothing_until_a_restart() {
    let mut daemon = serving_a_copy(&[]);
    let ask = |daemon: &Daemon| {
        let more = json!({ "max_tokens": 40, "logprobs": true, "cache_salt": "none" });
        daemon.unix().chat("Count from 3 to 12.", &more)["choices"].clone()
    };
    let before = ask(&daemon);
    let folder = daemon.setup.model.clone();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        let beside = path.with_extension("beside");
        fs::write(&beside, "nothing of the sort").unwrap();
        fs::rename(&beside, &path).unwrap();
    }
    assert_eq!(ask(&daemon), before);
    fs::remove_dir_all(&folder).unwrap();
    assert_eq!(ask(&daemon), before);
    assert_eq!(daemon.ends(), [3, 3, 0, 0]);
    daemon.signal("TERM");
    assert_eq!(daemon.wait_end().code(), Some(0));
}

#[test]
fn files_written_to_in_place_are_reported() {
    let daemon = serving_a_copy(&[]);
    let weights = daemon.setup.model.join("model.onnx.data");
    let mut bytes = fs::read(&weights).unwrap();
    // Unlike what was there, and as long.
    bytes.reverse();
    fs::write(&weights, bytes).unwrap();
    let said = format!("{} was written to while it is in use", weights.display());
    let log = daemon.log.says(&said);
    assert_eq!(log.matches(&said).count(), 1);
    // It serves on: nothing shows which answers are wrong.
    assert_eq!(daemon.health()["status"], "ok");
}

/// Nobody's file: what the signal does elsewhere.
#[test]
fn the_same_signal_by_hand_kills() {
    let mut daemon = Daemon::start();
    daemon.signal("BUS");
    assert_eq!(daemon.wait_end().signal(), Some(7));
    assert!(!daemon.log.text().contains("can't be read"));
}
