//! The real daemon on the demo model, over real sockets, for the end-to-end tests.
//!
//! Nothing sleeps: a daemon says on its `NOTIFY_SOCKET` when it is ready, and conditions are polled
//! with a limit. A missing ONNX Runtime fails the tests, with the daemon's own words.
#![allow(dead_code, reason = "each test file uses some of this")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs,
    missing_debug_implementations,
    reason = "tests may stop where something is wrong"
)]

mod isa;
mod log;

pub use isa::isa;
pub use log::Log;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use serde_json::Value;

/// How long anything may take before a test says that it hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The demo model's folder.
pub fn demo_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo")
}

/// A copy of the demo model in `folder`, which a test may damage.
pub fn copy_demo(folder: &Path) -> PathBuf {
    let copy = folder.join("copy");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(demo_folder()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    copy
}

/// Writes a file that only its owner may read, as private keys are to be.
pub fn write_private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    set_mode(path, 0o600);
}

/// Sets a file's or folder's mode.
pub fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A JSON file of `models/golden`.
pub fn golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/golden").join(name);
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// Asks until `found` gives something; fails the test after [`PATIENCE`].
pub fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(Instant::now() < limit, "gave up waiting: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a process a signal by its name, such as `TERM`. Not by `kill`: a bare Debian lacks it.
pub fn send_signal(id: u32, name: &str) {
    let signal: nix::sys::signal::Signal = format!("SIG{name}").parse().unwrap();
    let id = nix::unistd::Pid::from_raw(id.try_into().unwrap());
    nix::sys::signal::kill(id, signal).unwrap();
}

/// Connects to a loopback address from another, which the daemon takes for another machine's.
pub fn connect_from(source: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
    let SocketAddr::V4(to) = to else { panic!("{to}") };
    let [a, b, c, d] = source.octets();
    bind(socket.as_raw_fd(), &SockaddrIn::new(a, b, c, d, 0)).unwrap();
    connect(socket.as_raw_fd(), &SockaddrIn::from(to)).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// How a daemon under test is started.
pub struct Setup {
    pub folder: tempfile::TempDir,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    pub model: PathBuf,
    pub listen: String,
    /// A command that the daemon's is given to, and that becomes the daemon by `exec`.
    pub wrapper: Vec<String>,
}

impl Setup {
    /// The demo model, TCP on a port of the system's choice, a Unix socket, the defaults else.
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            arguments: Vec::new(),
            environment: Vec::new(),
            model: demo_folder(),
            listen: "127.0.0.1:0".to_owned(),
            wrapper: Vec::new(),
        }
    }

    /// Adds arguments of `phi4d serve`.
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// Sets a variable of the daemon's environment.
    pub fn variable(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Serves another model folder.
    pub fn model(mut self, folder: impl Into<PathBuf>) -> Self {
        self.model = folder.into();
        self
    }

    /// Listens on another TCP address.
    pub fn listen(mut self, address: &str) -> Self {
        self.listen = address.to_owned();
        self
    }

    /// Starts the daemon by a command that gets the daemon's as further arguments and becomes it.
    pub fn within(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(ToString::to_string).collect();
        self
    }

    /// The Unix socket's path.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("phi4d.sock")
    }

    /// The command, with nothing of this machine's settings in its environment.
    pub fn command(&self) -> Command {
        let program = env!("CARGO_BIN_EXE_phi4d").to_owned();
        let words: Vec<&String> = self.wrapper.iter().chain([&program]).collect();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .arg("serve")
            .args(["--listen", &self.listen, "--threads", "1"])
            .args(["--model".as_ref(), self.model.as_os_str()])
            .args(["--socket".as_ref(), self.socket().as_os_str()])
            .args(&self.arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env_clear()
            .envs(
                std::env::vars()
                    .filter(|(name, _)| ["PATH", "LLVM_PROFILE_FILE"].contains(&name.as_str())),
            )
            .envs(isa())
            .env("HOME", self.folder.path().join("home"))
            .env("RUST_BACKTRACE", "1")
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null());
        command
    }

    /// Runs a daemon that is not to come up; returns how it ended and what it said on standard
    /// error.
    pub fn run_to_end(&self) -> (ExitStatus, String) {
        let output = self.command().output().unwrap();
        (output.status, String::from_utf8(output.stderr).unwrap())
    }

    /// Starts the daemon and waits until it is ready.
    pub fn start(self) -> Daemon {
        self.start_with_log(Stdio::piped())
    }

    /// As [`Setup::start`], with standard error elsewhere; [`Daemon::log`] then stays empty.
    pub fn start_with_log(self, log: Stdio) -> Daemon {
        let notify_path = self.folder.path().join("notify.sock");
        // A predecessor's, where the setup is used again.
        let _ = std::fs::remove_file(&notify_path);
        let notify = UnixDatagram::bind(&notify_path).unwrap();
        notify.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut child = self
            .command()
            .env("NOTIFY_SOCKET", &notify_path)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let log = match child.stderr.take() {
            Some(stream) => Log::follow(stream),
            None => Log::follow(std::io::empty()),
        };
        let mut daemon = Daemon { child, log, notify, setup: self, ended: None };
        daemon.wait_notified("READY=1");
        daemon
    }
}

/// A running daemon, killed when dropped.
pub struct Daemon {
    child: Child,
    pub log: Log,
    notify: UnixDatagram,
    pub setup: Setup,
    ended: Option<ExitStatus>,
}

impl Daemon {
    /// A daemon with the defaults.
    pub fn start() -> Self {
        Setup::new().start()
    }

    /// Waits until the daemon notifies the service manager of `state`.
    pub fn wait_notified(&mut self, state: &str) {
        let mut buffer = [0; 4096];
        let limit = Instant::now() + PATIENCE;
        self.notify.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        while Instant::now() < limit {
            if let Ok(count) = self.notify.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..count]);
                if text.lines().any(|line| line == state) {
                    return;
                }
            } else if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the daemon ended ({status}) before {state}:\n{}", self.log.text());
            }
        }
        panic!("the daemon did not notify {state}:\n{}", self.log.text());
    }

    /// The TCP address it listens on.
    pub fn address(&self) -> SocketAddr {
        wait_for("the address in the log", || {
            let text = self.log.text();
            let at = text.split("tcp=").nth(1)?;
            at.split_whitespace().next()?.trim_matches('"').parse().ok()
        })
    }

    /// The Unix socket's path.
    pub fn socket(&self) -> PathBuf {
        self.setup.socket()
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        send_signal(self.id(), name);
    }

    /// Waits for the daemon to end.
    pub fn wait_end(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let status = wait_for("the daemon's end", || child.try_wait().unwrap());
        self.ended = Some(status);
        self.log.wait_end();
        status
    }

    /// Asks over TCP.
    pub fn tcp(&self) -> Client {
        Client::Tcp(self.address())
    }

    /// Asks over the Unix socket.
    pub fn unix(&self) -> Client {
        Client::Unix(self.socket())
    }

    /// The counters in `/health`.
    pub fn health(&self) -> Value {
        self.unix().get("/health").json()
    }

    /// Waits until nothing runs or waits, and checks that every request that was accepted has ended
    /// in one way: accepted = finished + cancelled + failed. Returns these four.
    pub fn ends(&self) -> [u64; 4] {
        let health = self.wait_idle();
        let names = ["accepted", "finished", "cancelled", "failed"];
        let counts = names.map(|name| health[name].as_u64().unwrap());
        assert_eq!(counts[0], counts[1..].iter().sum::<u64>(), "{health}");
        counts
    }

    /// Waits until `/health` shows nothing running or waiting, and returns it.
    pub fn wait_idle(&self) -> Value {
        wait_for("an idle engine", || {
            let health = self.health();
            (health["running"] == 0 && health["waiting"] == 0).then_some(health)
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the daemon's log ---\n{}", self.log.text());
        }
    }
}

/// How to reach a daemon.
#[derive(Debug, Clone)]
pub enum Client {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Either socket.
pub enum Connection {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Client {
    /// A bare connection, for what no proper client does.
    pub fn connect(&self) -> Connection {
        match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                Connection::Tcp(stream)
            }
            Self::Unix(path) => {
                let stream = UnixStream::connect(path).unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                Connection::Unix(stream)
            }
        }
    }

    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[], b"")
    }

    /// Posts JSON.
    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.request(
            "POST",
            path,
            &[("Content-Type", "application/json")],
            body.to_string().as_bytes(),
        )
    }

    /// Any request, on a connection of its own.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Response {
        let mut connection = self.send(method, path, headers, body);
        Response::read(&mut connection)
    }

    /// Sends a request and returns the connection unread.
    pub fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Connection {
        let mut connection = self.connect();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n");
        head.push_str("Connection: close\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || method == "POST" {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        connection.write_all(head.as_bytes()).unwrap();
        // A server may answer and close before it has read all of a body that it refuses.
        let _ = connection.write_all(body);
        connection
    }

    /// A greedy chat of one user turn; the whole response's JSON.
    pub fn chat(&self, text: &str, more: &Value) -> Value {
        let mut body = serde_json::json!({
            "messages": [{ "role": "user", "content": text }], "temperature": 0,
        });
        merge(&mut body, more);
        let response = self.post("/v1/chat/completions", &body);
        assert_eq!(response.status, 200, "{}", response.text());
        response.json()
    }
}

/// Puts the fields of `more` into `body`.
pub fn merge(body: &mut Value, more: &Value) {
    for (name, value) in more.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
}

/// A response, read to its end.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// Reads until the server closes the connection.
    pub fn read(connection: &mut impl Read) -> Self {
        let mut bytes = Vec::new();
        // A reset after the answer (a refused body) leaves what was read.
        let _ = connection.read_to_end(&mut bytes);
        Self::parse(&bytes)
    }

    /// Reads one response to `method` by its framing and leaves the connection open.
    pub fn read_one(connection: &mut impl Read, method: &str) -> Self {
        let mut bytes = Vec::new();
        read_until(connection, &mut bytes, b"\r\n\r\n");
        let head = Self::parse(&bytes);
        if method == "HEAD" {
            return head;
        }
        if let Some(length) = head.header("content-length") {
            read_exact(connection, &mut bytes, length.parse().unwrap());
            return Self::parse(&bytes);
        }
        loop {
            let start = bytes.len();
            read_until(connection, &mut bytes, b"\r\n");
            let size = std::str::from_utf8(&bytes[start..bytes.len() - 2]).unwrap();
            let size = usize::from_str_radix(size, 16).unwrap();
            read_exact(connection, &mut bytes, size + 2);
            if size == 0 {
                return Self::parse(&bytes);
            }
        }
    }

    /// The response in `bytes`, which hold all of it.
    pub fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or_else(|| {
            panic!("no HTTP response: {:?}", String::from_utf8_lossy(bytes));
        });
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let body = &bytes[end + 4..];
        let chunked = headers.iter().any(|(name, value)| {
            name == "transfer-encoding" && value.eq_ignore_ascii_case("chunked")
        });
        let body = if chunked { unchunk(body) } else { body.to_vec() };
        Self { status, headers, body }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The data of each server-sent event.
    pub fn events(&self) -> Vec<String> {
        self.text()
            .split("\n\n")
            .filter_map(|event| event.strip_prefix("data: "))
            .map(str::to_owned)
            .collect()
    }

    /// The chunks of a stream that ended as it should, without the final `[DONE]`.
    pub fn chunks(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("text/event-stream"));
        let mut events = self.events();
        assert_eq!(events.pop().as_deref(), Some("[DONE]"), "{}", self.text());
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }
}

fn read_exact(connection: &mut impl Read, bytes: &mut Vec<u8>, count: usize) {
    let start = bytes.len();
    bytes.resize(start + count, 0);
    connection.read_exact(&mut bytes[start..]).unwrap();
}

fn read_until(connection: &mut impl Read, bytes: &mut Vec<u8>, end: &[u8]) {
    let start = bytes.len();
    while !bytes[start..].ends_with(end) {
        read_exact(connection, bytes, 1);
    }
}

fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|window| window == b"\r\n") {
        let size = std::str::from_utf8(&body[..end]).unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let rest = &body[end + 2..];
        if size == 0 || rest.len() < size {
            whole.extend_from_slice(&rest[..size.min(rest.len())]);
            break;
        }
        whole.extend_from_slice(&rest[..size]);
        body = rest.get(size + 2..).unwrap_or_default();
    }
    whole
}
