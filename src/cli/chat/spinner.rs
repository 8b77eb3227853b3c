//! A line that moves while an answer has not begun: how far the model's load is, and how much of the prompt has
//! been read.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::screen::{Screen, harmless};

/// How long nothing is shown: short waits need no explanation.
const QUIET: Duration = Duration::from_millis(300);

/// Time between two steps of the movement.
const TICK: Duration = Duration::from_millis(100);

const STEPS: [char; 10] = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

/// The longest part of a model's name that is shown.
const MOST_NAME: usize = 24;

/// What is done before an answer begins.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Progress {
    /// The request has this place in the line for models.
    Turn(u64),
    /// The model is loading; so many percent of its weights are there, if that is known.
    Load(Option<u64>),
    /// So many tokens of the prompt have been read.
    Prompt { processed: u64, total: u64 },
}

impl Progress {
    /// Of an event's `load_progress`, or of its `prompt_progress`, as llama-server names it; `None` if it has none.
    pub(super) fn read(chunk: &Value) -> Option<Self> {
        let load = &chunk["load_progress"];
        match load["state"].as_str() {
            Some("waiting") => return Some(Self::Turn(load["place"].as_u64()?)),
            Some("loading") => return Some(Self::Load(load["value"].as_f64().map(percent))),
            _ => {}
        }
        let count = |name: &str| chunk["prompt_progress"][name].as_u64();
        Some(Self::Prompt { processed: count("processed")?, total: count("total")? })
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
fn percent(part: f64) -> u64 {
    (part.clamp(0.0, 1.0) * 100.0) as u64
}

/// The waiting for one answer.
#[derive(Debug)]
pub(super) struct Spinner {
    began: Instant,
    pub(super) progress: Option<Progress>,
    /// The model's name, once it is known.
    pub(super) model: Option<String>,
    /// Whether the answer has begun; then it is the answer that moves.
    pub(super) is_over: bool,
}

impl Spinner {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), progress: None, model: None, is_over: false }
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
        let seconds = elapsed.as_secs();
        let name = self.model.as_deref().unwrap_or("the model");
        let name =
            harmless(name).chars().filter(|c| !c.is_control()).take(MOST_NAME).collect::<String>();
        match self.progress {
            Some(Progress::Turn(place)) => {
                format!("{step} waiting for {name}: place {place} in the line, {seconds} s")
            }
            Some(Progress::Load(Some(percent))) => {
                format!("{step} loading {name}: {percent}%, {seconds} s")
            }
            Some(Progress::Load(None)) => format!("{step} loading {name}: {seconds} s"),
            Some(Progress::Prompt { processed, total }) => {
                let share = processed.saturating_mul(100) / total.max(1);
                format!("{step} reading the prompt: {processed} of {total} tokens ({share}%)")
            }
            None => format!("{step} waiting for the answer: {seconds} s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_line_says_what_is_done_before_the_answer() {
        let mut spinner = Spinner::new();
        assert!(spinner.line().ends_with(" waiting for the answer: 0 s"), "{}", spinner.line());
        let mut line = |progress: Value| {
            spinner.progress = Progress::read(&json!({ "load_progress": progress }));
            let line = spinner.line();
            spinner.model = Some(format!("phi{}", "i".repeat(200)));
            line.split_once(' ').unwrap().1.to_owned()
        };
        let loading = json!({ "state": "loading", "stage": "weights", "value": 0.4271 });
        assert_eq!(line(loading), "loading the model: 42%, 0 s");
        let loading = json!({ "state": "loading", "stage": "tokenizer", "time_ms": 7 });
        assert_eq!(line(loading), "loading phiiiiiiiiiiiiiiiiiiiiii: 0 s");
        let waiting = json!({ "state": "waiting", "place": 2, "time_ms": 7 });
        assert!(line(waiting).ends_with("iii: place 2 in the line, 0 s"));
        let progress = json!({ "total": 4096, "cache": 0, "processed": 1024, "time_ms": 9 });
        spinner.progress = Progress::read(&json!({ "prompt_progress": progress }));
        let line = spinner.line();
        assert!(line.ends_with(" reading the prompt: 1024 of 4096 tokens (25%)"), "{line}");
        assert_eq!(Progress::read(&Value::Null), None);
        spinner.progress = Some(Progress::Prompt { processed: 0, total: 0 });
        assert!(spinner.line().ends_with("(0%)"));
    }
}
