//! Sets the process's logger up.

use std::cell::Cell;
use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use ::log::{LevelFilter, Log, Metadata, Record, set_boxed_logger, set_max_level};

#[cfg(unix)]
use super::journal::{Journal, connected_to_journal};
use super::line;
#[cfg(not(unix))]
use super::no_journal::{Journal, connected_to_journal};
use super::queue::{Entry, Queue, Sink, Writing};
use super::record::OwnedRecord;
use super::stderr::{Patient, Stderr};
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

/// What waits to be written.
static QUEUE: Queue = Queue::new();

/// Writes the log where the system had no thread for it: whoever logs writes, as far as that does
/// not block.
static WITHOUT_THREAD: OnceLock<Mutex<(Writing, Stderr<io::Stderr>)>> = OnceLock::new();

static STARTED: AtomicBool = AtomicBool::new(false);
static AS_TEXT: AtomicBool = AtomicBool::new(false);

/// Sets the logger of this process, which logs messages of `level` and above. Key-values of a message become
/// fields in the journal and in JSON, and `key=value` in text.
///
/// A thread of its own writes them, to `stderr` if they don't go to the journal; that may block.
/// The process's standard error itself should not block: it is used where there is no such thread.
///
/// # Errors
/// If the journal was asked for and can't be reached, or a logger is set already.
pub fn init(
    format: Format,
    level: LevelFilter,
    stderr: impl Write + Send + 'static,
) -> io::Result<()> {
    let format = match format {
        Format::Auto if connected_to_journal() => Format::Journal,
        Format::Auto => Format::Text,
        asked => asked,
    };
    let line = if format == Format::Json { line::json } else { line::text };
    let started = match format {
        Format::Journal => start(Journal::open()?),
        _ => start(Stderr { out: Patient(stderr), format: line }),
    };
    if started.is_err() {
        let direct = Stderr { out: io::stderr(), format: line };
        let _ = WITHOUT_THREAD.set(Mutex::new((Writing::default(), direct)));
    }
    set_boxed_logger(Box::new(Filter { level })).map_err(io::Error::other)?;
    set_max_level(level);
    AS_TEXT.store(format == Format::Text, Ordering::Relaxed);
    STARTED.store(true, Ordering::Release);
    std::panic::set_hook(Box::new(log_panic));
    if let Err(error) = started {
        ::log::warn!(
            "no thread for the log ({error}); lines that can't be written at once are lost"
        );
    }
    Ok(())
}

fn start(sink: impl Sink + 'static) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("phi4d-log".into());
    thread.spawn(move || QUEUE.write_forever(sink)).map(drop)
}

fn push(entry: Entry) {
    QUEUE.push(entry);
    // If another thread writes right now, it writes this one as well or the next one does.
    if let Some(Ok(mut direct)) = WITHOUT_THREAD.get().map(Mutex::try_lock) {
        let (writing, sink) = &mut *direct;
        QUEUE.write_now(writing, sink);
    }
}

/// Whether [`init`] was called; only then [`write_line`] and [`show_transient`] have an effect.
#[must_use]
pub fn is_started() -> bool {
    STARTED.load(Ordering::Acquire)
}

/// Writes `text` as it is behind all that was logged before it; in the journal it is an error.
/// Never blocks.
pub fn write_line(text: String) {
    push(Entry::Line(text));
}

/// Waits until all that was logged is written, at most for `limit`: whoever reads the log may have
/// stopped reading.
pub fn flush(limit: Duration) {
    if is_started() && WITHOUT_THREAD.get().is_none() {
        QUEUE.flush(limit);
    }
}

/// Lines that were dropped because the log could not be written as fast as they came, or at all.
#[must_use]
pub fn lost_lines() -> u64 {
    QUEUE.lost_so_far()
}

/// Puts `text`, one short line, in the place of what stood there; an empty one removes it. Only if
/// [`has_terminal`].
pub fn show_transient(text: &str) {
    if WITHOUT_THREAD.get().is_none() {
        QUEUE.show(text.to_owned());
    }
}

/// Whether [`init`] sent the log to a terminal, as text; there [`show_transient`] may be used.
#[must_use]
pub fn has_terminal() -> bool {
    AS_TEXT.load(Ordering::Relaxed) && transient::is_possible()
}

thread_local! {
    /// Whether this thread's panics are caught and reported by who caught them.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Does `work`, and returns the text of its panic if it panics; the log has no line for it. For calls
/// of libraries that assert what they want of their input or of the system, and for functions that
/// other languages call. What `work` changes must not be used after a panic.
///
/// # Errors
/// The panic's text.
pub fn catch_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let outer = CAUGHT.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    CAUGHT.set(outer);
    done.map_err(|payload| {
        let text = payload.downcast_ref::<&str>().map(ToString::to_string);
        text.or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a text".to_owned())
    })
}

/// Logs a panic in the place of the standard library's message, which would block and mix with
/// other lines.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    if CAUGHT.get() {
        return;
    }
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("without a name");
    let text = panic.payload_as_str().unwrap_or("a value that is no text");
    let place = panic.location().map_or_else(String::new, |place| format!(" at {place}"));
    let backtrace = std::backtrace::Backtrace::capture();
    if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
        ::log::error!(backtrace:% = backtrace; "thread '{name}' panicked{place}: {text}");
    } else {
        ::log::error!("thread '{name}' panicked{place}: {text}");
    }
}

/// Limits the messages of other crates to what matters: this program's own messages are logged at
/// `level`, theirs only if they are warnings or worse.
struct Filter {
    level: LevelFilter,
}

impl Log for Filter {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        // Our crates are `phi4d` and `phi4d_LAYER`.
        let own = target
            .strip_prefix("phi4d")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with("::") || rest.starts_with('_'));
        let limit = if own || self.level == LevelFilter::Trace {
            self.level
        } else {
            self.level.min(LevelFilter::Warn)
        };
        metadata.level() <= limit
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            push(Entry::Record(OwnedRecord::new(SystemTime::now(), record)));
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::log::Level;

    #[test]
    fn others_are_heard_only_when_they_warn() {
        let heard = |level, target: &str, message| {
            let metadata = Metadata::builder().target(target).level(message).build();
            Filter { level }.enabled(&metadata)
        };
        assert!(heard(LevelFilter::Info, "phi4d::main", Level::Info));
        assert!(heard(LevelFilter::Info, "phi4d_cli::serve", Level::Info));
        assert!(!heard(LevelFilter::Info, "phi4d", Level::Debug));
        assert!(!heard(LevelFilter::Debug, "tokenizers", Level::Info));
        assert!(!heard(LevelFilter::Debug, "phi4data", Level::Info));
        assert!(heard(LevelFilter::Debug, "tokenizers", Level::Warn));
        assert!(!heard(LevelFilter::Error, "tokenizers", Level::Warn));
        assert!(heard(LevelFilter::Trace, "tokenizers", Level::Trace));
        assert!(!heard(LevelFilter::Off, "phi4d", Level::Error));
    }
}
