//! Can the daemon listen, or does it already?

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::time::Duration;

use super::Case;
use super::findings::Findings;
use phi4d_os as os;
use phi4d_settings::ListenAddress;

const CHECK: &str = "sockets";

const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn check(case: &Case, findings: &mut Findings) {
    match &case.settings.listen {
        Some(address) => tcp(address, findings),
        None => findings.good(CHECK, "TCP is off"),
    }
    let variable = |name: &str| std::env::var(name).ok();
    match case.settings.socket.path(variable, os::effective_uid()) {
        Some(path) => unix(&path, findings),
        None => findings.good(CHECK, "the Unix socket is off"),
    }
}

fn tcp(address: &ListenAddress, findings: &mut Findings) {
    match TcpListener::bind((address.host.as_str(), address.port)) {
        Ok(_) => findings.good(CHECK, format!("TCP {address} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            if answers(address) {
                findings.good(CHECK, format!("a phi4d serves on TCP {address}"));
            } else {
                findings.fault(
                    CHECK,
                    format!("TCP {address} is taken by another program"),
                    "ss -ltnp tells by which; stop it, or set listen to another port",
                );
            }
        }
        Err(error) => findings.fault(
            CHECK,
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
fn unix(path: &std::path::Path, findings: &mut Findings) {
    use std::os::unix::net::UnixStream;

    let shown = path.display();
    match UnixStream::connect(path) {
        Ok(_) => findings.good(CHECK, format!("somebody listens on {shown}")),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => findings.fault(
            CHECK,
            format!("{shown}: {error}"),
            "ask as root, or join the socket's group (adduser NAME phi4d), and log in again",
        ),
        // It is made anew where nobody listens any more.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            findings.good(CHECK, format!("{shown} is left over and will be replaced"));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => folder_of(path, findings),
        Err(error) => {
            findings.fault(CHECK, format!("{shown}: {error}"), "remove it, or set socket");
        }
    }
}

/// Whether a socket can be made there. A missing folder is made by the daemon or by systemd.
#[cfg(unix)]
fn folder_of(path: &std::path::Path, findings: &mut Findings) {
    let folder = path.parent().and_then(|parent| parent.ancestors().find(|up| up.exists()));
    let probe = folder.map(|folder| folder.join(format!(".phi4d-doctor-{}", std::process::id())));
    let made = probe.map_or(Ok(()), |probe| {
        std::fs::File::create_new(&probe).and_then(|_| std::fs::remove_file(&probe))
    });
    match made {
        Ok(()) => findings.good(CHECK, format!("{} is free", path.display())),
        Err(error) => findings.fault(
            CHECK,
            format!("{}: no socket can be made there: {error}", path.display()),
            "set socket to a path in a folder of the daemon's user; systemd makes /run/phi4d",
        ),
    }
}

#[cfg(not(unix))]
fn unix(path: &std::path::Path, findings: &mut Findings) {
    findings.note(CHECK, format!("{}: not looked at on this system", path.display()), "");
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
        tcp(&taken, &mut findings);
        answer.join().unwrap();
        assert!(findings.text().contains("is taken by another program"), "{}", findings.text());
        let mut findings = Findings::default();
        tcp(&ListenAddress::parse("127.0.0.1:0").unwrap(), &mut findings);
        assert_eq!(findings.faults(), 0);
    }

    #[cfg(unix)]
    #[test]
    fn a_path_below_a_file_is_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        let mut findings = Findings::default();
        unix(&file.join("phi4d.sock"), &mut findings);
        assert_eq!(findings.faults(), 1, "{}", findings.text());
        let mut findings = Findings::default();
        unix(&folder.path().join("phi4d.sock"), &mut findings);
        assert!(findings.text().contains("is free"), "{}", findings.text());
    }
}
