//! Streams completions from the daemon under test and times them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use serde_json::{Value, json};

use super::super::chat::endpoint::{Body, Endpoint};
use super::super::chat::events::Events;
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
    endpoint: &Endpoint,
    prompt: &[u32],
    tokens: u32,
) -> Result<Timing, Fatal> {
    let body = json!({
        "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": true,
        "stream": true, "stream_options": { "include_usage": true },
    });
    let mut sender = endpoint.connect().await?;
    let request = Request::builder()
        .method(Method::POST)
        .uri("/v1/completions")
        .header(HOST, endpoint.host())
        .header(CONTENT_TYPE, "application/json")
        .body(Body::new(Bytes::from(body.to_string())))
        .map_err(|error| Fatal::Internal(error.to_string()))?;
    let began = Instant::now();
    let lost = |error: hyper::Error| Fatal::Refused(error.to_string());
    let mut response = sender.send_request(request).await.map_err(lost)?;
    let status = response.status();
    let mut events = Events::default();
    let mut texts = Vec::new();
    let mut usage = Value::Null;
    while let Some(frame) = response.body_mut().frame().await {
        let bytes = frame.map_err(lost)?.into_data().unwrap_or_default();
        if !status.is_success() {
            return Err(Fatal::Refused(String::from_utf8_lossy(&bytes).into_owned()));
        }
        for data in events.push(&bytes) {
            let chunk: Value = serde_json::from_str(&data).unwrap_or_default();
            if let Some(error) = chunk.get("error") {
                return Err(Fatal::Refused(error.to_string()));
            }
            if chunk["choices"][0]["text"].as_str().is_some_and(|text| !text.is_empty()) {
                texts.push(Instant::now());
            }
            if chunk["usage"].is_object() {
                usage = chunk["usage"].clone();
            }
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
