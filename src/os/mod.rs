//! What the operating system gives: sockets, signals, service notifications.

mod listen;

pub use listen::Listener;
