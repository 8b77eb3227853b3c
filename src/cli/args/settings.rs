//! Settings from the command line: a flag for every key of the settings' table.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgMatches, Args, FromArgMatches, ValueHint};

use crate::exit::Fatal;
use crate::places;
use phi4d_settings::{
    DEFAULT_FILE, DEFINITIONS, DROP_INS, Definition, Inputs, Resolved, default_file, resolve,
};

/// Settings from the command line: every key of the table has its flag.
#[derive(Debug, Clone, Default)]
pub(crate) struct SettingsArgs {
    config: Option<PathBuf>,
    pub(super) values: Vec<(String, String)>,
}

impl SettingsArgs {
    /// Layers these flags over environment and file. `required` keys must be set.
    pub(crate) fn resolve(&self, required: &[&'static str]) -> Result<Resolved, Fatal> {
        self.resolve_in(&BTreeMap::new(), required)
    }

    /// As [`Self::resolve`], for a process that has the variables `added` in its environment, too.
    pub(crate) fn resolve_in(
        &self,
        added: &BTreeMap<String, String>,
        required: &[&'static str],
    ) -> Result<Resolved, Fatal> {
        let mut inputs = ambient_inputs(self.config.clone());
        for (name, value) in added {
            inputs.environment.entry(name.clone()).or_insert_with(|| value.clone());
        }
        let flags = self.values.clone();
        let mut resolved = resolve(&Inputs { flags, required: required.to_vec(), ..inputs })?;
        let named = resolved.models.iter_mut().map(|model| &mut model.settings);
        for settings in std::iter::once(&mut resolved.settings).chain(named) {
            if let Some(model) = &mut settings.model {
                *model = places::folder_of(model);
            }
        }
        Ok(resolved)
    }

    /// The same with `model` set to `folder`.
    pub(crate) fn with_model(&self, folder: &Path) -> Self {
        let mut with = self.clone();
        with.values.push(("model".to_owned(), folder.display().to_string()));
        with
    }

    /// The settings file that is read, if it exists.
    pub(crate) fn file(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(default_file)
    }
}

/// Settings from this process's environment and the named or default file.
pub(crate) fn ambient_inputs(file: Option<PathBuf>) -> Inputs {
    let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
    Inputs {
        file,
        default_file: Some(default_file()),
        environment: std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect(),
        ..Inputs::default()
    }
}

impl Args for SettingsArgs {
    fn augment_args(command: clap::Command) -> clap::Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .env("PHI4D_CONFIG")
            .value_parser(clap::value_parser!(PathBuf))
            .value_hint(ValueHint::FilePath)
            .help(format!(
                "Settings file, which must exist; {DROP_INS}/*.toml beside phi4d.toml, or NAME.{DROP_INS}/*.toml \
                 beside NAME.toml, are read after it. \
                 Default: {DEFAULT_FILE} if it exists"
            ));
        command.arg(config).args(DEFINITIONS.iter().map(flag))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

fn flag(definition: &'static Definition) -> Arg {
    let default = match definition.default {
        "" => String::new(),
        default => format!(" [default: {default}]"),
    };
    let unit = definition.unit.map_or_else(String::new, |unit| format!(" Unit: {unit}."));
    let summary = definition.summary();
    let first = summary.split_once(". ").map_or(summary.as_str(), |(first, _)| first);
    Arg::new(definition.key)
        .long(definition.flag.as_str())
        .value_name(definition.placeholder)
        .value_hint(match definition.placeholder {
            "DIR" => ValueHint::DirPath,
            "FILE" | "PATH" => ValueHint::AnyPath,
            _ => ValueHint::Other,
        })
        .allow_hyphen_values(true)
        .help(format!("{}{default}", first.trim_end_matches('.')))
        .long_help(format!("{summary}{unit} Takes {}.{default}", definition.accepted))
}

impl FromArgMatches for SettingsArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut settings = Self::default();
        settings.update_from_arg_matches(matches)?;
        Ok(settings)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.config = matches.get_one::<PathBuf>("config").cloned();
        self.values = DEFINITIONS
            .iter()
            .filter_map(|definition| {
                let value = matches.get_one::<String>(definition.key)?;
                Some((definition.key.to_owned(), value.clone()))
            })
            .collect();
        Ok(())
    }
}
