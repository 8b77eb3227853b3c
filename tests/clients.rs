//! Programs that people have talk to the daemon: the OpenAI SDKs for Python and Node.js and curl, over
//! TCP and over the Unix socket; Anthropic's SDK, Ollama's package, LiteLLM, the AI SDK, schemathesis.
//! `tests/clients/setup` installs them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop where something is wrong"
)]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::common::{Daemon, Setup};

/// Where `tests/clients/setup` puts programs: `target/clients`.
pub fn installed(what: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let path = target.join("clients").join(what);
    assert!(path.exists(), "{} is missing; run tests/clients/setup", path.display());
    path
}

pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name)
}

pub fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let [printed, said] =
        [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{command:?}: {}\n{said}\n{printed}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

pub const QUESTION: &str = "What is 12+7?";
const PROMPT: &str = "12+7=";

/// What a function takes, and what an answer may have to be.
fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "a": { "type": "integer", "minimum": 0, "maximum": 99 },
            "unit": { "enum": ["one", "two"] }
        },
        "required": ["a", "unit"],
        "additionalProperties": false
    })
}

/// An answer by the schema.
fn form() -> Value {
    let named = json!({ "name": "sum", "schema": schema(), "strict": true });
    json!({ "type": "json_schema", "json_schema": named })
}

/// A function that the SDKs offer.
fn tools() -> Value {
    let function = json!({
        "name": "add_up", "description": "Adds.", "parameters": schema(), "strict": true
    });
    json!([{ "type": "function", "function": function }])
}

/// What every client must report: what plain requests are answered.
fn expected(daemon: &Daemon) -> Value {
    let chat = daemon.tcp().chat(QUESTION, &json!({}));
    let body = json!({ "prompt": PROMPT, "temperature": 0, "max_tokens": 8 });
    let completion = daemon.tcp().post("/v1/completions", &body).json();
    let body = json!({
        "messages": [{ "role": "user", "content": QUESTION }], "temperature": 0, "tools": tools(),
        "tool_choice": "required", "parallel_tool_calls": false
    });
    let called = daemon.tcp().post("/v1/chat/completions", &body).json();
    let function = &called["choices"][0]["message"]["tool_calls"][0]["function"];
    let arguments: Value = serde_json::from_str(function["arguments"].as_str().unwrap()).unwrap();
    assert!(arguments["a"].as_u64().unwrap() < 100, "{called}");
    let call = json!(["add_up", function["arguments"]]);
    let held = daemon.tcp().chat(QUESTION, &json!({ "response_format": form() }));
    let form = &held["choices"][0]["message"]["content"];
    let sum: Value = serde_json::from_str(form.as_str().unwrap()).unwrap();
    assert!(sum["a"].as_u64().unwrap() < 100, "{held}");
    let choice = &chat["choices"][0];
    let (text, finish) = (&choice["message"]["content"], &choice["finish_reason"]);
    let tokens = &chat["usage"]["completion_tokens"];
    assert!(!text.as_str().unwrap().is_empty(), "{chat}");
    json!({
        "model": "demo",
        "chat": text, "chat_finish": finish, "chat_tokens": tokens,
        "stream": text, "stream_finish": finish, "stream_tokens": tokens,
        "call": call, "call_finish": "tool_calls", "call_streamed": call, "call_done": true,
        "followed": "assistant", "form": form, "form_streamed": form,
        "completion": completion["choices"][0]["text"],
        "error": "NotFoundError", "error_status": 404, "error_code": "model_not_found",
    })
}

/// Runs an SDK's script twice, over TCP and over the Unix socket.
fn sdk(command: impl Fn() -> Command) {
    let daemon = Daemon::start();
    let expected = expected(&daemon);
    let url = format!("http://{}/v1", daemon.address());
    let command = || {
        let mut command = command();
        command.env("TOOLS", tools().to_string()).env("FORM", form().to_string());
        command
    };
    let over_tcp = output(command().arg(url));
    assert_eq!(serde_json::from_str::<Value>(&over_tcp).unwrap(), expected);
    // The URL is not where this daemon listens, so that only the socket can lead to it.
    let over_unix = output(command().arg("http://localhost/v1").arg(daemon.socket()));
    assert_eq!(serde_json::from_str::<Value>(&over_unix).unwrap(), expected);
    // The models list and the refusal are no jobs; the other eight of each run are, and the four
    // plain requests. Where one call is wanted, the job is given up behind it or has just ended.
    let counters = daemon.wait_idle();
    let ended = |name: &str| counters[name].as_u64().unwrap();
    assert_eq!(ended("finished") + ended("cancelled"), 20, "{counters}");
}

#[test]
fn the_openai_python_sdk() {
    let python = installed("venv/bin/python");
    sdk(|| {
        let mut command = Command::new(&python);
        command.arg(script("openai_sdk.py"));
        command
    });
}

#[test]
fn the_openai_node_sdk() {
    let node = installed("venv/bin/node");
    let packages = installed("node_modules");
    sdk(|| {
        let mut command = Command::new(&node);
        command.arg(script("openai_sdk.mjs")).current_dir(packages.parent().unwrap());
        command
    });
}

/// Whether `report` is the object of two numbers that every client asks for.
pub fn is_sum(report: &Value) -> bool {
    let fields = report.as_object().unwrap();
    let number = |name: &str| fields.get(name).and_then(Value::as_u64).is_some_and(|n| n < 100);
    fields.len() == 2 && number("a") && number("b")
}

/// Runs a script whose client speaks any of the APIs; it prints texts, forced calls and JSON answers.
fn client(program: &str, name: &str, folder: &Path) -> Value {
    let program = installed(program);
    let daemon = Daemon::start();
    let expected = expected(&daemon);
    let mut command = Command::new(program);
    command
        .arg(script(name))
        .arg(format!("http://{}", daemon.address()))
        .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .current_dir(folder);
    let report: Value = serde_json::from_str(&output(&mut command)).unwrap();
    for text in ["chat", "stream", "generated"] {
        assert!(
            report.get(text).is_none_or(|found| *found == expected["chat"]),
            "{text}: {report}"
        );
    }
    for call in ["call", "response_call"] {
        assert!(report.get(call).is_none_or(|name| name == "add"), "{call}: {report}");
    }
    let objects =
        ["arguments", "streamed_arguments", "form", "response_arguments", "response_form"];
    for object in objects {
        assert!(report.get(object).is_none_or(is_sum), "{object}: {report}");
    }
    assert_eq!(report["arguments"], report["streamed_arguments"], "{report}");
    daemon.wait_idle();
    report
}

fn python_client(name: &str) -> Value {
    client("venv/bin/python", name, &script(""))
}

#[test]
fn the_openai_python_sdk_with_tools_forms_and_responses() {
    assert_eq!(python_client("openai_more.py")["error"], "previous_response_id");
}

#[test]
fn the_anthropic_python_sdk() {
    assert_eq!(python_client("anthropic_sdk.py")["error"], "not_found_error");
}

#[test]
fn the_ollama_python_package() {
    let report = python_client("ollama_sdk.py");
    assert_eq!((&report["error"], &report["after"]), (&json!(404), &json!(true)));
}

#[test]
fn langchain() {
    let daemon = Daemon::start();
    let mut command = Command::new(installed("venv/bin/python"));
    command
        .arg(script("langchain_more.py"))
        .arg(format!("http://{}", daemon.address()))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let report: Value = serde_json::from_str(&output(&mut command)).unwrap();
    has_texts_and_sums(&daemon, &report, (4, 9));
}

/// The texts are those of a plain request, and the objects are of two numbers; as many as expected.
pub fn has_texts_and_sums(daemon: &Daemon, report: &Value, (texts, sums): (usize, usize)) {
    let chat = daemon.tcp().chat(QUESTION, &json!({}));
    let text = &chat["choices"][0]["message"]["content"];
    let entries = |name: &str| report[name].as_object().unwrap();
    assert!(entries("texts").values().all(|found| found == text), "{text}: {report}");
    assert!(entries("sums").values().all(is_sum), "{report}");
    assert_eq!((entries("texts").len(), entries("sums").len()), (texts, sums), "{report}");
    daemon.wait_idle();
}

#[test]
fn litellm() {
    assert_eq!(python_client("litellm_sdk.py")["error"], 404);
}

#[test]
fn litellms_router_goes_round_a_daemon_that_is_not_there() {
    let daemon = Daemon::start();
    let gone = {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        taken.local_addr().unwrap()
    };
    let mut command = Command::new(installed("venv/bin/python"));
    command.arg(script("litellm_router.py")).current_dir(env!("CARGO_MANIFEST_DIR"));
    command.args([format!("http://{}", daemon.address()), format!("http://{gone}")]);
    command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True").env("PYTHONDONTWRITEBYTECODE", "1");
    let report: Value = serde_json::from_str(&output(&mut command)).unwrap();
    assert_eq!(report, json!(vec!["19"; 8]));
}

#[test]
fn the_ai_sdks_default_provider_goes_on_for_three_turns() {
    let daemon = Daemon::start();
    let mut command = Command::new(installed("venv/bin/node"));
    command.arg(script("ai_sdk_turns.mjs")).arg(format!("http://{}", daemon.address()));
    let packages = installed("node_modules");
    command.current_dir(packages.parent().unwrap());
    let report: Value = serde_json::from_str(&output(&mut command)).unwrap();
    // The second turn names the first answer, the third one both.
    assert_eq!(report["references"], 3, "{report}");
    let texts = report["texts"].as_array().unwrap();
    assert!(texts.iter().all(|text| !text.as_str().unwrap().is_empty()), "{report}");
    // By the id of the response before it, the same conversation.
    assert_eq!(report["next"], texts[2], "{report}");
}

#[test]
fn the_ai_sdk_for_node() {
    let packages = installed("node_modules");
    let report = client("venv/bin/node", "ai_sdk.mjs", packages.parent().unwrap());
    assert_eq!(report["error"], 404);
}

const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_schema_conformance";

/// What the document promises: no fault of the server's, no status and no shape but those in it.
#[test]
fn schemathesis_finds_nothing_that_the_openapi_document_does_not_tell() {
    let schemathesis = installed("venv/bin/schemathesis");
    let daemon = Setup::new().with(&["--embedding-model", "models/demo-embedding"]).start();
    output(
        Command::new(schemathesis)
            .arg("run")
            .arg(format!("http://{}/openapi.json", daemon.address()))
            .args(["--checks", CHECKS])
            .args(["--phases", "examples,fuzzing", "--max-examples", "15", "--seed", "7"])
            .args(["--max-time", "60", "--request-timeout", "30", "--no-color"])
            .env("SCHEMATHESIS_HOOKS", script("openapi_hooks.py"))
            .current_dir(daemon.setup.folder.path()),
    );
    assert!(daemon.wait_idle()["finished"].as_u64() > Some(20));
}

#[test]
fn curl() {
    let found = Command::new("curl").arg("--version").output();
    assert!(found.is_ok(), "curl is missing; run tests/clients/setup");
    let daemon = Daemon::start();
    let expected = expected(&daemon);
    let tcp = daemon.address().to_string();
    let socket = daemon.socket();
    for (host, options) in [
        (tcp.as_str(), vec![]),
        ("localhost", vec![OsStr::new("--unix-socket"), socket.as_os_str()]),
    ] {
        let command = |path: &str, body: &Value| {
            let mut command = Command::new("curl");
            command
                .args(["--silent", "--show-error", "--fail-with-body", "--no-buffer"])
                .args(["--max-time", "60", "--header", "Content-Type: application/json"])
                .args(["--data", &body.to_string()])
                .args(&options)
                .arg(format!("http://{host}{path}"));
            command
        };
        let curl = |path: &str, body: Value| output(&mut command(path, &body));
        let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let turn = json!([{ "role": "user", "content": QUESTION }]);

        let chat = curl("/v1/chat/completions", json!({ "messages": turn, "temperature": 0 }));
        assert_eq!(parse(&chat)["choices"][0]["message"]["content"], expected["chat"]);

        let stream = curl(
            "/v1/chat/completions",
            json!({ "messages": turn, "temperature": 0, "stream": true }),
        );
        let events: Vec<&str> =
            stream.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
        let (last, chunks) = events.split_last().unwrap();
        assert_eq!(*last, "[DONE]");
        let said: String = chunks
            .iter()
            .filter_map(|chunk| {
                parse(chunk)["choices"][0]["delta"]["content"].as_str().map(str::to_owned)
            })
            .collect();
        assert_eq!(said, expected["stream"]);

        let completion =
            curl("/v1/completions", json!({ "prompt": PROMPT, "temperature": 0, "max_tokens": 8 }));
        assert_eq!(parse(&completion)["choices"][0]["text"], expected["completion"]);

        let body = json!({ "model": "other", "messages": turn });
        let refused = command("/v1/chat/completions", &body).output().unwrap();
        // curl's code for a status of 400 or above.
        assert_eq!(refused.status.code(), Some(22));
        let error = parse(std::str::from_utf8(&refused.stdout).unwrap());
        assert_eq!(error["error"]["code"], "model_not_found");
    }
}
