//! Files that hold prompts or secrets. Access is ruled by lists, which a file takes over from its
//! folder: a user's own folders are that user's alone.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::path::Path;

/// Who may do what with a file that holds a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrecy {
    /// Nobody but its owner may write it.
    Trusted,
    /// As that, and others may not read it.
    Private,
}

/// Metadata does not show the lists, so nothing is refused.
#[must_use]
pub fn too_open(_found: &Metadata, _secrecy: Secrecy) -> Option<String> {
    None
}

/// Makes a folder, with those above it that are missing.
///
/// # Errors
/// If the system refuses.
pub fn private_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

/// Checks that a folder is there.
///
/// # Errors
/// If it is not.
pub fn check_folder(path: &Path) -> io::Result<()> {
    fs::metadata(path).map(drop)
}

/// Makes a file where none may be yet.
///
/// # Errors
/// If something is there, or the system refuses.
pub fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Opens a file to read it.
///
/// # Errors
/// If the system refuses.
pub fn open_private(path: &Path) -> io::Result<File> {
    File::open(path)
}
