//! llama.cpp's `timings` and `prompt_progress`.

use std::time::Duration;

use serde::Serialize;

use super::common::to_json;
use phi4d_generate::{PromptProgress, Usage};

/// How long reading the prompt and answering took, queues aside.
#[derive(Debug, Serialize)]
struct Timings {
    cache_n: usize,
    prompt_n: usize,
    prompt_ms: f64,
    prompt_per_token_ms: f64,
    prompt_per_second: f64,
    predicted_n: usize,
    predicted_ms: f64,
    predicted_per_token_ms: f64,
    predicted_per_second: f64,
}

#[derive(Debug, Serialize)]
struct Timed<'b, T> {
    #[serde(flatten)]
    body: &'b T,
    timings: Timings,
}

/// `body` as JSON, with the times so far if they are `wanted`.
pub(crate) fn timed<T: Serialize>(body: &T, usage: Usage, wanted: bool) -> String {
    if wanted { to_json(&Timed { body, timings: Timings::of(usage) }) } else { to_json(body) }
}

/// How much of the prompt has been read, in tokens; `processed` includes `cache`.
#[derive(Debug, Serialize)]
struct Progress {
    total: usize,
    cache: usize,
    processed: usize,
    /// Since prefill began.
    time_ms: u128,
}

#[derive(Debug, Serialize)]
struct Progressed<'b, T> {
    #[serde(flatten)]
    body: &'b T,
    prompt_progress: Progress,
}

/// `body`, a chunk without text, as JSON with the prompt's `progress`.
pub(crate) fn progressed<T: Serialize>(body: &T, progress: PromptProgress) -> String {
    let prompt_progress = Progress {
        total: progress.total_tokens,
        cache: progress.cached_tokens,
        processed: progress.processed_tokens,
        time_ms: progress.elapsed.as_millis(),
    };
    to_json(&Progressed { body, prompt_progress })
}

impl Timings {
    fn of(usage: Usage) -> Self {
        let read = usage.prompt_tokens - usage.cached_tokens.min(usage.prompt_tokens);
        // The first token comes with the end of reading.
        let made = usage.completion_tokens.saturating_sub(1);
        let [prompt_per_token_ms, prompt_per_second] = rates(read, usage.reading);
        let [predicted_per_token_ms, predicted_per_second] = rates(made, usage.answering);
        Self {
            cache_n: usage.cached_tokens,
            prompt_n: read,
            prompt_ms: milliseconds(usage.reading),
            prompt_per_token_ms,
            prompt_per_second,
            predicted_n: usage.completion_tokens,
            predicted_ms: milliseconds(usage.answering),
            predicted_per_token_ms,
            predicted_per_second,
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Milliseconds for each of `tokens`, and tokens a second; 0 where there is nothing to divide by.
#[expect(clippy::cast_precision_loss, reason = "token counts stay far below 2^52")]
fn rates(tokens: usize, time: Duration) -> [f64; 2] {
    if tokens == 0 || time.is_zero() {
        return [0.0; 2];
    }
    [milliseconds(time) / tokens as f64, tokens as f64 / time.as_secs_f64()]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn times_and_rates_stand_beside_the_body() {
        let usage = Usage {
            prompt_tokens: 12,
            cached_tokens: 2,
            completion_tokens: 5,
            reading: Duration::from_millis(500),
            answering: Duration::from_millis(200),
            ..Usage::default()
        };
        let body = json!({"object": "x"});
        let timed_body: Value = serde_json::from_str(&timed(&body, usage, true)).unwrap();
        assert_eq!(
            timed_body,
            json!({"object": "x", "timings": {
                "cache_n": 2, "prompt_n": 10, "prompt_ms": 500.0, "prompt_per_token_ms": 50.0,
                "prompt_per_second": 20.0, "predicted_n": 5, "predicted_ms": 200.0,
                "predicted_per_token_ms": 50.0, "predicted_per_second": 20.0
            }})
        );
        assert_eq!(timed(&body, usage, false), body.to_string());
        let nothing: Value = serde_json::from_str(&timed(&body, Usage::default(), true)).unwrap();
        assert_eq!(nothing["timings"]["predicted_per_second"], 0.0);
    }
}
