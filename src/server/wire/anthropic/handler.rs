//! Handlers of Anthropic's messages API.

use hyper::StatusCode;

use super::{Block, Counted, Delta, Event, Stopped, Whole, counted, messages, stop_reason};
use crate::access::{Call, random_hex};
use crate::error::ApiError;
use crate::handlers::generation::{Renderer, answer, parsed};
use crate::handlers::tokens::tokens_of;
use crate::reply::{Format, Reply, json, named_event, telling_ignored};
use crate::wire::Parsed;
use crate::wire::common::to_json;
use crate::wire::error::Dialect;
use phi4d_generate::{Answer, Finished, TextDelta, Usage};

/// `POST /v1/messages`.
pub(crate) async fn create(call: Call<'_>) -> Result<Reply, ApiError> {
    let Call { app, request, exchange, .. } = call;
    let (app, parsed) = parsed(app, request, exchange, messages, Parsed::asks).await?;
    let renderer = MessageRenderer {
        id: format!("msg_{}", random_hex()),
        model: app.name_for(parsed.model.clone()),
        blocks: 0,
        open: None,
        stops: parsed.request.parameters.stop.clone(),
    };
    answer(&app, parsed, exchange, renderer).await
}

/// `POST /v1/messages/count_tokens`.
pub(crate) async fn count_tokens(call: Call<'_>) -> Result<Reply, ApiError> {
    let Call { app, request, exchange, .. } = call;
    let (app, mut parsed) = parsed(app, request, exchange, counted, Parsed::asks).await?;
    let ignored = std::mem::take(&mut parsed.ignored);
    let ids = tokens_of(&app, parsed.into_prompt(), exchange).await?;
    let body = Counted { input_tokens: ids.len() };
    Ok(telling_ignored(json(StatusCode::OK, to_json(&body)), &ignored))
}

/// The kind of the open block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Text,
    Thinking,
    Call(usize),
}

struct MessageRenderer {
    id: String,
    model: String,
    /// Blocks begun so far.
    blocks: usize,
    open: Option<Open>,
    /// The stop sequences that were given.
    stops: Vec<String>,
}

impl MessageRenderer {
    /// Opens a block of the kind `wanted`, which begins as `block`, unless one is open.
    fn open(&mut self, wanted: Open, block: impl FnOnce() -> Block) -> String {
        if self.open == Some(wanted) {
            return String::new();
        }
        let closed = self.close_block();
        self.open = Some(wanted);
        self.blocks += 1;
        let begun = Event::ContentBlockStart { index: self.blocks - 1, content_block: block() };
        closed + &framed(&begun)
    }

    fn more(&self, delta: Delta) -> String {
        framed(&Event::ContentBlockDelta { index: self.blocks - 1, delta })
    }

    fn close_block(&mut self) -> String {
        match self.open.take() {
            None => String::new(),
            Some(_) => framed(&Event::ContentBlockStop { index: self.blocks - 1 }),
        }
    }

    /// The stop sequence that ended the answer.
    fn stop(&self, finished: Finished) -> Option<&str> {
        self.stops.get(finished.stop?).map(String::as_str)
    }

    fn text_block(&mut self) -> String {
        self.open(Open::Text, || Block::Text { text: String::new() })
    }
}

fn framed(event: &Event<'_>) -> String {
    named_event(&to_json(event))
}

impl Renderer for MessageRenderer {
    const FORMAT: Format = Format::PingedEvents;
    const DIALECT: Dialect = Dialect::Anthropic;

    fn complete(&mut self, answers: Vec<Answer>, usage: Usage) -> String {
        // Requests of this API have one answer.
        let message = |answer: Answer| {
            let stop = self.stop(answer.finished);
            Whole::new(&self.id, &self.model, answer, stop, usage)
        };
        answers.into_iter().map(message).map(|message| to_json(&message)).collect()
    }

    fn start(&mut self, _index: usize, usage: Usage) -> String {
        framed(&Event::MessageStart { message: Whole::empty(&self.id, &self.model, usage) })
    }

    fn piece(&mut self, _index: usize, delta: TextDelta, _usage: Usage) -> String {
        if !delta.reasoning.is_empty() {
            let begun = self.open(Open::Thinking, || Block::Thinking {
                thinking: String::new(),
                signature: "",
            });
            return begun + &self.more(Delta::Thinking { thinking: delta.reasoning });
        }
        if let Some(piece) = delta.call {
            let mut events = String::new();
            if let Some(begun) = piece.begun {
                events = self.open(Open::Call(piece.index), || Block::ToolUse {
                    id: begun.id,
                    name: begun.name,
                    input: serde_json::Map::new(),
                });
            }
            if !piece.arguments.is_empty() {
                let delta = Delta::InputJson { partial_json: piece.arguments };
                events.push_str(&self.more(delta));
            }
            return events;
        }
        if delta.text.is_empty() {
            return String::new();
        }
        self.text_block() + &self.more(Delta::Text { text: delta.text })
    }

    fn end(&mut self, _index: usize, finished: Finished, usage: Usage) -> String {
        // A message has at least one block, as in whole answers.
        let mut events = if self.blocks == 0 { self.text_block() } else { String::new() };
        events.push_str(&self.close_block());
        let stop_sequence = self.stop(finished);
        let stop_reason = stop_reason(finished.reason, stop_sequence);
        let delta = Stopped { stop_reason, stop_sequence };
        events + &framed(&Event::MessageDelta { delta, usage: usage.into() })
    }

    fn close(&mut self, _usage: Usage) -> String {
        framed(&Event::MessageStop)
    }
}
