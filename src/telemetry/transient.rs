//! A line on a terminal that goes away again, below the log's lines.

use std::io::{self, IsTerminal as _, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

const CLEAR: &str = "\r\x1b[K";

/// What stands there now.
static SHOWN: Mutex<String> = Mutex::new(String::new());

fn shown() -> MutexGuard<'static, String> {
    // A text has no state that a panic could leave half made.
    SHOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether standard error is a terminal that can do this.
pub(super) fn is_possible() -> bool {
    io::stderr().is_terminal() && std::env::var("TERM").is_ok_and(|term| term != "dumb")
}

/// Puts `text`, one short line, in the place of what stood there; an empty one takes it away. Only for
/// who has asked [`super::has_terminal`].
pub fn show_transient(text: &str) {
    let mut shown = shown();
    let mut line = CLEAR.to_owned();
    line.extend(text.chars().filter(|c| !c.is_control()));
    text.clone_into(&mut shown);
    // Without standard error there is nobody to tell.
    let _ = io::stderr().lock().write_all(line.as_bytes());
}

/// Writes a line of the log above it, in one write.
pub(super) fn write_above(out: &mut impl Write, line: &str) -> io::Result<()> {
    write_with(out, line, &shown())
}

fn write_with(out: &mut impl Write, line: &str, shown: &str) -> io::Result<()> {
    if shown.is_empty() {
        return out.write_all(line.as_bytes());
    }
    out.write_all(format!("{CLEAR}{line}{shown}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_above_what_goes_away() {
        let written = |shown: &str| {
            let mut out = Vec::new();
            write_with(&mut out, "INFO x\n", shown).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(""), "INFO x\n");
        assert_eq!(written("loading"), "\r\u{1b}[KINFO x\nloading");
    }
}
