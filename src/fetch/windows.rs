//! What differs on Windows: no Unix sockets, and the file system.

use std::fs;
use std::io;
use std::path::Path;

use super::server::Stream;

/// There are no Unix sockets.
///
/// # Errors
/// Always.
pub(super) async fn connect(_path: &Path) -> io::Result<Box<dyn Stream>> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Bytes that can be written on the disk of `folder`.
pub(super) fn free_bytes(folder: &Path) -> io::Result<u64> {
    fs4::available_space(folder)
}

/// Gives `new` the name of `old` and the other way round: in three steps, as the system has no call
/// for it. Cut in between, `old` is gone and `new` is not there yet; both are still on the disk.
pub(super) fn exchange(new: &Path, old: &Path) -> io::Result<()> {
    let mut name = new.file_name().unwrap_or_default().to_owned();
    name.push(".old");
    let aside = new.with_file_name(name);
    fs::rename(old, &aside)?;
    if let Err(error) = fs::rename(new, old) {
        fs::rename(&aside, old)?;
        return Err(error);
    }
    fs::rename(&aside, new)
}

/// The system writes names by itself.
///
/// # Errors
/// Never.
#[expect(clippy::unnecessary_wraps, reason = "where it can be waited for it can fail")]
pub(super) fn sync(_folder: &Path) -> io::Result<()> {
    Ok(())
}
