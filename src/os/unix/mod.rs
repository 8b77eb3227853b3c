//! Linux: Unix sockets, socket activation and notification as systemd has them, signals.

mod activation;
mod confine;
mod cores;
mod descriptors;
mod files;
pub mod helper;
mod memory;
mod notify;
mod peer;
mod private;
mod replace;
mod signals;
mod socket;
mod stderr;
mod syscalls;
mod unwinding;

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;

pub use activation::activated_listeners;
pub use confine::confine;
pub use cores::physical_cores;
pub use descriptors::room_for_connections;
pub use files::{barrier, free_disk};
pub use memory::{resident_memory, spare_memory};
pub use notify::Notifier;
pub use peer::{group_id, groups_of, host_name, user_id};
pub use private::{Secrecy, check_folder, create_private, open_private, private_folder, too_open};
pub use replace::{FolderLock, append_private, replace_file};
pub use signals::Signals;
pub use socket::{SocketFile, bind_unix, path_of};
pub use stderr::{take_stderr, write_stderr};
pub use tokio::net::{UnixListener, UnixStream};
pub use unwinding::prepare_unwinding;

/// The user that this process acts as.
#[must_use]
pub fn effective_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

/// The user that a file belongs to.
#[must_use]
pub fn owner(metadata: &Metadata) -> Option<u32> {
    Some(metadata.uid())
}
