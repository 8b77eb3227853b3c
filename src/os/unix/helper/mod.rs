//! Processes apart: a small helper process that is started early and forks a process of its own for
//! each piece of work that may recurse, loop or allocate without bound. Such work ends with its
//! process; nothing of it can reach the daemon.
//!
//! ```text
//! daemon (Helper) --control socket--> helper (Control) --fork--> workers (Pipe, confine, begin)
//!    ^----------------- one Pipe for each worker, passed by descriptor ----------------^
//! ```
//!
//! A worker ends when the other end of its pipe is closed, in the middle of its work too, and says
//! why it ends where a limit ends it ([`Ended`]).

#![expect(
    unsafe_code,
    reason = "signal handlers, forks and descriptors that come as numbers are promises about the process"
)]

mod confine;
mod pipe;
mod serve;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

pub use confine::{Limits, begin, confine, end, follow, heap_bytes};
pub use pipe::{Ended, Pipe};
pub use serve::{Control, Forked, fork, leave};

/// The helper process, as the daemon sees it. Dropping it ends the process.
#[derive(Debug)]
pub struct Helper {
    control: UnixStream,
    child: Child,
}

impl Helper {
    /// Starts this program again with the one argument `subcommand`, which is to run
    /// [`Control::adopt`]. Its standard input is the control socket; it gets nothing else of this
    /// process: no environment, no output, no descriptors.
    ///
    /// It is ended by the system with the thread that calls this, so that should be the main one.
    ///
    /// # Errors
    /// If the system gives no socket or no process.
    pub fn start(subcommand: &str) -> io::Result<Self> {
        let (control, theirs) = UnixStream::pair()?;
        control.set_nonblocking(true)?;
        let child = Command::new("/proc/self/exe")
            .arg0("phi4d")
            .arg(subcommand)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { control, child })
    }

    /// Asks the helper for work of `kind` and returns the pipe to whoever does it.
    ///
    /// # Errors
    /// If the helper is gone (`BrokenPipe`), or takes no more (`WouldBlock`).
    pub fn open(&self, kind: u8) -> io::Result<Pipe> {
        let (ours, theirs) = Pipe::pair()?;
        pipe::pass(&self.control, &[kind], &theirs)?;
        Ok(ours)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests;
