//! Frameworks for language models talk to the daemon as their users start them, and lm-eval scores a task
//! by it. `tests/clients/setup` installs them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop where something is wrong"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::clients::{QUESTION, has_texts_and_sums, installed, is_sum, output, script};
use crate::common::{Daemon, Setup, demo_folder};

/// Where `tests/clients/setup` puts them: `target/frameworks`.
fn place(what: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let path = target.join("frameworks").join(what);
    assert!(path.exists(), "{} is missing; run tests/clients/setup", path.display());
    path
}

/// A program of theirs with a home of its own and nothing of this process's environment.
fn program(name: &str, home: &Path) -> Command {
    let mut command = Command::new(place("venv/bin").join(name));
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        // Compiled once for all tests, and not into the repository.
        .env("PYTHONPYCACHEPREFIX", place("").join("bytecode"))
        .env("HAYSTACK_TELEMETRY_ENABLED", "False")
        .stdin(Stdio::null());
    command
}

/// Runs a script, and checks that it got `expected` texts and objects.
fn framework(name: &str, expected: (usize, usize)) {
    // One of them knows models by their names.
    let daemon = Setup::new().with(&["--model-aliases", "*"]).start();
    let mut command = program("python", daemon.setup.folder.path());
    command.arg(script(name)).arg(format!("http://{}", daemon.address()));
    let report: Value = serde_json::from_str(&output(&mut command)).unwrap();
    has_texts_and_sums(&daemon, &report, expected);
}

#[test]
fn pydantic_ai() {
    framework("framework_pydantic_ai.py", (6, 6));
}

#[test]
fn the_openai_agents_sdk() {
    framework("framework_openai_agents.py", (4, 4));
}

#[test]
fn instructor_in_all_its_modes() {
    framework("framework_instructor.py", (0, 15));
}

#[test]
fn haystack() {
    framework("framework_haystack.py", (4, 4));
}

#[test]
fn langchains_packages_for_anthropic_and_ollama() {
    framework("framework_langchain.py", (4, 4));
}

#[test]
fn outlines() {
    framework("framework_outlines.py", (7, 3));
}

#[test]
fn smolagents() {
    framework("framework_smolagents.py", (2, 1));
}

#[test]
fn llm() {
    let daemon = Daemon::start();
    let home = tempfile::tempdir().unwrap();
    let model = format!(
        "- model_id: phi-4\n  model_name: demo\n  api_base: http://{}/v1\n  supports_schema: true\n",
        daemon.address()
    );
    std::fs::write(home.path().join("extra-openai-models.yaml"), model).unwrap();
    let ask = |more: &[&str]| {
        let mut command = program("llm", home.path());
        command
            .env("LLM_USER_PATH", home.path())
            .env("OPENAI_API_KEY", "none")
            .args(["-m", "phi-4", "-o", "temperature", "0", "-o", "max_tokens", "256"])
            .args(more)
            .arg(QUESTION);
        output(&mut command)
    };
    let chat = daemon.tcp().chat(QUESTION, &serde_json::json!({}));
    let text = chat["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(ask(&[]).trim_end(), text);
    assert_eq!(ask(&["--no-stream"]).trim_end(), text);
    let number = r#"{"type": "integer", "minimum": 0, "maximum": 99}"#;
    let schema = format!(
        r#"{{"type": "object", "properties": {{"a": {number}, "b": {number}}}, "required": ["a", "b"]}}"#
    );
    let sum = ask(&["--schema", &schema]);
    assert!(is_sum(&serde_json::from_str(&sum).unwrap()), "{sum}");
    daemon.wait_idle();
}

/// lm-eval's own scores of a local task are those that NumPy computes from the graph's logits.
#[test]
fn lm_eval_scores_a_task_as_the_model_does() {
    let daemon = Daemon::start();
    let home = tempfile::tempdir().unwrap();
    let out = home.path().join("out");
    let completions = format!("base_url=http://{}/v1/completions", daemon.address());
    let mut command = program("lm_eval", home.path());
    command
        .current_dir(script("lm_eval"))
        .envs([("HF_HUB_OFFLINE", "1"), ("HF_DATASETS_OFFLINE", "1")])
        .env("HF_HOME", home.path())
        .args(["run", "--model", "local-completions", "--tasks", "phi4d_sums"])
        .args(["--include_path", ".", "--log_samples", "--model_args", "model=demo", &completions])
        .arg("--output_path")
        .arg(&out);
    output(&mut command);
    daemon.wait_idle();
    let mut judge = Command::new(installed("venv/bin/python"));
    judge
        .arg(script("lm_eval_scores.py"))
        .args([&demo_folder(), &out])
        .env("ORT_DISABLE_TELEMETRY", "1")
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let seen: Value = serde_json::from_str(&output(&mut judge)).unwrap();
    // Some questions' best choice is ahead by less than the noise, and is not judged.
    assert!(seen["compared"] == 38 && seen["judged"].as_u64() > Some(5), "{seen}");
}
