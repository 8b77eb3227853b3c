//! Atomic replacement of files.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::libc::O_NOFOLLOW;

use super::private::tighten;

/// A lock that serialises processes that read, change and replace a file.
#[derive(Debug)]
pub struct FolderLock(#[expect(dead_code, reason = "held for its drop")] Flock<File>);

impl FolderLock {
    /// Waits for the lock on the folder of the file at `path`.
    ///
    /// # Errors
    /// If the folder can't be opened or locked.
    pub fn around(path: &Path) -> io::Result<Self> {
        let folder = File::open(folder_of(path))?;
        let locked = Flock::lock(folder, FlockArg::LockExclusive);
        Ok(Self(locked.map_err(|(_, errno)| io::Error::from(errno))?))
    }
}

/// Puts a file with `contents` and `mode` at `path`. Readers see the old file or the
/// new one. An old file's owner and group stay; a new file has the group `group`, if it is given.
///
/// # Errors
/// If the system refuses anything; the old file is then untouched.
pub fn replace_file(path: &Path, contents: &[u8], mode: u32, group: Option<u32>) -> io::Result<()> {
    // A link stays a link to the file that it names.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let owner = match fs::metadata(&path) {
        Ok(old) => (Some(old.uid()), Some(old.gid())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (None, group),
        Err(error) => return Err(error),
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    let written =
        write_new(&temporary, contents, mode, owner).and_then(|()| fs::rename(&temporary, &path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written?;
    File::open(folder_of(&path))?.sync_all()
}

/// Adds `bytes` to the file at `path`, in one write, and makes it and the folders above it if they are
/// not there. Nobody but its owner may read it, even if others could before.
///
/// # Errors
/// If the system refuses anything.
pub fn append_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder_of(path))?;
    let mut options = OpenOptions::new();
    let options = options.append(true).create(true).mode(0o600).custom_flags(O_NOFOLLOW);
    let mut file = options.open(path)?;
    tighten(&file, 0o600)?;
    file.write_all(bytes)
}

fn write_new(
    path: &Path,
    contents: &[u8],
    mode: u32,
    (uid, gid): (Option<u32>, Option<u32>),
) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(contents)?;
    let made = file.metadata()?;
    let differs =
        uid.is_some_and(|uid| uid != made.uid()) || gid.is_some_and(|gid| gid != made.gid());
    if differs {
        fchown(&file, uid, gid)?;
    }
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_and_links_stay_and_the_mode_is_set() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("keys"), folder.path().join("link"));
        replace_file(&path, b"one", 0o640, None).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        std::os::unix::fs::symlink("keys", &link).unwrap();
        // Only root can give files away.
        let root = crate::effective_uid() == 0;
        if root {
            std::os::unix::fs::chown(&path, Some(12), Some(34)).unwrap();
        }
        replace_file(&link, b"two", 0o640, Some(56)).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&path).unwrap(), b"two");
        let found = fs::metadata(&path).unwrap();
        assert_eq!(found.mode() & 0o7777, 0o640);
        if root {
            assert_eq!((found.uid(), found.gid()), (12, 34));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left behind");
    }

    #[test]
    fn what_is_appended_to_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/c");
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        append_private(&path, b"one ").unwrap();
        assert_eq!((mode(&path), mode(&folder.path().join("a"))), (0o600, 0o700));
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        append_private(&path, b"two").unwrap();
        assert_eq!((mode(&path), fs::read(&path).unwrap().as_slice()), (0o600, &b"one two"[..]));
    }

    #[test]
    fn a_failure_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("there");
        fs::create_dir(&path).unwrap();
        assert!(replace_file(&path, b"x", 0o640, None).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
