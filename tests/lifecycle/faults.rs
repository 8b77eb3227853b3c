//! Starts that fail: one clear line on standard error, and a documented exit code.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

use crate::common::{Daemon, Setup, copy_demo};

const DATA: i32 = 65;
const NO_INPUT: i32 = 66;
const UNAVAILABLE: i32 = 69;
const OS: i32 = 71;
const SETTINGS: i32 = 78;
const USAGE: i32 = 64;

/// The program with nothing of this machine's settings.
fn phi4d(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phi4d"));
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).env_clear();
    if let Some(profile) = std::env::var_os("LLVM_PROFILE_FILE") {
        command.env("LLVM_PROFILE_FILE", profile);
    }
    command
}

/// The codes that `phi4d exit-codes` documents.
fn documented() -> Vec<i32> {
    let output = phi4d(&["exit-codes"]).output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split_whitespace().next().unwrap().parse().unwrap()).collect()
}

/// Asserts that the program ended with `code` and said `lines` lines on standard error, which
/// together hold all of `parts`.
#[track_caller]
fn assert_fault(output: &Output, code: i32, lines: usize, parts: &[&str]) {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(documented().contains(&code), "exit code {code} is not documented");
    assert_eq!(output.stdout, b"", "{text}");
    assert_eq!(text.lines().count(), lines, "{text}");
    for line in text.lines() {
        assert!(line.starts_with("phi4d: "), "{text}");
    }
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// With a log of errors only, standard error holds the one line and no more.
const ERRORS_ONLY: [&str; 2] = ["--log-level", "error"];

fn serve(setup: Setup) -> Output {
    setup.with(&ERRORS_ONLY).command().output().unwrap()
}

/// Serves a copy of the demo model after `damage`.
fn serve_damaged(damage: impl FnOnce(&Path)) -> Output {
    serve_damaged_with(&ERRORS_ONLY, damage)
}

fn serve_damaged_with(arguments: &[&str], damage: impl FnOnce(&Path)) -> Output {
    let mut setup = Setup::new();
    setup.model = copy_demo(setup.folder.path());
    damage(&setup.model);
    let socket = setup.socket();
    let output = setup.with(arguments).command().output().unwrap();
    assert!(!socket.exists(), "the socket was left behind");
    output
}

/// Serves after a change of `genai_config.json`.
fn serve_reconfigured(change: impl FnOnce(&mut Value)) -> Output {
    serve_damaged(|folder| {
        let path = folder.join("genai_config.json");
        let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        std::fs::write(&path, config.to_string()).unwrap();
    })
}

fn truncate(path: &Path, length: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    assert!(file.metadata().unwrap().len() > length);
    file.set_len(length).unwrap();
}

/// A shared library that is no ONNX Runtime: the C library that this test runs on.
fn another_library() -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    paths.map(PathBuf::from).find(|path| path.to_string_lossy().contains("/libc.so")).unwrap()
}

#[test]
fn a_runtime_library_that_is_missing_or_another() {
    let output = serve(Setup::new().with(&["--runtime-library", "/nonexistent/lib.so"]));
    assert_fault(&output, UNAVAILABLE, 1, &["ONNX Runtime", "/nonexistent/lib.so"]);

    let library = another_library();
    let library = library.to_str().unwrap();
    let output = serve(Setup::new().with(&["--runtime-library", library]));
    assert_fault(&output, UNAVAILABLE, 1, &["ONNX Runtime", library]);

    let text = Setup::new();
    let path = text.folder.path().join("text.so");
    std::fs::write(&path, "no library").unwrap();
    let path = path.to_str().unwrap().to_owned();
    assert_fault(
        &serve(text.with(&["--runtime-library", &path])),
        UNAVAILABLE,
        1,
        &["ONNX Runtime", &path],
    );
}

#[test]
fn a_file_missing_in_the_folder() {
    let needed = ["genai_config.json", "model.onnx", "model.onnx.data", "tokenizer.json"];
    for name in needed {
        let output = serve_damaged(|folder| std::fs::remove_file(folder.join(name)).unwrap());
        assert_fault(&output, NO_INPUT, 1, &[&format!("/{name}: No such file")]);
    }
    let output = serve(Setup::new().model("/nonexistent"));
    assert_fault(&output, NO_INPUT, 1, &["/nonexistent/genai_config.json"]);
}

#[test]
fn a_file_damaged_in_the_folder() {
    let weights = |folder: &Path| folder.join("model.onnx.data");
    for keep in [0, 4096, 1_000_000] {
        let output = serve_damaged(|folder| truncate(&weights(folder), keep));
        assert_fault(&output, DATA, 1, &["model.onnx"]);
    }
    let output = serve_damaged(|folder| truncate(&folder.join("model.onnx"), 1000));
    assert_fault(&output, DATA, 1, &["model.onnx"]);
    for (name, text) in [
        ("tokenizer.json", "{"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", ""),
        ("genai_config.json", "{"),
        ("genai_config.json", "[]"),
        ("tokenizer_config.json", "not JSON"),
    ] {
        let output = serve_damaged(|folder| std::fs::write(folder.join(name), text).unwrap());
        assert_fault(&output, DATA, 1, &[name]);
    }
    // Half a file, as an interrupted download leaves it.
    let output = serve_damaged(|folder| truncate(&folder.join("tokenizer.json"), 20_000));
    assert_fault(&output, DATA, 1, &["tokenizer.json"]);
}

#[test]
fn a_model_that_does_not_fit_its_configuration() {
    for (key, value) in
        [("num_key_value_heads", 8), ("num_hidden_layers", 3), ("num_hidden_layers", 9)]
    {
        let output = serve_reconfigured(|config| config["model"]["decoder"][key] = value.into());
        assert_fault(&output, DATA, 1, &["model.onnx does not fit the Phi-4 export contract"]);
    }
    // The graph leaves this one open, so that only a trial step shows it.
    let output = serve_reconfigured(|config| {
        config["model"]["decoder"]["head_size"] = 64.into();
    });
    assert_fault(&output, DATA, 1, &["a trial step failed", "a head_size of 64"]);
    // The first differences are named, and how many there are more, alike in the other layers.
    let output = serve_reconfigured(|config| {
        config["model"]["decoder"]["num_key_value_heads"] = 8.into();
    });
    let differ = ["past_key_values.0.key", "present.0.value", "is 2; expected 8", "12 more"];
    assert_fault(&output, DATA, 1, &differ);
    let output = serve_reconfigured(|config| config["model"]["vocab_size"] = 7.into());
    assert_fault(&output, DATA, 1, &["7"]);
    let output = serve_reconfigured(|config| {
        config["model"]["decoder"]["outputs"]["logits"] = "scores".into();
    });
    assert_fault(&output, DATA, 1, &["scores"]);
}

#[test]
fn all_faults_of_the_settings_are_reported_at_once() {
    let setup = Setup::new();
    let file = setup.folder.path().join("phi4d.toml");
    std::fs::write(&file, "slot = 3\nmax_connections = \"many\"\n").unwrap();
    let file = file.to_str().unwrap().to_owned();
    let setup = setup
        .with(&["--config", &file, "--slots", "0", "--drain-timeout-s", "soon"])
        .variable("PHI4D_QUEUE", "-1");
    let said = [
        "slots = \"0\" (from ",
        "expected a whole number from 1 to 1024",
        "drain_timeout_s = \"soon\" (from ",
        "queue = \"-1\" (from ",
        "PHI4D_QUEUE",
        "max_connections = ",
        "slot (from ",
        "did you mean slots?",
    ];
    assert_fault(&serve(setup), SETTINGS, 5, &said);

    assert_fault(&phi4d(&["serve"]).output().unwrap(), SETTINGS, 1, &["model is not set"]);
    let missing = ["serve", "--config", "/nonexistent/phi4d.toml", "--model", "models/demo"];
    let output = phi4d(&missing).output().unwrap();
    assert_fault(&output, SETTINGS, 1, &["/nonexistent/phi4d.toml"]);
    let open = ["serve", "--model", "models/demo", "--socket", "off", "--listen", "0.0.0.0:0"];
    let output = phi4d(&open).output().unwrap();
    assert_fault(&output, SETTINGS, 1, &["allow_unauthenticated_lan"]);
    let deaf = ["serve", "--model", "models/demo", "--socket", "off", "--listen", "off"];
    assert_fault(&phi4d(&deaf).output().unwrap(), SETTINGS, 1, &["listen", "socket"]);
}

#[test]
fn an_address_that_is_in_use() {
    let daemon = Daemon::start();
    let address = daemon.address().to_string();
    let arguments = ["serve", "--model", "models/demo", "--socket", "off", "--listen", &address];
    let output = phi4d(&arguments).args(["--log-level", "error"]).output().unwrap();
    assert_fault(&output, OS, 1, &[&format!("cannot listen on {address}: ")]);
    assert_eq!(daemon.tcp().get("/health").status, 200);
}

#[test]
fn a_command_line_that_is_wrong() {
    for (arguments, said) in [
        (&["serve", "--no-such-flag"][..], "--no-such-flag"),
        (&["serve", "--slots"], "--slots"),
        (&["dance"], "dance"),
        (&["serve", "stray"], "stray"),
        (&["chat", "--url", "http://h", "--socket", "/s"], "--socket"),
        (&["chat", "--url", "ftp://h"], "ftp://h"),
    ] {
        assert_fault(&phi4d(arguments).output().unwrap(), USAGE, 1, &[said]);
    }
}
