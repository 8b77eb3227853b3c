//! Which flags `--help` shows. Every command that reads the settings takes each of them as a flag; only
//! the help of `serve` lists them, and that of others with `--help-all`.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Command, CommandFactory as _};

use super::args::Cli;
use phi4d_settings::DEFINITIONS;

const FLAG: &str = "help-all";

/// The command whose help lists the settings.
const LISTS_SETTINGS: &str = "serve";

/// `command` with the settings' flags hidden in the help of most subcommands.
pub(super) fn short(command: Command) -> Command {
    command.mut_subcommands(|command| {
        let command = short(command);
        if command.get_name() == LISTS_SETTINGS || !takes_settings(&command) {
            return command;
        }
        let hidden = command.mut_args(|argument| {
            let is_setting = DEFINITIONS.iter().any(|setting| argument.get_id() == setting.key);
            argument.hide(is_setting)
        });
        hidden.arg(
            Arg::new(FLAG)
                .long(FLAG)
                .action(ArgAction::SetTrue)
                .help("Print this help with the flags of all settings"),
        )
    })
}

/// Whether every setting is a flag of `command`. A client has some flags of the same names.
fn takes_settings(command: &Command) -> bool {
    let has = |key: &str| command.get_arguments().any(|argument| argument.get_id() == key);
    DEFINITIONS.iter().all(|setting| has(setting.key))
}

/// The help with all flags, if `arguments` ask for it, of the subcommand that they name.
pub(super) fn all(arguments: &[OsString]) -> Option<String> {
    let texts: Vec<&str> = arguments.iter().skip(1).filter_map(|text| text.to_str()).collect();
    let before = texts.iter().take_while(|text| **text != "--");
    if !before.clone().any(|text| *text == format!("--{FLAG}")) {
        return None;
    }
    let mut command = Cli::command();
    command.build();
    for text in before {
        if let Some(found) = command.find_subcommand(text) {
            command = found.clone();
        }
    }
    Some(command.render_long_help().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(command: &str) -> usize {
        let mut all = short(Cli::command());
        all.build();
        let found = all.find_subcommand_mut(command).unwrap();
        found.render_long_help().to_string().lines().count()
    }

    #[test]
    fn help_is_short_but_for_the_daemons() {
        for command in ["doctor", "check", "inspect", "prepare"] {
            assert!(lines(command) < 45, "{command}: {}", lines(command));
        }
        assert!(lines(LISTS_SETTINGS) > 200);
    }

    #[test]
    fn all_flags_are_shown_when_they_are_asked_for() {
        let arguments = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
        let help = all(&arguments(&["phi4d", "config", "show", "--help-all"])).unwrap();
        assert!(help.contains("--kv-cache-bytes"), "{help}");
        assert_eq!(all(&arguments(&["phi4d", "doctor", "--help"])), None);
        assert_eq!(all(&arguments(&["phi4d", "run", "--", "--help-all"])), None);
        // Hidden flags are still taken.
        let parsed = short(Cli::command()).try_get_matches_from([
            "phi4d",
            "doctor",
            "--kv-cache-bytes",
            "1",
        ]);
        assert!(parsed.is_ok());
    }
}
