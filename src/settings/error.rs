//! What is wrong with the settings: every fault, not only the first.

use std::path::PathBuf;

/// Everything that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", join(.faults))]
pub struct SettingsError {
    /// At least one fault, in the table's order.
    pub faults: Vec<Fault>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A value is not one that the key takes.
    #[error("{key} = {value:?} (from {origin}) is not accepted; expected {accepted}")]
    Value {
        /// The key.
        key: &'static str,
        /// What was given.
        value: String,
        /// Where it came from.
        origin: String,
        /// What the key takes.
        accepted: String,
    },
    /// A key without a default was not given.
    #[error("{key} is not set; give it in the settings file, as {variable} or as --{flag}")]
    Missing {
        /// The key.
        key: &'static str,
        /// Its environment variable.
        variable: String,
        /// Its flag, without the dashes.
        flag: String,
    },
    /// The file has a key that no setting has.
    #[error("{key} (from {origin}) is not a setting{}", suggestion(*.nearest))]
    UnknownKey {
        /// The key as it was written.
        key: String,
        /// Where it was written.
        origin: String,
        /// The setting whose name is nearest, if one is near.
        nearest: Option<&'static str>,
    },
    /// A table of a further model is not one.
    #[error("{table} (from {origin}): {reason}")]
    Model {
        /// The table, or its key at fault.
        table: String,
        /// Where it was written.
        origin: String,
        /// What is wrong, and what is expected.
        reason: String,
    },
    /// The file can't be read or is not TOML.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

fn join(faults: &[Fault]) -> String {
    let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |key| format!("; did you mean {key}?"))
}
