//! Progress of loading a model, as a transient line on a terminal. Journals and pipes get none.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::time::{Interval, interval};

use super::check::size;
use phi4d_os::resident_memory;
use phi4d_telemetry::{has_terminal, show_transient};

/// How often the line changes.
const TICK: Duration = Duration::from_millis(200);

/// The longest part of a model's name that is shown: the line must not be broken.
const MOST_NAME: usize = 24;

/// The line, until it is dropped.
#[derive(Debug)]
pub(super) struct Loading {
    name: String,
    /// Bytes of the model's files.
    files: u64,
    begun: Instant,
    /// `None` without a terminal.
    ticks: Option<Interval>,
}

impl Loading {
    /// For the model `name` in `folder`.
    pub(super) fn begin(name: &str, folder: &Path) -> Self {
        Self {
            name: name.chars().take(MOST_NAME).collect(),
            files: bytes_of(folder),
            begun: Instant::now(),
            ticks: has_terminal().then(|| interval(TICK)),
        }
    }

    /// Waits for the time of the next change, and shows it. Cancel-safe.
    pub(super) async fn show(&mut self) {
        match &mut self.ticks {
            Some(ticks) => drop(ticks.tick().await),
            None => std::future::pending().await,
        }
        show_transient(&self.line(resident_memory()));
    }

    fn line(&self, resident: Option<u64>) -> String {
        let bytes = |count: u64| size(usize::try_from(count).unwrap_or(usize::MAX));
        let seconds = self.begun.elapsed().as_secs();
        let mut line = format!("loading {}: files of {}", self.name, bytes(self.files));
        if let Some(resident) = resident {
            line.push_str(&format!(", {} in memory", bytes(resident)));
        }
        format!("{line}, {seconds} s")
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        if self.ticks.is_some() {
            show_transient("");
        }
    }
}

/// Of the files right in `folder`; what can't be read is the loader's to tell.
fn bytes_of(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.filter_map(|entry| std::fs::metadata(entry.path()).ok());
    files.filter(std::fs::Metadata::is_file).map(|metadata| metadata.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_short_and_tells_sizes_and_time() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.onnx.data"), vec![0; 2048]).unwrap();
        let loading = Loading::begin(&"long".repeat(20), folder.path());
        let line = loading.line(Some(1 << 30));
        assert!(line.len() < 80, "{line}");
        assert!(line.ends_with(": files of 2.0 KiB, 1.0 GiB in memory, 0 s"), "{line}");
    }
}
