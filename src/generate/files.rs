//! Files of a model folder, read up to a size that no model's has.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::Path;

use super::error::TextLoadError;

/// The largest tokenizer.json, and other JSON. Published ones have up to 35 MB.
pub(super) const MAX_JSON_BYTES: u64 = 256 << 20;

/// Reads the file at `path`, which may have up to `limit` bytes.
///
/// # Errors
/// If it can't be read or is larger.
pub(super) fn required(path: &Path, limit: u64) -> Result<Vec<u8>, TextLoadError> {
    let failed = |source| TextLoadError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        let reason = format!("it has more than {limit} bytes; accepted are up to {limit}");
        return Err(TextLoadError::Invalid { path: path.to_owned(), reason });
    }
    Ok(bytes)
}

/// As [`required`], `None` if the file is not there.
///
/// # Errors
/// As [`required`].
pub(super) fn read(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, TextLoadError> {
    match required(path, limit) {
        Err(TextLoadError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}
