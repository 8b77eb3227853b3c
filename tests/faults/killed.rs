//! Killed with no time for anything, and started again.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use serde_json::json;

use super::{End, begin, begin_stream, cache, cached, endless, prompts, read_end, take_setup};
use crate::common::{Daemon, Setup, wait_for};

fn keeping(store: &Path) -> Daemon {
    Setup::new().with(&["--prefix-store", store.to_str().unwrap(), "--slots", "4"]).start()
}

fn kill(daemon: &mut Daemon) {
    daemon.signal("KILL");
    assert_eq!(daemon.wait_end().signal(), Some(9), "{}", daemon.log.text());
}

#[test]
fn in_mid_stream_clients_see_the_cut_and_a_successor_takes_the_places() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("prefixes");
    let kept = prompts(2, 100);
    let mut daemon = keeping(&store);
    cache(&daemon.unix(), &kept);
    daemon.signal("TERM");
    assert!(daemon.wait_end().success());

    let mut daemon = take_setup(&mut daemon).start();
    let address = daemon.address();
    let mut open = vec![begin_stream(&daemon.tcp()), begin_stream(&daemon.unix())];
    for client in [daemon.tcp(), daemon.unix()] {
        // Whole answers, some of which wait for a slot.
        let mut body = endless();
        body["stream"] = json!(false);
        open.extend((0..3).map(|_| begin(&client, &body)));
    }
    wait_for("all to be accepted", || (daemon.health()["accepted"] == 8).then_some(()));
    kill(&mut daemon);
    for connection in open {
        // Neither a stream nor a body of a stated length can be taken for a whole one.
        assert_eq!(read_end(connection), End::Cut);
    }
    assert!(daemon.socket().exists(), "nobody was there to remove it");

    let setup = take_setup(&mut daemon).listen(&address.to_string());
    let mut daemon = setup.start();
    for client in [daemon.tcp(), daemon.unix()] {
        assert_eq!(cached(&client, &kept[0]), 99);
    }
    assert_eq!(daemon.ends(), [2, 2, 0, 0]);
    let socket = daemon.socket();
    daemon.signal("TERM");
    assert!(daemon.wait_end().success());
    assert!(!socket.exists());
}

#[test]
fn while_prefixes_are_written_leaves_whole_files_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("prefixes");
    let names = |extension: &str| -> Vec<_> {
        let entries = std::fs::read_dir(&store).into_iter().flatten();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|its| its == extension)).collect()
    };
    let kept = prompts(8, 2000);
    let mut daemon = keeping(&store);
    cache(&daemon.unix(), &kept);
    daemon.signal("TERM");
    wait_for("a file that is being written", || (!names("new").is_empty()).then_some(()));
    kill(&mut daemon);

    // What was begun counts for nothing and goes with the next save.
    std::fs::write(store.join("prefix-0900.new"), "half").unwrap();
    let whole = names("kv").len();
    let mut daemon = take_setup(&mut daemon).start();
    let found = kept.iter().filter(|prompt| cached(&daemon.unix(), prompt) == 1999).count();
    assert_eq!(found, whole);
    assert_eq!(daemon.ends(), [8, 8, 0, 0]);
    daemon.signal("TERM");
    assert!(daemon.wait_end().success());
    assert!(!daemon.log.text().contains("not restored"), "{}", daemon.log.text());
    assert_eq!((names("kv").len(), names("new").len()), (8, 0));
}
