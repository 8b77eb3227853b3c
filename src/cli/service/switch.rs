//! `phi4d use`: lets the installed service serve another model, and goes back if it can't.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use super::sandbox::must_read;
use super::{SERVICE, UNIX_SOCKET, Unit, run as run_program, systemctl};
use crate::args::{SettingsArgs, UseArgs};
use crate::client::Daemon;
use crate::exit::Fatal;
use crate::output::{note, print};
use crate::places::SYSTEM_MODELS;
use crate::pull;
use crate::threads::own_runtime;
use phi4d_fetch::Server;
use phi4d_os::{self as os, replace_file};

/// The drop-in that names the model.
const DROP_IN: &str = "/etc/phi4d/conf.d/model.toml";

pub(crate) fn run(arguments: &UseArgs) -> Result<(), Fatal> {
    let unit = installed("use")?;
    let folder = pull::obtain(&arguments.model)?;
    open_to(&unit, &folder)?;
    let before = match fs::read(DROP_IN) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(file(DROP_IN, &error)),
    };
    write(&drop_in(&folder))?;
    let begun = Instant::now();
    let switched = in_force(&unit, &folder).and_then(|()| {
        note(&format!("{DROP_IN} names {}; restarting {SERVICE}", folder.display()));
        restart()
    });
    if let Err(fatal) = switched {
        let back =
            before.map_or_else(|| fs::remove_file(DROP_IN).is_ok(), |old| write(&old).is_ok());
        if back && restart().is_ok() {
            note("the service serves what it served before");
        }
        return Err(fatal);
    }
    let ready = begun.elapsed();
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    print(&format!("{SERVICE} serves {name}, ready after {:.1} s\n", ready.as_secs_f32()))?;
    first_answer()
}

/// The service's unit, for the command `name`, which is root's.
pub(crate) fn installed(name: &str) -> Result<Unit, Fatal> {
    if os::effective_uid() != 0 {
        let text = format!("phi4d {name} changes the system's service; run it by sudo");
        return Err(Fatal::Usage(text));
    }
    Unit::find(SERVICE).ok_or_else(|| {
        Fatal::Usage(format!("phi4d {name} needs the installed service, and there is no {SERVICE}"))
    })
}

fn drop_in(folder: &Path) -> Vec<u8> {
    // As TOML has it: a basic string, whose escapes are those of JSON.
    format!("# Written by `phi4d use`.\nmodel = {}\n", json!(folder)).into_bytes()
}

fn write(text: &[u8]) -> Result<(), Fatal> {
    let path = Path::new(DROP_IN);
    let folder = path.parent().unwrap_or(path);
    let written = fs::create_dir_all(folder).and_then(|()| replace_file(path, text, 0o644, None));
    written.map_err(|source| Fatal::Write { path: path.to_owned(), source })
}

fn file(path: impl Into<PathBuf>, error: &dyn std::fmt::Display) -> Fatal {
    Fatal::File { path: path.into(), reason: error.to_string() }
}

/// Lets the service read `folder`: what is in the system's folder of models is given to its group.
fn open_to(unit: &Unit, folder: &Path) -> Result<(), Fatal> {
    let files = fs::read_dir(folder).map_err(|error| file(folder, &error))?;
    let files = files.flatten().map(|entry| entry.path()).filter(|path| path.is_file());
    let wanted: Vec<PathBuf> = [folder.to_owned()].into_iter().chain(files).collect();
    let refused = must_read(unit, wanted.clone()).is_err();
    if refused && folder.starts_with(SYSTEM_MODELS) {
        let shown = folder.display().to_string();
        note(&format!("letting the group {} read {shown}", unit.get("Group")));
        let changed = run_program("chgrp", &["--recursive", unit.get("Group"), &shown])
            .and_then(|_| run_program("chmod", &["--recursive", "g+rX", &shown]));
        changed.map_err(Fatal::Refused)?;
    }
    must_read(unit, wanted)
}

/// Checks that the drop-in decides, and not a later one or the unit's environment.
fn in_force(unit: &Unit, folder: &Path) -> Result<(), Fatal> {
    let resolved = SettingsArgs::default().resolve_in(&unit.environment(), &["model"])?;
    if resolved.settings.model.as_deref() == Some(folder) {
        return Ok(());
    }
    let entry = resolved.entries.iter().find(|entry| entry.key == "model");
    let origin = entry.map_or("another place", |entry| entry.origin.as_str());
    Err(file(
        DROP_IN,
        &format!("model is set by {origin}, too, which has precedence; remove it there"),
    ))
}

fn restart() -> Result<(), Fatal> {
    // A failed start may have used up the limit of starts.
    let _ = systemctl(&["reset-failed", UNIX_SOCKET, SERVICE]);
    let restarted = systemctl(&["restart", SERVICE]).and_then(|_| {
        // The socket of a service that failed is closed.
        systemctl(&["start", UNIX_SOCKET])
    });
    restarted.map(drop).map_err(|error| {
        let last =
            run_program("journalctl", &["--unit", SERVICE, "--lines", "4", "--output", "cat"]);
        Fatal::Refused(format!("{error}; its log ends: {}", last.unwrap_or_default().trim()))
    })
}

/// Asks the service one question, so that the administrator sees it answer.
fn first_answer() -> Result<(), Fatal> {
    let sockets = Unit::find(UNIX_SOCKET).map(|unit| unit.listens_on()).unwrap_or_default();
    let Some(socket) = sockets.into_iter().find(|place| place.is_absolute()) else {
        return Ok(());
    };
    let begun = Instant::now();
    let runtime = own_runtime()?;
    let answer = runtime.block_on(ask(&Daemon::at(Server::Unix(socket))));
    match answer {
        Ok(text) => {
            let seconds = begun.elapsed().as_secs_f32();
            print(&format!("it answers after {seconds:.1} s: {}\n", text.trim()))
        }
        Err(Fatal::Refused(reason)) => {
            note(&format!("no first answer: {reason}"));
            Ok(())
        }
        Err(fatal) => Err(fatal),
    }
}

async fn ask(daemon: &Daemon) -> Result<String, Fatal> {
    let body = json!({
        "messages": [{ "role": "user", "content": "Say hello." }],
        "max_tokens": 24, "temperature": 0, "stream": true,
    });
    let mut events = daemon.stream("/v1/chat/completions", &body).await?;
    let mut text = String::new();
    while let Some(event) = events.next().await? {
        let event: Value = serde_json::from_str(&event).unwrap_or_default();
        text.push_str(event["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drop_in_is_a_settings_file_whatever_the_folder_is_called() {
        for folder in ["/var/lib/phi4d/models/phi-4", "/srv/my \"models\"/a\\b"] {
            let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
            fs::write(file.path(), drop_in(Path::new(folder))).unwrap();
            let inputs = phi4d_settings::Inputs {
                file: Some(file.path().to_owned()),
                ..phi4d_settings::Inputs::default()
            };
            let resolved = phi4d_settings::resolve(&inputs).unwrap();
            assert_eq!(resolved.settings.model.as_deref(), Some(Path::new(folder)));
        }
    }
}
