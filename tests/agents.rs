//! Coding agents talk to the daemon, headless, as their users install them: Codex CLI and Claude Code
//! each do a turn with a tool call. `tests/clients/setup` installs them.
//!
//! The demo model is given a context that holds their prompts, and a proxy decides in its place to call
//! a tool (`tests/clients/deciding_proxy.py`); requests, calls and results are the real ones.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests may stop where something is wrong"
)]

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::clients::{installed, output, script};
use crate::common::{Daemon, Setup, demo_folder};

/// Tokens that hold the longer of the agents' prompts.
const CONTEXT: &str = "32768";

/// What the called command prints.
const PRINTED: &str = "printed-by-the-tool";

/// What the model says after that, as JSON within JSON.
const ANSWER: &str = r#"\"Done\""#;

/// A daemon with a wide context, and the proxy before it.
struct Agents {
    daemon: Daemon,
    proxy: Child,
    /// What the proxy says of requests.
    seen: BufReader<ChildStdout>,
    url: String,
    /// The agent's home.
    home: tempfile::TempDir,
}

impl Agents {
    /// The first request that offers `tool` calls it with `arguments`.
    fn start(tool: &str, arguments: &Value) -> Self {
        let python = installed("venv/bin/python");
        let home = tempfile::tempdir().unwrap();
        let model = home.path().join("wide");
        let mut widen = Command::new(&python);
        output(widen.arg(script("wide_demo.py")).arg(demo_folder()).arg(&model).arg(CONTEXT));
        let setup = Setup::new().model(model).with(&["--model-aliases", "*"]);
        let daemon = setup.start();
        let mut proxy = Command::new(&python)
            .arg(script("deciding_proxy.py"))
            .args([format!("http://{}", daemon.address()), tool.to_owned(), arguments.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut seen = BufReader::new(proxy.stdout.take().unwrap());
        let mut port = String::new();
        seen.read_line(&mut port).unwrap();
        let url = format!("http://127.0.0.1:{}", port.trim());
        Self { daemon, proxy, seen, url, home }
    }

    /// A command with a home and a folder of its own, and nothing else of this process's environment.
    fn agent(&self, program: &Path) -> Command {
        let work = self.home.path().join("work");
        std::fs::create_dir_all(&work).unwrap();
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("HOME", self.home.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .current_dir(work)
            .stdin(Stdio::null());
        command
    }

    /// Ends the proxy; returns what it has seen of requests that generate.
    fn end(mut self) -> Vec<Value> {
        self.daemon.wait_idle();
        self.proxy.kill().unwrap();
        self.proxy.wait().unwrap();
        let mut lines = String::new();
        self.seen.read_to_string(&mut lines).unwrap();
        let seen: Vec<Value> =
            lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        seen.into_iter().filter(|request| !request["decided"].is_null()).collect()
    }
}

/// A call was made, and its result came back to the model.
fn check(seen: &[Value], path: &str) {
    for request in seen {
        assert_eq!(
            (&request["path"], &request["status"]),
            (&json!(path), &json!(200)),
            "{request}"
        );
    }
    let decided: Vec<&str> = seen.iter().filter_map(|one| one["decided"].as_str()).collect();
    let call = decided.iter().position(|what| *what == "call");
    assert!(call.is_some_and(|call| decided[call..].contains(&"answer")), "{seen:?}");
}

#[test]
fn codex_runs_a_command_and_reads_its_result() {
    let agents = Agents::start("exec_command", &json!({"cmd": format!("echo {PRINTED}")}));
    let codex_home = agents.home.path().join("codex");
    std::fs::create_dir(&codex_home).unwrap();
    let instructions = codex_home.join("instructions.md");
    std::fs::write(&instructions, "You are a coding agent. Use exec_command. Be brief.").unwrap();
    let settings = format!(
        "model = \"gpt-5-codex\"\nmodel_provider = \"phi4d\"\n\
         model_instructions_file = \"{}\"\n[model_providers.phi4d]\n\
         name = \"phi4d\"\nbase_url = \"{}/v1\"\nwire_api = \"responses\"\n",
        instructions.display(),
        agents.url
    );
    std::fs::write(codex_home.join("config.toml"), settings).unwrap();
    let mut codex = agents.agent(&installed("node_modules/.bin/codex"));
    codex.env("CODEX_HOME", &codex_home).env("PATH", path_with_node()).args([
        "exec",
        "--json",
        "--skip-git-repo-check",
        "--dangerously-bypass-approvals-and-sandbox",
        "Print something.",
    ]);
    let events = output(&mut codex);
    assert!(events.contains(PRINTED) && events.contains(ANSWER), "{events}");
    let seen = agents.end();
    check(&seen, "/v1/responses");
    // Its tools of other types than `function` were offered or left out, and no request was refused.
    let tools = seen[0]["tools"].to_string();
    assert!(tools.contains("namespace") && tools.contains("web_search"), "{tools}");
    assert!(seen[0]["ignored"].as_str().unwrap().contains("tools["), "{seen:?}");
}

#[test]
fn claude_code_runs_a_command_and_reads_its_result() {
    let arguments = json!({"command": format!("echo {PRINTED}"), "description": "Prints"});
    let agents = Agents::start("Bash", &arguments);
    // The package's own start is made by a script of its installation, which the set-up does not run.
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    let program = format!("node_modules/@anthropic-ai/claude-code-linux-{architecture}/claude");
    let mut claude = agents.agent(&installed(&program));
    claude
        .env("ANTHROPIC_BASE_URL", &agents.url)
        .env("ANTHROPIC_API_KEY", "none")
        .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
        .args(["-p", "Print something.", "--allowedTools", "Bash", "--verbose"])
        .args(["--bare", "--strict-mcp-config", "--disable-slash-commands"])
        .args(["--system-prompt", "You are a coding agent. Be brief."])
        .args(["--tools", "Bash", "--output-format", "stream-json"]);
    let events = output(&mut claude);
    assert!(events.contains(PRINTED) && events.contains(ANSWER), "{events}");
    let seen = agents.end();
    check(&seen, "/v1/messages");
    assert!(seen[0]["ignored"].as_str().unwrap().contains("system[0]"), "{seen:?}");
}

/// The search path with the Node.js that the clients are installed with.
fn path_with_node() -> std::ffi::OsString {
    let own = installed("venv/bin");
    let rest = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths([own].into_iter().chain(std::env::split_paths(&rest))).unwrap()
}
