//! Standard error as a target of the log.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use log::Record;

use super::queue::{Entry, Sink};
use super::record::OwnedRecord;
use super::transient::Transient;

/// How long to wait before another attempt where a write would block.
const RETRY: Duration = Duration::from_millis(20);

/// Lines of text or JSON.
pub(super) struct Stderr<W> {
    /// Takes the bytes.
    pub(super) out: W,
    /// Makes a record a line with its line feed.
    pub(super) format: fn(SystemTime, &Record<'_>) -> String,
}

impl<W: Write + Send> Sink for Stderr<W> {
    fn write(&mut self, entry: &Entry, transient: &Transient) -> io::Result<()> {
        let line = |record: &OwnedRecord| record.with(|it| (self.format)(record.time, it));
        let line = match entry {
            Entry::Record(record) => line(record),
            Entry::Lost(count) => line(&OwnedRecord::of_lost(*count)),
            Entry::Line(line) => format!("{line}\n"),
        };
        // One write for each line, so that lines of several processes don't mix.
        transient.write_above(&mut self.out, &line)
    }

    fn show(&mut self, transient: &Transient) {
        // Without standard error nobody sees it.
        let _ = transient.show(&mut self.out);
    }
}

/// Waits where a write would block, which is so if another process made the same pipe or terminal
/// non-blocking.
pub(super) struct Patient<W>(pub(super) W);

impl<W: Write> Write for Patient<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::thread::sleep(RETRY);
                }
                done => return done,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
