//! Warns when a model file is written to while it is served: the weights are mapped, so writes change the
//! answers. Files that replace it by a rename are harmless, since the mapping keeps the old file.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio::task::AbortHandle;

/// How often the files are checked.
const INTERVAL: Duration = Duration::from_secs(5);

/// Which file it is, and what changes when it is written to.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    file: (u64, u64),
    bytes: u64,
    written: Option<SystemTime>,
}

impl From<&Metadata> for Seen {
    fn from(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            bytes: metadata.len(),
            written: metadata.modified().ok(),
        }
    }
}

/// Watches the files in `folder` from now on, until that is aborted.
pub(super) fn watch(folder: &Path) -> AbortHandle {
    let mut files = files_in(folder);
    let watching = tokio::spawn(async move {
        let mut tick = tokio::time::interval(INTERVAL);
        while !files.is_empty() {
            tick.tick().await;
            for path in take_written(&mut files) {
                log::error!(
                    "{} was written to while it is in use; answers may be wrong until a restart",
                    path.display()
                );
            }
        }
    });
    watching.abort_handle()
}

fn files_in(folder: &Path) -> HashMap<PathBuf, Seen> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let seen = |path: PathBuf| {
        let metadata = std::fs::metadata(&path).ok().filter(Metadata::is_file)?;
        Some((path, Seen::from(&metadata)))
    };
    paths.filter_map(seen).collect()
}

/// Removes and returns the files that were written to. Files that are gone or were replaced are also
/// removed, as their mappings no longer change.
fn take_written(files: &mut HashMap<PathBuf, Seen>) -> Vec<PathBuf> {
    let mut written = Vec::new();
    files.retain(|path, seen| {
        let now = std::fs::metadata(path).map(|metadata| Seen::from(&metadata));
        let same_file = now.as_ref().is_ok_and(|now| now.file == seen.file);
        if same_file && now.is_ok_and(|now| now != *seen) {
            written.push(path.clone());
            return false;
        }
        same_file
    });
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_is_seen_once_and_renaming_and_removing_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["written", "cut", "renamed", "removed", "left"] {
            std::fs::write(path(name), "weights").unwrap();
        }
        let mut files = files_in(folder.path());
        assert_eq!((files.len(), take_written(&mut files)), (5, vec![]));
        let file = std::fs::File::options().write(true).open(path("written")).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        std::fs::File::options().write(true).open(path("cut")).unwrap().set_len(1).unwrap();
        std::fs::write(path("new"), "other weights").unwrap();
        std::fs::rename(path("new"), path("renamed")).unwrap();
        std::fs::remove_file(path("removed")).unwrap();
        let mut found = take_written(&mut files);
        found.sort();
        assert_eq!(found, [path("cut"), path("written")]);
        assert_eq!((files.len(), take_written(&mut files)), (1, vec![]));
    }
}
