//! The commands that people type beside `serve`: `chat` in a pipe, `check` and `config`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests may stop where something is wrong"
)]

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::common::{Daemon, Setup, demo_folder, wait_for};

const UNAVAILABLE: i32 = 69;
const PROTOCOL: i32 = 76;
const SETTINGS: i32 = 78;

/// The program with nothing of this machine's settings.
fn phi4d(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phi4d"));
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).env_clear();
    if let Some(profile) = std::env::var_os("LLVM_PROFILE_FILE") {
        command.env("LLVM_PROFILE_FILE", profile);
    }
    command
}

/// Runs with `input` on standard input.
fn piped(command: &mut Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A program that ended early has closed its end; what it said is what the test looks at.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> (&str, &str) {
    let text = |bytes| std::str::from_utf8(bytes).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

/// What the daemon says to `messages`, asked plainly, and how many tokens it read for that.
fn plain(daemon: &Daemon, messages: &Value) -> (String, u64) {
    let body = json!({ "messages": messages, "temperature": 0 });
    let response = daemon.unix().post("/v1/chat/completions", &body);
    assert_eq!(response.status, 200, "{}", response.text());
    let answer = response.json();
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    (text, answer["usage"]["prompt_tokens"].as_u64().unwrap())
}

/// Tokens read for each chat so far, by the daemon's log.
fn prompt_tokens(daemon: &Daemon, chats: usize) -> Vec<u64> {
    wait_for("the log of the chats", || {
        let text = daemon.log.text();
        let lines = text.lines().filter(|line| line.contains("POST /v1/chat/completions"));
        let counts = lines.map(|line| {
            let count = line.split("prompt_tokens=").nth(1)?;
            count.split_whitespace().next()?.parse().ok()
        });
        let counts: Vec<u64> = counts.map(|count| count.expect("a count of tokens")).collect();
        (counts.len() >= chats).then_some(counts)
    })
}

fn turn(role: &str, content: &str) -> Value {
    json!({ "role": role, "content": content })
}

#[test]
fn chat_answers_each_line_and_remembers_what_was_said() {
    let daemon = Daemon::start();
    let (first, second) = ("What is 12+7?", "hello");
    let (answer, _) = plain(&daemon, &json!([turn("user", first)]));
    let history = json!([turn("user", first), turn("assistant", &answer), turn("user", second)]);
    let (answer_after, tokens_after) = plain(&daemon, &history);
    let (_, tokens_alone) = plain(&daemon, &json!([turn("user", second)]));
    assert!(tokens_after > tokens_alone);
    let expected = format!("{answer}\n{answer_after}\n");

    let socket = daemon.socket();
    let socket = socket.to_str().unwrap();
    let url = format!("http://{}", daemon.address());
    for (round, place) in [["--socket", socket], ["--url", &url]].iter().enumerate() {
        // Empty lines ask nothing; the last line needs no end.
        let input = format!("{first}\n\n  \r\n{second}");
        let mut command = phi4d(&["chat", "--temperature", "0"]);
        let output = piped(command.args(place), &input);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(said(&output), (expected.as_str(), ""));
        let read = prompt_tokens(&daemon, 3 + 2 * (round + 1));
        assert_eq!(read.last(), Some(&tokens_after), "{read:?}");
    }
}

#[test]
fn run_asks_what_is_given_and_what_is_piped_and_says_the_answer_alone() {
    const USAGE: i32 = 64;
    let daemon = Daemon::start();
    let socket = daemon.socket();
    let place = ["--temperature", "0", "--socket", socket.to_str().unwrap()];
    for (given, input, asked) in [
        (Some("What is 12+7?"), "", "What is 12+7?"),
        (None, "What is 12+7?\n", "What is 12+7?"),
        (Some("Add these."), "12\n7\n", "Add these.\n\n12\n7"),
    ] {
        let (answer, _) = plain(&daemon, &json!([turn("user", asked)]));
        let mut command = phi4d(&["run"]);
        let output = piped(command.args(given).args(place), input);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(said(&output), (format!("{answer}\n").as_str(), ""), "{asked}");
    }
    let output = piped(phi4d(&["run"]).args(place), " \n");
    assert_eq!((output.status.code(), said(&output).0), (Some(USAGE), ""));
    let output = piped(phi4d(&["run", "--wait", "0", "--socket", "/nowhere/s"]).arg("hello"), "");
    assert_eq!((output.status.code(), said(&output).0), (Some(UNAVAILABLE), ""));
}

#[test]
fn run_puts_files_before_the_question() {
    let daemon = Daemon::start();
    let folder = tempfile::tempdir().unwrap();
    let (notes, more) = (folder.path().join("notes.md"), folder.path().join("more.txt"));
    std::fs::write(&notes, "12+7\n").unwrap();
    std::fs::write(&more, "20+22\n").unwrap();
    let asked = "File: notes.md\n```\n12+7\n```\n\nFile: more.txt\n```\n20+22\n```\n\nAdd these.";
    let (answer, tokens) = plain(&daemon, &json!([turn("user", asked)]));
    let mut command = phi4d(&["run", "--temperature", "0", "--socket"]);
    command.arg(daemon.socket()).arg("-f").arg(&notes).arg("--file").arg(&more).arg("Add these.");
    let output = piped(&mut command, "");
    assert_eq!(said(&output), (format!("{answer}\n").as_str(), ""));
    assert_eq!(prompt_tokens(&daemon, 2), [tokens, tokens]);
    let mut command = phi4d(&["run", "-f", "/nowhere.md", "Add these."]);
    let output = piped(&mut command, "");
    let (out, err) = said(&output);
    assert!(!output.status.success() && out.is_empty() && err.contains("/nowhere.md"), "{err}");
}

#[test]
fn chat_finds_the_daemon_by_its_settings_and_sends_the_system_message() {
    let daemon = Daemon::start();
    let messages = json!([turn("system", "You are a pirate."), turn("user", "What is 20+22?")]);
    let (answer, tokens) = plain(&daemon, &messages);
    let mut command = phi4d(&["chat", "--temperature", "0", "--system", "You are a pirate."]);
    command.env("PHI4D_SOCKET", daemon.socket());
    let output = piped(&mut command, "What is 20+22?\n");
    assert_eq!(said(&output), (format!("{answer}\n").as_str(), ""));
    assert_eq!(prompt_tokens(&daemon, 2), [tokens, tokens]);
}

#[test]
fn chat_without_a_daemon_or_with_a_refusal_says_so_in_one_line() {
    let mut daemon = Daemon::start();
    let socket = daemon.socket();
    let chat = |arguments: &[&str]| {
        let mut command = phi4d(&["chat", "--wait", "0"]);
        piped(command.args(arguments), "hello\nhello\n")
    };
    let at_socket = ["--socket", socket.to_str().unwrap()];
    let refused = chat(&[&at_socket[..], &["--temperature", "9"]].concat());
    assert_eq!(refused.status.code(), Some(PROTOCOL));
    let (out, err) = said(&refused);
    assert_eq!((out, err.lines().count()), ("", 1), "{err}");
    assert!(err.starts_with("phi4d: the daemon refused: ") && err.contains("temperature"), "{err}");

    daemon.signal("TERM");
    assert_eq!(daemon.wait_end().code(), Some(0));
    let somewhere = ["--url", "http://nowhere.invalid:8484"];
    for (place, name) in [(at_socket, at_socket[1]), (somewhere, somewhere[1])] {
        let output = chat(&place);
        assert_eq!(output.status.code(), Some(UNAVAILABLE), "{output:?}");
        let (out, err) = said(&output);
        assert_eq!((out, err.lines().count()), ("", 1), "{err}");
        assert!(err.starts_with(&format!("phi4d: cannot reach the daemon at {name}: ")), "{err}");
    }
}

#[test]
fn check_tells_what_it_found_and_fails_as_serve_does() {
    let model = demo_folder();
    let model = model.to_str().unwrap();
    let check = ["check", "--threads", "1", "--model", model, "--slots", "5"];
    let output = phi4d(&check).args(["--log-level", "error"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let (out, err) = said(&output);
    assert_eq!(err, "");
    let config = std::fs::read(demo_folder().join("genai_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    let (shape, length) = (&config["model"]["decoder"], &config["model"]["context_length"]);
    let layers = format!("{} layers, {} KV heads of ", shape["num_hidden_layers"], {
        &shape["num_key_value_heads"]
    });
    let context = format!("context    {length} tokens");
    for part in ["model      demo (", model, &layers, &context, " 5 slots and "] {
        assert!(out.contains(part), "{part:?} is not in: {out}");
    }
    assert!(out.ends_with("the settings and the model are good\n"), "{out}");

    // The daemon with these settings can be running meanwhile: nothing is listened on.
    let daemon = Setup::new().start();
    let address = daemon.address().to_string();
    let both = ["--listen", &address, "--socket", daemon.socket().to_str().unwrap()]
        .map(ToOwned::to_owned);
    assert!(phi4d(&check).args(both).output().unwrap().status.success());
    assert_eq!(daemon.unix().get("/health").status, 200);

    let output = phi4d(&["check", "--model", "/nonexistent"]).output().unwrap();
    assert_eq!((output.status.code(), said(&output).0), (Some(66), ""));
}

/// The values that `config show` printed, by key; a number counts and not how it is spelt.
fn values(shown: &str) -> Vec<(&str, Value)> {
    let settings = shown.lines().map(|line| line.split(" # ").next().unwrap());
    let pairs = settings.map(|setting| setting.trim().split_once(" = ").unwrap());
    pairs
        .map(|(key, value)| {
            let value: Value = serde_json::from_str(value).unwrap();
            (key, value.as_f64().map_or(value, Value::from))
        })
        .collect()
}

#[test]
fn config_show_tells_each_value_and_where_it_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("phi4d.toml");
    std::fs::write(&file, "model = \"/m\"\nslots = 2\nqueue = 9\nlisten = \"off\"\n").unwrap();
    let file = file.to_str().unwrap();
    let show = |file: &str| {
        let mut command = phi4d(&["config", "show", "--config", file]);
        command.env("PHI4D_QUEUE", "11").env("PHI4D_SLOTS", "3").args(["--slots", "4"]);
        command.output().unwrap()
    };
    let output = show(file);
    assert!(output.status.success(), "{output:?}");
    let (out, err) = said(&output);
    assert_eq!(err, "");
    let origin = |setting: &str| {
        let line = out.lines().find(|line| line.split(" # ").next().unwrap().trim() == setting);
        line.unwrap_or_else(|| panic!("{setting} is not in: {out}")).split_once(" # ").unwrap().1
    };
    assert_eq!(origin("slots = 4"), "flag --slots");
    assert!(origin("queue = 11").contains("PHI4D_QUEUE"));
    assert!(origin("listen = \"off\"").contains(file));
    assert_eq!(origin("drain_timeout_s = 30"), "default");

    // What is shown is itself a settings file, of the same settings.
    let copy = folder.path().join("copy.toml");
    std::fs::write(&copy, out).unwrap();
    let again = phi4d(&["config", "show", "--config", copy.to_str().unwrap()]).output().unwrap();
    assert_eq!(values(said(&again).0), values(out));

    let output = phi4d(&["config", "show", "--slots", "none"]).output().unwrap();
    assert_eq!((output.status.code(), said(&output).0), (Some(SETTINGS), ""));
}

#[test]
fn config_render_is_a_file_that_changes_nothing() {
    let output = phi4d(&["config", "render"]).output().unwrap();
    assert!(output.status.success());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("phi4d.toml");
    std::fs::write(&file, &output.stdout).unwrap();
    let output = phi4d(&["config", "show", "--config", file.to_str().unwrap()]).output().unwrap();
    let (out, err) = said(&output);
    assert_eq!((output.status.code(), err), (Some(0), ""));
    assert!(out.lines().count() > 20, "{out}");
    assert!(out.lines().all(|line| line.ends_with(" # default")), "{out}");
}
