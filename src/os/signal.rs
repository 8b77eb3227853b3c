//! What steers the daemon from outside.

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
