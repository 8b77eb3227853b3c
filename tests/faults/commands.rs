//! Each change of the files that the subcommands keep fails in turn: what `pull` fetches, what `chat`
//! remembers.

use std::path::Path;
use std::process::Command;

use super::injection::{failing, files_in, was_hit};
use crate::common::{Daemon, Setup, demo_folder};
use crate::pull::hub::Hub;
use crate::terminal::{CTRL_D, Terminal};

/// No command changes files so often.
const MOST: usize = 10_000;

/// `phi4d` with these arguments and the setup's environment, which lets changes below `folder` fail.
fn command(setup: Setup, folder: &Path, arguments: &[&str]) -> (Setup, Command) {
    let setup = setup.variable("PHI4D_TEST_FAIL_BELOW", folder.to_str().unwrap());
    let base = setup.command();
    let mut command = Command::new(base.get_program());
    command.args(arguments).env_clear();
    for (name, value) in base.get_envs() {
        command.env(name, value.unwrap());
    }
    (setup, command)
}

#[test]
fn each_change_of_a_pulled_model_may_fail() {
    let hub = Hub::start(&demo_folder());
    let mut nth = 1;
    while nth < MOST {
        let folder = tempfile::tempdir().unwrap();
        let models = folder.path().join("models");
        let arguments = ["pull", "phi-4", "--variant", "cpu", "--models", models.to_str().unwrap()];
        let pull = |setup: Setup| {
            let (setup, mut command) = command(setup, folder.path(), &arguments);
            (setup, command.env("HF_ENDPOINT", hub.url()).output().unwrap())
        };
        let (setup, output) = pull(failing("file", &nth.to_string()));
        let said = String::from_utf8_lossy(&output.stderr);
        if was_hit(&setup) && !output.status.success() {
            assert!([Some(73), Some(74)].contains(&output.status.code()), "{nth}: {said}");
            let faults = said.lines().filter(|line| line.starts_with("phi4d: "));
            assert_eq!(faults.count(), 1, "{nth}: {said}");
            // Nothing bears the model's name that is not all of it; a second pull makes it whole.
            assert!(!models.join("phi-4").exists(), "{nth}: {said}");
            let (_, again) = pull(Setup::new());
            let said = String::from_utf8_lossy(&again.stderr);
            assert!(again.status.success(), "{nth}: {said}");
        } else {
            assert!(output.status.success(), "{nth}: {said}");
        }
        assert_eq!(files_in(&models), ["phi-4"], "{nth}");
        for name in files_in(&demo_folder()) {
            let read = |folder: &Path| std::fs::read(folder.join(&name)).unwrap();
            assert!(read(&models.join("phi-4")) == read(&demo_folder()), "{nth}: {name}");
        }
        if !was_hit(&setup) {
            assert!(nth > 10, "only {nth} calls");
            return;
        }
        // Most of the calls write one file's next bytes.
        nth += 1 + nth / 2;
    }
    panic!("files fail without an end");
}

#[test]
fn each_change_of_the_chat_history_may_fail() {
    let daemon = Daemon::start();
    for nth in 1..20 {
        let home = tempfile::tempdir().unwrap();
        let socket = daemon.socket();
        let arguments = ["chat", "--temperature", "0", "--socket", socket.to_str().unwrap()];
        let (setup, mut chat) = command(failing("file", &nth.to_string()), home.path(), &arguments);
        chat.env("HOME", home.path());
        let mut terminal = Terminal::run(&chat);
        terminal.wait_prompt();
        let answers = ["What is 12+7?", "What is 2+2?"].map(|question| terminal.enter(question));
        assert!(answers[0].contains("19"), "{nth}: {answers:?}");
        terminal.press(CTRL_D);
        assert!(terminal.wait_end().success(), "{nth}: {}", terminal.seen());
        assert!(!terminal.seen().contains("panicked"), "{nth}: {}", terminal.seen());
        let history = home.path().join(".local/state/phi4d/history");
        let kept = std::fs::read_to_string(history).unwrap_or_default();
        let whole = kept.lines().all(|line| serde_json::from_str::<String>(line).is_ok());
        assert!(whole, "{nth}: {kept}");
        if !was_hit(&setup) {
            assert!(nth > 2 && kept.lines().count() == 2, "{nth}: {kept}");
            return;
        }
    }
    panic!("files fail without an end");
}
