//! The helper process itself: waits for orders and forks.

use std::fs;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::prctl;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::ForkResult;

use super::pipe::{self, Pipe};

/// The helper's end of the control socket.
#[derive(Debug)]
pub struct Control(UnixStream);

impl Control {
    /// Makes this process, which [`super::Helper::start`] started, the helper: it keeps the control
    /// socket (its standard input) and no other descriptor, ends with its parent, gains no
    /// privileges, is not ended by the signals that stop the daemon (the whole control group or
    /// terminal gets those), and leaves no zombies.
    ///
    /// # Errors
    /// If standard input is no socket, or the system refuses something.
    pub fn adopt() -> io::Result<Self> {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        prctl::set_no_new_privs()?;
        for signal in [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGUSR1,
            Signal::SIGUSR2,
            Signal::SIGPIPE,
            Signal::SIGCHLD,
        ] {
            let action = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
            // SAFETY: ignores the signal; no handler runs.
            unsafe { sigaction(signal, &action) }?;
        }
        // SAFETY: standard input is this process's, and nothing else of it uses that.
        let control = UnixStream::from(unsafe { OwnedFd::from_raw_fd(0) });
        control.peer_addr()?;
        close_others()?;
        Ok(Self(control))
    }

    /// The next order, with the pipe to the daemon; `None` when the daemon has gone.
    ///
    /// # Errors
    /// If the socket fails.
    pub fn order(&mut self) -> io::Result<Option<(u8, Pipe)>> {
        let mut kind = [0];
        loop {
            match pipe::take(&self.0, &mut kind)? {
                (0, _) => return Ok(None),
                (_, Some(descriptor)) => return Ok(Some((kind[0], Pipe::of(descriptor)))),
                // The descriptor was lost for want of room for it.
                (_, None) => {}
            }
        }
    }
}

/// Closes what is neither the control socket nor standard output and error.
fn close_others() -> io::Result<()> {
    let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > 2) {
        // That of the folder is closed already.
        let _ = nix::unistd::close(descriptor);
    }
    Ok(())
}

/// Which process this is after [`fork`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// The one that forked.
    Parent,
    /// The new one.
    Child,
}

/// Forks this process. It must have one thread only, as the helper and its workers do: of several
/// threads, the child has one, and what the others held stays held.
///
/// # Errors
/// If the system gives no process.
pub fn fork() -> io::Result<Forked> {
    // SAFETY: the process has one thread (above), so the child finds everything as it was.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { .. } => Ok(Forked::Parent),
        ForkResult::Child => Ok(Forked::Child),
    }
}

/// Ends this process at once, as a forked one should: nothing of what it was forked from is run or
/// written at its end.
pub fn leave() -> ! {
    // SAFETY: ends the process; nothing runs after it.
    unsafe { nix::libc::_exit(0) }
}
