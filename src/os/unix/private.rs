//! Files and folders that only their owner may read, whatever the umask, and checks of the modes of files
//! with secrets.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::Path;

use nix::libc::{O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK};

/// Who may do what with a file that holds a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrecy {
    /// Nobody but its owner may write it: what it says lets callers in.
    Trusted,
    /// As that, and others than its owner and group may not read it: a private key.
    Private,
}

/// Why a file with this metadata can't be used for what `secrecy` asks; `None` if it can. Pipes and
/// devices are not checked.
#[must_use]
pub fn too_open(found: &Metadata, secrecy: Secrecy) -> Option<String> {
    if !found.is_file() {
        return None;
    }
    let mode = found.mode() & 0o7777;
    let refused = |what: &str, accepted: &str| {
        Some(format!("{what} (its mode is {mode:04o}); expected {accepted}"))
    };
    match secrecy {
        _ if mode & 0o002 != 0 => refused("everyone may write it", "a mode such as 0640 or 0600"),
        _ if mode & 0o020 != 0 => refused("its group may write it", "a mode such as 0640 or 0600"),
        Secrecy::Private if mode & 0o004 != 0 => {
            refused("everyone may read it", "a mode such as 0600, or 0640 for a group")
        }
        Secrecy::Private | Secrecy::Trusted => None,
    }
}

/// Makes `path` a folder that nobody but this user may enter, with those above it that are missing.
/// One that is there already is tightened.
///
/// # Errors
/// If it is a link, belongs to another user, or the system refuses.
pub fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let folder = open_folder(path)?;
    tighten(&folder, 0o700)
}

/// Checks that nobody else may write into the folder at `path`, which is tightened if it can be.
///
/// # Errors
/// If it is not there, is a link, or others may write into it.
pub fn check_folder(path: &Path) -> io::Result<()> {
    let folder = open_folder(path)?;
    let found = folder.metadata()?;
    match tighten(&folder, 0o700) {
        Err(error) if found.mode() & 0o022 != 0 || !is_ours(&found) => Err(error),
        _ => Ok(()),
    }
}

fn open_folder(path: &Path) -> io::Result<File> {
    if fs::symlink_metadata(path)?.is_symlink() {
        return Err(refused("it is a link; expected a folder"));
    }
    OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_DIRECTORY).open(path)
}

/// Makes a file at `path`, where none may be yet, that only this user may read and write.
///
/// # Errors
/// If something is there, or the system refuses.
pub fn create_private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // Links are not followed: with `create_new` the system makes the file itself or refuses.
    let file = options.write(true).create_new(true).mode(0o600).open(path)?;
    tighten(&file, 0o600)?;
    Ok(file)
}

/// Opens a file of ours to read it, and tightens it if others may read or write it.
///
/// # Errors
/// If it is a link, no file, another user's, or open to others and can't be tightened.
pub fn open_private(path: &Path) -> io::Result<File> {
    // A pipe that nobody writes would block.
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(refused("it is no plain file"));
    }
    match tighten(&file, 0o600) {
        // On a read-only disk the mode stays, which is harmless.
        Err(error) if found.mode() & 0o022 != 0 || !is_ours(&found) => Err(error),
        _ => Ok(file),
    }
}

/// Takes from group and others what they may do with a file of ours.
pub(super) fn tighten(file: &File, mode: u32) -> io::Result<()> {
    let found = file.metadata()?;
    if !is_ours(&found) {
        let (owner, user) = (found.uid(), super::peer::effective_uid());
        return Err(refused(&format!("it belongs to user {owner}; expected user {user}")));
    }
    if found.mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn is_ours(found: &Metadata) -> bool {
    found.uid() == super::peer::effective_uid()
}

fn refused(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, reason.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn folders_and_files_are_made_private_and_looser_ones_are_tightened() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("a/b");
        private_folder(&folder).unwrap();
        assert_eq!((mode(&folder), mode(&root.path().join("a"))), (0o700, 0o700));
        set(&folder, 0o777);
        private_folder(&folder).unwrap();
        assert_eq!(mode(&folder), 0o700);
        set(&folder, 0o755);
        check_folder(&folder).unwrap();
        assert_eq!(mode(&folder), 0o700);
        let file = folder.join("file");
        create_private(&file).unwrap().write_all(b"x").unwrap();
        assert_eq!(mode(&file), 0o600);
        set(&file, 0o666);
        open_private(&file).unwrap();
        assert_eq!(mode(&file), 0o600);
    }

    #[test]
    fn links_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir(at("there")).unwrap();
        fs::write(at("there/file"), "x").unwrap();
        symlink(at("there"), at("folder")).unwrap();
        symlink(at("there/file"), at("file")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        for refused in [private_folder(&at("folder")), check_folder(&at("folder"))] {
            assert!(refused.unwrap_err().to_string().contains("link"));
        }
        assert!(open_private(&at("file")).is_err());
        assert!(create_private(&at("file")).is_err());
        assert!(create_private(&at("dangling")).is_err());
        assert!(!at("nowhere").exists());
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(open_private(&at("pipe")).unwrap_err().to_string().contains("plain"));
    }

    #[test]
    fn what_belongs_to_another_user_is_refused() {
        if super::super::peer::effective_uid() != 0 {
            eprintln!("skipped: only root can give files away");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let (folder, file) = (root.path().join("folder"), root.path().join("file"));
        fs::create_dir(&folder).unwrap();
        fs::write(&file, "x").unwrap();
        chown(&folder, Some(12), None).unwrap();
        chown(&file, Some(12), None).unwrap();
        for refused in
            [private_folder(&folder), check_folder(&folder), open_private(&file).map(drop)]
        {
            assert!(refused.unwrap_err().to_string().contains("user 12"));
        }
    }

    #[test]
    fn secrets_are_refused_by_the_mode_of_their_file() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        fs::write(&path, "x").unwrap();
        for (mode, trusted, private) in [
            (0o400, true, true),
            (0o600, true, true),
            (0o440, true, true),
            (0o640, true, true),
            (0o644, true, false),
            (0o604, true, false),
            (0o660, false, false),
            (0o664, false, false),
            (0o602, false, false),
            (0o666, false, false),
        ] {
            set(&path, mode);
            let found = fs::metadata(&path).unwrap();
            for (secrecy, accepted) in [(Secrecy::Trusted, trusted), (Secrecy::Private, private)] {
                let refused = too_open(&found, secrecy);
                assert_eq!(refused.is_none(), accepted, "{mode:o} {secrecy:?}: {refused:?}");
                let says =
                    |text: String| text.contains(&format!("{mode:04o}")) && text.contains("0600");
                assert!(refused.is_none_or(says));
            }
        }
    }
}
