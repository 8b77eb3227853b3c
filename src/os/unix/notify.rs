//! Messages to the service manager (`sd_notify(3)`).
//!
//! Not by the crate `sd-notify` (0.5): it opens a socket for each message, which the daemon's own
//! confinement may refuse; the socket blocks, so that a manager that hangs would stop the watchdog's
//! thread; it knows no abstract names (`@NAME`); and it sends line feeds in a status as they are.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::super::types::State;

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("READY=1"),
            Self::Reloading => {
                f.write_str("RELOADING=1")?;
                // Without the time, notify-reload units take the message for an older one.
                match clock_gettime(ClockId::CLOCK_MONOTONIC) {
                    Ok(now) => {
                        let micros = Duration::from(now).as_micros();
                        write!(f, "\nMONOTONIC_USEC={micros}")
                    }
                    Err(_) => Ok(()),
                }
            }
            Self::Stopping => f.write_str("STOPPING=1"),
            // A line feed would start another assignment.
            Self::Status(text) => write!(f, "STATUS={}", text.replace(['\n', '\r'], " ")),
            Self::ExtendTimeout(time) => write!(f, "EXTEND_TIMEOUT_USEC={}", time.as_micros()),
            Self::Watchdog => f.write_str("WATCHDOG=1"),
        }
    }
}

/// Sends to the service manager; does nothing where there is none.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID.
    ///
    /// # Errors
    /// If NOTIFY_SOCKET is set to what is no Unix socket's address.
    pub fn from_environment(lookup: impl Fn(&str) -> Option<String>) -> io::Result<Self> {
        let socket = match lookup("NOTIFY_SOCKET") {
            Some(name) if !name.is_empty() => {
                let socket = UnixDatagram::unbound()?;
                // A manager that does not read must not hold the daemon up.
                socket.set_nonblocking(true)?;
                Some((socket, address(OsStr::new(&name))?))
            }
            _ => None,
        };
        let own = std::process::id().to_string();
        let for_us = lookup("WATCHDOG_PID").is_none_or(|pid| pid == own);
        let watchdog = lookup("WATCHDOG_USEC")
            .filter(|_| for_us)
            .and_then(|micros| micros.parse().ok())
            .filter(|micros| *micros > 0)
            .map(Duration::from_micros);
        Ok(Self { socket, watchdog })
    }

    /// How long the service manager waits for [`State::Watchdog`]; send it twice as often.
    #[must_use]
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Sends `states` in one message.
    ///
    /// # Errors
    /// If the service manager's socket can't be written to.
    pub fn send(&self, states: &[State]) -> io::Result<()> {
        let Some((socket, address)) = &self.socket else {
            return Ok(());
        };
        let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
        socket.send_to_addr(lines.join("\n").as_bytes(), address)?;
        Ok(())
    }
}

fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("NOTIFY_SOCKET={name:?} is neither a path nor an abstract name"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(receiver: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        let length = receiver.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    fn notifier(name: &str) -> Notifier {
        Notifier::from_environment(|key| (key == "NOTIFY_SOCKET").then(|| name.to_owned())).unwrap()
    }

    #[test]
    fn speaks_to_paths_and_abstract_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let receiver = UnixDatagram::bind(&path).unwrap();
        let notifier_at_path = notifier(path.to_str().unwrap());
        notifier_at_path.send(&[State::Ready, State::Status("serving\nREADY=0".into())]).unwrap();
        assert_eq!(received(&receiver), "READY=1\nSTATUS=serving READY=0");

        // Unique to this process and so to this test.
        let name = format!("phi4d-test-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let receiver = UnixDatagram::bind_addr(&address).unwrap();
        let notifier = notifier(&format!("@{name}"));
        notifier
            .send(&[
                State::Stopping,
                State::ExtendTimeout(Duration::from_millis(1500)),
                State::Watchdog,
            ])
            .unwrap();
        assert_eq!(received(&receiver), "STOPPING=1\nEXTEND_TIMEOUT_USEC=1500000\nWATCHDOG=1");
        notifier.send(&[State::Reloading]).unwrap();
        let reloading = received(&receiver);
        let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
        assert!(micros.unwrap().parse::<u64>().unwrap() > 0);
    }

    #[test]
    fn is_silent_without_a_service_manager_and_refuses_nonsense() {
        let silent = Notifier::from_environment(|_| None).unwrap();
        silent.send(&[State::Ready]).unwrap();
        let nonsense =
            Notifier::from_environment(|key| (key == "NOTIFY_SOCKET").then(|| "relative".into()));
        assert!(nonsense.is_err());
    }

    #[test]
    fn a_manager_that_is_gone_is_an_error_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let notifier = notifier(folder.path().join("gone").to_str().unwrap());
        assert!(notifier.send(&[State::Ready]).is_err());
    }

    #[test]
    fn the_watchdog_counts_only_for_its_own_process() {
        let own = std::process::id().to_string();
        let watchdog = |pid: Option<&str>, micros: &str| {
            let notifier = Notifier::from_environment(|key| match key {
                "WATCHDOG_PID" => pid.map(ToOwned::to_owned),
                "WATCHDOG_USEC" => Some(micros.to_owned()),
                _ => None,
            });
            notifier.unwrap().watchdog()
        };
        let second = Some(Duration::from_secs(1));
        assert_eq!(watchdog(Some(&own), "1000000"), second);
        assert_eq!(watchdog(None, "1000000"), second);
        assert_eq!(watchdog(Some("1"), "1000000"), None);
        assert_eq!(watchdog(None, "0"), None);
    }
}
