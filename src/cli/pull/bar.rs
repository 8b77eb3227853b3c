//! A download's progress on standard error: a line that changes in a terminal, else one now and
//! then.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use super::bytes;
use phi4d_fetch::Progress;

/// How often the line changes.
const TICK: Duration = Duration::from_millis(200);

/// The speed is that of this long, more or less.
const MEMORY: Duration = Duration::from_secs(5);

pub(super) struct Bar {
    is_terminal: bool,
    total: u64,
    done: u64,
    file: String,
    /// Tenths that lines have been written of.
    tenths: u64,
    shown: Option<Instant>,
    mark: (Instant, u64),
    /// Bytes a second; 0 while it is not known.
    speed: u64,
}

impl Bar {
    pub(super) fn begin(from: &str, total: u64) -> Self {
        let now = Instant::now();
        let bar = Self {
            is_terminal: std::io::stderr().is_terminal(),
            total,
            done: 0,
            file: String::new(),
            tenths: 0,
            shown: None,
            mark: (now, 0),
            speed: 0,
        };
        bar.line(&format!("{from}: {}", bytes(total)));
        bar
    }

    pub(super) fn show(&mut self, progress: &Progress<'_>) {
        match progress {
            Progress::File(name) => (*name).clone_into(&mut self.file),
            Progress::Again(error) => self.line(&format!("{error}; trying again")),
            Progress::Done(bytes) => self.done = *bytes,
        }
        let now = Instant::now();
        self.measure(now);
        if self.is_terminal {
            if self.shown.is_none_or(|shown| now - shown >= TICK) {
                self.shown = Some(now);
                self.write(&format!("\r\x1b[K{}", self.text()));
            }
        } else if self.done * 10 / self.total.max(1) > self.tenths {
            self.tenths = self.done * 10 / self.total.max(1);
            self.line(&self.text());
        }
    }

    /// Leaves the line.
    pub(super) fn end(&self) {
        if self.is_terminal {
            self.write("\r\x1b[K");
        }
    }

    fn measure(&mut self, now: Instant) {
        let since = now - self.mark.0;
        if since >= Duration::from_secs(1) {
            let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
            let fresh = self.done.saturating_sub(self.mark.1).saturating_mul(1000) / millis;
            let ticks = MEMORY.as_secs();
            self.speed = match self.speed {
                0 => fresh,
                speed => (speed * (ticks - 1) + fresh) / ticks,
            };
            self.mark = (now, self.done);
        }
    }

    fn text(&self) -> String {
        let percent = self.done * 100 / self.total.max(1);
        let mut text = format!("{percent:>3}%  {} of {}", bytes(self.done), bytes(self.total));
        if let Some(left) = self.total.saturating_sub(self.done).checked_div(self.speed) {
            let (minutes, seconds) = (left / 60, left % 60);
            text.push_str(&format!("  {}/s  {minutes}:{seconds:02} left", bytes(self.speed)));
        }
        format!("{text}  {}", self.file)
    }

    fn line(&self, text: &str) {
        let start = if self.is_terminal { "\r\x1b[K" } else { "" };
        self.write(&format!("{start}{text}\n"));
    }

    fn write(&self, text: &str) {
        let mut out = std::io::stderr().lock();
        // Without standard error nobody sees the progress.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_how_far_and_how_long() {
        let mut bar = Bar::begin("me/m/cpu", 10 << 30);
        let start = bar.mark.0;
        bar.show(&Progress::File("model.onnx.data"));
        bar.done = 1 << 30;
        bar.measure(start + Duration::from_secs(4));
        assert_eq!(
            bar.text(),
            " 10%  1.0 GiB of 10.0 GiB  256.0 MiB/s  0:36 left  model.onnx.data"
        );
        bar.done = 10 << 30;
        assert!(bar.text().starts_with("100%"));
    }
}
