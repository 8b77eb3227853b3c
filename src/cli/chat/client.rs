//! A conversation's requests, and the stream of an answer.

use std::collections::VecDeque;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use serde_json::{Map, Value, json};

use super::super::args::ChatArgs;
use super::super::exit::Fatal;
use super::endpoint::{Body, Endpoint};
use super::events::Events;

/// What was said so far, and how to answer.
#[derive(Debug)]
pub(super) struct Conversation {
    messages: Vec<Value>,
    parameters: Map<String, Value>,
    /// What the Authorization header says.
    authorization: Option<String>,
}

impl Conversation {
    pub(super) fn new(arguments: &ChatArgs) -> Self {
        let messages = arguments.system.iter().map(|text| message("system", text)).collect();
        let mut parameters = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                parameters.insert(name.to_owned(), value);
            }
        };
        put("temperature", arguments.temperature.map(Value::from));
        put("top_p", arguments.top_p.map(Value::from));
        put("max_tokens", arguments.max_tokens.map(Value::from));
        put("seed", arguments.seed.map(Value::from));
        let authorization = arguments.api_key.as_ref().map(|key| format!("Bearer {key}"));
        Self { messages, parameters, authorization }
    }

    /// Adds the user's turn.
    pub(super) fn ask(&mut self, text: &str) {
        self.messages.push(message("user", text));
    }

    /// Adds the model's turn.
    pub(super) fn answered(&mut self, text: &str) {
        self.messages.push(message("assistant", text));
    }

    /// Forgets the last turn, which got no answer.
    pub(super) fn take_back(&mut self) {
        self.messages.pop();
    }

    fn request(&self) -> Value {
        let mut request = self.parameters.clone();
        request.insert("stream".to_owned(), true.into());
        request.insert("messages".to_owned(), self.messages.clone().into());
        Value::Object(request)
    }
}

fn message(role: &str, content: &str) -> Value {
    json!({ "role": role, "content": content })
}

/// Something of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli) enum Piece {
    Text(String),
    End,
}

/// An answer that is coming in.
#[derive(Debug)]
pub(super) struct Stream {
    body: Incoming,
    events: Events,
    ready: VecDeque<String>,
}

impl Stream {
    /// Asks for the next turn.
    pub(super) async fn open(
        endpoint: &Endpoint,
        conversation: &Conversation,
    ) -> Result<Self, Fatal> {
        let mut sender = endpoint.connect().await?;
        let mut request = Request::builder();
        if let Some(authorization) = &conversation.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request
            .method(Method::POST)
            .uri("/v1/chat/completions")
            .header(HOST, endpoint.host())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "text/event-stream")
            .body(Body::new(Bytes::from(conversation.request().to_string())))
            .map_err(|_| Fatal::Usage("the API key has characters that no key has".to_owned()))?;
        let response =
            sender.send_request(request).await.map_err(|error| endpoint.unreachable(&error))?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        Ok(Self { body: response.into_body(), events: Events::default(), ready: VecDeque::new() })
    }

    /// Waits for more. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Piece, Fatal> {
        loop {
            while let Some(data) = self.ready.pop_front() {
                if let Some(piece) = read_event(&data)? {
                    return Ok(piece);
                }
            }
            let broken = |why: &str| Fatal::Refused(format!("the answer broke off: {why}"));
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    let bytes = frame.into_data().unwrap_or_default();
                    self.ready.extend(self.events.push(&bytes));
                }
                Some(Err(error)) => return Err(broken(&error.to_string())),
                None => return Err(broken("the daemon closed the connection")),
            }
        }
    }
}

/// What an event says; `None` if nothing that is shown.
pub(in crate::cli) fn read_event(data: &str) -> Result<Option<Piece>, Fatal> {
    if data == "[DONE]" {
        return Ok(Some(Piece::End));
    }
    let chunk: Value = serde_json::from_str(data)
        .map_err(|error| Fatal::Refused(format!("the daemon sent what is no JSON: {error}")))?;
    if let Some(text) = error_message(&chunk) {
        return Err(Fatal::Refused(text));
    }
    match chunk["choices"][0]["delta"]["content"].as_str() {
        Some(text) if !text.is_empty() => Ok(Some(Piece::Text(text.to_owned()))),
        _ => Ok(None),
    }
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
