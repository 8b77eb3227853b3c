//! What systemd does for a service with sockets: holds them, and runs the daemon while it is needed.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::common::{Client, Setup, wait_for};

/// How often the activator looks whether it is to end.
const TICK_MS: u16 = 20;

/// Becomes the daemon, with the sockets that are its input and output as descriptors 3 and 4.
const PASS: &str =
    "export LISTEN_PID=$$ LISTEN_FDS=2; exec \"$@\" 3<&0 4<&1 0</dev/null 1>/dev/null";

/// Holds a Unix socket and a TCP port, and starts the daemon when a connection waits in one of them. Each
/// daemon must end by itself, with code 0 and without leaving a process.
pub(crate) struct Activator {
    /// Its folder has the sockets.
    _setup: Setup,
    address: SocketAddr,
    path: PathBuf,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    starts: AtomicUsize,
    ends: AtomicUsize,
    /// The daemon that runs, or 0.
    id: AtomicU32,
    over: AtomicBool,
    log: Mutex<String>,
}

impl Activator {
    pub(crate) fn new(idle_exit: &str) -> Self {
        Self::with(Setup::new().with(&["--idle-exit", idle_exit]))
    }

    pub(crate) fn with(setup: Setup) -> Self {
        let setup = setup.within(&["sh", "-c", PASS, "sh"]);
        let path = setup.folder.path().join("held.sock");
        let unix = UnixListener::bind(&path).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let (kept, command) = (Arc::clone(&shared), setup.command());
        let thread = std::thread::spawn(move || {
            activate(command, &[unix.into(), tcp.into()], &kept);
        });
        Self { _setup: setup, address, path, shared, thread: Some(thread) }
    }

    pub(crate) fn unix(&self) -> Client {
        Client::Unix(self.path.clone())
    }

    pub(crate) fn tcp(&self) -> Client {
        Client::Tcp(self.address)
    }

    pub(crate) fn starts(&self) -> usize {
        self.shared.starts.load(Ordering::SeqCst)
    }

    /// Whether no daemon runs.
    pub(crate) fn is_asleep(&self) -> bool {
        self.shared.ends.load(Ordering::SeqCst) == self.starts()
    }

    /// Waits until no daemon runs.
    pub(crate) fn wait_asleep(&self) {
        wait_for("the daemon's end", || self.is_asleep().then_some(()));
    }

    /// Waits until it has ended, and no more start; what they all logged.
    pub(crate) fn finish(mut self) -> String {
        self.wait_asleep();
        self.shared.over.store(true, Ordering::SeqCst);
        let thread = self.thread.take().unwrap();
        thread.join().unwrap();
        self.shared.log.lock().unwrap().clone()
    }
}

impl Drop for Activator {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        let Some(thread) = self.thread.take() else { return };
        // A test that fails leaves a daemon that may be far from idle.
        let id = self.shared.id.load(Ordering::SeqCst);
        if id != 0 {
            crate::common::send_signal(id, "KILL");
        }
        let _ = thread.join();
        if std::thread::panicking() {
            eprintln!("--- the daemons' log ---\n{}", self.shared.log.lock().unwrap());
        }
    }
}

fn activate(mut command: Command, sockets: &[OwnedFd; 2], shared: &Shared) {
    while !shared.over.load(Ordering::SeqCst) {
        let mut polled = sockets.each_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN));
        if poll(&mut polled, PollTimeout::from(TICK_MS)).unwrap() == 0 {
            continue;
        }
        shared.starts.fetch_add(1, Ordering::SeqCst);
        let [unix, tcp] = sockets.each_ref().map(|fd| fd.try_clone().unwrap());
        let child = command.stdin(unix).stdout(tcp).stderr(Stdio::piped()).spawn().unwrap();
        shared.id.store(child.id(), Ordering::SeqCst);
        // Standard error ends with the last process that has it: nothing of the daemon is left then.
        let output = child.wait_with_output().unwrap();
        shared.id.store(0, Ordering::SeqCst);
        shared.log.lock().unwrap().push_str(&String::from_utf8_lossy(&output.stderr));
        let killed = shared.over.load(Ordering::SeqCst);
        assert!(killed || output.status.success(), "{}", output.status);
        shared.ends.fetch_add(1, Ordering::SeqCst);
    }
}
