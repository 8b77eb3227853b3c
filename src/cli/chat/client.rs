//! Requests to the daemon, and the stream of an answer.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, RETRY_AFTER};
use hyper::{Method, Request, Response};
use serde_json::Value;

use super::super::args::ClientArgs;
use super::super::exit::Fatal;
use super::endpoint::{Body, Endpoint};
use super::events::Events;

/// Names the fields of a request that the daemon does not know.
const IGNORED: &str = "x-phi4d-ignored-fields";

/// The daemon, and the key to it.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) endpoint: Endpoint,
    /// What the Authorization header says.
    authorization: Option<String>,
}

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
        let authorization = key.map(|key| format!("Bearer {key}"));
        Ok(Self { endpoint: Endpoint::choose(arguments)?, authorization })
    }

    /// Asks whether requests are taken. What does not know the question, as a proxy, is ready.
    pub(super) async fn readiness(&self) -> Result<Readiness, Fatal> {
        let response = self.send(Method::GET, "/ready", Bytes::new()).await?;
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

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, Fatal> {
        let mut sender = self.endpoint.connect().await?;
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.endpoint.host())
            .header(ACCEPT, "text/event-stream, application/json");
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request
            .body(Body::new(body))
            .map_err(|_| Fatal::Usage("the API key has characters that no key has".to_owned()))?;
        sender.send_request(request).await.map_err(|error| self.endpoint.absent(&error))
    }

    /// Asks for the next turn.
    pub(super) async fn open(&self, request: &Value) -> Result<Stream, Fatal> {
        let body = Bytes::from(request.to_string());
        let response = self.send(Method::POST, "/v1/chat/completions", body).await?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        Ok(Stream {
            ignored: ignored(response.headers()),
            body: response.into_body(),
            events: Events::default(),
            ready: VecDeque::new(),
        })
    }
}

fn ignored(headers: &HeaderMap) -> Option<String> {
    Some(headers.get(IGNORED)?.to_str().ok()?.to_owned())
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
    /// The counts of tokens.
    Usage(Value),
    End,
}

/// An answer that is coming in.
#[derive(Debug)]
pub(super) struct Stream {
    /// Fields of the request that the daemon does not know.
    pub(super) ignored: Option<String>,
    body: Incoming,
    events: Events,
    ready: VecDeque<Piece>,
}

impl Stream {
    /// Waits for more. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Piece, Fatal> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(piece);
            }
            let broken = |why: &str| Fatal::Refused(format!("the answer broke off: {why}"));
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    let bytes = frame.into_data().unwrap_or_default();
                    for data in self.events.push(&bytes) {
                        self.ready.extend(read_event(&data)?);
                    }
                }
                Some(Err(error)) => return Err(broken(&error.to_string())),
                None => return Err(broken("the daemon closed the connection")),
            }
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
    if let Some(text) = error_message(&chunk) {
        return Err(Fatal::Refused(text));
    }
    let choice = &chunk["choices"][0];
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let delta = &choice["delta"];
    let usage = &chunk["usage"];
    let pieces = [
        text(&chunk["model"]).map(Piece::Model),
        text(&delta["reasoning_content"]).map(Piece::Thought),
        text(&delta["content"]).map(Piece::Text),
        text(&choice["finish_reason"]).map(Piece::Finish),
        usage.is_object().then(|| Piece::Usage(usage.clone())),
    ];
    Ok(pieces.into_iter().flatten().collect())
}

async fn refusal(response: Response<Incoming>) -> Fatal {
    let status = response.status();
    let body = response.into_body().collect().await.map(|body| body.to_bytes());
    let body: Value =
        body.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    let text = error_message(&body).unwrap_or_else(|| format!("the daemon answered {status}"));
    Fatal::Refused(text)
}

fn error_message(body: &Value) -> Option<String> {
    let message = body["error"]["message"].as_str()?;
    Some(format!("the daemon refused: {message}"))
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
