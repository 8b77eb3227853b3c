//! Types that the modules of both systems use.

use std::time::Duration;

/// The process that connected, as the kernel knew it then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its number; it may have ended since.
    pub pid: Option<i32>,
}

/// Physical cores that the process may run on, at most what its cgroup's quota is worth; at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cores {
    /// All of them.
    pub all: usize,
    /// Those that a model's work is best split over: without a few slow ones.
    pub used: usize,
}

/// A signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM, and on Windows Ctrl-Break, a closed console or the system's end: stop, letting
    /// answers in progress end.
    Terminate,
    /// SIGINT or Ctrl-C: the same from a terminal.
    Interrupt,
    /// SIGHUP: read the settings again. Not on Windows.
    Hangup,
}

impl Signal {
    /// The signal's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Terminate if cfg!(windows) => "asked to end",
            Self::Terminate => "SIGTERM",
            Self::Interrupt if cfg!(windows) => "Ctrl-C",
            Self::Interrupt => "SIGINT",
            Self::Hangup => "SIGHUP",
        }
    }
}

/// One message to the service manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Requests can be served; also the end of a reload.
    Ready,
    /// The settings are being read again.
    Reloading,
    /// The daemon is going down.
    Stopping,
    /// One line for `systemctl status`.
    Status(String),
    /// The start or stop takes this much longer from now.
    ExtendTimeout(Duration),
    /// The daemon is alive.
    Watchdog,
}
