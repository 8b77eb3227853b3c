//! Signals that steer the daemon. SIGPIPE needs nothing here: Rust's runtime ignores it from the
//! start, so that a client that goes away is an error of one write.

use std::io;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

use super::super::types::Signal;

/// The process's handlers. From their making on, these signals no longer end the process.
#[derive(Debug)]
pub struct Signals {
    terminate: Stream,
    interrupt: Stream,
    hangup: Stream,
}

impl Signals {
    /// Installs the handlers. Must be called within the tokio runtime.
    ///
    /// # Errors
    /// If the system refuses a handler.
    pub fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next signal. Cancel-safe.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            Some(()) = self.terminate.recv() => Signal::Terminate,
            Some(()) = self.interrupt.recv() => Signal::Interrupt,
            Some(()) = self.hangup.recv() => Signal::Hangup,
            // The streams end only with the runtime, which this future does not outlive.
            else => std::future::pending().await,
        }
    }

    /// Waits for SIGTERM or SIGINT. Cancel-safe.
    pub async fn stop(&mut self) -> Signal {
        loop {
            match self.next().await {
                Signal::Hangup => {}
                stop => return stop,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal as Raised, raise};

    #[tokio::test]
    async fn signals_arrive_instead_of_ending_the_process() {
        let mut signals = Signals::install().unwrap();
        for (raised, expected) in [
            (Raised::SIGHUP, Signal::Hangup),
            (Raised::SIGTERM, Signal::Terminate),
            (Raised::SIGINT, Signal::Interrupt),
        ] {
            raise(raised).unwrap();
            assert_eq!(signals.next().await, expected);
        }
        raise(Raised::SIGHUP).unwrap();
        raise(Raised::SIGTERM).unwrap();
        assert_eq!(signals.stop().await, Signal::Terminate);
    }
}
