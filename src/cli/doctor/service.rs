//! Can the daemon run here: its sockets, the state folder and the systemd unit?

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::findings::Findings;
use crate::report::ModelReport;
use crate::start;
use phi4d_os as os;
use phi4d_settings::{ListenAddress, Provider, Settings};

const SOCKETS: &str = "sockets";

/// How long another program on the port may take to show that it is a phi4d.
const PATIENCE: Duration = Duration::from_secs(2);

/// The service's user and group, by sysusers.
const USER: &str = "phi4d";

const UNITS: [&str; 3] = [
    "/etc/systemd/system/phi4d.service",
    "/usr/lib/systemd/system/phi4d.service",
    "/lib/systemd/system/phi4d.service",
];

/// Whether the daemon can listen, or does already.
pub(super) fn sockets(settings: &Settings, findings: &mut Findings) {
    match &settings.listen {
        Some(address) => tcp(address, findings),
        None => findings.good(SOCKETS, "TCP is off"),
    }
    let variable = |name: &str| std::env::var(name).ok();
    match settings.socket.path(variable, os::effective_uid()) {
        Some(path) => unix(&path, findings),
        None => findings.good(SOCKETS, "the Unix socket is off"),
    }
}

fn tcp(address: &ListenAddress, findings: &mut Findings) {
    match TcpListener::bind((address.host.as_str(), address.port)) {
        Ok(_) => findings.good(SOCKETS, format!("TCP {address} is free")),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            if answers(address) {
                findings.good(SOCKETS, format!("a phi4d serves on TCP {address}"));
            } else {
                findings.fault(
                    SOCKETS,
                    format!("TCP {address} is taken by another program"),
                    "ss -ltnp shows by which program; stop it, or set listen to another port",
                );
            }
        }
        Err(error) => findings.fault(
            SOCKETS,
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
fn unix(path: &Path, findings: &mut Findings) {
    use std::os::unix::net::UnixStream;

    let shown = path.display();
    match UnixStream::connect(path) {
        Ok(_) => findings.good(SOCKETS, format!("somebody listens on {shown}")),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => findings.fault(
            SOCKETS,
            format!("{shown}: {error}"),
            "ask as root, or join the socket's group (adduser NAME phi4d), and log in again",
        ),
        // It is created again if nobody listens on it.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            findings.good(SOCKETS, format!("{shown} is left over and will be replaced"));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => folder_of(path, findings),
        Err(error) => {
            findings.fault(SOCKETS, format!("{shown}: {error}"), "remove it, or set socket");
        }
    }
}

/// Whether a socket can be made there. A missing folder is made by the daemon or by systemd.
#[cfg(unix)]
fn folder_of(path: &Path, findings: &mut Findings) {
    let folder = path.parent().and_then(|parent| parent.ancestors().find(|up| up.exists()));
    let probe = folder.map(|folder| folder.join(format!(".phi4d-doctor-{}", std::process::id())));
    let made = probe.map_or(Ok(()), |probe| {
        std::fs::File::create_new(&probe).and_then(|_| std::fs::remove_file(&probe))
    });
    match made {
        Ok(()) => findings.good(SOCKETS, format!("{} is free", path.display())),
        Err(error) => findings.fault(
            SOCKETS,
            format!("{}: no socket can be made there: {error}", path.display()),
            "set socket to a path in a folder of the daemon's user; systemd makes /run/phi4d",
        ),
    }
}

#[cfg(not(unix))]
fn unix(path: &Path, findings: &mut Findings) {
    findings.note(SOCKETS, format!("{}: not looked at on this system", path.display()), "");
}

/// Whether the state folder can be written and has room.
pub(super) fn state(settings: &Settings, findings: &mut Findings) {
    const CHECK: &str = "state";
    let Some(folder) = start::prefix_store(settings) else {
        findings.good(CHECK, "cached prompts are not kept over restarts");
        return;
    };
    match writable(&folder) {
        Ok(()) => findings.good(CHECK, format!("{} can be written", folder.display())),
        Err(reason) => {
            let user = os::effective_uid();
            findings.fault(
                CHECK,
                format!("prefix_store {}: {reason}", folder.display()),
                format!(
                    "give the folder to the user that runs the daemon (here {user}), or set \
                     prefix_store to one of its own"
                ),
            );
            return;
        }
    }
    let free = os::free_disk(&folder);
    if let Some(free) = free.filter(|free| *free < settings.prefix_store_bytes) {
        findings.note(
            CHECK,
            format!(
                "the disk has {free} bytes free, less than prefix_store_bytes ({})",
                settings.prefix_store_bytes
            ),
            "lower prefix_store_bytes; on a full disk the newest prefixes are not kept",
        );
    }
}

/// Tries to write a file into the folder, or into the nearest one above that is there.
fn writable(folder: &Path) -> Result<(), String> {
    let there = folder.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    if !there.is_dir() {
        return Err(format!("{} is not a folder", there.display()));
    }
    let probe: PathBuf = there.join(format!(".phi4d-doctor-{}", std::process::id()));
    std::fs::File::create_new(&probe).map_err(|error| error.to_string())?;
    // It was there a moment ago.
    let _ = std::fs::remove_file(&probe);
    Ok(())
}

/// Whether the systemd unit's user is there and can read what it needs.
pub(super) fn unit(settings: &Settings, model: Option<&ModelReport>, findings: &mut Findings) {
    const CHECK: &str = "service";
    let Some(unit) = UNITS.iter().map(Path::new).find(|unit| unit.exists()) else {
        findings.good(CHECK, "no unit is installed");
        return;
    };
    let (Some(user), Some(group)) = (os::user_id(USER), os::group_id(USER)) else {
        findings.fault(
            CHECK,
            format!("{} is installed, and there is no user or group {USER}", unit.display()),
            "systemd-sysusers makes them; or reinstall the package",
        );
        return;
    };
    let mut whole = true;
    for path in to_read(settings, model) {
        if let Some(barrier) = os::barrier(&path, user, &[group]) {
            whole = false;
            findings.fault(
                CHECK,
                format!(
                    "the user {USER} can't read {}: {} keeps it out",
                    path.display(),
                    barrier.display()
                ),
                "chgrp phi4d and chmod g+rX what keeps it out, or move it to /var/lib/phi4d",
            );
        }
    }
    if whole {
        findings.good(CHECK, format!("{}, user {USER} can read what it needs", unit.display()));
    }
    let on_device = !matches!(settings.provider, Provider::Cpu | Provider::Auto);
    if on_device && !Path::new("/etc/systemd/system/phi4d.service.d").exists() {
        findings.note(
            CHECK,
            "the unit hides devices from the daemon, GPUs too",
            "copy the drop-in /usr/share/doc/phi4d/examples/cuda.conf to \
             /etc/systemd/system/phi4d.service.d/",
        );
    }
}

/// Files that the service reads.
fn to_read(settings: &Settings, model: Option<&ModelReport>) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    if let Some(export) = model.map(|model| &model.export) {
        paths.push(export.graph.clone());
        paths.extend(export.weights.iter().map(|file| file.path.clone()));
    }
    let files = [&settings.runtime_library, &settings.provider_library];
    paths.extend(files.into_iter().flatten().cloned());
    paths.retain(|path| path.exists());
    paths
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

    #[test]
    fn a_folder_that_is_still_to_be_made_is_judged_by_the_one_above() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(writable(&folder.path().join("a/b")), Ok(()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(writable(&file.join("a")).unwrap_err().contains("is not a folder"));
    }
}
