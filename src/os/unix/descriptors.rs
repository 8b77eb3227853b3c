//! How many descriptors the process may have open.

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors for what are not connections: listeners, logs, the runtime's own, files that are read
/// or written at times. At rest there are about a dozen.
const KEPT: u64 = 48;

/// Raises the limit of open descriptors as far as the process may, and tells how many connections
/// fit beside what else is open; at least one.
///
/// # Errors
/// If the system doesn't tell the limit.
pub fn room_for_connections() -> io::Result<usize> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let raised = soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    let limit = if raised { hard } else { soft };
    let room = limit.saturating_sub(KEPT.min(limit / 2)).max(1);
    Ok(usize::try_from(room).unwrap_or(usize::MAX))
}
