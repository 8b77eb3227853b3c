//! Streams completions from the daemon under test and times them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::client::{Daemon, refused};
use super::super::exit::Fatal;

/// What one request took.
#[derive(Debug, Clone)]
pub(super) struct Timing {
    /// To the first text; `None` where all tokens were control tokens, which have none.
    pub(super) first: Option<Duration>,
    /// Gaps between texts as they came.
    pub(super) gaps: Vec<Duration>,
    /// From the request to the end.
    pub(super) whole: Duration,
    /// Tokens of the answer.
    pub(super) tokens: u32,
    /// Prompt tokens that were cached.
    pub(super) cached: u64,
}

impl Timing {
    /// Gaps of the answer's second half, when requests that came together all decode.
    pub(super) fn settled_gaps(&self) -> impl Iterator<Item = Duration> {
        self.gaps[self.gaps.len() / 2..].iter().copied()
    }
}

/// Asks for `tokens` tokens after `prompt`, greedily and past any end.
pub(super) async fn complete(
    daemon: &Daemon,
    prompt: &[u32],
    tokens: u32,
) -> Result<Timing, Fatal> {
    let body = json!({
        "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": true,
        "stream": true, "stream_options": { "include_usage": true },
    });
    let began = Instant::now();
    let mut events = daemon.stream("/v1/completions", &body).await?;
    let mut texts = Vec::new();
    let mut usage = Value::Null;
    while let Some(data) = events.next().await? {
        let chunk: Value = serde_json::from_str(&data).unwrap_or_default();
        if let Some(error) = refused(&chunk) {
            return Err(error);
        }
        if chunk["choices"][0]["text"].as_str().is_some_and(|text| !text.is_empty()) {
            texts.push(Instant::now());
        }
        if chunk["usage"].is_object() {
            usage = chunk["usage"].clone();
        }
    }
    let made = usage["completion_tokens"].as_u64().and_then(|count| u32::try_from(count).ok());
    let made = made.ok_or_else(|| Fatal::Refused("the answer has no usage".to_owned()))?;
    Ok(Timing {
        first: texts.first().map(|first| *first - began),
        gaps: texts.windows(2).map(|pair| pair[1] - pair[0]).collect(),
        whole: began.elapsed(),
        tokens: made,
        cached: usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0),
    })
}
