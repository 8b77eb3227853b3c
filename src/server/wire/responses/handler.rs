//! The handler of `POST /v1/responses`, without stored state.

use std::sync::Arc;

use hyper::Request;
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Event, Failure, Item, Part, Response, ResponsesRequest, Status};
use crate::access::{Exchange, random_hex};
use crate::app::App;
use crate::error::ApiError;
use crate::handlers::generation::{Renderer, answer, envelope, parsed};
use crate::reply::Reply;
use crate::sse::{Format, named_event};
use crate::wire::common::to_json;
use crate::wire::error::Dialect;
use phi4d_generate::{Answer, CallDelta, Finish, Finished, TextDelta, Usage};

/// Answers an input.
pub(crate) async fn create(
    app: &App,
    request: Request<Incoming>,
    exchange: &Arc<Exchange>,
) -> Result<Reply, ApiError> {
    let asked =
        parsed(app, request, exchange, ResponsesRequest::parse, |asked| asked.parsed.model())
            .await?;
    let ResponsesRequest { parsed, echo } = asked;
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

/// The item that the answer's text goes into.
struct Open {
    id: String,
    kind: OpenKind,
    /// What is in it so far: text, or a call's arguments.
    text: String,
}

enum OpenKind {
    Reasoning,
    Message,
    Call { call_id: String, name: String },
}

struct ResponseRenderer {
    id: String,
    created_at: u64,
    model: String,
    /// Fields of the request that the answer repeats.
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
    /// The item with what is in it so far.
    fn item(&self, status: Status) -> Item {
        let (id, text) = (self.id.clone(), self.text.clone());
        let content = || self.part(text.clone()).into_iter().collect();
        match &self.kind {
            OpenKind::Reasoning => Item::reasoning(id, status, content()),
            OpenKind::Message => Item::message(id, status, content()),
            OpenKind::Call { call_id, name } => {
                let (call_id, name) = (call_id.clone(), name.clone());
                Item::FunctionCall { id, status, call_id, name, arguments: text }
            }
        }
    }

    /// The item before anything is in it.
    fn empty(&self) -> Item {
        let (id, status) = (self.id.clone(), Status::InProgress);
        match &self.kind {
            OpenKind::Reasoning => Item::reasoning(id, status, Vec::new()),
            OpenKind::Message => Item::message(id, status, Vec::new()),
            OpenKind::Call { .. } => self.item(status),
        }
    }

    /// The part that holds the text; a call has none.
    fn part(&self, text: String) -> Option<Part> {
        match &self.kind {
            OpenKind::Reasoning => Some(Part::ReasoningText { text }),
            OpenKind::Message => Some(Part::text(text)),
            OpenKind::Call { .. } => None,
        }
    }

    /// The event for some more of the item, the `output_index`th.
    fn more<'a>(&'a self, output_index: usize, delta: &'a str) -> Event<'a> {
        let (item_id, content_index) = (self.id.as_str(), 0);
        match &self.kind {
            OpenKind::Reasoning => {
                Event::ReasoningDelta { item_id, output_index, content_index, delta }
            }
            OpenKind::Message => {
                Event::TextDelta { item_id, output_index, content_index, delta, logprobs: [] }
            }
            OpenKind::Call { .. } => Event::ArgumentsDelta { item_id, output_index, delta },
        }
    }

    /// The event for the end of the item's text.
    fn done(&self, output_index: usize) -> Event<'_> {
        let (item_id, content_index, text) = (self.id.as_str(), 0, self.text.as_str());
        match &self.kind {
            OpenKind::Reasoning => {
                Event::ReasoningDone { item_id, output_index, content_index, text }
            }
            OpenKind::Message => {
                Event::TextDone { item_id, output_index, content_index, text, logprobs: [] }
            }
            OpenKind::Call { name, .. } => {
                Event::ArgumentsDone { item_id, output_index, name, arguments: text }
            }
        }
    }
}

impl ResponseRenderer {
    fn response(&self) -> Response<'_> {
        Response::begun(&self.id, self.created_at, &self.model, &self.echo)
    }

    /// Ends the item that is open and begins another.
    fn open(&mut self, prefix: &str, kind: OpenKind) -> String {
        let mut text = self.close_item(Status::Completed);
        let output_index = self.done.len();
        let open = Open { id: item_id(prefix), kind, text: String::new() };
        let item = open.empty();
        text += &framed(&mut self.events, &Event::ItemAdded { output_index, item: &item });
        if let Some(part) = &open.part(String::new()) {
            let added =
                Event::PartAdded { item_id: &open.id, output_index, content_index: 0, part };
            text += &framed(&mut self.events, &added);
        }
        self.open = Some(open);
        text
    }

    /// Ends the item that is open, if one is.
    fn close_item(&mut self, status: Status) -> String {
        let Some(open) = self.open.take() else { return String::new() };
        let output_index = self.done.len();
        let mut text = framed(&mut self.events, &open.done(output_index));
        if let Some(part) = &open.part(open.text.clone()) {
            let done = Event::PartDone { item_id: &open.id, output_index, content_index: 0, part };
            text += &framed(&mut self.events, &done);
        }
        let item = open.item(status);
        text += &framed(&mut self.events, &Event::ItemDone { output_index, item: &item });
        self.done.push(item);
        text
    }

    /// Adds to the item that is open.
    fn more(&mut self, delta: &str) -> String {
        let Some(open) = self.open.as_mut().filter(|_| !delta.is_empty()) else {
            return String::new();
        };
        open.text.push_str(delta);
        framed(&mut self.events, &open.more(self.done.len(), delta))
    }

    fn message(&mut self, more: &str) -> String {
        let is_open = matches!(&self.open, Some(Open { kind: OpenKind::Message, .. }));
        let begun = if is_open { String::new() } else { self.open("msg", OpenKind::Message) };
        begun + &self.more(more)
    }

    fn reasoning(&mut self, more: &str) -> String {
        let is_open = matches!(&self.open, Some(Open { kind: OpenKind::Reasoning, .. }));
        let begun = if is_open { String::new() } else { self.open("rs", OpenKind::Reasoning) };
        begun + &self.more(more)
    }

    fn call(&mut self, piece: CallDelta) -> String {
        let begun = match piece.begun {
            Some(call) => self.open("fc", OpenKind::Call { call_id: call.id, name: call.name }),
            None => String::new(),
        };
        begun + &self.more(&piece.arguments)
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
        // Requests of this API have one answer.
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
            events += &self.reasoning(&delta.reasoning);
        }
        if !delta.text.is_empty() {
            events += &self.message(&delta.text);
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
            events = self.open("msg", OpenKind::Message);
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
