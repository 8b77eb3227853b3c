//! Linux: Unix sockets, socket activation and notification as systemd has them, signals.

mod activation;
#[cfg(test)]
mod apart;
mod confine;
mod cores;
mod files;
pub mod helper;
mod machine;
mod notify;
mod peer;
mod private;
mod replace;
mod signals;
mod socket;
mod stderr;
mod syscalls;
mod unwinding;

pub use activation::activated_listeners;
pub use confine::confine;
pub use cores::cores;
pub use files::{barrier, free_disk};
pub use machine::{
    address_space, lower_priority, resident_memory, room_for_connections, spare_memory,
};
pub use notify::Notifier;
pub use peer::{effective_uid, group_id, groups_of, host_name, owner, user_id};
pub use private::{Secrecy, check_folder, create_private, open_private, private_folder, too_open};
pub use replace::{FolderLock, append_private, replace_file};
pub use signals::Signals;
pub use socket::{SocketFile, bind_unix, path_of};
pub use stderr::{take_stderr, write_stderr};
pub use tokio::net::{UnixListener, UnixStream};
pub use unwinding::prepare_unwinding;
