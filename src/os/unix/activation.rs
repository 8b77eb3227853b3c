//! Sockets that the service manager opened and passed on (`sd_listen_fds(3)`).
//!
//! Not by the crate `listenfd` (1.0): it drops the names, takes sockets without LISTEN_PID and sockets
//! that do not listen, and removes variables from the environment, which is unsound beside threads.
#![expect(
    unsafe_code,
    reason = "descriptors come as numbers, so that owning them is a promise about the process"
)]

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike as _, SockaddrStorage, getsockname, getsockopt, sockopt,
};

use super::super::listen::{ActivationError, Listener};

/// The first descriptor that a service manager passes.
const FIRST: RawFd = 3;

/// More sockets than any unit of ours passes; a larger number is a mistake.
const MOST: i32 = 64;

/// The sockets that the service manager passed to this process with their names (`unknown` where
/// there is none); none if it passed none. Descriptors are handed out once: a second call returns
/// none. Must be called within the tokio runtime.
///
/// # Errors
/// If the variables are malformed, or a socket is not a listening stream socket of a known family.
pub fn activated_listeners(
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Vec<(String, Listener)>, ActivationError> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let names = announced(lookup, std::process::id())?;
    if names.is_empty() || TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let fds = (FIRST..).zip(names);
    fds.map(|(fd, name)| match adopt(fd) {
        Ok(listener) => Ok((name, listener)),
        Err(reason) => Err(ActivationError::Socket { name, fd, reason }),
    })
    .collect()
}

/// The names of the sockets announced to process `pid`, in order.
fn announced(
    lookup: impl Fn(&str) -> Option<String>,
    pid: u32,
) -> Result<Vec<String>, ActivationError> {
    let (Some(for_pid), Some(count)) = (lookup("LISTEN_PID"), lookup("LISTEN_FDS")) else {
        return Ok(Vec::new());
    };
    // Variables meant for another process are inherited by accident and mean nothing here.
    match for_pid.parse::<u32>() {
        Ok(for_pid) if for_pid == pid => {}
        Ok(_) => return Ok(Vec::new()),
        Err(_) => {
            return Err(ActivationError::Variable { name: "LISTEN_PID", value: for_pid });
        }
    }
    let number = match count.parse::<i32>() {
        Ok(number) if (0..=MOST).contains(&number) => usize::try_from(number).unwrap_or_default(),
        _ => {
            return Err(ActivationError::Variable { name: "LISTEN_FDS", value: count });
        }
    };
    let given = lookup("LISTEN_FDNAMES").unwrap_or_default();
    let mut names: Vec<String> = given
        .split(':')
        .map(|name| match name {
            "" => "unknown".to_owned(),
            name => name.to_owned(),
        })
        .collect();
    names.resize(number, "unknown".to_owned());
    Ok(names)
}

fn adopt(fd: RawFd) -> Result<Listener, String> {
    // An unused number must not become an owned descriptor, so it is checked first.
    // SAFETY: the borrow lasts for this call only; a number that is not open gives EBADF.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    fcntl(borrowed, FcntlArg::F_GETFD).map_err(|errno| format!("not open: {errno}"))?;
    // SAFETY: the service manager opened this descriptor for this process (LISTEN_PID is ours),
    // nothing else here knows its number, and the caller hands each number out once.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    listener_from(owned).map_err(|error| error.to_string())
}

fn listener_from(fd: OwnedFd) -> io::Result<Listener> {
    fcntl(&fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    let flags = OFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GETFL)?);
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    if getsockopt(&fd, sockopt::SockType)? != SockType::Stream {
        return Err(io::Error::other("not a stream socket"));
    }
    if !getsockopt(&fd, sockopt::AcceptConn)? {
        return Err(io::Error::other("not listening (Accept=yes is not supported)"));
    }
    let address: SockaddrStorage = getsockname(std::os::fd::AsRawFd::as_raw_fd(&fd))?;
    match address.family() {
        Some(AddressFamily::Unix) => {
            tokio::net::UnixListener::from_std(UnixListener::from(fd)).map(Listener::Unix)
        }
        Some(AddressFamily::Inet | AddressFamily::Inet6) => {
            tokio::net::TcpListener::from_std(fd.into()).map(Listener::Tcp)
        }
        _ => Err(io::Error::other("neither TCP nor a Unix socket")),
    }
}

#[cfg(test)]
#[path = "activation_tests.rs"]
mod tests;
