//! `phi4d run` and `phi4d chat` as clients: what they print, of whom they believe it, how they wait.

#![expect(clippy::unwrap_used, reason = "tests may stop where something is wrong")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};

use crate::common::{Client, Daemon, Response, Setup};
use crate::terminal::{CTRL_C, CTRL_D, ENTER, Terminal};

const CUT: i32 = 2;
const USAGE: i32 = 64;
const NO_INPUT: i32 = 66;
const UNAVAILABLE: i32 = 69;
const PROTOCOL: i32 = 76;

/// The program with nothing of this machine's settings.
fn phi4d(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phi4d"));
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).env_clear();
    command.stdin(Stdio::null());
    if let Some(profile) = std::env::var_os("LLVM_PROFILE_FILE") {
        command.env("LLVM_PROFILE_FILE", profile);
    }
    command
}

/// `phi4d run` of a question, greedy.
fn run(more: &[&str]) -> Output {
    phi4d(&["run", "--temperature", "0", "What is 12+7?"]).args(more).output().unwrap()
}

fn said(output: &Output) -> (Option<i32>, &str, &str) {
    let text = |bytes| std::str::from_utf8(bytes).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A server that gives each connection the next of `responses`, as it is.
fn script(responses: &[&str]) -> (String, std::thread::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let responses: Vec<String> = responses.iter().map(ToString::to_string).collect();
    let server = std::thread::spawn(move || {
        responses
            .iter()
            .map(|response| serve_once(&listener.accept().unwrap().0, response))
            .collect()
    });
    (url, server)
}

/// Answers with `response`; the request's first line.
fn serve_once(stream: &TcpStream, response: &str) -> String {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (Vec::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        head.push(line.trim().to_owned());
    }
    reader.read_exact(&mut vec![0; length]).unwrap();
    let mut stream = stream;
    stream.write_all(response.as_bytes()).unwrap();
    head.swap_remove(0)
}

const READY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// A response that streams these deltas.
fn streamed(deltas: &[Value]) -> String {
    let chunks = deltas.iter().map(|delta| {
        format!("data: {}\n\n", json!({ "choices": [{ "delta": delta, "finish_reason": null }] }))
    });
    let chunks: String = chunks.collect();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n\
         {chunks}data: [DONE]\n\n"
    )
}

#[test]
fn json_is_what_the_api_answers() {
    let daemon = Daemon::start();
    let socket = daemon.socket();
    let place = ["--socket", socket.to_str().unwrap()];
    let api = daemon.unix().chat("What is 12+7?", &json!({}));
    let output = run(&[&place[..], &["--json"]].concat());
    let (code, out, err) = said(&output);
    assert_eq!((code, err, out.lines().count()), (Some(0), "", 1));
    let object: Value = serde_json::from_str(out).unwrap();
    let choice = &api["choices"][0];
    assert_eq!(object["content"], choice["message"]["content"]);
    assert_eq!(object["finish_reason"], choice["finish_reason"]);
    assert_eq!((&object["model"], &object["reasoning"]), (&api["model"], &Value::Null));
    for name in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(object["usage"][name], api["usage"][name]);
    }
    let timing = |name: &str| object["timings"][name].as_f64().unwrap();
    assert!(timing("time_to_first_token_s") <= timing("total_s"), "{object}");

    // What keeps to a schema is no longer a sum.
    let schema = daemon.setup.folder.path().join("schema.json");
    std::fs::write(&schema, r#"{"enum": ["yes", "no"]}"#).unwrap();
    let schema = schema.to_str().unwrap();
    let output = run(&[&place[..], &["--schema", schema]].concat());
    let (code, out, _) = said(&output);
    assert_eq!(code, Some(0));
    assert!(["\"yes\"\n", "\"no\"\n"].contains(&out), "{out}");
}

#[test]
fn exit_codes_tell_what_went_wrong() {
    let daemon = Daemon::start();
    let folder = daemon.setup.folder.path();
    let socket = daemon.socket();
    let place = ["--socket", socket.to_str().unwrap()];
    let code_of = |more: &[&str]| {
        let output = run(&[&place[..], more].concat());
        let (code, out, err) = said(&output);
        assert_eq!(err.lines().count(), 1, "{err}");
        (code.unwrap(), out.to_owned(), err.to_owned())
    };
    let (code, out, err) = code_of(&["--max-tokens", "1"]);
    assert!(code == CUT && out == "1\n" && err.contains("cut"), "{code} {out} {err}");
    let (code, out, _) = code_of(&["--max-tokens", "1", "--json"]);
    let object: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &object["finish_reason"]), (CUT, &json!("length")));
    let (code, out, err) = code_of(&["--top-p", "7"]);
    assert!(code == PROTOCOL && out.is_empty() && err.contains("top_p"), "{code} {err}");
    let (code, _, err) = code_of(&["--model", "another"]);
    assert!(code == PROTOCOL && err.contains("another"), "{code} {err}");
    let bad = folder.join("bad.json");
    std::fs::write(&bad, "{").unwrap();
    let (code, _, err) = code_of(&["--schema", bad.to_str().unwrap()]);
    assert!(code == NO_INPUT && err.contains("bad.json"), "{code} {err}");
    let (code, _, err) = code_of(&["--api-key-file", "/nowhere/key"]);
    assert!(code == NO_INPUT && err.contains("/nowhere/key"), "{code} {err}");
    let output = run(&["--wait", "0", "--socket", folder.join("none").to_str().unwrap()]);
    assert_eq!((said(&output).0, said(&output).1), (Some(UNAVAILABLE), ""));
}

/// A private CA's certificate, and one for localhost that it signed, with its key.
fn certificates(folder: &Path) -> [PathBuf; 3] {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    [
        ("ca.pem", authority.as_ref().pem()),
        ("cert.pem", certificate.pem()),
        ("key.pem", key.serialize_pem()),
    ]
    .map(|(name, text)| {
        let path = folder.join(name);
        crate::common::write_private(&path, &text);
        path
    })
}

#[test]
fn https_is_believed_by_the_file_of_a_private_authority_alone() {
    let setup = Setup::new();
    let files = certificates(setup.folder.path());
    let [ca, cert, key] = files.each_ref().map(|path| path.to_str().unwrap());
    let keys = setup.folder.path().join("keys");
    let made = phi4d(&["key", "add", "me", "--api-keys-file", keys.to_str().unwrap()]).output();
    let secret = setup.folder.path().join("secret");
    std::fs::write(&secret, made.unwrap().stdout).unwrap();
    let daemon = setup
        .with(&["--tls-cert-file", cert, "--tls-key-file", key])
        .with(&["--api-keys-file", keys.to_str().unwrap()])
        .start();
    let url = format!("https://localhost:{}", daemon.address().port());
    let by_key = ["--url", &url, "--api-key-file", secret.to_str().unwrap()];

    let output = run(&[&by_key[..], &["--ca-file", ca]].concat());
    assert_eq!(said(&output), (Some(0), "19\n", ""));
    let output = run(&["--url", &url, "--ca-file", ca]);
    let (code, _, err) = said(&output);
    assert!(code == Some(PROTOCOL) && err.contains("key"), "{err}");
    let mut command = phi4d(&["run", "What is 12+7?", "--url", &url, "--ca-file", ca]);
    let key = std::fs::read_to_string(&secret).unwrap();
    let output = command.env("PHI4D_API_KEY", key.trim()).output().unwrap();
    assert_eq!(said(&output).0, Some(0), "{output:?}");
    // This machine does not know the authority, and the certificate is for another name.
    let other = url.replace("localhost", "127.0.0.1");
    for (url, more) in [(&url, &["--wait", "9"][..]), (&other, &["--ca-file", ca])] {
        let output = run(&[&["--url", url][..], more].concat());
        let (code, out, err) = said(&output);
        assert!([Some(UNAVAILABLE), Some(USAGE)].contains(&code) && out.is_empty(), "{err}");
        assert!(err.contains("ertificate"), "{err}");
    }
}

#[test]
fn nothing_a_model_says_steers_the_terminal_and_thought_is_apart() {
    let answer = streamed(&[
        json!({ "reasoning_content": "Hm,\u{1b}]0;owned\u{7} 12" }),
        json!({ "reasoning_content": " and 7" }),
        json!({ "content": "1\u{1b}[2J9\r\u{9b}31m" }),
    ]);
    let refused = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n\
                   {\"error\":{\"message\":\"no\\u001b[2J\"}}";
    let shown = |variable: (&str, &str)| {
        let (url, server) = script(&[READY, READY, &answer, refused]);
        let mut command = phi4d(&["chat", "--no-history", "--url", &url]);
        command.env(variable.0, variable.1);
        let mut terminal = Terminal::run(&command);
        terminal.wait_prompt();
        let screen = terminal.enter_raw(&format!("12+7{ENTER}"));
        let refusal = terminal.enter_raw(&format!("again{ENTER}"));
        assert_eq!(refusal, "phi4d: the daemon refused: no[2J");
        terminal.press(CTRL_D);
        assert!(terminal.wait_end().success());
        let asked = server.join().unwrap();
        for (asked, expected) in asked.iter().zip(["GET /ready ", "GET /v1/models ", "POST "]) {
            assert!(asked.starts_with(expected), "{asked}");
        }
        screen
    };
    let (thought, text) = ("Hm,]0;owned 12 and 7", "1[2J931m");
    assert_eq!(shown(("A", "")), format!("\x1b[2m{thought}\x1b[0m\n\n{text}"));
    let plain = format!("Thought:\n{thought}\n\nAnswer:\n{text}");
    assert_eq!(shown(("NO_COLOR", "1")), plain);
    assert_eq!(shown(("TERM", "vt100")), format!("\x1b[2m{thought}\x1b[0m\n\n{text}"));

    // In a pipe the answer is as it came, without the thought.
    let (url, server) = script(&[READY, &answer]);
    let output = run(&["--url", &url]);
    assert_eq!(said(&output), (Some(0), "1\u{1b}[2J9\r\u{9b}31m\n", ""));
    server.join().unwrap();
    let (url, server) = script(&[READY, &answer]);
    let output = run(&["--url", &url, "--json"]);
    let object: Value = serde_json::from_str(said(&output).1).unwrap();
    assert_eq!(object["reasoning"], "Hm,\u{1b}]0;owned\u{7} 12 and 7");
    server.join().unwrap();
}

#[test]
fn a_daemon_that_is_not_there_yet_is_waited_for() {
    let setup = Setup::new();
    let socket = setup.socket();
    let place = ["--socket", socket.to_str().unwrap(), "--wait", "60"];
    let mut command = phi4d(&["run", "--temperature", "0", "What is 12+7?"]);
    command.args(place).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It says so before there is a daemon.
    let mut err = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    err.read_line(&mut line).unwrap();
    assert!(
        line.starts_with("waiting for the daemon at ") && line.contains("phi4d.sock"),
        "{line}"
    );
    let daemon = setup.start();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"19\n"[..]));
    assert_eq!(err.read_line(&mut line).unwrap(), 0, "{line}");
    drop(daemon);
}

#[test]
fn a_daemon_that_loads_is_waited_for_and_not_for_ever() {
    let loading = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 0\r\nconnection: close\r\n\r\n\
                   {\"error\":{\"message\":\"loading the model\"}}";
    let answer = streamed(&[json!({ "content": "19" })]);
    let (url, server) = script(&[loading, loading, loading, READY, &answer]);
    let output = run(&["--url", &url]);
    let (code, out, err) = said(&output);
    assert_eq!((code, out), (Some(0), "19\n"), "{err}");
    assert_eq!(server.join().unwrap().len(), 5);

    // On a terminal the line goes away.
    let (url, server) = script(&[loading, loading, loading, READY, READY]);
    let mut terminal = Terminal::run(&phi4d(&["chat", "--no-history", "--url", &url]));
    let screen = terminal.wait("Talking to ");
    assert!(
        screen.contains("waiting for the daemon at ") && screen.ends_with("\r\x1b[K"),
        "{screen:?}"
    );
    server.join().unwrap();

    let (url, server) = script(&[loading]);
    let output = run(&["--url", &url, "--wait", "0"]);
    let (code, _, err) = said(&output);
    assert!(code == Some(UNAVAILABLE) && err.contains("loading the model"), "{err}");
    server.join().unwrap();

    // One that listens and says nothing, as phi4d does while it loads.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let output = run(&["--url", &url, "--wait", "1"]);
    let (code, _, err) = said(&output);
    assert_eq!(code, Some(UNAVAILABLE));
    assert!(err.contains("may be loading"), "{err}");
}

/// What the program leaves a daemon with, if it goes away in mid-answer.
#[test]
fn an_answer_that_nobody_waits_for_is_cancelled() {
    let daemon = Daemon::start();
    let socket = daemon.socket();
    let url = format!("http://{}", daemon.address());
    let mut saved = json!({ "phi4d_chat": 1, "messages": [] });
    saved["parameters"] = json!({ "ignore_eos": true, "max_tokens": 3900, "temperature": 0 });
    let path = daemon.setup.folder.path().join("saved.json");
    std::fs::write(&path, saved.to_string()).unwrap();
    for place in [["--url", &url], ["--socket", socket.to_str().unwrap()]] {
        let before = daemon.ends()[2];
        let mut command = phi4d(&["chat", "--no-history"]);
        command.args(place);
        let mut terminal = Terminal::run(&command);
        terminal.wait_prompt();
        assert!(terminal.enter(&format!("/load {}", path.display())).starts_with("0 messages"));
        terminal.press(&format!("Count to 12.{ENTER}"));
        crate::common::wait_for("an answer", || (daemon.health()["running"] == 1).then_some(()));
        terminal.enter_raw(CTRL_C);
        // The program is still there, and the daemon has nothing to do.
        assert_eq!(daemon.ends()[2], before + 1);
    }
    let Response { status, .. } = Client::Tcp(daemon.address()).get("/ready");
    assert_eq!(status, 200);
}
