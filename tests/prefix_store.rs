//! Cached prompts: reused within a conversation, and over a restart.

#![allow(clippy::unwrap_used, reason = "an end-to-end test")]

use std::path::Path;

use serde_json::{Value, json};

use crate::common::{Daemon, Setup};

const LONG: &str = "Tell me about the small river that runs behind the old mill, about the stones in \
                    it, and about the people who come there in the evening to sit and to talk.";

fn keeping(folder: &Path) -> Daemon {
    Setup::new().with(&["--prefix-store", folder.to_str().unwrap()]).start()
}

fn stop(mut daemon: Daemon) -> String {
    daemon.signal("TERM");
    assert!(daemon.wait_end().success());
    daemon.log.text()
}

fn cached(answer: &Value) -> u64 {
    answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
}

fn text(answer: &Value) -> &Value {
    &answer["choices"][0]["message"]["content"]
}

#[test]
fn the_next_turn_of_a_conversation_reads_what_is_new() {
    let daemon = Daemon::start();
    let client = daemon.unix();
    let first = client.chat(LONG, &json!({ "max_tokens": 20 }));
    assert_eq!(cached(&first), 0);
    let messages = json!([
        { "role": "user", "content": LONG },
        { "role": "assistant", "content": text(&first) },
        { "role": "user", "content": "What is 2+2?" },
    ]);
    let second = client.chat("", &json!({ "messages": messages, "max_tokens": 20 }));
    let prompt = first["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(cached(&second) >= prompt, "{second}");
}

#[test]
fn prompts_outlive_a_restart_and_give_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("prefixes");
    let daemon = keeping(&store);
    let first = daemon.unix().chat(LONG, &json!({ "max_tokens": 20 }));
    stop(daemon);
    let daemon = keeping(&store);
    let again = daemon.unix().chat(LONG, &json!({ "max_tokens": 20 }));
    assert_eq!(text(&again), text(&first));
    let prompt = first["usage"]["prompt_tokens"].as_u64().unwrap();
    // All but the last token, whose logits are needed.
    assert_eq!(cached(&again), prompt - 1);
    stop(daemon);

    // A damaged file costs the prefix and one line in the log, nothing else.
    for entry in std::fs::read_dir(&store).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    let daemon = keeping(&store);
    let third = daemon.unix().chat(LONG, &json!({ "max_tokens": 20 }));
    assert_eq!((text(&third), cached(&third)), (text(&first), 0));
    let log = stop(daemon);
    assert_eq!(log.lines().filter(|line| line.contains("it is damaged")).count(), 1, "{log}");
}

#[test]
fn a_store_that_cannot_be_written_does_not_fail_the_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "no folder").unwrap();
    let daemon = keeping(&file.join("prefixes"));
    daemon.unix().chat(LONG, &json!({ "max_tokens": 5 }));
    let log = stop(daemon);
    assert!(log.contains("cannot store cached prefixes"), "{log}");
}
