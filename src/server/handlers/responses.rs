//! `POST /v1/responses`, stateless, over the same generator.

use std::sync::Arc;

use hyper::Request;
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::{Map, Value};

use super::generation::{Renderer, answer, check_model, envelope};
use crate::access::{Exchange, random_hex};
use crate::app::App;
use crate::body::read;
use crate::error::ApiError;
use crate::reply::Reply;
use crate::sse::{Format, named_event};
use crate::wire::common::to_json;
use crate::wire::error::Dialect;
use crate::wire::responses::{Event, Failure, Item, Part, Response, ResponsesRequest, Status};
use phi4d_generate::{Answer, CallDelta, Finish, Finished, TextDelta, Usage};

/// Answers an input.
pub(crate) async fn create(
    app: &App,
    request: Request<Incoming>,
    exchange: &Arc<Exchange>,
) -> Result<Reply, ApiError> {
    let parse = |app: &App, body| {
        let asked = ResponsesRequest::parse(&body)?;
        check_model(app, asked.parsed.model.as_deref())?;
        Ok(asked)
    };
    let ResponsesRequest { parsed, echo } = read(request, app, exchange, parse).await?;
    let envelope = envelope(app, "resp", "response");
    let renderer = ResponseRenderer {
        id: envelope.id.replacen('-', "_", 1),
        created_at: envelope.created,
        model: envelope.model,
        echo,
        events: 0,
        done: Vec::new(),
        open: None,
        status: Status::Completed,
    };
    answer(app, parsed, exchange, renderer).await
}

/// The item that is being made.
enum Open {
    Reasoning { id: String, text: String },
    Message { id: String, text: String },
    Call { id: String, call_id: String, name: String, arguments: String },
}

struct ResponseRenderer {
    id: String,
    created_at: u64,
    model: String,
    /// What is repeated of the request.
    echo: Map<String, Value>,
    /// Events so far.
    events: usize,
    /// Items that are complete.
    done: Vec<Item>,
    open: Option<Open>,
    /// How the response ends.
    status: Status,
}

/// An event with its number.
#[derive(Serialize)]
struct Numbered<'a> {
    #[serde(flatten)]
    event: &'a Event<'a>,
    sequence_number: usize,
}

fn framed(events: &mut usize, event: &Event<'_>) -> String {
    let numbered = Numbered { event, sequence_number: *events };
    *events += 1;
    named_event(event.name(), &to_json(&numbered))
}

fn item_id(prefix: &str) -> String {
    format!("{prefix}_{}", random_hex())
}

fn status_of(finish: Finish) -> Status {
    match finish {
        Finish::Length => Status::Incomplete,
        Finish::Stop | Finish::ToolCalls => Status::Completed,
    }
}

impl Open {
    fn id(&self) -> &str {
        match self {
            Self::Reasoning { id, .. } | Self::Message { id, .. } | Self::Call { id, .. } => id,
        }
    }

    /// The item with what there is of it so far.
    fn item(&self, status: Status) -> Item {
        match self {
            Self::Reasoning { id, text } => {
                let part = Part::ReasoningText { text: text.clone() };
                Item::reasoning(id.clone(), status, vec![part])
            }
            Self::Message { id, text } => {
                Item::message(id.clone(), status, vec![Part::text(text.clone())])
            }
            Self::Call { id, call_id, name, arguments } => Item::FunctionCall {
                id: id.clone(),
                status,
                call_id: call_id.clone(),
                name: name.clone(),
                arguments: arguments.clone(),
            },
        }
    }

    /// The item before anything is in it.
    fn empty(&self) -> Item {
        match self {
            Self::Reasoning { id, .. } => {
                Item::reasoning(id.clone(), Status::InProgress, Vec::new())
            }
            Self::Message { id, .. } => Item::message(id.clone(), Status::InProgress, Vec::new()),
            Self::Call { .. } => self.item(Status::InProgress),
        }
    }

    /// The part that holds the text.
    fn part(&self, text: String) -> Option<Part> {
        match self {
            Self::Reasoning { .. } => Some(Part::ReasoningText { text }),
            Self::Message { .. } => Some(Part::text(text)),
            Self::Call { .. } => None,
        }
    }
}

impl ResponseRenderer {
    fn response(&self) -> Response<'_> {
        Response::begun(&self.id, self.created_at, &self.model, &self.echo)
    }

    /// Begins an item.
    fn open(&mut self, open: Open) -> String {
        let mut text = self.close_item(Status::Completed);
        let output_index = self.done.len();
        let item = open.empty();
        text += &framed(&mut self.events, &Event::ItemAdded { output_index, item: &item });
        if let Some(part) = &open.part(String::new()) {
            let item_id = open.id();
            let added = Event::PartAdded { item_id, output_index, content_index: 0, part };
            text += &framed(&mut self.events, &added);
        }
        self.open = Some(open);
        text
    }

    /// Ends the item that is open, if one is.
    fn close_item(&mut self, status: Status) -> String {
        let Some(open) = self.open.take() else { return String::new() };
        let (item_id, output_index, content_index) = (open.id(), self.done.len(), 0);
        let mut text = match &open {
            Open::Reasoning { text, .. } => framed(
                &mut self.events,
                &Event::ReasoningDone { item_id, output_index, content_index, text },
            ),
            Open::Message { text, .. } => framed(
                &mut self.events,
                &Event::TextDone { item_id, output_index, content_index, text, logprobs: [] },
            ),
            Open::Call { name, arguments, .. } => framed(
                &mut self.events,
                &Event::ArgumentsDone { item_id, output_index, name, arguments },
            ),
        };
        let whole = match &open {
            Open::Reasoning { text, .. } | Open::Message { text, .. } => text.clone(),
            Open::Call { .. } => String::new(),
        };
        if let Some(part) = &open.part(whole) {
            let done = Event::PartDone { item_id, output_index, content_index, part };
            text += &framed(&mut self.events, &done);
        }
        let item = open.item(status);
        text += &framed(&mut self.events, &Event::ItemDone { output_index, item: &item });
        self.done.push(item);
        text
    }

    fn say(&mut self, more: &str) -> String {
        let mut events = String::new();
        if !matches!(self.open, Some(Open::Message { .. })) {
            events = self.open(Open::Message { id: item_id("msg"), text: String::new() });
        }
        let Some(Open::Message { id, text }) = &mut self.open else { return events };
        text.push_str(more);
        let (output_index, content_index) = (self.done.len(), 0);
        let delta = Event::TextDelta {
            item_id: id,
            output_index,
            content_index,
            delta: more,
            logprobs: [],
        };
        events + &framed(&mut self.events, &delta)
    }

    fn think(&mut self, more: &str) -> String {
        let mut events = String::new();
        if !matches!(self.open, Some(Open::Reasoning { .. })) {
            events = self.open(Open::Reasoning { id: item_id("rs"), text: String::new() });
        }
        let Some(Open::Reasoning { id, text }) = &mut self.open else { return events };
        text.push_str(more);
        let (output_index, content_index) = (self.done.len(), 0);
        let delta = Event::ReasoningDelta { item_id: id, output_index, content_index, delta: more };
        events + &framed(&mut self.events, &delta)
    }

    fn call(&mut self, piece: CallDelta) -> String {
        let mut events = String::new();
        if let Some(begun) = piece.begun {
            let (id, arguments) = (item_id("fc"), String::new());
            events = self.open(Open::Call { id, call_id: begun.id, name: begun.name, arguments });
        }
        let Some(Open::Call { id, arguments, .. }) = &mut self.open else { return events };
        if piece.arguments.is_empty() {
            return events;
        }
        arguments.push_str(&piece.arguments);
        let output_index = self.done.len();
        let delta = Event::ArgumentsDelta { item_id: id, output_index, delta: &piece.arguments };
        events + &framed(&mut self.events, &delta)
    }
}

/// The items of a whole answer.
fn items(answer: Answer) -> Vec<Item> {
    let status = status_of(answer.finished.reason);
    let mut items = Vec::new();
    if !answer.reasoning.is_empty() {
        let part = Part::ReasoningText { text: answer.reasoning };
        items.push(Item::reasoning(item_id("rs"), Status::Completed, vec![part]));
    }
    if !answer.text.is_empty() || answer.calls.is_empty() {
        let part = Part::text(answer.text);
        items.push(Item::message(item_id("msg"), status, vec![part]));
    }
    items.extend(answer.calls.into_iter().map(|call| Item::FunctionCall {
        id: item_id("fc"),
        status,
        call_id: call.id,
        name: call.name,
        arguments: call.arguments,
    }));
    items
}

impl Renderer for ResponseRenderer {
    const FORMAT: Format = Format::Events;
    const DIALECT: Dialect = Dialect::OpenAi;

    fn complete(&mut self, answers: Vec<Answer>, usage: Usage) -> String {
        // One answer was asked for.
        let mut whole = String::new();
        for answer in answers {
            let status = status_of(answer.finished.reason);
            whole = to_json(&self.response().ended(status, &items(answer), usage));
        }
        whole
    }

    fn start(&mut self, _index: usize, _usage: Usage) -> String {
        let mut events = 0;
        let created = framed(&mut events, &Event::Created { response: self.response() });
        let begun = framed(&mut events, &Event::InProgress { response: self.response() });
        self.events = events;
        created + &begun
    }

    fn piece(&mut self, _index: usize, delta: TextDelta, _usage: Usage) -> String {
        let mut events = String::new();
        if !delta.reasoning.is_empty() {
            events += &self.think(&delta.reasoning);
        }
        if !delta.text.is_empty() {
            events += &self.say(&delta.text);
        }
        if let Some(piece) = delta.call {
            events += &self.call(piece);
        }
        events
    }

    fn end(&mut self, _index: usize, finished: Finished, _usage: Usage) -> String {
        self.status = status_of(finished.reason);
        let mut events = String::new();
        if self.open.is_none() && self.done.is_empty() {
            // A response has at least one item, as in whole answers.
            events = self.open(Open::Message { id: item_id("msg"), text: String::new() });
        }
        events + &self.close_item(self.status)
    }

    fn close(&mut self, usage: Usage) -> String {
        let mut events = self.events;
        let response = self.response().ended(self.status, &self.done, usage);
        let last = match self.status {
            Status::Incomplete => Event::Incomplete { response },
            _ => Event::Completed { response },
        };
        framed(&mut events, &last)
    }

    fn fault(&mut self, error: &ApiError) -> String {
        let events = self.close_item(Status::Incomplete);
        let mut count = self.events;
        let failure = Failure { code: "server_error", message: &error.message };
        let response = self.response().failed(failure, &self.done);
        events + &framed(&mut count, &Event::Failed { response })
    }
}
