//! `phi4d chat` and `phi4d serve` in a terminal.

#![expect(clippy::unwrap_used, reason = "tests may stop where something is wrong")]

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::common::{Daemon, Setup, wait_for};
use crate::terminal::{BACKSPACE, CTRL_C, CTRL_D, ENTER, LEFT, TAB, Terminal, UP, plain};

/// `phi4d chat` with `daemon`, greedy, with its state in `home`.
fn chat(daemon: &Daemon, home: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_phi4d"));
    command.args(["chat", "--temperature", "0", "--socket"]).arg(daemon.socket()).args(more);
    command.env("HOME", home);
    if let Some(profile) = std::env::var_os("LLVM_PROFILE_FILE") {
        command.env("LLVM_PROFILE_FILE", profile);
    }
    command
}

/// As [`chat`], at its prompt.
fn start(daemon: &Daemon, more: &[&str]) -> Terminal {
    let mut terminal = Terminal::run(&chat(daemon, daemon.setup.folder.path(), more));
    let screen = terminal.wait_prompt();
    assert!(screen.contains("/help"), "{screen}");
    terminal
}

fn answer_to(daemon: &Daemon, messages: &Value) -> String {
    let body = json!({ "messages": messages, "temperature": 0 });
    let answer = daemon.unix().post("/v1/chat/completions", &body).json();
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

fn asked(daemon: &Daemon, question: &str) -> String {
    answer_to(daemon, &json!([{ "role": "user", "content": question }]))
}

/// As [`Terminal::enter`], without the line below an answer, which names the model.
fn enter(terminal: &mut Terminal, keys: &str) -> String {
    let screen = terminal.enter(keys);
    let (answer, footer) = screen.rsplit_once('\n').unwrap_or((&screen, ""));
    if footer.starts_with("demo · ") { answer.to_owned() } else { screen }
}

/// The turns of the conversation, saved in a file of this name.
fn turns(terminal: &mut Terminal, daemon: &Daemon, name: &str) -> Vec<(String, String)> {
    let path = daemon.setup.folder.path().join(name);
    let screen = terminal.enter(&format!("/save {}", path.display()));
    assert!(screen.starts_with("saved in "), "{screen}");
    let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let messages = file["messages"].as_array().unwrap();
    messages.iter().map(|message| (text(&message["role"]), text(&message["content"]))).collect()
}

fn questions(turns: &[(String, String)]) -> Vec<&str> {
    let users = turns.iter().filter(|(role, _)| role == "user");
    users.map(|(_, content)| content.as_str()).collect()
}

#[test]
fn a_line_is_edited_and_its_answer_shown() {
    let daemon = Daemon::start();
    let mut terminal = start(&daemon, &[]);
    let screen = enter(&mut terminal, &format!("What is 12+8?{LEFT}{BACKSPACE}7"));
    assert_eq!(screen, asked(&daemon, "What is 12+7?"));
    assert_ne!(screen, asked(&daemon, "What is 12+8?"));
    terminal.press(CTRL_D);
    assert_eq!(terminal.wait_end().code(), Some(0));
}

#[test]
fn questions_are_remembered_over_runs_for_their_owner_alone() {
    let daemon = Daemon::start();
    let home = daemon.setup.folder.path();
    let file = home.join(".local/state/phi4d/history");
    let answer = asked(&daemon, "What is 12+7?");
    let mut terminal = start(&daemon, &[]);
    assert_eq!(enter(&mut terminal, "What is 12+7?"), answer);
    terminal.press(CTRL_D);
    assert!(terminal.wait_end().success());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "\"What is 12+7?\"\n");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let mut terminal = start(&daemon, &[]);
    assert_eq!(enter(&mut terminal, UP), answer);
    terminal.press(CTRL_D);
    assert!(terminal.wait_end().success());

    // Not where it is not wanted, and not where there is no place for it.
    let before = std::fs::read(&file).unwrap();
    let mut terminal = start(&daemon, &["--no-history"]);
    assert_eq!(terminal.enter(&format!("{UP}/stats")), "there is no answer yet");
    assert_eq!(std::fs::read(&file).unwrap(), before);
    let mut homeless = chat(&daemon, home, &[]);
    homeless.env_remove("HOME");
    let mut terminal = Terminal::run(&homeless);
    terminal.wait_prompt();
    assert_eq!(enter(&mut terminal, "What is 12+7?"), answer);
}

#[test]
fn several_lines_and_what_is_pasted_are_one_question() {
    let daemon = Daemon::start();
    let mut terminal = start(&daemon, &["--max-tokens", "2"]);
    // Terminals make carriage returns of a pasted text's line feeds.
    let paste = |text: &str| format!("\x1b[200~{}\x1b[201~", text.replace('\n', "\r"));
    for keys in [
        format!("\"\"\"{ENTER}/one{ENTER}two\\{ENTER}{ENTER}\"\"\""),
        format!("three \\{ENTER}four"),
        paste("five\nsix \\\nseven"),
        "//eight".to_owned(),
    ] {
        terminal.enter(&keys);
    }
    let turns = turns(&mut terminal, &daemon, "saved.json");
    assert_eq!(
        questions(&turns),
        ["/one\ntwo\\\n", "three \nfour", "five\nsix \\\nseven", "/eight"]
    );
    // Nothing of a paste is sent before Enter.
    terminal.press(&paste("What is\n12+7?\n"));
    terminal.wait("12+7?");
    assert_eq!(daemon.health()["accepted"], 4);
    terminal.press(CTRL_C);
}

#[test]
fn ctrl_c_stops_an_answer_and_the_conversation_goes_on() {
    let daemon = Daemon::start();
    let mut terminal = start(&daemon, &["--stats"]);
    for set in ["/set ignore_eos true", "/set max_tokens 3900"] {
        assert_eq!(terminal.enter(set), "");
    }
    terminal.press(&format!("Count to 12.{ENTER}"));
    wait_for("an answer that has begun", || {
        (daemon.health()["running"] == 1 && plain(&terminal.seen()).contains("\r\n1")).then_some(())
    });
    let screen = terminal.enter_raw(CTRL_C);
    assert!(screen.contains("stopped after"), "{screen}");
    let [accepted, finished, cancelled, failed] = daemon.ends();
    assert_eq!([accepted, finished, cancelled, failed], [1, 0, 1, 0]);

    terminal.enter("/set ignore_eos null");
    let turns = turns(&mut terminal, &daemon, "saved.json");
    assert_eq!(turns[0], ("user".to_owned(), "Count to 12.".to_owned()));
    // What of it was shown last is not compared: a terminal drops what it has not shown at Ctrl-C.
    assert!(turns[1].0 == "assistant" && turns[1].1.starts_with("1"), "{turns:?}");
    let screen = enter(&mut terminal, "What is 12+7?");
    assert!(screen.contains("prompt ") && !screen.contains("stopped"), "{screen}");
}

#[test]
fn at_the_prompt_ctrl_c_drops_the_line_and_twice_leaves() {
    let daemon = Daemon::start();
    let mut terminal = start(&daemon, &[]);
    let screen = terminal.enter_raw(&format!("half a{CTRL_C}"));
    assert!(screen.contains("Ctrl-C again"), "{screen}");
    // A line between makes the next one a first again.
    assert_eq!(enter(&mut terminal, "What is 12+7?"), asked(&daemon, "What is 12+7?"));
    let screen = terminal.enter_raw(CTRL_C);
    assert!(screen.contains("Ctrl-C again"), "{screen}");
    terminal.press(CTRL_C);
    assert_eq!(terminal.wait_end().code(), Some(0));
}

#[test]
fn a_saved_conversation_goes_on_in_another_process() {
    let daemon = Daemon::start();
    let path = daemon.setup.folder.path().join("saved.json");
    let path = path.to_str().unwrap();
    let mut terminal = start(&daemon, &["--system", "You are a pirate."]);
    let first = enter(&mut terminal, "What is 12+7?");
    terminal.enter("/set seed 5");
    terminal.enter("/system Be brief.");
    assert!(terminal.enter(&format!("/save {path}")).starts_with("saved in "));
    let screen = terminal.enter(&format!("/save {path}"));
    assert!(screen.contains("is there already"), "{screen}");
    assert!(terminal.enter(&format!("/save -f {path}")).starts_with("saved in "));
    terminal.press(CTRL_D);
    assert!(terminal.wait_end().success());

    let mut terminal = start(&daemon, &["--seed", "9"]);
    assert!(terminal.enter(&format!("/load {path}")).starts_with("3 messages from "));
    let shown = terminal.enter("/set");
    assert_eq!(shown, "temperature = 0.0\nseed = 5");
    let mut messages = json!([
        { "role": "system", "content": "Be brief." },
        { "role": "user", "content": "What is 12+7?" },
        { "role": "assistant", "content": first },
        { "role": "user", "content": "hello" },
    ]);
    let second = enter(&mut terminal, "hello");
    assert_eq!(second, answer_to(&daemon, &messages));
    assert_eq!(enter(&mut terminal, "/retry"), second);
    terminal.enter("/clear");
    messages = json!([messages[0], { "role": "user", "content": "hello" }]);
    assert_eq!(enter(&mut terminal, "hello"), answer_to(&daemon, &messages));
    let screen = terminal.enter("/load /nowhere.json");
    assert!(screen.starts_with("cannot read /nowhere.json"), "{screen}");
}

#[test]
fn commands_are_completed_and_unknown_ones_name_what_there_is() {
    let daemon = Daemon::start();
    let mut terminal = start(&daemon, &[]);
    let screen = terminal.enter("/sve x");
    assert!(screen.contains("/sve is no command") && screen.contains("/save"), "{screen}");
    assert!(terminal.enter(&format!("/he{TAB}")).contains("list the commands"));
    let screen = terminal.enter("/set temperature hot");
    assert!(screen.contains("a number from 0 to 2"), "{screen}");
    // What the daemon refuses ends nothing; the question can be asked again.
    terminal.enter("/set stop 7");
    let screen = enter(&mut terminal, "What is 12+7?");
    assert!(
        screen.starts_with("phi4d: the daemon refused: ") && screen.contains("stop"),
        "{screen}"
    );
    terminal.enter("/set stop null");
    assert_eq!(enter(&mut terminal, "/retry"), asked(&daemon, "What is 12+7?"));
    terminal.enter("/set no_such_thing 1");
    assert!(terminal.enter("/retry").contains("ignored: no_such_thing"));
    terminal.press(&format!("/exit{ENTER}"));
    assert_eq!(terminal.wait_end().code(), Some(0));
}

#[test]
fn figures_follow_answers_and_colours_the_terminals_wishes() {
    let daemon = Daemon::start();
    let mut terminal = start(&daemon, &["--stats"]);
    let screen = terminal.enter_raw(&format!("What is 12+7?{ENTER}"));
    assert!(
        screen.starts_with("19\n\x1b[2mprompt 15 tokens, 0 cached; answer 3 tokens"),
        "{screen:?}"
    );
    assert!(screen.ends_with("\x1b[0m"), "{screen:?}");
    terminal.enter("/stats off");
    assert_eq!(terminal.enter_raw(&format!("/retry{ENTER}")), "19");
    let screen = terminal.enter("/stats");
    assert!(screen.starts_with("prompt 15 tokens, 14 cached;"), "{screen}");

    // Without the setting, one short line.
    let mut terminal = start(&daemon, &[]);
    let screen = terminal.enter_raw(&format!("What is 12+7?{ENTER}"));
    assert!(screen.starts_with("19\n\x1b[2mdemo · 18 "), "{screen:?}");

    let mut plainly = chat(&daemon, daemon.setup.folder.path(), &["--stats"]);
    let mut terminal = Terminal::run(plainly.env("NO_COLOR", "1"));
    terminal.wait_prompt();
    let screen = terminal.enter_raw(&format!("What is 12+7?{ENTER}"));
    assert!(screen.starts_with("19\nprompt 15 tokens, ") && !screen.contains('\x1b'), "{screen:?}");
}

/// A daemon's stand-in that streams `chunks` as an answer once, and says what it was asked.
fn stand_in(chunks: &'static [&'static str]) -> (String, std::thread::JoinHandle<String>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let thread = std::thread::spawn(move || {
        loop {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let mut buffer = [0; 4096];
            while !asked.ends_with(b"}") && !asked.ends_with(b"\r\n\r\n") {
                let count = stream.read(&mut buffer).unwrap();
                asked.extend_from_slice(&buffer[..count]);
            }
            let asked = String::from_utf8(asked).unwrap();
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: ";
            if asked.starts_with("GET ") {
                let models = json!({ "data": [{ "id": "stand-in", "max_model_len": 4096 }] });
                // One that asks whether it is ready may leave before it has read this.
                let _ =
                    stream.write_all(format!("{head}application/json\r\n\r\n{models}").as_bytes());
                continue;
            }
            write!(stream, "{head}text/event-stream\r\n\r\n").unwrap();
            for chunk in chunks {
                // What is not text is a pause, longer than the spinner waits.
                match *chunk {
                    "" => std::thread::sleep(std::time::Duration::from_millis(700)),
                    chunk => write!(stream, "data: {chunk}\n\n").unwrap(),
                }
            }
            return asked;
        }
    });
    (url, thread)
}

#[test]
fn answers_are_laid_out_and_what_is_done_before_is_shown() {
    let (url, asked) = stand_in(&[
        r#"{"model":"stand-in","choices":[],"load_progress":{"state":"waiting","place":2,"time_ms":1}}"#,
        "",
        r#"{"model":"stand-in","choices":[],"load_progress":{"state":"loading","stage":"weights","value":0.429,"time_ms":2}}"#,
        "",
        r#"{"choices":[],"prompt_progress":{"total":2000,"cache":0,"processed":500,"time_ms":1}}"#,
        "",
        r##"{"model":"stand-in","choices":[{"delta":{"content":"# Title\n\n**Bold** and `co"}}]}"##,
        r#"{"choices":[{"delta":{"content":"de` \u001b[2Jwords.\n"},"finish_reason":"stop"}]}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":2000,"completion_tokens":1}}"#,
        "[DONE]",
    ]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_phi4d"));
    command.args(["chat", "--no-history", "--url", &url]);
    let mut terminal = Terminal::run(&command);
    let greeting = terminal.wait_prompt();
    assert!(greeting.contains("Talking to stand-in at "), "{greeting}");
    let screen = terminal.enter_raw(&format!("Go on.{ENTER}"));
    assert!(screen.contains("waiting for stand-in: place 2 in the line, 0 s"), "{screen:?}");
    assert!(screen.contains("loading stand-in: 42%, "), "{screen:?}");
    assert!(screen.contains("reading the prompt: 500 of 2000 tokens (25%)"), "{screen:?}");
    let answer = screen.rsplit("\r\x1b[K").next().unwrap();
    assert_eq!(
        answer,
        "\x1b[1;4mTitle\x1b[0m\n\n\x1b[1mBold\x1b[0m and \x1b[36mcode\x1b[0m [2Jwords.\n\
         \x1b[2mstand-in · 2001 of 4096 tokens\x1b[0m"
    );
    assert!(asked.join().unwrap().contains(r#""return_progress":true"#));
}

#[test]
fn answers_that_go_elsewhere_are_without_prompts() {
    let daemon = Daemon::start();
    let program = chat(&daemon, daemon.setup.folder.path(), &[]);
    let words = program.get_args().map(|word| word.to_str().unwrap());
    let words: Vec<&str> =
        [program.get_program().to_str().unwrap()].into_iter().chain(words).collect();
    let file = daemon.setup.folder.path().join("answers");
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{} | cat > {}", words.join(" "), file.display())]);
    command.env("HOME", daemon.setup.folder.path());
    let mut terminal = Terminal::run(&command);
    terminal.wait_prompt();
    assert_eq!(enter(&mut terminal, "What is 12+7?"), "");
    terminal.press(CTRL_D);
    assert!(terminal.wait_end().success());
    let answer = asked(&daemon, "What is 12+7?");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{answer}\n"));
}

#[test]
fn a_terminal_that_can_do_nothing_gets_plain_lines() {
    let daemon = Daemon::start();
    let mut command = chat(&daemon, daemon.setup.folder.path(), &["--stats"]);
    let mut terminal = Terminal::run(command.env("TERM", "dumb"));
    for (keys, screen) in [
        ("/help", "forget the conversation"),
        ("\"\"\"\rWhat is 12+7?\r\"\"\"", "19\r\n"),
        ("/stats", "prompt "),
    ] {
        terminal.wait("> ");
        terminal.press(&format!("{keys}{ENTER}"));
        terminal.wait(screen);
    }
    assert!(!terminal.seen().contains('\x1b'), "{:?}", terminal.seen());
    terminal.press(CTRL_D);
    assert_eq!(terminal.wait_end().code(), Some(0));
}

#[test]
fn a_daemon_that_is_started_again_is_waited_for_in_mid_conversation() {
    let home = tempfile::tempdir().unwrap();
    let place = home.path().join("s");
    let daemon = Daemon::start();
    symlink(daemon.socket(), &place).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_phi4d"));
    command.args(["chat", "--temperature", "0", "--no-history", "--wait", "60", "--socket"]);
    let mut terminal = Terminal::run(command.arg(&place));
    terminal.wait_prompt();
    let first = enter(&mut terminal, "What is 12+7?");
    drop(daemon);
    std::fs::remove_file(&place).unwrap();
    terminal.press(&format!("hello{ENTER}"));
    terminal.wait("waiting for the daemon at ");
    let again = Daemon::start();
    symlink(again.socket(), &place).unwrap();
    terminal.wait_prompt();
    let turns = turns(&mut terminal, &again, "saved.json");
    let messages = json!([
        { "role": "user", "content": "What is 12+7?" },
        { "role": "assistant", "content": first },
        { "role": "user", "content": "hello" },
    ]);
    assert_eq!(turns[3].1, answer_to(&again, &messages));
    // Ctrl-C ends the waiting, and not the program.
    drop(again);
    terminal.press(&format!("hello{ENTER}"));
    terminal.wait("waiting for the daemon at ");
    terminal.press(CTRL_C);
    terminal.wait_prompt();
    assert_eq!(terminal.enter("/stats"), "stopped after 0.00 s; its tokens were not counted");
}

#[test]
fn serve_tells_of_loading_on_a_terminal_only() {
    let setup = Setup::new();
    let mut terminal = Terminal::run(&setup.command());
    terminal.wait("serving demo on");
    let seen = terminal.seen();
    let (before, after) = seen.split_once("\r\x1b[Kloading demo: files of ").expect(&seen);
    assert!(before.contains("listening on /") && after.contains(" s\r\x1b[K"), "{seen:?}");
    // It is gone before the last line, and what stands above it are whole lines.
    let last = after.rsplit("\r\x1b[K").next().unwrap();
    assert!(last.contains("INFO  serving demo on ") && !last.contains("loading demo"), "{seen:?}");
    terminal.press(CTRL_C);
    assert_eq!(terminal.wait_end().code(), Some(0));

    let daemon = Daemon::start();
    let log = daemon.log.says("serving demo on");
    assert!(!log.contains("loading demo") && !log.contains('\x1b'));
}
