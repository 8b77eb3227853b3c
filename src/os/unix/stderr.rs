//! Standard error, without waiting for its reader.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::time::{Duration, Instant};

use nix::libc::{O_NOCTTY, O_NONBLOCK};

/// How long to wait before another attempt.
const RETRY: Duration = Duration::from_millis(5);

/// Returns the process's standard error for a thread that may block on it, and makes descriptor 2
/// non-blocking where it is a pipe or a terminal. Then what else writes there (the standard library
/// when memory runs out, a handler of a signal, ONNX Runtime) never waits for a reader that has
/// stopped.
///
/// The pipe or terminal is opened once more for that: descriptor 2 itself shares its mode with
/// other processes.
///
/// # Errors
/// If the system has no descriptor left.
pub fn take_stderr() -> io::Result<File> {
    let own = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    if let Some(open) = reopened() {
        nix::unistd::dup2_stderr(&open)?;
    }
    Ok(own)
}

/// Standard error, opened again without blocking; `None` where it is neither pipe nor terminal
/// (files do not block, sockets can't be opened), or the system refuses.
fn reopened() -> Option<File> {
    let stderr = File::from(io::stderr().as_fd().try_clone_to_owned().ok()?);
    let blocks = stderr.metadata().is_ok_and(|found| found.file_type().is_fifo());
    if !blocks && !stderr.is_terminal() {
        return None;
    }
    let mut options = OpenOptions::new();
    options.write(true).custom_flags(O_NONBLOCK | O_NOCTTY).open("/proc/self/fd/2").ok()
}

/// Writes `text` to standard error, at most for `limit`. What can't be written by then is lost.
pub fn write_stderr(text: &str, limit: Duration) {
    let deadline = Instant::now() + limit;
    let mut out: Box<dyn Write> = match reopened() {
        Some(open) => Box::new(open),
        None => Box::new(io::stderr()),
    };
    let mut left = text.as_bytes();
    while !left.is_empty() {
        match out.write(left) {
            Ok(0) => return,
            Ok(count) => left = &left[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline =>
            {
                std::thread::sleep(RETRY);
            }
            // There is nowhere left to report it.
            Err(_) => return,
        }
    }
}
