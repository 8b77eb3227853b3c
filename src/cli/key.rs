//! `phi4d key`: makes, lists and removes keys of the API.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rand::Rng as _;

use super::args::{KeyAdd, KeyCommand, KeyFileArgs};
use super::exit::Fatal;
use super::output::{note, print};
use phi4d_os as os;
use phi4d_server::{Key, KeyLine, KeysFile, Limits, Scope};
use phi4d_settings::resolve;

/// The group of a keys file that root makes: the daemon's, who must read it.
const DAEMON_GROUP: &str = "phi4d";

pub(super) fn run(command: &KeyCommand) -> Result<(), Fatal> {
    match command {
        KeyCommand::Add(add) => self::add(add),
        KeyCommand::List(file) => list(file),
        KeyCommand::Remove { name, file } => {
            KeysFile::open(&path(file)?)?.remove(name)?;
            note_reload();
            Ok(())
        }
    }
}

fn add(arguments: &KeyAdd) -> Result<(), Fatal> {
    let scope = if arguments.admin { Scope::Admin } else { Scope::Use };
    let limits = Limits {
        max_in_flight: arguments.max_in_flight,
        tokens_per_minute: arguments.tokens_per_minute,
    };
    let key = add_to(&path(&arguments.file)?, &arguments.name, scope, limits)?;
    print(&format!("{key}\n"))?;
    note_reload();
    Ok(())
}

/// Creates the key `name` in `file`, for requests without limits, and returns it.
pub(super) fn create(file: &Path, name: &str) -> Result<String, Fatal> {
    add_to(file, name, Scope::Use, Limits::default())
}

fn add_to(file: &Path, name: &str, scope: Scope, limits: Limits) -> Result<String, Fatal> {
    let mut secret = [0; 32];
    rand::rng().fill_bytes(&mut secret);
    let key = Key::new(secret);
    let line = KeyLine::new(name, scope, limits, &key).map_err(Fatal::Usage)?;
    let group = (os::effective_uid() == 0).then(|| os::group_id(DAEMON_GROUP)).flatten();
    KeysFile::open(file)?.add(&line, group)?;
    Ok(key.reveal().to_string())
}

fn list(file: &KeyFileArgs) -> Result<(), Fatal> {
    let file = KeysFile::open(&path(file)?)?;
    let number = |limit: Option<std::num::NonZeroU32>| {
        limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string())
    };
    let width = file.keys().iter().map(|key| key.name.len()).max().unwrap_or_default().max(4);
    let mut text = format!("{:<width$}  scope  max_in_flight  tokens_per_minute\n", "name");
    for key in file.keys() {
        // Writing to a String can't fail.
        let _ = writeln!(
            text,
            "{:<width$}  {:<5}  {:>13}  {:>17}",
            key.name,
            key.scope.as_str(),
            number(key.limits.max_in_flight),
            number(key.limits.tokens_per_minute)
        );
    }
    print(&text)
}

/// The file that the daemon reads by the same settings.
fn path(arguments: &KeyFileArgs) -> Result<PathBuf, Fatal> {
    let mut inputs = super::args::ambient_inputs(arguments.config.clone());
    inputs.required = vec!["api_keys_file"];
    if let Some(file) = &arguments.api_keys_file {
        let value = file.to_string_lossy().into_owned();
        inputs.flags = vec![("api_keys_file".to_owned(), value)];
    }
    let settings = resolve(&inputs)?.settings;
    let unset = || Fatal::Internal("api_keys_file is required and not set".to_owned());
    settings.api_keys_file.ok_or_else(unset)
}

fn note_reload() {
    note("the daemon applies the change when it is reloaded: systemctl reload phi4d");
}
