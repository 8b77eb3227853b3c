//! A record of the log that outlives the call that logged it.

use std::time::SystemTime;

use log::kv::{Error, Key, Value, VisitSource};
use log::{Level, Record};

/// A record with its texts formatted.
#[derive(Debug)]
pub(super) struct OwnedRecord {
    pub(super) time: SystemTime,
    level: Level,
    target: String,
    message: String,
    module: Option<String>,
    file: Option<String>,
    line: Option<u32>,
    pairs: Vec<(String, String)>,
}

impl OwnedRecord {
    /// Formats `record`, logged at `time`.
    pub(super) fn new(time: SystemTime, record: &Record<'_>) -> Self {
        Self {
            time,
            level: record.level(),
            target: record.target().to_owned(),
            message: shortened(record.args().to_string()),
            module: record.module_path().map(str::to_owned),
            file: record.file().map(str::to_owned),
            line: record.line(),
            pairs: pairs(record),
        }
    }

    /// The record that says how many others were lost.
    pub(super) fn of_lost(count: u64) -> Self {
        let lines = if count == 1 { "line" } else { "lines" };
        let message = format_args!("{count} log {lines} lost: the log could not be written");
        Self::new(
            SystemTime::now(),
            &Record::builder()
                .level(Level::Warn)
                .target("phi4d::telemetry")
                .key_values(&[("lost", count)])
                .args(message)
                .build(),
        )
    }

    /// A line that is no record of ours, as an error.
    pub(super) fn of_line(line: &str) -> Self {
        let record =
            Record::builder().level(Level::Error).target("phi4d").args(format_args!("")).build();
        Self { message: line.to_owned(), ..Self::new(SystemTime::now(), &record) }
    }

    /// Bytes of text, roughly.
    pub(super) fn bytes(&self) -> usize {
        let pairs = self.pairs.iter().map(|(key, value)| key.len() + value.len() + 48);
        200 + self.target.len() + self.message.len() + pairs.sum::<usize>()
    }

    /// Hands it to `write` as the logger's own type.
    pub(super) fn with<T>(&self, write: impl FnOnce(&Record<'_>) -> T) -> T {
        write(
            &Record::builder()
                .level(self.level)
                .target(&self.target)
                .args(format_args!("{}", self.message))
                .module_path(self.module.as_deref())
                .file(self.file.as_deref())
                .line(self.line)
                .key_values(&self.pairs)
                .build(),
        )
    }
}

/// Most bytes of one text: a longer one would push others out of the queue.
const MAX_TEXT: usize = 16 << 10;

fn shortened(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.push_str("...");
    }
    text
}

/// The key-values of a record as text.
pub(super) fn pairs(record: &Record<'_>) -> Vec<(String, String)> {
    struct Collect(Vec<(String, String)>);
    impl<'kvs> VisitSource<'kvs> for Collect {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), Error> {
            self.0.push((key.to_string(), shortened(value.to_string())));
            Ok(())
        }
    }
    let mut collect = Collect(Vec::new());
    // Collecting never fails; what was collected is used either way.
    let _ = record.key_values().visit(&mut collect);
    collect.0
}
