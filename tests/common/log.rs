//! A daemon's log.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::wait_for;

/// What a daemon writes to standard error, as it comes. The daemon writes its log on a thread of its own: a
/// line may come after the answer that it is about, and all have come only once the daemon has ended.
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    reader: JoinHandle<()>,
}

impl Log {
    pub(super) fn follow(stream: impl Read + Send + 'static) -> Self {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        Self { lines, reader }
    }

    /// All lines so far. What must be in a living daemon's log is for [`Log::says`].
    pub fn text(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// Waits for `text`, and returns all lines so far.
    pub fn says(&self, text: &str) -> String {
        wait_for(&format!("{text:?} in the log"), || {
            let log = self.text();
            log.contains(text).then_some(log)
        })
    }

    /// Waits for the last line of a daemon that has ended. A process below it that lives on may hold the
    /// log open, so it is no fault if the end does not come.
    pub(super) fn wait_end(&self) {
        let limit = Instant::now() + Duration::from_secs(5);
        while !self.reader.is_finished() && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
