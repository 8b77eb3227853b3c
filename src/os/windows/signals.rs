//! The console's events that steer the daemon.

use std::io;

use tokio::signal::windows::{
    CtrlBreak, CtrlC, CtrlClose, CtrlShutdown, ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown,
};

use super::super::types::Signal;

/// The process's handlers. From their making on, these events no longer end the process at once.
#[derive(Debug)]
pub struct Signals {
    interrupt: CtrlC,
    stop: CtrlBreak,
    close: CtrlClose,
    shutdown: CtrlShutdown,
}

impl Signals {
    /// Installs the handlers. Must be called within the tokio runtime.
    ///
    /// # Errors
    /// If the system refuses a handler.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            interrupt: ctrl_c()?,
            stop: ctrl_break()?,
            close: ctrl_close()?,
            shutdown: ctrl_shutdown()?,
        })
    }

    /// Waits for the next event. Cancel-safe.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            Some(()) = self.interrupt.recv() => Signal::Interrupt,
            Some(()) = self.stop.recv() => Signal::Terminate,
            Some(()) = self.close.recv() => Signal::Terminate,
            Some(()) = self.shutdown.recv() => Signal::Terminate,
            // The streams end only with the runtime, which this future does not outlive.
            else => std::future::pending().await,
        }
    }

    /// Waits for an event that ends the daemon, which each does. Cancel-safe.
    pub async fn stop(&mut self) -> Signal {
        self.next().await
    }
}
