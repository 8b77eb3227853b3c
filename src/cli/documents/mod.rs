//! `phi4d man` and `phi4d completions`: what packages install beside the program, made from the
//! same definitions as its parser and its settings.

mod commands;
mod roff_text;
mod service;
mod settings;

use std::path::Path;

use clap_complete::Shell;

use super::exit::Fatal;
use super::output::print;

/// One manual page: its file's name, such as `phi4d.1`, and its roff text.
#[derive(Debug)]
struct Page {
    name: String,
    text: String,
}

/// Every manual page there is.
fn pages() -> Vec<Page> {
    let mut pages = commands::pages(super::command());
    pages.push(Page { name: "phi4d.toml.5".to_owned(), text: settings::page() });
    pages.push(Page { name: "phi4d.service.8".to_owned(), text: service::page() });
    pages
}

/// Writes the manual pages into `folder`, which is made if it is not there.
pub(super) fn man(folder: &Path) -> Result<(), Fatal> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Fatal::Write { path, source }
    };
    std::fs::create_dir_all(folder).map_err(failed(folder))?;
    for page in pages() {
        let path = folder.join(page.name);
        std::fs::write(&path, page.text).map_err(failed(&path))?;
    }
    Ok(())
}

/// Prints the completions for a shell.
pub(super) fn completions(shell: Shell) -> Result<(), Fatal> {
    print(&completions_text(shell))
}

fn completions_text(shell: Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "phi4d", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use phi4d_settings::DEFINITIONS;

    /// Every flag of every command, with the command's full name joined by dashes.
    fn flags(command: &clap::Command, name: &str, found: &mut Vec<(String, String)>) {
        for argument in command.get_arguments() {
            if let Some(long) = argument.get_long() {
                found.push((name.to_owned(), long.to_owned()));
            }
        }
        for sub in command.get_subcommands() {
            flags(sub, &format!("{name}-{}", sub.get_name()), found);
        }
    }

    fn all_flags() -> Vec<(String, String)> {
        let mut found = Vec::new();
        flags(&super::super::command(), "phi4d", &mut found);
        assert!(found.len() > DEFINITIONS.len());
        found
    }

    /// Page text as a reader sees it.
    fn plain(page: &Page) -> String {
        page.text.replace("\\fB", "").replace("\\fI", "").replace("\\fR", "").replace("\\-", "-")
    }

    fn page(name: &str) -> Page {
        let found = pages().into_iter().find(|page| page.name == name);
        found.unwrap_or_else(|| panic!("no page {name}"))
    }

    #[test]
    fn every_command_has_a_page_with_all_its_flags() {
        for (command, flag) in all_flags() {
            let text = plain(&page(&format!("{command}.1")));
            assert!(text.contains(&format!("--{flag}")), "{command}.1 lacks --{flag}");
        }
        let main = plain(&page("phi4d.1"));
        for sub in super::super::command().get_subcommands() {
            let name = format!("phi4d-{}(1)", sub.get_name());
            assert!(main.contains(&name), "phi4d.1 lacks {name}");
        }
    }

    #[test]
    fn every_setting_is_listed() {
        let text = plain(&page("phi4d.toml.5")).replace('\n', " ").replace("\\*(Aq", "'");
        for definition in DEFINITIONS.iter() {
            for part in [
                definition.key.to_owned(),
                definition.summary(),
                definition.accepted.clone(),
                definition.environment(),
                format!("--{}", definition.flag),
            ] {
                assert!(text.contains(&part), "phi4d.toml.5 lacks {part:?}");
            }
        }
    }

    #[test]
    fn every_unit_is_reported() {
        let text = plain(&page("phi4d.service.8"));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../systemd");
        let mut units = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().to_string_lossy().into_owned();
            if name.ends_with(".service") || name.ends_with(".socket") {
                units += 1;
                assert!(text.contains(&name), "phi4d.service.8 does not mention {name}");
            }
        }
        assert!(units >= 3);
    }

    #[test]
    fn completions_know_every_flag() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = completions_text(shell);
            for (command, flag) in all_flags() {
                let spelt = match shell {
                    Shell::Fish => format!("-l {flag}"),
                    _ => format!("--{flag}"),
                };
                assert!(text.contains(&spelt), "{shell}: {command} --{flag}");
            }
        }
    }

    #[test]
    fn no_text_begins_a_line_with_a_control_character() {
        for page in pages() {
            for line in page.text.lines().filter(|line| line.starts_with(['.', '\''])) {
                let request = line.trim_start_matches(['.', '\'']);
                let request = request.split(' ').next().unwrap();
                let known = ["TH", "SH", "SS", "TP", "PP", "RS", "RE", "IP", "br", "ie", "el"];
                assert!(known.contains(&request), "{}: {line}", page.name);
            }
        }
    }
}
