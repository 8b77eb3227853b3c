//! Reads the settings file and its drop-ins, and remembers on which line each key stands.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use config::{File, FileFormat, Map, Source as _, Value, ValueKind};
use toml::Spanned;
use toml::de::DeValue;

use super::error::Fault;
use super::models::TABLE;
use super::table::DEFINITIONS;

/// The folder beside `phi4d.toml` whose `*.toml` files are read after it, by name. Another file's is
/// `NAME.conf.d`, so that the daemons of one machine do not read each other's.
pub const DROP_INS: &str = "conf.d";

/// The folder of `file`'s drop-ins.
#[must_use]
pub fn drop_in_folder(file: &Path) -> PathBuf {
    match file.file_stem() {
        Some(stem) if stem != "phi4d" => file.with_extension(DROP_INS),
        _ => file.with_file_name(DROP_INS),
    }
}

/// The values of the file at `path` and of each drop-in, in the order in which later ones win.
pub(super) fn layers(
    path: &Path,
    must_exist: bool,
    faults: &mut Vec<Fault>,
) -> Vec<Map<String, Value>> {
    let mut layers = Vec::new();
    match std::fs::read_to_string(path) {
        Ok(text) => layers.extend(parse(path, &text, faults)),
        Err(error) if error.kind() == ErrorKind::NotFound && !must_exist => {}
        Err(error) => faults.push(unreadable(path, "settings file", &error)),
    }
    for drop_in in drop_ins(path, faults) {
        match std::fs::read_to_string(&drop_in) {
            Ok(text) => layers.extend(parse(&drop_in, &text, faults)),
            Err(error) => faults.push(unreadable(&drop_in, "settings file", &error)),
        }
    }
    layers
}

/// `*.toml` in the folder that belongs to `file`, sorted by name; hidden ones are left out.
fn drop_ins(file: &Path, faults: &mut Vec<Fault>) -> Vec<PathBuf> {
    let folder = drop_in_folder(file);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        // What `cp lan.toml /etc/phi4d/conf.d` makes where there is no such folder.
        Err(error) if error.kind() == ErrorKind::NotADirectory && folder.is_file() => {
            let reason = "it is a file; expected a folder of settings files".to_owned();
            faults.push(Fault::File { path: folder, reason });
            return Vec::new();
        }
        Err(error) if error.kind() == ErrorKind::NotADirectory => return Vec::new(),
        Err(error) => {
            faults.push(unreadable(&folder, "folder of settings files", &error));
            return Vec::new();
        }
    };
    let paths = entries.filter_map(|entry| match entry {
        Ok(entry) => Some(entry.path()),
        Err(error) => {
            faults.push(unreadable(&folder, "folder of settings files", &error));
            None
        }
    });
    let mut paths: Vec<PathBuf> = paths.filter(|path| is_drop_in(path)).collect();
    paths.sort();
    paths
}

fn is_drop_in(path: &Path) -> bool {
    let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && path.extension().is_some_and(|extension| extension == "toml")
}

fn unreadable(path: &Path, what: &str, error: &std::io::Error) -> Fault {
    Fault::File { path: path.to_owned(), reason: format!("cannot read the {what}: {error}") }
}

fn parse(path: &Path, text: &str, faults: &mut Vec<Fault>) -> Option<Map<String, Value>> {
    match File::from_str(text, FileFormat::Toml).collect() {
        Ok(values) => Some(known_values(path, text, values, faults)),
        Err(error) => {
            faults
                .push(Fault::File { path: path.to_owned(), reason: format!("not TOML: {error}") });
            None
        }
    }
}

fn known_values(
    path: &Path,
    text: &str,
    values: Map<String, Value>,
    faults: &mut Vec<Fault>,
) -> Map<String, Value> {
    let lines = key_lines(text);
    let origin = |key: &str| match lines.get(key) {
        Some(line) => format!("{}:{line}", path.display()),
        None => path.display().to_string(),
    };
    let mut known = Map::new();
    let mut unknown = Vec::new();
    for (key, value) in values {
        if key == TABLE {
            known.insert(key, with_origins(TABLE, MODEL_DEPTH, value, &origin));
        } else if DEFINITIONS.iter().any(|definition| definition.key == key) {
            let origin = origin(&key);
            known.insert(key, Value::new(Some(&origin), value.kind));
        } else {
            unknown.push(key);
        }
    }
    unknown.sort();
    faults.extend(unknown.into_iter().map(|key| Fault::UnknownKey {
        nearest: nearest(&key),
        origin: origin(&key),
        key,
    }));
    known
}

/// How deep the keys of one model are in the table of all.
const MODEL_DEPTH: usize = 2;

/// The value of `path` with the origin of each key that is up to `depth` below it.
fn with_origins(path: &str, depth: usize, value: Value, origin: &impl Fn(&str) -> String) -> Value {
    let kind = match value.kind {
        ValueKind::Table(table) if depth > 0 => {
            let inner = table.into_iter().map(|(key, value)| {
                let value = with_origins(&format!("{path}.{key}"), depth - 1, value, origin);
                (key, value)
            });
            ValueKind::Table(inner.collect())
        }
        other => other,
    };
    Value::new(Some(&origin(path)), kind)
}

/// The line of each top-level key and of each model's keys, counted from 1. The `config` crate keeps no
/// places, so the text is read once more for them.
fn key_lines(text: &str) -> BTreeMap<String, usize> {
    let mut lines = BTreeMap::new();
    if let Ok(table) = toml::de::DeTable::parse(text) {
        let line = |at: usize| text[..at].matches('\n').count() + 1;
        for (key, value) in table.get_ref() {
            let name = key.get_ref().to_string();
            if name == TABLE {
                add_lines(value, &name, MODEL_DEPTH, &line, &mut lines);
            }
            lines.insert(name, line(key.span().start));
        }
    }
    lines
}

/// Adds the lines of the keys up to `depth` below `path`.
fn add_lines(
    value: &Spanned<DeValue<'_>>,
    path: &str,
    depth: usize,
    line: &impl Fn(usize) -> usize,
    lines: &mut BTreeMap<String, usize>,
) {
    let DeValue::Table(table) = value.get_ref() else { return };
    for (key, value) in table.iter().filter(|_| depth > 0) {
        let name = format!("{path}.{}", key.get_ref());
        add_lines(value, &name, depth - 1, line, lines);
        lines.insert(name, line(key.span().start));
    }
}

/// The setting whose name is nearest to `key`, if it is near enough to be a slip.
pub(super) fn nearest(key: &str) -> Option<&'static str> {
    let key = key.to_ascii_lowercase().replace('-', "_");
    let distances = DEFINITIONS
        .iter()
        .map(|definition| (strsim::damerau_levenshtein(&key, definition.key), definition.key));
    let (distance, name) = distances.min()?;
    (distance <= (name.len() / 3).max(2)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::super::resolve::{Inputs, Resolved, resolve};
    use super::*;

    /// A folder with these files, and what its `phi4d.toml` and drop-ins resolve to.
    fn resolved(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Resolved, Vec<String>>) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(DROP_INS)).unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let default_file = Some(folder.path().join("phi4d.toml"));
        let resolved = resolve(&Inputs { default_file, ..Inputs::default() });
        let messages = |error: super::super::SettingsError| {
            error.faults.iter().map(ToString::to_string).collect()
        };
        (folder, resolved.map_err(messages))
    }

    fn origin(resolved: &Resolved, key: &str) -> String {
        resolved.entries.iter().find(|entry| entry.key == key).unwrap().origin.clone()
    }

    #[test]
    fn drop_ins_win_by_name_over_each_other_and_over_the_file() {
        let (folder, resolved) = resolved(&[
            ("phi4d.toml", "# a comment\nslots = 1\nqueue = 1\n\nthreads = 1\n"),
            ("conf.d/20-b.toml", "slots = 3\n"),
            ("conf.d/10-a.toml", "\nslots = 2\nqueue = 2\n"),
            ("conf.d/30-c.toml~", "slots = 9\n"),
            ("conf.d/.40-d.toml", "slots = 9\n"),
            ("conf.d/50-e.conf", "not TOML"),
        ]);
        let resolved = resolved.unwrap();
        let settings = &resolved.settings;
        assert_eq!((settings.slots, settings.queue, settings.threads), (3, 2, 1));
        let place = |name: &str| {
            let name = name.replace('/', std::path::MAIN_SEPARATOR_STR);
            folder.path().join(name).display().to_string()
        };
        assert_eq!(origin(&resolved, "slots"), place("conf.d/20-b.toml:1"));
        assert_eq!(origin(&resolved, "queue"), place("conf.d/10-a.toml:3"));
        assert_eq!(origin(&resolved, "threads"), place("phi4d.toml:5"));
    }

    #[test]
    fn daemons_of_one_machine_have_drop_ins_of_their_own() {
        for (file, folder) in [
            ("/etc/phi4d/phi4d.toml", "/etc/phi4d/conf.d"),
            ("/srv/a/phi4d.toml", "/srv/a/conf.d"),
            ("/etc/phi4d/mini.toml", "/etc/phi4d/mini.conf.d"),
            ("mini", "mini.conf.d"),
        ] {
            assert_eq!(drop_in_folder(Path::new(file)), Path::new(folder));
        }
    }

    #[test]
    fn drop_ins_are_read_without_a_main_file() {
        let (_folder, resolved) = resolved(&[("conf.d/a.toml", "slots = 5\n")]);
        assert_eq!(resolved.unwrap().settings.slots, 5);
    }

    #[test]
    fn faults_of_every_file_are_reported_with_their_lines() {
        let (folder, resolved) = resolved(&[
            ("phi4d.toml", "queue = 1\nslot = 2\n"),
            ("conf.d/a.toml", "\n\nslots = 0\n"),
            ("conf.d/b.toml", "slots = \n"),
        ]);
        let place = |name: &str| {
            let name = name.replace('/', std::path::MAIN_SEPARATOR_STR);
            folder.path().join(name).display().to_string()
        };
        let messages = resolved.unwrap_err();
        assert_eq!(messages.len(), 3, "{messages:?}");
        let unknown =
            format!("slot (from {}) is not a setting; did you mean slots?", place("phi4d.toml:2"));
        assert_eq!(messages[0], unknown);
        assert!(messages[1].starts_with(&format!("{}: not TOML", place("conf.d/b.toml"))));
        assert!(messages[2].contains(&place("conf.d/a.toml:3")), "{messages:?}");
    }

    #[test]
    fn a_drop_in_that_cannot_be_read_is_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join(DROP_INS).join("a.toml")).unwrap();
        let default_file = Some(folder.path().join("phi4d.toml"));
        let error = resolve(&Inputs { default_file, ..Inputs::default() }).unwrap_err();
        assert!(error.to_string().contains("a.toml: cannot read"), "{error}");
    }

    #[test]
    fn names_far_from_any_setting_get_no_suggestion() {
        assert_eq!(nearest("model-nam"), Some("model_name"));
        assert_eq!(nearest("lisetn"), Some("listen"));
        assert_eq!(nearest("port"), None);
    }

    #[test]
    fn the_examples_load_as_files_and_as_drop_ins() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/examples");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(examples).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let inputs = Inputs { file: Some(path.clone()), ..Inputs::default() };
            let as_file = resolve(&inputs).unwrap_or_else(|error| panic!("{error}"));
            let (_folder, as_drop_in) = resolved(&[("conf.d/a.toml", &text)]);
            assert_eq!(as_file.settings, as_drop_in.unwrap().settings);
            let set = as_file.entries.iter().filter(|entry| entry.origin != "default");
            assert!(set.count() > 1, "{} sets nothing", path.display());
            names.push(path.file_name().unwrap().to_string_lossy().into_owned());
        }
        names.sort();
        assert_eq!(names, ["cuda.toml", "lan.toml", "small-memory.toml"]);
    }
}
