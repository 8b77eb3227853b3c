//! A line on a terminal that goes away again, below the log's lines.

use std::io::{self, IsTerminal as _, Write};

const CLEAR: &str = "\r\x1b[K";

/// Whether standard error is a terminal that can do this.
pub(super) fn is_possible() -> bool {
    io::stderr().is_terminal() && std::env::var("TERM").is_ok_and(|term| term != "dumb")
}

/// What stands on the terminal now; empty for nothing.
#[derive(Debug, Default)]
pub(super) struct Transient(String);

impl Transient {
    /// `text` as one short line.
    pub(super) fn new(text: &str) -> Self {
        Self(text.chars().filter(|c| !c.is_control()).collect())
    }

    /// Puts it in the place of what stood there.
    pub(super) fn show(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(format!("{CLEAR}{}", self.0).as_bytes())
    }

    /// Writes a line of the log above it, in one write.
    pub(super) fn write_above(&self, out: &mut impl Write, line: &str) -> io::Result<()> {
        if self.0.is_empty() {
            return out.write_all(line.as_bytes());
        }
        out.write_all(format!("{CLEAR}{line}{}", self.0).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_above_what_goes_away() {
        let written = |shown: &str| {
            let mut out = Vec::new();
            Transient::new(shown).write_above(&mut out, "INFO x\n").unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written(""), "INFO x\n");
        assert_eq!(written("load\x1bing"), "\r\u{1b}[KINFO x\nloading");
    }
}
