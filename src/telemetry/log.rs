//! Sets the process's logger up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use ::log::{LevelFilter, Log, Metadata, Record, set_boxed_logger, set_max_level};

#[cfg(unix)]
use super::journal::{connected_to_journal, journal};
use super::line;
#[cfg(not(unix))]
use super::no_journal::{connected_to_journal, journal};
use super::transient;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The journal if standard error leads there, else text.
    Auto,
    /// Lines of text.
    Text,
    /// Lines of JSON.
    Json,
    /// The journal; an error if there is none.
    Journal,
}

/// Where messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Text on standard error.
    Text,
    /// JSON on standard error.
    Json,
    /// The journal's own socket, key-values as fields.
    Journal,
}

/// Sets the logger of this process, which logs messages of `level` and above, and tells where
/// they go. Key-values of a message become fields in the journal and in JSON, and `key=value` in
/// text.
///
/// # Errors
/// If the journal was asked for and can't be reached, or a logger is set already.
pub fn init(format: Format, level: LevelFilter) -> std::io::Result<Target> {
    let target = match format {
        Format::Text => Target::Text,
        Format::Json => Target::Json,
        Format::Journal => Target::Journal,
        Format::Auto if connected_to_journal() => Target::Journal,
        Format::Auto => Target::Text,
    };
    let sink: Box<dyn Log> = match target {
        Target::Journal => journal()?,
        Target::Text => Box::new(Stderr { write: line::text }),
        Target::Json => Box::new(Stderr { write: line::json }),
    };
    set_boxed_logger(Box::new(Filter { sink, level })).map_err(std::io::Error::other)?;
    set_max_level(level);
    TO_JOURNAL.store(target == Target::Journal, Ordering::Relaxed);
    AS_TEXT.store(target == Target::Text, Ordering::Relaxed);
    Ok(target)
}

static TO_JOURNAL: AtomicBool = AtomicBool::new(false);

/// Whether [`init`] sent the log to the journal.
#[must_use]
pub fn logs_to_journal() -> bool {
    TO_JOURNAL.load(Ordering::Relaxed)
}

/// Keeps what other crates have to say to what matters: this program's own messages are logged at
/// `level`, theirs only if they are warnings or worse.
struct Filter {
    sink: Box<dyn Log>,
    level: LevelFilter,
}

impl Log for Filter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        let own = target == "phi4d" || target.starts_with("phi4d::");
        let limit = if own || self.level == LevelFilter::Trace {
            self.level
        } else {
            self.level.min(LevelFilter::Warn)
        };
        metadata.level() <= limit
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.sink.log(record);
        }
    }

    fn flush(&self) {
        self.sink.flush();
    }
}

static AS_TEXT: AtomicBool = AtomicBool::new(false);

/// Whether [`init`] sent the log to a terminal, as text; there [`super::show_transient`] may be used.
#[must_use]
pub fn has_terminal() -> bool {
    AS_TEXT.load(Ordering::Relaxed) && transient::is_possible()
}

struct Stderr {
    write: fn(SystemTime, &Record<'_>) -> String,
}

impl Log for Stderr {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = (self.write)(SystemTime::now(), record);
        // One write for each line, so that lines of several threads don't mix. Nobody can be told
        // that the log is lost.
        let _ = transient::write_above(&mut std::io::stderr().lock(), &line);
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::log::Level;

    #[test]
    fn others_are_heard_only_when_they_warn() {
        let filter = |level| Filter { sink: Box::new(Stderr { write: line::text }), level };
        let heard = |level, target: &str, message| {
            let metadata = Metadata::builder().target(target).level(message).build();
            filter(level).enabled(&metadata)
        };
        assert!(heard(LevelFilter::Info, "phi4d::cli::serve", Level::Info));
        assert!(!heard(LevelFilter::Info, "phi4d", Level::Debug));
        assert!(!heard(LevelFilter::Debug, "tokenizers", Level::Info));
        assert!(!heard(LevelFilter::Debug, "phi4data", Level::Info));
        assert!(heard(LevelFilter::Debug, "tokenizers", Level::Warn));
        assert!(!heard(LevelFilter::Error, "tokenizers", Level::Warn));
        assert!(heard(LevelFilter::Trace, "tokenizers", Level::Trace));
        assert!(!heard(LevelFilter::Off, "phi4d", Level::Error));
    }
}
