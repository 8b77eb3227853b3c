//! A line that moves while an answer has not begun: how much of the prompt has been read.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::screen::Screen;

/// How long nothing is shown: short waits need no explanation.
const QUIET: Duration = Duration::from_millis(300);

/// Time between two steps of the movement.
const TICK: Duration = Duration::from_millis(100);

const STEPS: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

/// How much of a prompt has been read, in tokens.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) struct Progress {
    pub(super) processed: u64,
    pub(super) total: u64,
}

impl Progress {
    /// Of an event's `prompt_progress`, as llama-server names it; `None` if it is none.
    pub(super) fn read(value: &Value) -> Option<Self> {
        let count = |name: &str| value[name].as_u64();
        Some(Self { processed: count("processed")?, total: count("total")? })
    }
}

/// The waiting for one answer.
#[derive(Debug)]
pub(super) struct Spinner {
    began: Instant,
    pub(super) progress: Option<Progress>,
    /// Whether the answer has begun; then it is the answer that moves.
    pub(super) is_over: bool,
}

impl Spinner {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), progress: None, is_over: false }
    }

    /// Waits for `what`. Meanwhile the line is shown, where it can be removed again.
    pub(super) async fn during<T>(&self, screen: &mut Screen, what: impl Future<Output = T>) -> T {
        if self.is_over || !screen.lines_can_go() {
            return what.await;
        }
        let quiet = QUIET.saturating_sub(self.began.elapsed()).max(TICK);
        screen.during(what, [quiet, TICK], || self.line()).await
    }

    fn line(&self) -> String {
        let elapsed = self.began.elapsed();
        let step = usize::try_from(elapsed.as_millis() / TICK.as_millis()).unwrap_or_default();
        let step = STEPS[step % STEPS.len()];
        match self.progress {
            Some(Progress { processed, total }) => {
                let share = processed.saturating_mul(100) / total.max(1);
                format!("{step} reading the prompt: {processed} of {total} tokens ({share}%)")
            }
            None => format!("{step} waiting for the answer: {} s", elapsed.as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_line_says_how_much_of_the_prompt_has_been_read() {
        let mut spinner = Spinner::new();
        assert!(spinner.line().ends_with(" waiting for the answer: 0 s"), "{}", spinner.line());
        let progress = json!({ "total": 4096, "cache": 0, "processed": 1024, "time_ms": 9 });
        spinner.progress = Progress::read(&progress);
        let line = spinner.line();
        assert!(line.ends_with(" reading the prompt: 1024 of 4096 tokens (25%)"), "{line}");
        assert_eq!(Progress::read(&Value::Null), None);
        spinner.progress = Some(Progress { processed: 0, total: 0 });
        assert!(spinner.line().ends_with("(0%)"));
    }
}
