//! Writes the answers of the responses API, whole and streamed, and keeps them.

use serde::Serialize;
use serde_json::{Map, Value};

use super::tools::{Shape, Shapes, input_of};
use super::{Event, Failure, Item, Part, Response, Status};
use crate::access::random_hex;
use crate::app::App;
use crate::error::ApiError;
use crate::handlers::generation::Renderer;
use crate::memory::measure;
use crate::reply::{Format, named_event};
use crate::store::Stored;
use crate::wire::common::to_json;
use crate::wire::error::Dialect;
use phi4d_engine::CallerId;
use phi4d_generate::{Answer, CallDelta, Finish, Finished, TextDelta, ToolCall, Usage};

/// How the response is kept when it is complete.
pub(super) struct Keeping {
    pub(super) app: App,
    pub(super) owner: CallerId,
    /// The request's own items, a JSON list.
    pub(super) input: String,
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
    Call { call_id: String, shape: Shape },
}

pub(super) struct ResponseRenderer {
    id: String,
    created_at: u64,
    model: String,
    /// Fields of the request that the answer repeats.
    echo: Map<String, Value>,
    /// The response that this one goes on from.
    previous: Option<String>,
    shapes: Shapes,
    keeping: Option<Keeping>,
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
    named_event(&to_json(&numbered))
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
            OpenKind::Call { call_id, shape } => {
                called(id, status, call_id.clone(), text, shape.clone())
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

    /// The event for some more of the item, the `output_index`th. A custom tool's text is sent when
    /// it is complete: its beginning can't be distinguished from that of arguments of another shape.
    fn more<'a>(&'a self, output_index: usize, delta: &'a str) -> Option<Event<'a>> {
        let (item_id, content_index) = (self.id.as_str(), 0);
        match &self.kind {
            OpenKind::Reasoning => {
                Some(Event::ReasoningDelta { item_id, output_index, content_index, delta })
            }
            OpenKind::Message => {
                Some(Event::TextDelta { item_id, output_index, content_index, delta, logprobs: [] })
            }
            OpenKind::Call { shape, .. } if shape.is_custom => None,
            OpenKind::Call { .. } => Some(Event::ArgumentsDelta { item_id, output_index, delta }),
        }
    }

    /// The events for the end of the item, which is `item` now.
    fn done(&self, events: &mut usize, output_index: usize, item: &Item) -> String {
        let item_id = self.id.as_str();
        if let Item::CustomToolCall { input, .. } = item {
            let delta = Event::InputDelta { item_id, output_index, delta: input };
            let done = Event::InputDone { item_id, output_index, input };
            return framed(events, &delta) + &framed(events, &done);
        }
        framed(events, &self.end_of_text(output_index))
    }

    fn end_of_text(&self, output_index: usize) -> Event<'_> {
        let (item_id, content_index, text) = (self.id.as_str(), 0, self.text.as_str());
        match &self.kind {
            OpenKind::Reasoning => {
                Event::ReasoningDone { item_id, output_index, content_index, text }
            }
            OpenKind::Message => {
                Event::TextDone { item_id, output_index, content_index, text, logprobs: [] }
            }
            OpenKind::Call { shape, .. } => {
                let name = shape.name.as_str();
                Event::ArgumentsDone { item_id, output_index, name, arguments: text }
            }
        }
    }
}

/// A call as an item.
fn called(id: String, status: Status, call_id: String, arguments: String, shape: Shape) -> Item {
    let Shape { name, namespace, is_custom } = shape;
    if is_custom {
        let input = input_of(&arguments);
        return Item::CustomToolCall { id, status, call_id, name, namespace, input };
    }
    Item::FunctionCall { id, status, call_id, name, namespace, arguments }
}

impl ResponseRenderer {
    /// A renderer of the response `id`, which is `model`'s.
    pub(super) fn new(id: String, created_at: u64, model: String) -> Self {
        Self {
            id,
            created_at,
            model,
            echo: Map::new(),
            previous: None,
            shapes: Shapes::new(),
            keeping: None,
            events: 0,
            done: Vec::new(),
            open: None,
            status: Status::Completed,
        }
    }

    /// The same for a request with these fields to repeat, calls of these shapes, and this response
    /// before it.
    pub(super) fn answering(
        self,
        echo: Map<String, Value>,
        shapes: Shapes,
        previous: Option<String>,
    ) -> Self {
        Self { echo, shapes, previous, ..self }
    }

    /// The same, which keeps the response.
    pub(super) fn keeping(self, keeping: Option<Keeping>) -> Self {
        Self { keeping, ..self }
    }

    fn response(&self) -> Response<'_> {
        let begun = Response::begun(&self.id, self.created_at, &self.model, &self.echo);
        begun.after(self.previous.as_deref(), self.keeping.is_some())
    }

    /// Keeps the response, which was sent as `response`.
    fn keep(&mut self, response: String, items: &[Item]) {
        let Some(Keeping { app, owner, input }) = self.keeping.take() else { return };
        let parsed = |text: &str| measure(text.as_bytes()).bytes;
        app.responses().put(Stored {
            parsed_bytes: parsed(&input) + parsed(&response),
            owner,
            id: self.id.clone(),
            previous: self.previous.take(),
            input,
            items: items.iter().map(|item| item.id().to_owned()).collect(),
            response,
        });
    }

    /// How calls of the tool that the model calls `name` are written.
    fn shape(&self, name: String) -> Shape {
        let known = self.shapes.get(&name).cloned();
        known.unwrap_or(Shape { name, ..Shape::default() })
    }

    /// The items of a whole answer.
    fn items(&self, answer: Answer) -> Vec<Item> {
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
        items.extend(answer.calls.into_iter().map(|call| self.call_item(status, call)));
        items
    }

    /// The item of a whole answer's call.
    fn call_item(&self, status: Status, call: ToolCall) -> Item {
        let shape = self.shape(call.name);
        called(item_id("fc"), status, call.id, call.arguments, shape)
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
        let item = open.item(status);
        let mut text = open.done(&mut self.events, output_index, &item);
        if let Some(part) = &open.part(open.text.clone()) {
            let done = Event::PartDone { item_id: &open.id, output_index, content_index: 0, part };
            text += &framed(&mut self.events, &done);
        }
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
        let more = open.more(self.done.len(), delta);
        more.map_or_else(String::new, |event| framed(&mut self.events, &event))
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
            Some(call) => {
                let shape = self.shape(call.name);
                self.open("fc", OpenKind::Call { call_id: call.id, shape })
            }
            None => String::new(),
        };
        begun + &self.more(&piece.arguments)
    }
}

impl Renderer for ResponseRenderer {
    const FORMAT: Format = Format::Events;
    const DIALECT: Dialect = Dialect::OpenAi;

    fn complete(&mut self, answers: Vec<Answer>, usage: Usage) -> String {
        // Requests of this API have one answer.
        let mut whole = String::new();
        for answer in answers {
            let status = status_of(answer.finished.reason);
            let items = self.items(answer);
            whole = to_json(&self.response().ended(status, &items, usage));
            self.keep(whole.clone(), &items);
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
        let ended = || self.response().ended(self.status, &self.done, usage);
        let last = match self.status {
            Status::Incomplete => Event::Incomplete { response: ended() },
            _ => Event::Completed { response: ended() },
        };
        let last = framed(&mut events, &last);
        if self.keeping.is_some() {
            let response = to_json(&ended());
            let done = std::mem::take(&mut self.done);
            self.keep(response, &done);
        }
        last
    }

    fn fault(&mut self, error: &ApiError) -> String {
        let events = self.close_item(Status::Incomplete);
        let mut count = self.events;
        let failure = Failure { code: "server_error", message: &error.message };
        let response = self.response().failed(failure, &self.done);
        events + &framed(&mut count, &Event::Failed { response })
    }
}
