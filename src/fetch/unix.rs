//! What folders of models want of Linux.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::statvfs::statvfs;

/// Bytes that can be written in the file system of `folder`.
pub(super) fn free_bytes(folder: &Path) -> io::Result<u64> {
    let disk = statvfs(folder)?;
    Ok(disk.blocks_available().saturating_mul(disk.fragment_size()))
}

/// Gives `new` the name of `old` and the other way round, in one step.
pub(super) fn exchange(new: &Path, old: &Path) -> io::Result<()> {
    Ok(renameat2(AT_FDCWD, new, AT_FDCWD, old, RenameFlags::RENAME_EXCHANGE)?)
}

/// Waits till the names in a folder are on the disk.
pub(super) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
