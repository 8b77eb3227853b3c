//! The operating system: sockets, signals, service notifications, cores, memory.
//!
//! Each system has a module with the same names. Functions for what a system lacks return an error or do
//! nothing.

mod confine;
mod listen;
mod threads;
mod types;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

pub use confine::{ConfineError, Profile};
pub use listen::{ActivationError, BindError, Listener, bind_tcp};
pub use system::{
    FolderLock, Notifier, Secrecy, Signals, SocketFile, UnixListener, UnixStream,
    activated_listeners, address_space, append_private, barrier, bind_unix, check_folder, confine,
    cores, create_private, effective_uid, free_disk, group_id, groups_of, host_name,
    lower_priority, open_private, owner, prepare_unwinding, private_folder, replace_file,
    resident_memory, room_for_connections, spare_memory, take_stderr, too_open, user_id,
    write_stderr,
};
pub use threads::probe_threads;
pub use types::{Cores, Peer, Signal, State};
#[cfg(unix)]
pub use unix::helper;
