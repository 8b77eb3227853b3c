//! One answer: received, shown as it streams, and its figures.

use std::fmt;
use std::future::Future;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::exit::Fatal;
use super::client::{Client, Piece};
use super::screen::Screen;
use super::spinner::Spinner;

/// The shortest time, in seconds, for which a speed is shown: tokens may arrive in bursts.
const SHORTEST_S: f64 = 0.01;

/// What was answered.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) content: String,
    pub(super) reasoning: String,
    /// As the API calls it; `None` if the user stopped the answer.
    pub(super) finish_reason: Option<String>,
    pub(super) model: Option<String>,
    pub(super) usage: Value,
    /// Fields of the request that the daemon does not know.
    pub(super) ignored: Option<String>,
    pub(super) timing: Timing,
}

/// How long it took.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Timing {
    /// From the request to the first text or thought.
    first: Option<Duration>,
    /// From the request to the end.
    whole: Duration,
}

impl Answer {
    /// Asks, and shows the answer as it comes; it ends with what there is if `interrupt` ends
    /// first, and the daemon stops then.
    pub(super) async fn take(
        client: &Client,
        request: &Value,
        screen: &mut Screen,
        interrupt: impl Future<Output = ()>,
    ) -> Result<Self, Fatal> {
        tokio::pin!(interrupt);
        let began = Instant::now();
        let mut spinner = Spinner::new();
        let mut answer = Self::default();
        // The interrupt first: it must be listened for before the daemon knows of the question.
        let opened = tokio::select! {
            biased;
            () = &mut interrupt => Err(None),
            opened = spinner.during(screen, client.open(request)) => opened.map_err(Some),
        };
        screen.done_waiting();
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(None) => return Ok(answer),
            Err(Some(fatal)) => return Err(fatal),
        };
        answer.ignored = stream.ignored();
        loop {
            let piece = tokio::select! {
                biased;
                () = &mut interrupt => break,
                piece = spinner.during(screen, stream.next()) => piece,
            };
            if !matches!(piece, Ok(Piece::Progress(_) | Piece::Model(_))) {
                screen.done_waiting();
            }
            if matches!(piece, Ok(Piece::Text(_) | Piece::Thought(_))) {
                spinner.is_over = true;
                answer.timing.first.get_or_insert_with(|| began.elapsed());
            }
            match piece {
                Ok(Piece::Text(text)) => {
                    screen.text(&text)?;
                    answer.content.push_str(&text);
                }
                Ok(Piece::Thought(text)) => {
                    screen.thought(&text)?;
                    answer.reasoning.push_str(&text);
                }
                Ok(Piece::Finish(reason)) => answer.finish_reason = Some(reason),
                Ok(Piece::Model(name)) => {
                    // Of a chunk without progress: the model is there, and the request waits for a slot.
                    spinner.progress = None;
                    spinner.model = Some(name.clone());
                    answer.model = Some(name);
                }
                Ok(Piece::Progress(progress)) => spinner.progress = Some(progress),
                Ok(Piece::Usage(usage)) => answer.usage = usage,
                Ok(Piece::End) => break,
                Err(fatal) => {
                    // The error must start on a line of its own.
                    screen.end()?;
                    return Err(fatal);
                }
            }
        }
        screen.done_waiting();
        answer.timing.whole = began.elapsed();
        screen.end()?;
        Ok(answer)
    }

    /// Whether the answer was cut by a token limit.
    pub(super) fn is_cut(&self) -> bool {
        self.finish_reason.as_deref() == Some("length")
    }

    /// As one object.
    pub(super) fn to_json(&self) -> Value {
        let seconds = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e6;
        json!({
            "content": self.content,
            "reasoning": (!self.reasoning.is_empty()).then_some(&self.reasoning),
            "finish_reason": self.finish_reason,
            "model": self.model,
            "usage": self.usage,
            "timings": {
                "time_to_first_token_s": self.timing.first.map(seconds),
                "total_s": seconds(self.timing.whole),
                "tokens_per_second": self.speed().map(|speed| (speed * 1e3).round() / 1e3),
            },
        })
    }

    /// The model, the context that is used, of so many tokens if known, and the speed.
    pub(super) fn footer(&self, context: Option<u64>) -> String {
        let used = self.count("prompt_tokens").zip(self.count("completion_tokens"));
        let used = used.map(|(prompt, made)| match context {
            Some(context) => format!("{} of {context} tokens", prompt + made),
            None => format!("{} tokens", prompt + made),
        });
        let speed = self.speed().map(|speed| format!("{speed:.1} tokens/s"));
        let parts: Vec<String> = self.model.clone().into_iter().chain(used).chain(speed).collect();
        parts.join(" · ")
    }

    fn count(&self, name: &str) -> Option<u64> {
        self.usage[name].as_u64()
    }

    /// Tokens a second after the first; `None` if the time is too short to be meaningful.
    fn speed(&self) -> Option<f64> {
        let after = self.count("completion_tokens")?.checked_sub(1).filter(|count| *count > 0)?;
        let time = self.timing.whole.checked_sub(self.timing.first?)?.as_secs_f64();
        let after = f64::from(u32::try_from(after).ok()?);
        (time >= SHORTEST_S).then(|| after / time)
    }
}

/// Its figures, in one line.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((prompt, made)) = self.count("prompt_tokens").zip(self.count("completion_tokens"))
        else {
            let time = self.timing.whole.as_secs_f64();
            return write!(f, "stopped after {time:.2} s; its tokens were not counted");
        };
        let cached = self.usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0);
        write!(f, "prompt {prompt} tokens, {cached} cached; answer {made} tokens")?;
        if let Some(first) = self.timing.first {
            write!(f, ", first after {:.2} s", first.as_secs_f64())?;
        }
        match self.speed() {
            Some(speed) => write!(f, ", {speed:.1} tokens/s"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_the_daemons_and_the_clocks() {
        let mut answer = Answer {
            usage: json!({
                "prompt_tokens": 40, "completion_tokens": 11,
                "prompt_tokens_details": { "cached_tokens": 32 },
            }),
            timing: Timing {
                first: Some(Duration::from_millis(500)),
                whole: Duration::from_millis(2500),
            },
            ..Answer::default()
        };
        assert_eq!(
            answer.to_string(),
            "prompt 40 tokens, 32 cached; answer 11 tokens, first after 0.50 s, 5.0 tokens/s"
        );
        let timings = &answer.to_json()["timings"];
        assert_eq!(
            timings,
            &json!({ "time_to_first_token_s": 0.5, "total_s": 2.5, "tokens_per_second": 5.0 })
        );
        answer.model = Some("phi-4".to_owned());
        assert_eq!(answer.footer(Some(16_384)), "phi-4 · 51 of 16384 tokens · 5.0 tokens/s");
        assert_eq!(answer.footer(None), "phi-4 · 51 tokens · 5.0 tokens/s");
        // One token has a time and no speed.
        answer.usage["completion_tokens"] = 1.into();
        assert!(answer.to_string().ends_with("first after 0.50 s"), "{answer}");
        answer.usage = Value::Null;
        assert_eq!(answer.to_string(), "stopped after 2.50 s; its tokens were not counted");
        assert_eq!(answer.footer(None), "phi-4");
    }
}
