//! `phi4d pull`, `list` and `remove` against an endpoint that cuts, lies and is out of order.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

pub(crate) mod hub;
mod proxy;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::json;

use self::hub::{COMMIT, Fault, Hub, web_server, write_sums};
use self::proxy::{Proxy, with_tls};
use crate::common::{Setup, demo_folder, wait_for};

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
            .envs(crate::common::isa())
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
    let refused = |arguments: &[&str], code: i32, words: &[&str]| {
        let (ended, said) = place.run(arguments);
        assert_eq!(ended, code, "{arguments:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{arguments:?}: {said}");
        }
    };
    refused(&["pull", "phi-5"], 64, &["phi-5", "phi-4-mini"]);
    refused(&["pull", "phi-4", "--name", "../up"], 64, &["../up"]);
    refused(&["pull", "me/none"], 66, &["404", "no such model"]);
    refused(&["pull", "microsoft/phi-4-onnx/nowhere"], 66, &["no model folder"]);
    refused(&["pull", "phi-4", "--endpoint", "hub"], 64, &["hub", "https://"]);
    refused(&["pull", "phi-4", "--endpoint", "http://127.0.0.1:1"], 69, &["127.0.0.1:1"]);
    place.hub.state.lock().unwrap().token = Some("secret".to_owned());
    refused(&["pull", "phi-4"], 76, &["401", "HF_TOKEN"]);
    place.hub.state.lock().unwrap().token = None;
    place.hub.state.lock().unwrap().sizes.insert(format!("cpu/int4/{DATA}"), 1 << 60);
    refused(&["pull", "phi-4", "--variant", "cpu"], 74, &["bytes free", "are needed"]);
}

/// Foundry Local's cache and Hugging Face's, and a folder that was copied by hand.
#[test]
fn a_model_is_taken_from_a_folder_wherever_it_is_in_it() {
    for (below, given, name) in [
        ("phi-4", "phi-4", "phi-4"),
        (
            "cache/Microsoft/Phi-4-generic-cpu/v1",
            "cache/Microsoft/Phi-4-generic-cpu",
            "phi-4-generic-cpu",
        ),
        (
            "models--microsoft--phi-4-onnx/snapshots/0123456789ab/cpu_and_mobile/cpu-int4",
            "models--microsoft--phi-4-onnx",
            "phi-4",
        ),
    ] {
        let place = Place::new();
        let folder = place.folder.path().join(below);
        std::fs::create_dir_all(folder.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(demo_folder(), &folder).unwrap();
        let given = place.folder.path().join(given);
        let (code, said) = place.run(&["pull", given.to_str().unwrap()]);
        assert_eq!(code, 0, "{said}");
        let pulled = place.models().join(name);
        for entry in std::fs::read_dir(demo_folder()).unwrap() {
            let name = entry.unwrap().file_name();
            let read = |folder: &Path| std::fs::read(folder.join(&name)).unwrap();
            assert!(read(&pulled) == read(&demo_folder()), "{name:?} differs");
        }
        let (_, listed) = place.run(&["list"]);
        assert!(listed.contains(given.to_str().unwrap()), "{listed}");
        assert!(place.hub.state.lock().unwrap().seen.is_empty(), "no network");
    }
}

#[test]
fn a_folder_without_a_model_or_with_wrong_bytes_is_refused() {
    let place = Place::new();
    let folder = place.folder.path().join("mine");
    std::fs::create_dir(&folder).unwrap();
    let (code, said) = place.run(&["pull", folder.to_str().unwrap()]);
    assert_eq!(code, 66, "{said}");
    assert!(said.contains("no model folder"), "{said}");
    let model = crate::common::copy_demo(&folder);
    write_sums(&model);
    let (code, said) = place.run(&["pull", folder.to_str().unwrap()]);
    assert_eq!(code, 0, "{said}");
    std::fs::write(model.join("tokenizer_config.json"), "{}").unwrap();
    let (code, said) = place.run(&["pull", folder.to_str().unwrap(), "--replace"]);
    assert_eq!(code, 76, "{said}");
    assert!(said.contains("tokenizer_config.json is damaged: its SHA-256"), "{said}");
    let (code, said) = place.run(&["pull", "/nowhere/model"]);
    assert_eq!(code, 74, "{said}");
}

#[test]
fn a_model_is_pulled_from_a_web_server_by_its_list_of_hashes() {
    let place = Place::new();
    let root = tempfile::tempdir().unwrap();
    for below in ["phi-4", "models/phi-4"] {
        let folder = root.path().join(below);
        std::fs::create_dir_all(&folder).unwrap();
        for entry in std::fs::read_dir(demo_folder()).unwrap() {
            let from = entry.unwrap().path();
            std::fs::copy(&from, folder.join(from.file_name().unwrap())).unwrap();
        }
        let address = web_server(root.path());
        let url = format!("http://{address}/{below}/");
        let (code, said) = place.run(&["pull", &url, "--replace"]);
        assert_eq!(code, 66, "{said}");
        assert!(said.contains("SHA256SUMS"), "{said}");
        write_sums(&folder);
        let (code, said) = place.run(&["pull", &url, "--replace"]);
        assert_eq!(code, 0, "{said}");
        place.assert_pulled();
        std::fs::write(folder.join("tokenizer.json"), "{}").unwrap();
        let (code, said) = place.run(&["pull", &url, "--replace"]);
        assert_eq!(code, 76, "{said}");
        assert!(said.contains("tokenizer.json is damaged"), "{said}");
        std::fs::remove_dir_all(place.models()).unwrap();
    }
}

/// As a new user types it: the model is downloaded, served by a daemon for this answer, and stays.
#[test]
fn run_and_serve_take_a_models_name_and_download_it() {
    let place = Place::new();
    let command = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_phi4d"));
        command
            .args(arguments)
            .env_clear()
            .envs(crate::common::isa())
            .env("HF_ENDPOINT", place.hub.url())
            .env("PHI4D_MODELS", place.models())
            .env("TMPDIR", place.folder.path())
            // No daemon of this machine is to be found.
            .env("XDG_RUNTIME_DIR", place.folder.path())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::null());
        command
    };
    let ask = ["run", "phi-4", "What is 12+7?", "--temperature", "0"];
    let first = command(&ask).output().unwrap();
    let said = String::from_utf8_lossy(&first.stderr).into_owned();
    assert_eq!(String::from_utf8_lossy(&first.stdout), "19\n", "{said}");
    for words in ["to download", "it takes", "of weights", "for a context of 4096 tokens"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    place.assert_pulled();
    let asked = place.hub.state.lock().unwrap().seen.len();
    let second = command(&ask).output().unwrap();
    assert_eq!(second.stdout, first.stdout);
    assert_eq!(place.hub.state.lock().unwrap().seen.len(), asked, "downloaded again");
    let left = std::fs::read_dir(place.folder.path()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["models"], "a daemon's folder is left");

    let socket = place.folder.path().join("s");
    let mut serve = command(&["serve", "phi-4", "--listen", "off", "--socket"]);
    let mut daemon = serve.arg(&socket).stderr(Stdio::null()).spawn().unwrap();
    let asked = command(&["run", "What is 3+4?", "--wait", "60", "--socket"])
        .arg(&socket)
        .output()
        .unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert_eq!(String::from_utf8_lossy(&asked.stdout), "7\n");
    // The setting takes the name, too.
    let checked = command(&["check", "--model", "phi-4", "--listen", "off"]).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

/// What a pull with these variables prints, and its exit code.
fn pull_with(place: &Place, variables: &[(&str, &str)], arguments: &[&str]) -> (i32, String) {
    let mut command = place.command(&["pull", "phi-4", "--variant", "cpu"]);
    let output = command.args(arguments).envs(variables.iter().copied()).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

#[test]
fn https_goes_through_a_tunnel_with_a_private_certificate() {
    let place = Place::new();
    let (tls, certificate) = with_tls(place.hub.address, "hub.invalid");
    let ca = place.folder.path().join("ca.pem");
    std::fs::write(&ca, certificate).unwrap();
    let ca = ca.to_str().unwrap();
    let proxy = Proxy::start(tls, None);
    let storage = Proxy::start(tls, None);
    place.hub.state.lock().unwrap().cdn = "https://hub.invalid:8443".to_owned();
    let url = format!("http://me:s%40crt@{}", proxy.address);
    let variables = [("HF_ENDPOINT", "https://hub.invalid"), ("HTTPS_PROXY", &*url)];
    let (code, said) = pull_with(&place, &variables, &["--ca-file", ca]);
    assert_eq!(code, 0, "{said}");
    let pulled = place.assert_pulled();
    let asked = proxy.asked();
    assert!(asked.iter().any(|asked| asked.what == "CONNECT hub.invalid:8443"), "{asked:?}");
    for asked in asked {
        assert!(asked.what.starts_with("CONNECT hub.invalid:"), "{asked:?}");
        assert_eq!(asked.credentials.as_deref(), Some("Basic bWU6c0BjcnQ="), "me:s@crt");
    }

    // The certificate from the environment, the proxy from the lower case variable.
    std::fs::remove_dir_all(pulled).unwrap();
    let url = format!("http://{}", storage.address);
    let variables =
        [("HF_ENDPOINT", "https://hub.invalid"), ("all_proxy", &*url), ("SSL_CERT_FILE", ca)];
    let (code, said) = pull_with(&place, &variables, &[]);
    assert_eq!(code, 0, "{said}");
    place.assert_pulled();
    assert!(storage.asked().iter().all(|asked| asked.credentials.is_none()));

    // Without the certificate nothing is fetched.
    let (code, said) = pull_with(&place, &[variables[0], variables[1]], &["--replace"]);
    assert_eq!(code, 69, "{said}");
    assert!(said.contains("https://hub.invalid") && said.contains("certificate"), "{said}");
}

#[test]
fn http_is_forwarded_by_its_absolute_url_and_exceptions_go_directly() {
    let place = Place::new();
    let proxy = Proxy::start(place.hub.address, None);
    let url = format!("http://me:secret@{}", proxy.address);
    let variables = [("HF_ENDPOINT", "http://hub.invalid"), ("HTTP_PROXY", &*url)];
    place.hub.state.lock().unwrap().cdn = "http://hub.invalid".to_owned();
    let (code, said) = pull_with(&place, &variables, &[]);
    assert_eq!(code, 0, "{said}");
    place.assert_pulled();
    for asked in proxy.asked() {
        assert!(asked.what.starts_with("GET http://hub.invalid/"), "{asked:?}");
        assert_eq!(asked.credentials.as_deref(), Some("Basic bWU6c2VjcmV0"));
    }
    let seen = proxy.asked().len();
    assert!(seen > 3);

    let place = Place::new();
    for exceptions in ["127.0.0.1", "other,127.0.0.0/8", "*"] {
        let variables = [("HTTP_PROXY", &*url), ("NO_PROXY", exceptions)];
        let (code, said) = pull_with(&place, &variables, &["--replace"]);
        assert_eq!(code, 0, "{exceptions}: {said}");
    }
    assert_eq!(proxy.asked().len(), seen);
}

#[test]
fn a_proxy_that_refuses_or_is_not_there_is_named() {
    let place = Place::new();
    let refused = |variables: &[(&str, &str)], code: i32, words: &[&str]| {
        let (ended, said) = pull_with(&place, variables, &[]);
        assert_eq!(ended, code, "{said}");
        for word in words {
            assert!(said.contains(word), "{said}");
        }
        assert!(!said.contains("secret"), "{said}");
    };
    for (variable, endpoint) in
        [("HTTPS_PROXY", "https://hub.invalid"), ("HTTP_PROXY", "http://hub.invalid")]
    {
        let proxy = Proxy::start(place.hub.address, Some(407));
        let address = proxy.address.to_string();
        let url = format!("http://me:secret@{address}");
        let variables = [("HF_ENDPOINT", endpoint), (variable, &*url)];
        refused(&variables, 69, &[&address, endpoint, "407", "USER:PASSWORD"]);
        assert_eq!(proxy.asked().len(), 1, "not asked again");
    }
    let proxy = Proxy::start(place.hub.address, Some(403));
    let url = format!("http://{}", proxy.address);
    let endpoint = ("HF_ENDPOINT", "https://hub.invalid");
    refused(&[endpoint, ("HTTPS_PROXY", &url)], 69, &[&url, "403", "NO_PROXY"]);
    refused(
        &[endpoint, ("ALL_PROXY", "http://me:secret@127.0.0.1:1")],
        69,
        &["the proxy http://127.0.0.1:1"],
    );
    refused(
        &[endpoint, ("ALL_PROXY", "socks5://me:secret@h:1")],
        64,
        &["ALL_PROXY", "http://HOST"],
    );
}
