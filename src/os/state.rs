//! What a service manager is told.

use std::time::Duration;

/// One thing to tell the service manager.
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
