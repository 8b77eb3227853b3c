//! A program in a pseudo-terminal of its own, whose keys a test presses.
#![allow(dead_code, reason = "each test file uses some of this")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    missing_docs,
    missing_debug_implementations,
    reason = "tests may stop where something is wrong"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::pty::{Winsize, openpty};

use crate::common::wait_for;

pub const ENTER: &str = "\r";
pub const LEFT: &str = "\x1b[D";
pub const UP: &str = "\x1b[A";
pub const BACKSPACE: &str = "\x7f";
pub const CTRL_C: &str = "\x03";
pub const CTRL_D: &str = "\x04";
pub const TAB: &str = "\t";

/// What the line editor writes when it begins to read a line, and when it has one.
const PROMPT: &str = "\x1b[?2004h";
const READ: &str = "\x1b[?2004l";

/// A running program, killed when dropped.
pub struct Terminal {
    keys: File,
    seen: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
    child: Child,
    /// Where in what was seen the test has looked up to.
    at: usize,
}

impl Terminal {
    /// Runs the command; the terminal is its session's, so that Ctrl-C is a signal to it.
    pub fn run(command: &Command) -> Self {
        let size = Winsize { ws_row: 50, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&size, None).unwrap();
        let end = || Stdio::from(pair.slave.try_clone().unwrap());
        let mut own = Command::new("setsid");
        own.arg("--ctty").arg(command.get_program()).args(command.get_args());
        own.env_clear().env("TERM", "xterm").env("PATH", std::env::var("PATH").unwrap());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => own.env(name, value),
                None => own.env_remove(name),
            };
        }
        own.current_dir(env!("CARGO_MANIFEST_DIR"));
        let child = own.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        let keys = File::from(pair.master);
        let mut screen = keys.try_clone().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // An error is the end: nobody has the other side open any more.
            while let Ok(count @ 1..) = screen.read(&mut buffer) {
                sink.lock().unwrap().extend(&buffer[..count]);
            }
        });
        Self { keys, seen, reader: Some(reader), child, at: 0 }
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Everything that was written to the terminal so far.
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    /// Waits for `text` after what was looked at, and returns what came before it.
    pub fn wait(&mut self, text: &str) -> String {
        let found = wait_for_or(text, self, |terminal| {
            let seen = terminal.seen.lock().unwrap();
            let new = &seen[terminal.at..];
            let place = new.windows(text.len()).position(|part| part == text.as_bytes())?;
            Some((String::from_utf8_lossy(&new[..place]).into_owned(), place + text.len()))
        });
        self.at += found.1;
        found.0
    }

    /// Waits for the first prompt; what was shown before it.
    pub fn wait_prompt(&mut self) -> String {
        plain(&self.wait(PROMPT))
    }

    /// Presses keys that end a line; what the program wrote until its next prompt, colours included.
    pub fn enter_raw(&mut self, keys: &str) -> String {
        self.press(keys);
        self.wait(READ);
        let shown = self.wait(PROMPT);
        shown.trim_start_matches(['\r', '\n']).trim_end_matches(['\r', '\n']).replace("\r\n", "\n")
    }

    /// As [`Terminal::enter_raw`] with Enter after the keys, and without colours.
    pub fn enter(&mut self, keys: &str) -> String {
        let shown = self.enter_raw(&format!("{keys}{ENTER}"));
        plain(&shown)
    }

    /// Waits for the program's end.
    pub fn wait_end(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let status = wait_for("the program's end", || child.try_wait().unwrap());
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        status
    }
}

/// As [`wait_for`], and prints the screen when it gives up.
fn wait_for_or<T>(
    what: &str,
    terminal: &Terminal,
    mut found: impl FnMut(&Terminal) -> Option<T>,
) -> T {
    let limit = std::time::Instant::now() + crate::common::PATIENCE;
    loop {
        if let Some(value) = found(terminal) {
            return value;
        }
        let late = std::time::Instant::now() > limit;
        assert!(!late, "gave up waiting for {what:?}; on the screen: {:?}", terminal.seen());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if self.reader.is_some() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Without escape sequences of the kind that a line editor and colours need.
pub fn plain(text: &str) -> String {
    let mut whole = String::new();
    let mut parts = text.split("\x1b[");
    whole.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let end = part.find(|c: char| c.is_ascii_alphabetic()).map_or(part.len(), |at| at + 1);
        whole.push_str(&part[end..]);
    }
    whole
}
