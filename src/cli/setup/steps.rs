//! The steps of a set-up: shown before they are carried out, in the words of a shell.

use std::fmt;
use std::fs;
use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use crate::args::Steps;
use crate::exit::Fatal;
use crate::key;
use crate::output::{note, print};
use crate::service::run;
use phi4d_os::{group_id, replace_file};

/// The daemon's group.
pub(super) const GROUP: &str = "phi4d";

/// Begins every file that a set-up writes, so that undoing it removes nothing else.
pub(super) const MARK: &str = "# Written by `phi4d setup";

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Writes a file; a private one is readable by root and the daemon's group only.
    Write { path: PathBuf, text: String, private: bool },
    /// Removes a file that a set-up wrote.
    Remove { path: PathBuf },
    /// Creates an API key and prints it, unless one of this name is there.
    AddKey { file: PathBuf, name: String },
    /// Runs a program.
    Run(Vec<String>),
}

impl Step {
    pub(super) fn run(words: &[&str]) -> Self {
        Self::Run(words.iter().map(|word| (*word).to_owned()).collect())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { path, text, .. } => {
                let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
                let lines: Vec<&str> = lines.collect();
                let is_secret = text.contains("PRIVATE KEY") || text.contains("CERTIFICATE");
                let shown =
                    if is_secret { String::new() } else { format!(": {}", lines.join("; ")) };
                write!(f, "write {}{shown}", path.display())
            }
            Self::Remove { path } => write!(f, "remove {}", path.display()),
            Self::AddKey { file, name } => {
                write!(f, "create the API key {name} in {}", file.display())
            }
            Self::Run(words) => write!(f, "run {}", words.join(" ")),
        }
    }
}

/// Shows the steps and carries them out as `options` say. Returns whether it did.
pub(super) fn carry_out(steps: &[Step], options: &Steps) -> Result<bool, Fatal> {
    let mut text = String::new();
    for step in steps {
        text.push_str(&format!("{step}\n"));
    }
    print(&text)?;
    if options.dry_run || !(options.yes || confirmed()?) {
        return Ok(false);
    }
    for step in steps {
        perform(step)?;
    }
    Ok(true)
}

fn confirmed() -> Result<bool, Fatal> {
    if !std::io::stdin().is_terminal() {
        return Err(Fatal::Usage(
            "there is no terminal to confirm these steps on; expected --yes or --dry-run"
                .to_owned(),
        ));
    }
    let mut error = std::io::stderr();
    // Without standard error nobody sees the question, and the answer decides all the same.
    let _ = write!(error, "Go on? [y/N] ").and_then(|()| error.flush());
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(Fatal::Input)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

fn perform(step: &Step) -> Result<(), Fatal> {
    match step {
        Step::Write { path, text, private } => write(path, text, *private),
        Step::Remove { path } => remove(path),
        Step::AddKey { file, name } => match key::create(file, name) {
            Ok(key) => print(&format!("API key {name}, shown this once: {key}\n")),
            Err(Fatal::Keys(phi4d_server::KeysFileError::Taken(_))) => {
                note(&format!("there is an API key {name} already, which stays"));
                Ok(())
            }
            Err(fatal) => Err(fatal),
        },
        Step::Run(words) => {
            let arguments: Vec<&str> = words[1..].iter().map(String::as_str).collect();
            run(&words[0], &arguments).map(drop).map_err(Fatal::Refused)
        }
    }
}

fn write(path: &Path, text: &str, private: bool) -> Result<(), Fatal> {
    let failed = |source| Fatal::Write { path: path.to_owned(), source };
    if !is_ours(path) {
        let reason = "it is there already and is not from phi4d setup; move it away".to_owned();
        return Err(Fatal::File { path: path.to_owned(), reason });
    }
    fs::create_dir_all(path.parent().unwrap_or(path)).map_err(failed)?;
    let mode = if private { 0o640 } else { 0o644 };
    replace_file(path, text.as_bytes(), mode, group_id(GROUP).filter(|_| private)).map_err(failed)
}

fn remove(path: &Path) -> Result<(), Fatal> {
    if !is_ours(path) {
        note(&format!("{} is not from phi4d setup, and stays", path.display()));
        return Ok(());
    }
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(Fatal::Write { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Whether a file is missing or one that a set-up wrote.
fn is_ours(path: &Path) -> bool {
    match fs::read_to_string(path) {
        Ok(text) => text.starts_with(MARK),
        Err(error) => error.kind() == ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_others_are_neither_replaced_nor_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("conf.d/lan.toml");
        let write = |text: &str| {
            perform(&Step::Write { path: path.clone(), text: text.into(), private: false })
        };
        let remove = || perform(&Step::Remove { path: path.clone() });
        remove().unwrap();
        write(&format!("{MARK} lan`.\na = 1\n")).unwrap();
        write(&format!("{MARK} lan`.\na = 2\n")).unwrap();
        assert!(fs::read_to_string(&path).unwrap().ends_with("a = 2\n"));
        remove().unwrap();
        assert!(!path.exists());
        fs::write(&path, "mine = 1\n").unwrap();
        assert!(write("x").unwrap_err().to_string().contains("lan.toml"));
        remove().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine = 1\n");
    }

    #[test]
    fn steps_are_shown_without_secrets() {
        let path = PathBuf::from("/etc/phi4d/server.key");
        let text = format!("{MARK} lan`.\n-----BEGIN PRIVATE KEY-----\nabc\n");
        let step = Step::Write { path, text, private: true };
        assert_eq!(step.to_string(), "write /etc/phi4d/server.key");
        let path = PathBuf::from("/x.toml");
        let text = "# about\nlisten = \"a\"\n\n[s]\n".to_owned();
        let step = Step::Write { path, text, private: false };
        assert_eq!(step.to_string(), "write /x.toml: listen = \"a\"; [s]");
    }
}
