//! Files that are replaced whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

/// Held while a file is read, changed and replaced, so that two who do so take turns.
#[derive(Debug)]
pub struct FolderLock(#[expect(dead_code, reason = "held for its drop")] File);

impl FolderLock {
    /// Waits for its turn with the file at `path`. Folders can't be locked here: an empty file beside
    /// it, whose name ends in `.lock`, is, and stays.
    ///
    /// # Errors
    /// If that can't be made or locked.
    pub fn around(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(beside(path, ".lock"))?;
        file.lock()?;
        Ok(Self(file))
    }
}

/// Adds `bytes` to the file at `path`, in one write, and makes it and the folders above it if they are
/// not there. Who may read it is as the folder's access list says.
///
/// # Errors
/// If the system refuses anything.
pub fn append_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new().append(true).create(true).open(path)?.write_all(bytes)
}

/// Puts a file with `contents` at `path`. Whoever reads there sees the old file or the new one. Who
/// may read it is as the folder's access list says: modes and groups are not known here.
///
/// # Errors
/// If the system refuses anything; the old file is then untouched.
pub fn replace_file(
    path: &Path,
    contents: &[u8],
    _mode: u32,
    _group: Option<u32>,
) -> io::Result<()> {
    // A link stays a link to the file that it names.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let temporary = beside(&path, &format!(".{}.new", std::process::id()));
    let written = write_new(&temporary, contents).and_then(|()| fs::rename(&temporary, &path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn write_new(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(contents)?;
    file.sync_all()
}

fn beside(path: &Path, suffix: &str) -> std::path::PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        for contents in ["one", "two"] {
            replace_file(&path, contents.as_bytes(), 0o640, None).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), contents);
        }
        fs::create_dir(folder.path().join("there")).unwrap();
        assert!(replace_file(&folder.path().join("there"), b"x", 0o640, None).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn those_who_change_a_file_take_turns() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let first = FolderLock::around(&path).unwrap();
        let other = File::open(beside(&path, ".lock")).unwrap();
        assert!(matches!(other.try_lock(), Err(fs::TryLockError::WouldBlock)));
        drop(first);
        other.try_lock().unwrap();
    }
}
