//! Windows: TCP and Ctrl-C. There are no Unix sockets, no service manager that speaks systemd's
//! protocols, and no users by number.

mod machine;
mod private;
mod replace;
mod signals;
mod socket;

use std::fs::Metadata;
use std::io;
use std::time::Duration;

pub use machine::{cores, spare_memory};
pub use private::{Secrecy, check_folder, create_private, open_private, private_folder, too_open};
pub use replace::{FolderLock, append_private, replace_file};
pub use signals::Signals;
pub use socket::{SocketFile, UnixListener, UnixStream, bind_unix, path_of};

use super::confine::{ConfineError, Profile};
use super::listen::{ActivationError, Listener};
use super::types::{Peer, State};

/// There is no limit of open files that would matter.
///
/// # Errors
/// Never.
pub fn room_for_connections() -> io::Result<usize> {
    Ok(usize::MAX)
}

/// Bytes of address space that the process may take: there is no such limit.
#[must_use]
pub fn address_space() -> Option<u64> {
    None
}

/// Does nothing: the system raises threads that wait often by itself.
pub fn lower_priority(_steps: i32) {}

/// Standard error.
///
/// # Errors
/// Never.
pub fn take_stderr() -> io::Result<io::Stderr> {
    Ok(io::stderr())
}

/// Does nothing: what unwinds stacks is a part of the system.
pub fn prepare_unwinding() {}

/// Writes `text` to standard error, however long that takes.
pub fn write_stderr(text: &str, _limit: Duration) {
    use io::Write as _;
    // There is nowhere left to report a failure.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Does nothing: Windows has no service manager of this protocol.
#[derive(Debug)]
pub struct Notifier;

impl Notifier {
    /// Reads nothing.
    ///
    /// # Errors
    /// Never.
    pub fn from_environment(_lookup: impl Fn(&str) -> Option<String>) -> io::Result<Self> {
        Ok(Self)
    }

    /// No service manager waits.
    #[must_use]
    pub fn watchdog(&self) -> Option<Duration> {
        None
    }

    /// Does nothing.
    ///
    /// # Errors
    /// Never.
    pub fn send(&self, _states: &[State]) -> io::Result<()> {
        Ok(())
    }
}

/// No sockets are passed.
///
/// # Errors
/// Never.
pub fn activated_listeners(
    _lookup: impl Fn(&str) -> Option<String>,
) -> Result<Vec<(String, Listener)>, ActivationError> {
    Ok(Vec::new())
}

/// There are no filters on system calls.
///
/// # Errors
/// Always.
pub fn confine(_profile: Profile) -> Result<(), ConfineError> {
    Err(ConfineError::Unsupported("it is Windows".to_owned()))
}

/// A number that no user has.
#[must_use]
pub fn effective_uid() -> u32 {
    u32::MAX
}

/// Users have no numbers.
#[must_use]
pub fn user_id(_name: &str) -> Option<u32> {
    None
}

/// Groups have no numbers.
#[must_use]
pub fn group_id(_name: &str) -> Option<u32> {
    None
}

/// None: no socket has a peer.
#[must_use]
pub fn groups_of(_peer: Peer) -> Vec<u32> {
    Vec::new()
}

/// This machine's name.
#[must_use]
pub fn host_name() -> Option<String> {
    std::env::var("COMPUTERNAME").ok().filter(|name| !name.is_empty())
}

/// Owners have no numbers.
#[must_use]
pub fn owner(_metadata: &Metadata) -> Option<u32> {
    None
}

/// Who may read what is ruled by lists: not known, so nothing is named.
#[must_use]
pub fn barrier(_path: &std::path::Path, _uid: u32, _gids: &[u32]) -> Option<std::path::PathBuf> {
    None
}

/// Not asked for here.
#[must_use]
pub fn resident_memory() -> Option<u64> {
    None
}

/// Not asked for here.
#[must_use]
pub fn free_disk(_path: &std::path::Path) -> Option<u64> {
    None
}
