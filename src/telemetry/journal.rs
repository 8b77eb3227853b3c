//! systemd's journal as a target of the log.

use std::io;

use systemd_journal_logger::JournalLog;
pub(super) use systemd_journal_logger::connected_to_journal;

use super::queue::{Entry, Sink};
use super::record::OwnedRecord;
use super::transient::Transient;

/// What writes to the journal's socket, which blocks while the journal is stopped.
pub(super) struct Journal(JournalLog);

impl Journal {
    /// Connects to the journal.
    ///
    /// # Errors
    /// If it can't be reached.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self(JournalLog::empty()?.with_syslog_identifier("phi4d".into())))
    }
}

impl Sink for Journal {
    fn write(&mut self, entry: &Entry, _: &Transient) -> io::Result<()> {
        let send = |record: &OwnedRecord| record.with(|record| self.0.journal_send(record));
        match entry {
            Entry::Record(record) => send(record),
            Entry::Lost(count) => send(&OwnedRecord::of_lost(*count)),
            // The journal has the program's name in a field of its own.
            Entry::Line(line) => {
                send(&OwnedRecord::of_line(line.strip_prefix("phi4d: ").unwrap_or(line)))
            }
        }
    }

    fn show(&mut self, _: &Transient) {}
}
