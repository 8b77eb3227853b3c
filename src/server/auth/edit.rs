//! The keys file as `phi4d key` changes it: line by line, so that comments stay.

use std::io;
use std::path::{Path, PathBuf};

use super::fault::{AccessFault, join};
use super::keys::{KeyLine, holds_key, parse};
use super::load::read_keys;
use phi4d_os::{FolderLock, replace_file};

/// The daemon's group may read the file; others may not.
const FILE_MODE: u32 = 0o640;

const HEAD: &str = "\
# Keys of phi4d's API, one a line; made by `phi4d key add`. Only their hashes are here.
# Fields: scope=use|admin, max_in_flight=N, tokens_per_minute=N. SIGHUP makes the daemon read it.
";

/// Why the file can't be changed.
#[derive(Debug, thiserror::Error)]
pub enum KeysFileError {
    /// It has bad lines, or can't be read.
    #[error("{}", join(.0))]
    Faults(Vec<AccessFault>),
    /// The system refused.
    #[error("cannot {action} the keys file {}: {source}", path.display())]
    System {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The name is taken.
    #[error("there is a key named {0:?} already; remove it first or choose another name")]
    Taken(String),
    /// There is no such key.
    #[error("there is no key named {name:?}; there are: {known}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// Those there are.
        known: String,
    },
}

/// A keys file, locked against other changes until dropped.
#[derive(Debug)]
pub struct KeysFile {
    path: PathBuf,
    text: String,
    keys: Vec<KeyLine>,
    _lock: FolderLock,
}

impl KeysFile {
    /// Reads the file at `path`; one that is not there has no keys.
    ///
    /// # Errors
    /// Every bad line, or what the system refused.
    pub fn open(path: &Path) -> Result<Self, KeysFileError> {
        let failed =
            |action| move |source| KeysFileError::System { action, path: path.to_owned(), source };
        let lock = FolderLock::around(path).map_err(failed("lock the folder of"))?;
        let (text, keys) = if path.try_exists().map_err(failed("find"))? {
            read_keys(path).map_err(KeysFileError::Faults)?
        } else {
            (HEAD.to_owned(), Vec::new())
        };
        Ok(Self { path: path.to_owned(), text, keys, _lock: lock })
    }

    /// Its keys, in the file's order.
    #[must_use]
    pub fn keys(&self) -> &[KeyLine] {
        &self.keys
    }

    /// Adds a key and writes the file. A new file gets the group `group`, if it is given.
    ///
    /// # Errors
    /// If the name is taken or the file can't be written.
    pub fn add(mut self, key: &KeyLine, group: Option<u32>) -> Result<(), KeysFileError> {
        if self.keys.iter().any(|known| known.name == key.name) {
            return Err(KeysFileError::Taken(key.name.clone()));
        }
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push('\n');
        }
        self.text.push_str(&format!("{key}\n"));
        self.save(group)
    }

    /// Removes the key named `name` and writes the file.
    ///
    /// # Errors
    /// If there is none or the file can't be written.
    pub fn remove(mut self, name: &str) -> Result<(), KeysFileError> {
        if !self.keys.iter().any(|key| key.name == name) {
            let known: Vec<&str> = self.keys.iter().map(|key| key.name.as_str()).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(KeysFileError::Unknown { name: name.to_owned(), known });
        }
        let is_it = |line: &str| holds_key(line) && line.split_whitespace().next() == Some(name);
        self.text = self.text.split_inclusive('\n').filter(|line| !is_it(line)).collect();
        self.save(None)
    }

    fn save(&self, group: Option<u32>) -> Result<(), KeysFileError> {
        debug_assert!(parse(&self.text).is_ok(), "what is written must load");
        replace_file(&self.path, self.text.as_bytes(), FILE_MODE, group).map_err(|source| {
            KeysFileError::System { action: "write", path: self.path.clone(), source }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::{Key, Scope};
    use super::super::limits::Limits;
    use super::*;

    fn key(name: &str, fill: u8) -> KeyLine {
        KeyLine::new(name, Scope::Admin, Limits::default(), &Key::new([fill; 32])).unwrap()
    }

    #[test]
    fn comments_and_other_keys_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let (a, b) = (key("a", 1), key("a.b", 2));
        std::fs::write(&path, format!("# mine\n{a}\n# a comment")).unwrap();
        KeysFile::open(&path).unwrap().add(&b, None).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("# mine\n{a}\n# a comment\n{b}\n"));
        KeysFile::open(&path).unwrap().remove("a").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("# mine\n# a comment\n{b}\n"));
    }

    #[test]
    fn names_are_one_keys_only_and_must_be_there_to_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let said = |done: Result<(), KeysFileError>| done.unwrap_err().to_string();
        let gone = said(KeysFile::open(&path).unwrap().remove("a"));
        assert!(gone.contains("\"a\"") && gone.contains("none"), "{gone}");
        KeysFile::open(&path).unwrap().add(&key("a", 1), None).unwrap();
        let taken = said(KeysFile::open(&path).unwrap().add(&key("a", 2), None));
        assert!(taken.contains("already"), "{taken}");
        assert_eq!(KeysFile::open(&path).unwrap().keys(), [key("a", 1)]);
    }

    #[test]
    fn a_file_with_bad_lines_is_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, "x\ny\n").unwrap();
        let said = KeysFile::open(&path).unwrap_err().to_string();
        assert!(said.contains("keys:1: ") && said.contains("keys:2: "), "{said}");
    }
}
