//! Layers the sources and checks the result: defaults < file < drop-ins < environment < flags.

use std::collections::BTreeMap;
use std::path::PathBuf;

use config::{Config, ConfigError, Map, Source, Value};

use super::absent;
use super::define::{Entry, Reader, entry, environment_name, flag_name};
use super::error::{Fault, SettingsError};
use super::file;
use super::lists::as_shown;
use super::models::{self, NamedModel};
use super::table::{DEFINITIONS, Settings};

/// The file that is read if it exists and no other is named.
pub const DEFAULT_FILE: &str =
    if cfg!(windows) { "phi4d.toml beside the program" } else { "/etc/phi4d/phi4d.toml" };

/// Where [`DEFAULT_FILE`] is. Windows has no folder for settings that only an administrator can make,
/// and settings name libraries to be loaded: there it is the program's own.
#[must_use]
pub fn default_file() -> PathBuf {
    if cfg!(windows) {
        return std::env::current_exe().unwrap_or_default().with_file_name("phi4d.toml");
    }
    PathBuf::from(DEFAULT_FILE)
}

/// Variables of the command line (the settings file, the key of `phi4d chat`, the folder of models), and the
/// one by which tests force a kernel's instruction set.
const OTHER_VARIABLES: &[&str] = &["PHI4D_CONFIG", "PHI4D_API_KEY", "PHI4D_MODELS", "PHI4D_ISA"];

/// Where settings come from.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// A file that must exist. `conf.d` beside `phi4d.toml`, or
    /// `NAME.conf.d` beside another file, holds its drop-ins.
    pub file: Option<PathBuf>,
    /// A file that is read if it exists and `file` is not given. Its drop-ins are read either way.
    pub default_file: Option<PathBuf>,
    /// The environment; variables not called PHI4D_* are left alone.
    pub environment: BTreeMap<String, String>,
    /// Keys and values from the command line.
    pub flags: Vec<(String, String)>,
    /// Keys that must have a value other than the empty text.
    pub required: Vec<&'static str>,
}

/// The settings and their sources.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// The checked settings.
    pub settings: Settings,
    /// Every key in the table's order.
    pub entries: Vec<Entry>,
    /// The further models, in the order of their names.
    pub models: Vec<NamedModel>,
    /// Things that the administrator should know and that are no faults.
    pub warnings: Vec<String>,
}

/// One source's values, each with its origin.
///
/// The `config` crate reads TOML, gives all sources one type of value that remembers its origin, and
/// merges them, tables key by key. It knows neither lines nor which keys there are, and its source
/// for environment variables keeps no names, so that files, variables and flags are gathered here
/// and in `file` before it layers them.
#[derive(Debug, Clone)]
struct Layer(Map<String, Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}

/// Layers and checks the settings.
///
/// # Errors
/// Every fault at once, each naming key, value, origin and what is accepted.
pub fn resolve(inputs: &Inputs) -> Result<Resolved, SettingsError> {
    let mut faults = Vec::new();
    let mut warnings = Vec::new();
    let path = inputs.file.as_deref().or(inputs.default_file.as_deref());
    let files = path.map(|path| file::layers(path, inputs.file.is_some(), &mut faults));
    let files = files.unwrap_or_default().into_iter().map(Layer);
    let environment = environment_layer(&inputs.environment, &mut warnings);
    let flags = inputs.flags.iter().map(|(key, value)| {
        let origin = format!("flag --{}", flag_name(key));
        (key.clone(), Value::new(Some(&origin), value.as_str()))
    });
    let layers =
        std::iter::once(default_layer()).chain(files).chain([environment, Layer(flags.collect())]);
    let values = match merge(layers) {
        Ok(values) => values,
        Err(error) => {
            faults.push(Fault::File {
                path: inputs.file.clone().unwrap_or_default(),
                reason: error.to_string(),
            });
            return Err(SettingsError { faults });
        }
    };
    let mut reader = Reader { values: &values, faults };
    let settings = Settings::read(&mut reader);
    let mut faults = reader.faults;
    if cfg!(windows) {
        faults.extend(absent::faults_on_windows(&values));
    }
    for key in &inputs.required {
        if is_empty(&values, key) {
            let (variable, flag) = (environment_name(key), flag_name(key));
            faults.push(Fault::Missing { key, variable, flag });
        }
    }
    let models = models::read(&values, settings.as_ref(), &mut faults);
    match settings {
        Some(settings) if faults.is_empty() => {
            Ok(Resolved { settings, entries: entries(&values), models, warnings })
        }
        _ => Err(SettingsError { faults }),
    }
}

fn merge(layers: impl Iterator<Item = Layer>) -> Result<Map<String, Value>, ConfigError> {
    let mut builder = Config::builder();
    for layer in layers {
        builder = builder.add_source(layer);
    }
    builder.build()?.collect()
}

fn default_layer() -> Layer {
    let origin = "default".to_owned();
    let values = DEFINITIONS.iter().map(|definition| {
        (definition.key.to_owned(), Value::new(Some(&origin), definition.default))
    });
    Layer(values.collect())
}

fn environment_layer(environment: &BTreeMap<String, String>, warnings: &mut Vec<String>) -> Layer {
    let mut values = Map::new();
    for (name, value) in environment {
        if !name.starts_with("PHI4D_") || OTHER_VARIABLES.contains(&name.as_str()) {
            continue;
        }
        let known = DEFINITIONS.iter().find(|definition| definition.environment() == *name);
        let Some(definition) = known else {
            let key = name["PHI4D_".len()..].to_ascii_lowercase();
            let hint = file::nearest(&key).map_or_else(String::new, |near| {
                format!("; did you mean {}?", environment_name(near))
            });
            warnings
                .push(format!("environment variable {name} is no setting and was ignored{hint}"));
            continue;
        };
        let origin = format!("environment variable {name}");
        values.insert(definition.key.to_owned(), Value::new(Some(&origin), value.as_str()));
    }
    Layer(values)
}

fn is_empty(values: &Map<String, Value>, key: &str) -> bool {
    values.get(key).and_then(|value| as_shown(&value.kind)).is_some_and(|text| text.is_empty())
}

fn entries(values: &Map<String, Value>) -> Vec<Entry> {
    DEFINITIONS.iter().map(|definition| entry(definition, values)).collect()
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
