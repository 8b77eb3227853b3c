//! The log's queue and the thread that writes it, so that a reader who stops reading (a full pipe, a
//! stopped terminal, a journal that hangs) costs log lines and never a request.
//!
//! Threads that log put a record into the queue and go on. What does not fit is dropped and counted;
//! one line says how many were lost as soon as the log can be written again.

use std::collections::VecDeque;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::record::OwnedRecord;
use super::transient::Transient;

/// Most records that wait to be written.
const MAX_RECORDS: usize = 4096;

/// Most bytes of text in them. A single larger record is dropped, too.
const MAX_BYTES: usize = 1 << 20;

/// One thing to write.
#[derive(Debug)]
pub(super) enum Entry {
    /// A record of the log.
    Record(OwnedRecord),
    /// A line as it is, without its line feed.
    Line(String),
    /// So many records before this place did not fit.
    Lost(u64),
}

impl Entry {
    fn bytes(&self) -> usize {
        match self {
            Self::Record(record) => record.bytes(),
            Self::Line(line) => line.len(),
            Self::Lost(_) => 0,
        }
    }
}

/// Where entries end up.
pub(super) trait Sink: Send {
    /// Writes one entry, above the line `transient` if there is one.
    ///
    /// # Errors
    /// If it could not be written; it is lost then.
    fn write(&mut self, entry: &Entry, transient: &Transient) -> io::Result<()>;

    /// Replaces the transient line.
    fn show(&mut self, transient: &Transient);
}

#[derive(Debug, Default)]
struct State {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Records that did not fit since the last that did.
    lost: u64,
    lost_in_all: u64,
    /// A transient line that is not shown yet; a newer one replaces it.
    transient: Option<String>,
    /// The thread is writing.
    busy: bool,
}

/// The queue. Its lock is held for a push or a pop, never while anything is written.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    /// Something is there to write.
    filled: Condvar,
    /// All is written.
    emptied: Condvar,
}

impl Queue {
    /// An empty queue.
    pub(super) const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                entries: VecDeque::new(),
                bytes: 0,
                lost: 0,
                lost_in_all: 0,
                transient: None,
                busy: false,
            }),
            filled: Condvar::new(),
            emptied: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one step, which a panic can't leave half made.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an entry. Never blocks: when the queue is full the entry is dropped and counted.
    pub(super) fn push(&self, entry: Entry) {
        let bytes = entry.bytes();
        let mut state = self.state();
        // One place is kept for the note of what was lost.
        if state.entries.len() + 2 > MAX_RECORDS || state.bytes + bytes > MAX_BYTES {
            state.lost += 1;
            state.lost_in_all += 1;
            return;
        }
        let lost = std::mem::take(&mut state.lost);
        if lost > 0 {
            state.entries.push_back(Entry::Lost(lost));
        }
        state.bytes += bytes;
        state.entries.push_back(entry);
        drop(state);
        self.filled.notify_one();
    }

    /// Has the transient line replaced when the thread gets to it.
    pub(super) fn show(&self, text: String) {
        self.state().transient = Some(text);
        self.filled.notify_one();
    }

    /// Counts a record that could not be written.
    fn count_lost(&self, count: u64) {
        self.state().lost_in_all += count;
    }

    /// Records that were lost so far.
    pub(super) fn lost_so_far(&self) -> u64 {
        self.state().lost_in_all
    }

    /// Waits until all is written, at most for `limit`. Returns whether it is.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.state();
        while state.busy || !state.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.emptied.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Writes what comes, for as long as the process lives.
    pub(super) fn write_forever(&self, mut sink: impl Sink) -> ! {
        let mut writing = Writing::default();
        loop {
            let mut state = self.state();
            state.busy = false;
            if state.is_empty() {
                self.emptied.notify_all();
            }
            while state.is_empty() {
                state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let work = state.take();
            state.busy = true;
            drop(state);
            self.count_lost(writing.write(work, &mut sink));
        }
    }

    /// Writes all that waits on the calling thread, by a `sink` that never blocks.
    pub(super) fn write_now(&self, writing: &mut Writing, sink: &mut impl Sink) {
        loop {
            let mut state = self.state();
            if state.is_empty() {
                return;
            }
            let work = state.take();
            drop(state);
            self.count_lost(writing.write(work, sink));
        }
    }
}

/// What is taken from the queue at once.
struct Work {
    entry: Option<Entry>,
    transient: Option<String>,
}

impl State {
    fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.lost == 0 && self.transient.is_none()
    }

    fn take(&mut self) -> Work {
        let transient = self.transient.take();
        let entry = self.entries.pop_front();
        self.bytes -= entry.as_ref().map_or(0, Entry::bytes);
        // Nothing came after the last that were lost.
        let entry = entry.or_else(|| match std::mem::take(&mut self.lost) {
            0 => None,
            lost => Some(Entry::Lost(lost)),
        });
        Work { entry, transient }
    }
}

/// What the writer remembers from one entry to the next.
#[derive(Debug, Default)]
pub(super) struct Writing {
    /// Records that the sink refused since the last that it took.
    refused: u64,
    transient: Transient,
}

impl Writing {
    /// Writes one entry. Returns how many records were lost by it.
    fn write(&mut self, work: Work, sink: &mut impl Sink) -> u64 {
        if let Some(text) = work.transient {
            self.transient = Transient::new(&text);
            sink.show(&self.transient);
        }
        let Some(entry) = work.entry else { return 0 };
        let refused = match entry {
            Entry::Lost(count) => {
                // One note is enough for both.
                self.refused += count;
                self.note(sink);
                return 0;
            }
            Entry::Record(_) | Entry::Line(_) => {
                self.note(sink);
                self.refused > 0 || sink.write(&entry, &self.transient).is_err()
            }
        };
        self.refused += u64::from(refused);
        u64::from(refused)
    }

    /// Says how many were lost, if any were and the sink takes it.
    fn note(&mut self, sink: &mut impl Sink) {
        if self.refused > 0 && sink.write(&Entry::Lost(self.refused), &self.transient).is_ok() {
            self.refused = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, mpsc};

    use super::*;

    /// Waits for a word before each entry, as a pipe does whose reader is slow.
    struct Slow {
        turns: mpsc::Receiver<()>,
        written: Arc<Mutex<Vec<String>>>,
        fails: Arc<AtomicBool>,
    }

    impl Sink for Slow {
        fn write(&mut self, entry: &Entry, _: &Transient) -> io::Result<()> {
            if self.fails.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let _ = self.turns.recv();
            self.written.lock().unwrap().push(match entry {
                Entry::Line(line) => line.clone(),
                Entry::Lost(count) => format!("lost {count}"),
                Entry::Record(_) => unreachable!(),
            });
            Ok(())
        }

        fn show(&mut self, _: &Transient) {}
    }

    struct Running {
        queue: Arc<Queue>,
        turns: mpsc::SyncSender<()>,
        written: Arc<Mutex<Vec<String>>>,
        fails: Arc<AtomicBool>,
    }

    fn start() -> Running {
        let (turns, receiver) = mpsc::sync_channel(1 << 20);
        let (queue, written): (Arc<Queue>, Arc<Mutex<Vec<String>>>) = Default::default();
        let fails = Arc::new(AtomicBool::new(false));
        let sink = Slow { turns: receiver, written: written.clone(), fails: fails.clone() };
        let writer = queue.clone();
        std::thread::spawn(move || writer.write_forever(sink));
        Running { queue, turns, written, fails }
    }

    fn push(running: &Running, range: std::ops::Range<usize>) {
        for n in range {
            running.queue.push(Entry::Line(n.to_string()));
        }
    }

    #[test]
    fn a_writer_that_hangs_costs_lines_which_are_counted_and_noted_in_their_place() {
        let running = start();
        push(&running, 0..1);
        while !running.queue.state().entries.is_empty() {
            std::thread::yield_now();
        }
        push(&running, 1..3 * MAX_RECORDS);
        assert!(!running.queue.flush(Duration::from_millis(1)));
        let lost = running.queue.lost_so_far();
        assert_eq!(lost, 2 * MAX_RECORDS as u64);
        for _ in 0..3 * MAX_RECORDS {
            running.turns.send(()).unwrap();
        }
        assert!(running.queue.flush(Duration::from_secs(60)));
        push(&running, 7..8);
        assert!(running.queue.flush(Duration::from_secs(60)));
        let written = running.written.lock().unwrap();
        let kept = 3 * MAX_RECORDS - usize::try_from(lost).unwrap();
        let mut expected: Vec<String> = (0..kept).map(|n| n.to_string()).collect();
        expected.extend([format!("lost {lost}"), "7".to_owned()]);
        assert_eq!(*written, expected);
    }

    #[test]
    fn what_waits_is_bounded_by_bytes_as_well() {
        let running = start();
        for _ in 0..64 {
            running.queue.push(Entry::Line("x".repeat(MAX_BYTES / 8)));
        }
        assert!(running.queue.state().bytes <= MAX_BYTES);
        assert!(running.queue.lost_so_far() >= 50);
        running.queue.push(Entry::Line("x".repeat(MAX_BYTES + 1)));
        assert!(running.queue.state().bytes <= MAX_BYTES);
    }

    #[test]
    fn what_the_sink_refuses_is_counted_and_noted_when_it_takes_lines_again() {
        let running = start();
        for _ in 0..10 {
            running.turns.send(()).unwrap();
        }
        running.fails.store(true, Ordering::Relaxed);
        push(&running, 0..3);
        assert!(running.queue.flush(Duration::from_secs(60)));
        assert_eq!(running.queue.lost_so_far(), 3);
        running.fails.store(false, Ordering::Relaxed);
        push(&running, 3..5);
        assert!(running.queue.flush(Duration::from_secs(60)));
        assert_eq!(*running.written.lock().unwrap(), ["lost 3", "3", "4"]);
    }
}
