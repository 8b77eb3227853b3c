//! The journal where there is none.

use std::io;

use ::log::Log;

/// Standard error leads elsewhere.
pub(super) fn connected_to_journal() -> bool {
    false
}

/// Refuses.
///
/// # Errors
/// Always.
pub(super) fn journal() -> io::Result<Box<dyn Log>> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no journal"))
}
