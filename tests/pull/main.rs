//! `phi4d pull`, `list` and `remove` against an endpoint that cuts, lies and is out of order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

#[path = "../common/mod.rs"]
mod common;
mod hub;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{Setup, demo_folder, wait_for};
use hub::{COMMIT, Fault, Hub};
use serde_json::json;

const DATA: &str = "model.onnx.data";

struct Place {
    hub: Hub,
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { hub: Hub::start(&demo_folder()), folder: tempfile::tempdir().unwrap() }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_phi4d"));
        command
            .args(arguments)
            .args(["--models".as_ref(), self.models().as_os_str()])
            .env_clear()
            .env("HF_ENDPOINT", self.hub.url())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> (i32, String) {
        let Output { status, stdout, stderr } = self.command(arguments).output().unwrap();
        let text = [stdout, stderr].concat();
        (status.code().unwrap(), String::from_utf8(text).unwrap())
    }

    fn pull(&self) -> (i32, String) {
        self.run(&["pull", "phi-4", "--variant", "cpu"])
    }

    fn models(&self) -> PathBuf {
        self.folder.path().join("models")
    }

    /// The model is there, whole and the same, and nothing else is.
    fn assert_pulled(&self) -> PathBuf {
        let pulled = self.models().join("phi-4");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&pulled).unwrap() {
            names.push(entry.unwrap().file_name().into_string().unwrap());
        }
        names.retain(|name| name != "phi4d-source.json");
        for name in &names {
            let read = |folder: &Path| std::fs::read(folder.join(name)).unwrap();
            assert!(read(&pulled) == read(&demo_folder()), "{name} differs");
        }
        assert_eq!(names.len(), std::fs::read_dir(demo_folder()).unwrap().count(), "{names:?}");
        assert_eq!(std::fs::read_dir(self.models()).unwrap().count(), 1);
        pulled
    }

    fn size_of(&self, name: &str) -> usize {
        self.hub.state.lock().unwrap().files[&format!("cpu/int4/{name}")].len()
    }
}

#[test]
fn a_model_is_pulled_through_cuts_listed_served_and_removed() {
    let place = Place::new();
    place.hub.state.lock().unwrap().token = Some("secret".to_owned());
    let token = place.folder.path().join("token");
    std::fs::write(&token, "secret\n").unwrap();
    // The first answer of the storage is model.onnx; then the weights, cut twice.
    place.hub.fault(&[Fault::Cut(10), Fault::Cut(0), Fault::Status(503), Fault::Cut(1 << 20)]);
    let token = token.to_str().unwrap();
    let (code, said) = place.run(&["pull", "phi-4", "--variant", "cpu", "--token-file", token]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("trying again"), "{said}");
    let pulled = place.assert_pulled();
    let ranges = place.hub.ranges();
    assert!(ranges.contains(&Some("bytes=10-".to_owned())), "{ranges:?}");
    // The token is the endpoint's and no other's.
    for seen in &place.hub.state.lock().unwrap().seen {
        assert_eq!(seen.token.is_some(), !seen.path.starts_with("/blob/"), "{seen:?}");
        assert!(!seen.path.contains("code.py") && !seen.path.contains("README"), "{seen:?}");
    }

    let (code, listed) = place.run(&["list"]);
    assert_eq!(code, 0);
    assert!(listed.contains("phi-4 ") && listed.contains(&COMMIT[..12]), "{listed}");
    let daemon = Setup::new().model(&pulled).start();
    assert!(daemon.unix().chat("2+2=", &json!({}))["choices"][0]["message"]["content"].is_string());
    drop(daemon);

    let (code, said) = place.pull();
    assert_eq!(code, 73, "{said}");
    assert!(said.contains("--replace"), "{said}");
    let (code, said) =
        place.run(&["pull", "phi-4", "--variant", "cpu", "--token-file", token, "--replace"]);
    assert_eq!(code, 0, "{said}");
    place.assert_pulled();
    assert_eq!(place.run(&["remove", "phi-4"]).0, 0);
    assert!(!pulled.exists());
    let (code, said) = place.run(&["remove", "phi-4"]);
    assert_eq!(code, 66, "{said}");
}

#[test]
fn a_pull_that_was_killed_is_taken_up_where_it_was() {
    let place = Place::new();
    let half = place.size_of(DATA) / 2;
    place.hub.fault(&[Fault::Whole, Fault::Stall(half)]);
    let mut child = place.command(&["pull", "phi-4", "--variant", "cpu"]).spawn().unwrap();
    let part = place.models().join(format!(".partial-phi-4/{DATA}.part"));
    wait_for("half of the weights", || {
        let length = std::fs::metadata(&part).ok()?.len();
        (length == half as u64).then_some(())
    });
    // Nobody else may write there meanwhile.
    let (code, said) = place.pull();
    assert_eq!(code, 73, "{said}");
    child.kill().unwrap();
    child.wait().unwrap();
    let (_, listed) = place.run(&["list"]);
    assert!(listed.contains("incomplete"), "{listed}");
    let before = place.hub.ranges().len();
    let (code, said) = place.pull();
    assert_eq!(code, 0, "{said}");
    assert_eq!(place.hub.ranges()[before..], [Some(format!("bytes={half}-"))]);
    place.assert_pulled();
}

#[test]
fn wrong_bytes_are_fetched_once_more_and_then_refused() {
    let place = Place::new();
    place.hub.fault(&[Fault::Flip]);
    let (code, said) = place.pull();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("damaged"), "{said}");
    place.assert_pulled();

    let place = Place::new();
    place.hub.fault(&[Fault::Flip; 8]);
    let (code, said) = place.pull();
    assert_eq!(code, 76, "{said}");
    assert!(said.contains("model.onnx is damaged: its SHA-256 is"), "{said}");
    assert!(!place.models().join("phi-4").exists());
    // A small file's hash is git's.
    let place = Place::new();
    let name = "cpu/int4/tokenizer.json";
    place.hub.state.lock().unwrap().sizes.insert(name.to_owned(), 5);
    let (code, said) = place.pull();
    assert_eq!(code, 76, "{said}");
    assert!(said.contains("tokenizer.json is damaged"), "{said}");
}

#[test]
fn an_endpoint_that_gives_no_parts_is_asked_for_the_whole() {
    let place = Place::new();
    place.hub.fault(&[Fault::Cut(100), Fault::Whole, Fault::Cut(1000), Fault::Whole]);
    let (code, said) = place.pull();
    assert_eq!(code, 0, "{said}");
    place.assert_pulled();
}

#[test]
fn refusals_say_what_is_the_matter() {
    let place = Place::new();
    let told = |arguments: &[&str], code: i32, words: &[&str]| {
        let (ended, said) = place.run(arguments);
        assert_eq!(ended, code, "{arguments:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{arguments:?}: {said}");
        }
    };
    told(&["pull", "phi-5"], 64, &["phi-5", "phi-4-mini"]);
    told(&["pull", "phi-4", "--name", "../up"], 64, &["../up"]);
    told(&["pull", "me/none"], 66, &["404", "no such model"]);
    told(&["pull", "microsoft/phi-4-onnx/nowhere"], 66, &["no model folder"]);
    told(&["pull", "phi-4", "--endpoint", "hub"], 64, &["hub", "https://"]);
    told(&["pull", "phi-4", "--endpoint", "http://127.0.0.1:1"], 69, &["127.0.0.1:1"]);
    place.hub.state.lock().unwrap().token = Some("secret".to_owned());
    told(&["pull", "phi-4"], 76, &["401", "HF_TOKEN"]);
    place.hub.state.lock().unwrap().token = None;
    place.hub.state.lock().unwrap().sizes.insert(format!("cpu/int4/{DATA}"), 1 << 60);
    told(&["pull", "phi-4", "--variant", "cpu"], 74, &["bytes free", "are needed"]);
}

mod proxy;
