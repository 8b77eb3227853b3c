//! Requests to the daemon, and the stream of an answer.

use std::collections::VecDeque;
use std::time::Duration;

use http_body_util::{BodyExt as _, Limited};
use hyper::header::RETRY_AFTER;
use serde_json::Value;

use super::super::args::ClientArgs;
use super::super::client::{Daemon, EventStream, refusal, refused};
use super::super::exit::Fatal;
use super::conversation::PROGRESS;
use super::spinner::Progress;
use phi4d_fetch::Server;

/// Names the fields of a request that the daemon does not know.
const IGNORED: &str = "x-phi4d-ignored-fields";

/// Longer lists of models are not read.
const MOST_BYTES: usize = 1 << 20;

/// A model that the daemon serves.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) name: String,
    /// Tokens of its context, if known.
    pub(super) context: Option<u64>,
}

/// The daemon's chat API.
#[derive(Debug)]
pub(super) struct Client(Daemon);

/// Whether the daemon takes requests.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    Ready,
    NotYet {
        reason: String,
        /// When it wants to be asked again.
        after: Option<Duration>,
    },
}

impl Client {
    pub(super) fn new(arguments: &ClientArgs) -> Result<Self, Fatal> {
        let key = match &arguments.api_key_file {
            Some(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|error| Fatal::File {
                    path: path.clone(),
                    reason: format!("the API key can't be read: {error}"),
                })?;
                Some(text.trim().to_owned())
            }
            None => arguments.api_key.clone(),
        };
        let daemon = Daemon::choose(arguments)?;
        Ok(Self(match key {
            Some(key) => daemon.with_key(&key)?,
            None => daemon,
        }))
    }

    /// The daemon's address.
    pub(super) fn server(&self) -> &Server {
        &self.0.server
    }

    /// Asks whether the daemon accepts requests. Servers without `/ready`, such as proxies, count as
    /// ready.
    pub(super) async fn readiness(&self) -> Result<Readiness, Fatal> {
        let response = self.0.get("/ready").await?;
        if response.status() != 503 {
            return Ok(Readiness::Ready);
        }
        let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let after = after.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let reason = match refusal(response).await {
            Fatal::Refused(reason) => reason,
            other => other.to_string(),
        };
        Ok(Readiness::NotYet { reason, after })
    }

    /// The model that answers if none is named; `None` if the daemon does not say.
    pub(super) async fn model(&self) -> Option<Model> {
        let response = self.0.get("/v1/models").await.ok()?;
        let body = Limited::new(response.into_body(), MOST_BYTES).collect().await.ok()?.to_bytes();
        let body: Value = serde_json::from_slice(&body).ok()?;
        let first = &body["data"][0];
        Some(Model {
            name: first["id"].as_str()?.to_owned(),
            context: first["max_model_len"].as_u64(),
        })
    }

    /// Asks for the next message.
    pub(super) async fn open(&self, request: &Value) -> Result<Stream, Fatal> {
        let events = self.0.stream("/v1/chat/completions", request).await?;
        Ok(Stream { events, ready: VecDeque::new() })
    }
}

/// Something of an answer.
#[derive(Debug, PartialEq)]
pub(crate) enum Piece {
    Text(String),
    /// What the model thought before it answered.
    Thought(String),
    /// Why the answer ended, as the API calls it.
    Finish(String),
    /// The served model's name.
    Model(String),
    /// What is done before the answer begins.
    Progress(Progress),
    /// The counts of tokens.
    Usage(Value),
    End,
}

/// An answer in progress.
#[derive(Debug)]
pub(super) struct Stream {
    events: EventStream,
    ready: VecDeque<Piece>,
}

impl Stream {
    /// Fields of the user's that the daemon does not know.
    pub(super) fn ignored(&self) -> Option<String> {
        let names = self.events.headers.get(IGNORED)?.to_str().ok()?.split(',').map(str::trim);
        let names: Vec<&str> = names.filter(|name| *name != PROGRESS).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// Waits for more. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Piece, Fatal> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(piece);
            }
            let Some(data) = self.events.next().await? else {
                let reason = "the answer broke off: the daemon closed the connection";
                return Err(Fatal::Refused(reason.to_owned()));
            };
            self.ready.extend(read_event(&data)?);
        }
    }
}

/// What an event says.
pub(crate) fn read_event(data: &str) -> Result<Vec<Piece>, Fatal> {
    if data == "[DONE]" {
        return Ok(vec![Piece::End]);
    }
    let chunk: Value = serde_json::from_str(data)
        .map_err(|error| Fatal::Refused(format!("the daemon sent what is no JSON: {error}")))?;
    if let Some(error) = refused(&chunk) {
        return Err(error);
    }
    let choice = &chunk["choices"][0];
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let delta = &choice["delta"];
    let usage = &chunk["usage"];
    let pieces = [
        text(&chunk["model"]).map(Piece::Model),
        Progress::read(&chunk).map(Piece::Progress),
        text(&delta["reasoning_content"]).map(Piece::Thought),
        text(&delta["content"]).map(Piece::Text),
        text(&choice["finish_reason"]).map(Piece::Finish),
        usage.is_object().then(|| Piece::Usage(usage.clone())),
    ];
    Ok(pieces.into_iter().flatten().collect())
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
