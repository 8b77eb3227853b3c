//! What the operating system gives: sockets, signals, service notifications, cores,
//! memory.

mod activation;
mod cores;
mod listen;
mod memory;
mod notify;
mod peer;
mod replace;
mod signals;
mod unix;

pub use activation::{ActivationError, activated_listeners};
pub use cores::physical_cores;
pub use listen::{BindError, Listener, bind_tcp};
pub use memory::spare_memory;
pub use notify::{Notifier, State};
pub use peer::{Peer, group_id, groups_of, host_name, user_id};
pub use replace::{FolderLock, replace_file};
pub use signals::{Signal, Signals};
pub use unix::{SocketFile, bind_unix};

/// The user that this process acts as.
#[must_use]
pub fn effective_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}
