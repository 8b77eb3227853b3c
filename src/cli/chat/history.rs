//! The history file: earlier questions, one JSON string a line, the newest last.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use phi4d_os::{append_private, replace_file};

/// The most questions that are kept when a run begins.
pub(super) const MOST_ENTRIES: usize = 1000;

/// A longer question is not kept.
const MOST_BYTES: usize = 16 << 10;

/// The file's place for who has these variables; `None` where there is no home.
pub(super) fn place(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let folder = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = folder("XDG_STATE_HOME")
        .or_else(|| folder("LOCALAPPDATA").filter(|_| cfg!(windows)))
        .or_else(|| folder("HOME").map(|home| home.join(".local/state")))?;
    Some(state.join("phi4d/history"))
}

/// The questions in the file, of which the oldest are dropped if there are too many.
pub(super) fn read(path: &Path) -> io::Result<Vec<String>> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    // Lines that a crash truncated, or that another program wrote, are skipped.
    let lines = text.split(|byte| *byte == b'\n');
    let mut entries: Vec<String> =
        lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
    if entries.len() > MOST_ENTRIES {
        entries.drain(..entries.len() - MOST_ENTRIES);
        let kept: String = entries.iter().map(|entry| line(entry)).collect();
        replace_file(path, kept.as_bytes(), 0o600, None)?;
    }
    Ok(entries)
}

/// Adds a question.
pub(super) fn add(path: &Path, entry: &str) -> io::Result<()> {
    if entry.len() > MOST_BYTES {
        return Ok(());
    }
    append_private(path, line(entry).as_bytes())
}

fn line(entry: &str) -> String {
    format!("{}\n", serde_json::Value::from(entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    // What a whole path is differs between systems.
    #[cfg(unix)]
    #[test]
    fn the_place_is_the_users_state() {
        let with = |pairs: &'static [(&str, &str)]| {
            place(move |name| {
                let pair = pairs.iter().find(|(known, _)| *known == name)?;
                Some(OsString::from(pair.1))
            })
        };
        assert_eq!(with(&[("HOME", "/h")]), Some("/h/.local/state/phi4d/history".into()));
        let both = with(&[("HOME", "/h"), ("XDG_STATE_HOME", "/s")]);
        assert_eq!(both, Some("/s/phi4d/history".into()));
        // Only whole paths count.
        assert_eq!(with(&[("HOME", ""), ("XDG_STATE_HOME", "s")]), None);
    }

    #[test]
    fn questions_come_back_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("phi4d/history");
        assert_eq!(read(&path).unwrap(), [""; 0]);
        add(&path, "two\nlines").unwrap();
        append_private(&path, b"not json\n\xff\n").unwrap();
        add(&path, &"x".repeat(MOST_BYTES + 1)).unwrap();
        add(&path, "\u{1b}[31m").unwrap();
        assert_eq!(read(&path).unwrap(), ["two\nlines", "\u{1b}[31m"]);
        for count in 0..MOST_ENTRIES {
            add(&path, &count.to_string()).unwrap();
        }
        let entries = read(&path).unwrap();
        assert_eq!((entries.len(), entries[0].as_str()), (MOST_ENTRIES, "0"));
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), MOST_ENTRIES);
    }
}
