//! systemd's journal as a target of the log.

use std::io;

use ::log::Log;
use systemd_journal_logger::JournalLog;
pub(super) use systemd_journal_logger::connected_to_journal;

/// What writes to the journal.
///
/// # Errors
/// If it can't be reached.
pub(super) fn journal() -> io::Result<Box<dyn Log>> {
    Ok(Box::new(JournalLog::empty()?.with_syslog_identifier("phi4d".into())))
}
