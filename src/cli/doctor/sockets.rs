//! Can the daemon listen here, and may the caller connect?

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use super::findings::{Check, Findings};
use super::units::Units;
use crate::service::Unit;
use phi4d_os as os;
use phi4d_settings::{ListenAddress, Settings};

/// How long another program on the port may take to show that it is a phi4d.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the daemon can listen, or does already. `lookup` reads the daemon's environment.
pub(super) fn sockets(
    settings: &Settings,
    units: &Units,
    lookup: impl Fn(&str) -> Option<String>,
    findings: &mut Findings,
) {
    let mut check = findings.of("sockets");
    only_held(settings, units, &lookup, &mut check);
    let runs = units.service.as_ref().is_some_and(Unit::is_active);
    match &settings.listen {
        Some(address) if runs => {
            check.good(format!("TCP {address} is the running service's"));
        }
        Some(address) => tcp(address, &mut check),
        None => check.good("TCP is off in the settings"),
    }
    match settings.socket.path(lookup, os::effective_uid()) {
        Some(path) => unix(&path, units.hold(&path), &mut check),
        None => check.good("the Unix socket is off"),
    }
}

/// Whether systemd holds all sockets, as a daemon that ends when idle needs.
fn only_held(
    settings: &Settings,
    units: &Units,
    lookup: impl Fn(&str) -> Option<String>,
    check: &mut Check<'_>,
) {
    if settings.idle_exit.is_none() || units.service.is_none() {
        return;
    }
    let has_path = settings.socket.path(lookup, os::effective_uid()).is_some();
    let unheld = [
        ("listen", settings.listen.is_some() && units.addresses().is_empty()),
        ("socket", has_path && !units.pass_unix()),
    ];
    for (setting, _) in unheld.into_iter().filter(|(_, unheld)| *unheld) {
        check.fault(
            format!("idle_exit is set, but the socket of {setting} is not held by systemd"),
            format!("set {setting} to off and start phi4d.socket or phi4d-http.socket, or set idle_exit to 0"),
        );
    }
}

fn tcp(address: &ListenAddress, check: &mut Check<'_>) {
    match TcpListener::bind((address.host.as_str(), address.port)) {
        Ok(_) => check.good(format!("TCP {address} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            if answers(address) {
                check.good(format!("a phi4d serves on TCP {address}"));
            } else {
                check.fault(
                    format!("TCP {address} is taken by another program"),
                    "ss -ltnp shows by which program; stop it, or set listen to another port",
                );
            }
        }
        Err(error) => check.fault(
            format!("TCP {address}: {error}"),
            "set listen to an address of this machine and a port above 1023, or to off",
        ),
    }
}

/// Whether a phi4d answers there. One that speaks TLS is not known for it.
fn answers(address: &ListenAddress) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut places = (address.host.as_str(), address.port).to_socket_addrs()?;
        let place = places.next().ok_or(ErrorKind::NotFound)?;
        let mut stream = TcpStream::connect_timeout(&place, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let head = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(head.as_bytes())?;
        let mut text = String::new();
        stream.take(1 << 16).read_to_string(&mut text)?;
        Ok(text)
    };
    ask().is_ok_and(|text| text.contains("x-request-id") && text.contains("\"status\""))
}

#[cfg(unix)]
fn unix(path: &Path, held: bool, check: &mut Check<'_>) {
    use std::os::unix::net::UnixStream;

    let shown = path.display();
    match UnixStream::connect(path) {
        Ok(_) if held => check.good(format!("systemd listens on {shown}")),
        Ok(_) => check.good(format!("somebody listens on {shown}")),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            check.fault(
                format!("you may not use {shown}: {error}"),
                crate::client::socket_hint(path),
            );
        }
        // It is created again if nobody listens on it.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            check.good(format!("{shown} is left over and will be replaced"));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => folder_of(path, check),
        Err(error) => {
            check.fault(format!("{shown}: {error}"), "remove it, or set socket");
        }
    }
}

/// Whether a socket can be made there. A missing folder is made by the daemon or by systemd.
#[cfg(unix)]
fn folder_of(path: &Path, check: &mut Check<'_>) {
    let folder = path.parent().and_then(|parent| parent.ancestors().find(|up| up.exists()));
    let probe = folder.map(|folder| folder.join(format!(".phi4d-doctor-{}", std::process::id())));
    let made = probe.map_or(Ok(()), |probe| {
        std::fs::File::create_new(&probe).and_then(|_| std::fs::remove_file(&probe))
    });
    match made {
        Ok(()) => check.good(format!("{} is free", path.display())),
        Err(error) => check.fault(
            format!("{}: no socket can be made there: {error}", path.display()),
            "set socket to a path in a folder of the daemon's user; systemd makes /run/phi4d",
        ),
    }
}

#[cfg(not(unix))]
fn unix(path: &Path, _: bool, check: &mut Check<'_>) {
    check.note(format!("{}: not looked at on this system", path.display()), "");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(listener: &TcpListener) -> ListenAddress {
        ListenAddress::parse(&listener.local_addr().unwrap().to_string()).unwrap()
    }

    #[test]
    fn a_port_of_another_program_is_a_fault_and_a_free_one_is_not() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = address(&other);
        let answer = std::thread::spawn(move || {
            let (mut stream, _) = other.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello");
        });
        let mut findings = Findings::default();
        tcp(&taken, &mut findings.of("sockets"));
        answer.join().unwrap();
        assert!(findings.text().contains("is taken by another program"), "{}", findings.text());
        let mut findings = Findings::default();
        tcp(&ListenAddress::parse("127.0.0.1:0").unwrap(), &mut findings.of("sockets"));
        assert_eq!(findings.faults(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn a_path_below_a_file_is_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let mut findings = Findings::default();
        unix(&file.join("phi4d.sock"), false, &mut findings.of("sockets"));
        assert_eq!(findings.faults(), 1, "{}", findings.text());
        let mut findings = Findings::default();
        unix(&folder.path().join("phi4d.sock"), false, &mut findings.of("sockets"));
        assert!(findings.text().contains("is free"), "{}", findings.text());
    }
}
