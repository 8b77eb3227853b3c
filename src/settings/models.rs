//! The tables `[models.NAME]`: further models beside the one of the setting `model`.
//!
//! A table has the model's folder, when it is loaded, and settings of its own in place of the general
//! ones. What it leaves out is as for the first model, so a named model's settings are whole settings.

use config::{Map, Value, ValueKind};

use super::define::{Entry, Reader, entry, origin_of};
use super::error::Fault;
use super::kind::choice;
use super::lists::as_shown;
use super::table::{DEFINITIONS, Settings};

/// The key of the tables.
pub(super) const TABLE: &str = "models";

/// When a model is loaded: a key of its table alone.
const LOAD: &str = "load";

/// Whether it is loaded at the start, by what its table says.
const WHEN: &[(&str, bool)] = &[("request", false), ("start", true)];

/// Settings that a table may have. All others are the daemon's as a whole.
pub(super) const KEYS: &[&str] = &[
    "model",
    "model_aliases",
    "provider",
    "provider_library",
    "provider_options",
    "threads",
    "own_kernels",
    "int8_activations",
    "weights_memory",
    "slots",
    "prefix_slots",
    "kv_cache_bytes",
    "kv_cache_type",
    "context_tokens",
    "draft_tokens",
    "reproducible",
    "default_temperature",
    "default_top_p",
    "default_top_k",
    "default_min_p",
];

/// Settings that belong to the first model or to one of all: others start from the default.
const NOT_SHARED: &[&str] = &["model", "model_name", "model_aliases", "embedding_model"];

/// Most tables, and the longest name.
const MOST: usize = 64;
const LONGEST: usize = 128;

/// A further model.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedModel {
    /// Its name in the API.
    pub name: String,
    /// Whether it is loaded at the start; otherwise at the first request for it.
    pub at_start: bool,
    /// The settings with its own in place of the general ones; `model` is its folder, `model_name` its
    /// name.
    pub settings: Settings,
    /// What its table has, in the order of the settings.
    pub entries: Vec<Entry>,
}

/// Reads the tables of `values`. Those of a daemon whose own settings are faulty are only looked at.
pub(super) fn read(
    values: &Map<String, Value>,
    settings: Option<&Settings>,
    faults: &mut Vec<Fault>,
) -> Vec<NamedModel> {
    let Some(value) = values.get(TABLE) else { return Vec::new() };
    let ValueKind::Table(tables) = &value.kind else {
        let reason = "expected tables [models.NAME]".to_owned();
        faults.push(wrong(TABLE, value, reason));
        return Vec::new();
    };
    if tables.len() > MOST {
        faults.push(wrong(TABLE, value, format!("expected at most {MOST} models")));
    }
    let mut names: Vec<&String> = tables.keys().collect();
    names.sort();
    let mut models: Vec<NamedModel> = Vec::new();
    for name in names {
        let table = &tables[name];
        let path = format!("{TABLE}.{name}");
        let found = faults.len();
        if !is_name(name) {
            let reason =
                "expected a name of letters, digits and ._- that begins with a letter or digit";
            faults.push(wrong(&path, table, reason.to_owned()));
        } else if settings.is_some_and(|settings| settings.served_model_name() == *name) {
            let reason = "the first model has that name; expected another".to_owned();
            faults.push(wrong(&path, table, reason));
        }
        let model = one(name, &path, table, values, faults);
        // Faults of the general settings would be repeated.
        if settings.is_some() && faults.len() == found {
            models.extend(model);
        }
    }
    models
}

/// A fault of a whole table. Merging leaves tables without an origin, but not their keys.
fn wrong(table: &str, value: &Value, reason: String) -> Fault {
    let origin = value.origin().map(str::to_owned);
    let origin = origin.or_else(|| match &value.kind {
        ValueKind::Table(keys) => keys.values().find_map(|key| key.origin()).map(str::to_owned),
        _ => None,
    });
    Fault::Model {
        table: table.to_owned(),
        origin: origin.unwrap_or("the settings files".to_owned()),
        reason,
    }
}

fn one(
    name: &str,
    path: &str,
    table: &Value,
    values: &Map<String, Value>,
    faults: &mut Vec<Fault>,
) -> Option<NamedModel> {
    let ValueKind::Table(keys) = &table.kind else {
        faults.push(wrong(path, table, format!("expected a table [{path}]")));
        return None;
    };
    let mut own = values.clone();
    own.remove(TABLE);
    for definition in DEFINITIONS.iter().filter(|found| NOT_SHARED.contains(&found.key)) {
        own.insert(definition.key.to_owned(), Value::new(None, definition.default));
    }
    own.insert("model_name".to_owned(), Value::new(None, name));
    let mut at_start = false;
    let mut sorted: Vec<_> = keys.iter().collect();
    sorted.sort_by_key(|(key, _)| *key);
    for (key, value) in sorted {
        let fault = |reason| Fault::Model {
            table: format!("{path}.{key}"),
            origin: origin_of(keys, key),
            reason,
        };
        if key == LOAD {
            let when = choice("WHEN", WHEN);
            match when.read(&value.kind) {
                Some(when) => at_start = when,
                None => faults.push(fault(format!("expected {}", when.accepted))),
            }
        } else if KEYS.contains(&key.as_str()) {
            own.insert(key.clone(), value.clone());
        } else {
            let accepted = KEYS.join(", ");
            faults.push(fault(format!("no setting of one model; expected {LOAD}, {accepted}")));
        }
    }
    let is_given = |value: &Value| as_shown(&value.kind).is_some_and(|text| !text.is_empty());
    if !keys.get("model").is_some_and(is_given) {
        let reason = "model is not set; expected a folder or the name of a pulled model";
        faults.push(wrong(path, table, reason.to_owned()));
    }
    // A value of another key is the general settings', which are read by themselves.
    let mut reader = Reader { values: &own, faults: Vec::new() };
    let settings = Settings::read(&mut reader);
    let is_own =
        |fault: &Fault| matches!(fault, Fault::Value { key, .. } if keys.contains_key(*key));
    faults.extend(reader.faults.into_iter().filter(is_own));
    let given = DEFINITIONS.iter().filter(|definition| keys.contains_key(definition.key));
    let entries = given.map(|definition| entry(definition, &own)).collect();
    settings.map(|settings| NamedModel { name: name.to_owned(), at_start, settings, entries })
}

/// Whether a model may be called so. Its stored prefixes are in a folder of that name.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    first && name.len() <= LONGEST && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::resolve::{Inputs, Resolved, resolve};

    fn load(text: &str) -> Result<Resolved, Vec<String>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let path = file.path().display().to_string();
        let faults = |error: super::super::SettingsError| {
            error.faults.iter().map(|fault| fault.to_string().replace(&path, "FILE")).collect()
        };
        let inputs = Inputs { file: Some(file.path().to_owned()), ..Inputs::default() };
        resolve(&inputs).map_err(faults)
    }

    #[test]
    fn a_model_has_its_own_settings_and_the_general_ones() {
        let text = "model = '/a/first'\nmodel_aliases = '*'\nslots = 3\nthreads = 2\n\
                    [models.Mini-4]\nmodel = '/b'\nslots = 5\nload = 'start'\n\
                    [models.a]\nmodel = 'pulled'\nmodel_aliases = ['x']\n";
        let resolved = load(text).unwrap();
        let [mini, a] = resolved.models.as_slice() else { panic!("{:?}", resolved.models) };
        assert_eq!((mini.name.as_str(), mini.at_start), ("Mini-4", true));
        assert_eq!((mini.settings.slots, mini.settings.threads), (5, 2));
        assert_eq!(mini.settings.model.as_deref(), Some(Path::new("/b")));
        assert_eq!(mini.settings.served_model_name(), "Mini-4");
        assert!(mini.settings.model_aliases.is_empty() && !a.at_start);
        assert_eq!(
            (a.settings.slots, a.settings.model_aliases.as_slice()),
            (3, &["x".to_owned()][..])
        );
        assert_eq!(resolved.settings.served_model_name(), "first");
        assert!(mini.entries.iter().any(|entry| entry.origin.ends_with(":7")), "{mini:?}");
    }

    #[test]
    fn faults_name_the_table_the_line_and_what_is_expected() {
        for (text, part) in [
            ("models = 3", "models (from FILE:1): expected tables"),
            ("[models]\nb = 3", "models.b (from FILE:2): expected a table"),
            ("[models.b]\nslots = 2", "models.b (from FILE:2): model is not set"),
            ("[models.b]\nmodel = '/b'\nslots = 0", "slots = \"0\" (from FILE:3) is not accepted"),
            (
                "[models.b]\nmodel = '/b'\nqueue = 1",
                "models.b.queue (from FILE:3): no setting of one",
            ),
            (
                "[models.b]\nmodel = '/b'\nload = 'x'",
                "models.b.load (from FILE:3): expected one of",
            ),
            ("[models.'a/b']\nmodel = '/b'", "expected a name of letters"),
            ("model_name = 'b'\n[models.b]\nmodel = '/b'", "the first model has that name"),
        ] {
            let faults = load(text).unwrap_err();
            assert!(faults.len() == 1 && faults[0].contains(part), "{text}: {faults:?}");
        }
        // A fault of the general settings is reported once.
        let faults = load("slots = 0\n[models.b]\nmodel = '/b'").unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
    }
}
