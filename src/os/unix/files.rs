//! What the file system lets a user do.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The first part of `path` that user `uid` in the groups `gids` can't pass through or, at its end,
/// read; `None` if it can. By modes only; access lists are not looked at.
#[must_use]
pub fn barrier(path: &Path, uid: u32, gids: &[u32]) -> Option<PathBuf> {
    if uid == 0 {
        return None;
    }
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut parts: Vec<&Path> = path.ancestors().collect();
    parts.reverse();
    let keeps_out = |part: &&Path| {
        let wanted = if *part == path.as_path() { 4 } else { 1 };
        std::fs::metadata(part).map_or(true, |metadata| !may(&metadata, wanted, uid, gids))
    };
    parts.into_iter().find(keeps_out).map(Path::to_owned)
}

/// Whether the mode has the bit `wanted` (4 to read, 1 to pass through) for the user.
fn may(metadata: &Metadata, wanted: u32, uid: u32, gids: &[u32]) -> bool {
    let shift = if metadata.uid() == uid {
        6
    } else if gids.contains(&metadata.gid()) {
        3
    } else {
        0
    };
    metadata.mode() >> shift & wanted != 0
}

/// Bytes that can still be written where `path`, or the nearest folder above that is there, lies.
#[must_use]
pub fn free_disk(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|path| path.exists())?;
    let facts = nix::sys::statvfs::statvfs(there).ok()?;
    Some(facts.blocks_available() * facts.fragment_size())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_first_part_that_keeps_a_user_out_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let inner = folder.path().join("models");
        fs::create_dir(&inner).unwrap();
        let file = inner.join("model.onnx");
        fs::write(&file, "x").unwrap();
        let set =
            |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        let (stranger, group) = (54_321, fs::metadata(&file).unwrap().gid());
        set(&inner, 0o755);
        set(&file, 0o640);
        assert_eq!(barrier(&file, stranger, &[]), Some(file.canonicalize().unwrap()));
        assert_eq!(barrier(&file, stranger, &[group]), None);
        set(&inner, 0o700);
        assert_eq!(barrier(&file, stranger, &[group]), Some(inner.canonicalize().unwrap()));
        assert_eq!(barrier(&file, 0, &[]), None);
    }

    #[test]
    fn the_disk_of_a_folder_to_be_made_is_that_of_the_one_above() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_disk(&folder.path().join("a/b")).is_some_and(|bytes| bytes > 0));
    }
}
