//! What the OpenAPI document says of each route: the row of a route names one of these functions.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Value, json};

use crate::reply::Format;
use crate::wire::ollama::{
    self as wire_ollama, Kind, Line, LoadedModel, Models, Shown, TaggedModel,
};
use crate::wire::{
    anthropic, chat as wire_chat, completions as wire_completions, embeddings as wire_embeddings,
    llama, models as wire_models, responses as wire_responses, slots as wire_slots, tokens,
};

/// Generators of schemas: requests are read, answers written, and a type may differ in that.
pub(crate) struct Schemas {
    pub(super) asked: SchemaGenerator,
    pub(super) said: SchemaGenerator,
}

impl Schemas {
    pub(super) fn new() -> Self {
        let mut settings = SchemaSettings::draft2020_12();
        settings.inline_subschemas = true;
        settings.meta_schema = None;
        Self {
            asked: settings.clone().for_deserialize().into_generator(),
            said: settings.for_serialize().into_generator(),
        }
    }

    fn json<T: JsonSchema>(&mut self) -> Answer {
        Answer::Json(self.said.subschema_for::<T>())
    }

    fn streamed<Whole: JsonSchema, Event: JsonSchema>(&mut self, stream: Stream) -> Answer {
        let whole = self.said.subschema_for::<Whole>();
        Answer::Streamed { whole, stream, event: self.said.subschema_for::<Event>() }
    }
}

/// One route's operation.
pub(crate) struct Operation {
    pub(super) summary: &'static str,
    /// The body, where there is one.
    pub(super) body: Option<Body>,
    pub(super) answer: Answer,
    /// Statuses other than 200.
    pub(super) faults: &'static [u16],
    /// The shape of a 503 that is no fault.
    pub(super) fault_schema: Option<Schema>,
}

/// A request's body.
pub(super) struct Body {
    /// Objects whose fields the body has.
    pub(super) parts: Vec<Schema>,
    pub(super) required: &'static [&'static str],
    /// One that is answered with 200.
    pub(super) example: Value,
}

/// An answer with status 200.
pub(super) enum Answer {
    Json(Schema),
    Text(&'static str),
    /// Whole, or streamed where that was asked for.
    Streamed {
        whole: Schema,
        stream: Stream,
        event: Schema,
    },
}

/// How an answer is streamed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Events,
    /// The last event is `[DONE]`.
    EventsAndDone,
    /// Lines of JSON, also where a request does not say whether to stream.
    Lines,
}

impl Stream {
    pub(super) fn content_type(self) -> &'static str {
        let format = if self == Self::Lines { Format::Lines } else { Format::Events };
        format.content_type()
    }
}

const OPEN: &[u16] = &[];
const READ: &[u16] = &[401, 403, 503];
const NAMED: &[u16] = &[401, 403, 404, 503];
const PAGED: &[u16] = &[400, 401, 403, 404, 503];
const ASKED: &[u16] = &[400, 401, 403, 404, 408, 413, 415, 500, 503];
const COUNTED: &[u16] = &[400, 401, 403, 404, 408, 413, 415, 429, 500, 503];
const GENERATED: &[u16] = &[400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 504];

/// An operation that reads.
fn get(summary: &'static str, answer: Answer, faults: &'static [u16]) -> Operation {
    Operation { summary, body: None, answer, faults, fault_schema: None }
}

/// An operation with a body.
fn post(summary: &'static str, body: Body, answer: Answer, faults: &'static [u16]) -> Operation {
    Operation { summary, body: Some(body), answer, faults, fault_schema: None }
}

fn question() -> Value {
    json!([{ "role": "user", "content": "What is 12+7?" }])
}

fn conversation() -> Value {
    json!({ "messages": question(), "max_tokens": 8 })
}

pub(crate) fn chat(s: &mut Schemas) -> Operation {
    let fields = wire_chat::field_schemas(&mut s.asked);
    let answer = s
        .streamed::<wire_chat::ChatCompletion<'_>, wire_chat::ChatChunk<'_>>(Stream::EventsAndDone);
    let required = &["messages"];
    post(
        "Answers a conversation",
        Body { parts: fields, required, example: conversation() },
        answer,
        GENERATED,
    )
}

pub(crate) fn completions(s: &mut Schemas) -> Operation {
    type Completion<'a> = wire_completions::Completion<'a>;
    let fields = wire_completions::field_schemas(&mut s.asked);
    let answer = s.streamed::<Completion<'_>, Completion<'_>>(Stream::EventsAndDone);
    let example = json!({ "prompt": "12+7=", "max_tokens": 8 });
    post(
        "Continues a text",
        Body { parts: fields, required: &["prompt"], example },
        answer,
        GENERATED,
    )
}

pub(crate) fn responses(s: &mut Schemas) -> Operation {
    let fields = wire_responses::field_schemas(&mut s.asked);
    let answer =
        s.streamed::<wire_responses::Response<'_>, wire_responses::Event<'_>>(Stream::Events);
    let example = json!({ "input": "What is 12+7?", "max_output_tokens": 8 });
    post(
        "Answers an input",
        Body { parts: fields, required: &["input"], example },
        answer,
        GENERATED,
    )
}

pub(crate) fn embeddings(s: &mut Schemas) -> Operation {
    let fields = vec![s.asked.subschema_for::<wire_embeddings::EmbeddingsFields>()];
    let answer = s.json::<wire_embeddings::EmbeddingList<'_>>();
    let example = json!({ "input": ["The cat sat on the mat.", "What is 12+7?"] });
    let summary = "Texts to vectors, by the embedding model";
    post(summary, Body { parts: fields, required: &["input"], example }, answer, GENERATED)
}

pub(crate) fn ollama_embed(s: &mut Schemas) -> Operation {
    let fields = vec![s.asked.subschema_for::<wire_embeddings::OllamaEmbedFields>()];
    let answer = s.json::<wire_embeddings::OllamaEmbeddings<'_>>();
    let example = json!({ "input": ["The cat sat on the mat.", "What is 12+7?"] });
    let summary = "Texts to vectors, in Ollama's shape";
    post(summary, Body { parts: fields, required: &[], example }, answer, GENERATED)
}

pub(crate) fn ollama_embeddings(s: &mut Schemas) -> Operation {
    let fields = vec![s.asked.subschema_for::<wire_embeddings::OllamaEmbeddingsFields>()];
    let answer = s.json::<wire_embeddings::OllamaEmbedding>();
    let example = json!({ "prompt": "The cat sat on the mat." });
    let summary = "A text to a vector, in Ollama's older shape";
    post(summary, Body { parts: fields, required: &[], example }, answer, GENERATED)
}

fn response_example() -> Value {
    json!({ "input": "What is 12+7?" })
}

pub(crate) fn input_tokens(s: &mut Schemas) -> Operation {
    let fields = wire_responses::field_schemas(&mut s.asked);
    let answer = s.json::<wire_responses::InputTokens>();
    let body = Body { parts: fields, required: &["input"], example: response_example() };
    post("Counts what an input makes the model read", body, answer, COUNTED)
}

pub(crate) fn response(s: &mut Schemas) -> Operation {
    get("A stored response", s.json::<wire_responses::Response<'_>>(), NAMED)
}

pub(crate) fn delete_response(s: &mut Schemas) -> Operation {
    get("Deletes a stored response", s.json::<wire_responses::Deleted<'_>>(), NAMED)
}

pub(crate) fn input_items(s: &mut Schemas) -> Operation {
    let answer = s.json::<wire_responses::InputItems>();
    get("A stored response's own input, a page of it", answer, PAGED)
}

pub(crate) fn cancel_response(s: &mut Schemas) -> Operation {
    let answer = s.json::<wire_responses::Response<'_>>();
    get("Refused: no response runs in the background", answer, PAGED)
}

pub(crate) fn messages(s: &mut Schemas) -> Operation {
    let summary = "Answers a conversation, in Anthropic's shape";
    let fields = anthropic::field_schemas(&mut s.asked);
    let answer = s.streamed::<anthropic::Whole<'_>, anthropic::Event<'_>>(Stream::Events);
    post(
        summary,
        Body { parts: fields, required: &["messages", "max_tokens"], example: conversation() },
        answer,
        GENERATED,
    )
}

pub(crate) fn count_tokens(s: &mut Schemas) -> Operation {
    let summary = "Counts what a conversation makes the model read, in Anthropic's shape";
    let fields = anthropic::field_schemas(&mut s.asked);
    let answer = s.json::<anthropic::Counted>();
    post(
        summary,
        Body { parts: fields, required: &["messages"], example: conversation() },
        answer,
        COUNTED,
    )
}

pub(crate) fn ollama_chat(s: &mut Schemas) -> Operation {
    let fields = wire_ollama::field_schemas(Kind::Chat, &mut s.asked);
    let answer = s.streamed::<Line<'_>, Line<'_>>(Stream::Lines);
    let example = json!({ "messages": question(), "options": { "num_predict": 8 } });
    post(
        "Answers a conversation, in Ollama's shape",
        Body { parts: fields, required: &[], example },
        answer,
        GENERATED,
    )
}

pub(crate) fn ollama_generate(s: &mut Schemas) -> Operation {
    let summary = "Answers a prompt or continues a text, in Ollama's shape";
    let fields = wire_ollama::field_schemas(Kind::Generate, &mut s.asked);
    let answer = s.streamed::<Line<'_>, Line<'_>>(Stream::Lines);
    let example = json!({ "prompt": "12+7=", "options": { "num_predict": 8 } });
    post(summary, Body { parts: fields, required: &[], example }, answer, GENERATED)
}

pub(crate) fn ollama_show(s: &mut Schemas) -> Operation {
    let summary = "The model's kind and context, in Ollama's shape";
    let fields = vec![s.asked.subschema_for::<wire_ollama::ShowRequest>()];
    let answer = s.json::<Shown>();
    post(
        summary,
        Body { parts: fields, required: &["model"], example: json!({ "model": "demo" }) },
        answer,
        ASKED,
    )
}

pub(crate) fn ollama_pull(s: &mut Schemas) -> Operation {
    let summary = "Whether the model is there, in Ollama's shape; nothing is downloaded";
    let fields = vec![s.asked.subschema_for::<wire_ollama::ShowRequest>()];
    let answer = s.json::<wire_ollama::Progress>();
    post(
        summary,
        Body { parts: fields, required: &["model"], example: json!({ "model": "demo" }) },
        answer,
        ASKED,
    )
}

pub(crate) fn ollama_tags(s: &mut Schemas) -> Operation {
    get("All models, in Ollama's shape", s.json::<Models<TaggedModel<'_>>>(), READ)
}

pub(crate) fn ollama_ps(s: &mut Schemas) -> Operation {
    get("Loaded models, in Ollama's shape", s.json::<Models<LoadedModel<'_>>>(), READ)
}

pub(crate) fn ollama_version(s: &mut Schemas) -> Operation {
    get("The version of Ollama's API that is spoken", s.json::<wire_ollama::Version>(), READ)
}

fn llama(s: &mut Schemas, summary: &'static str, example: Value) -> Operation {
    let fields = llama::field_schemas(&mut s.asked);
    let answer = s.streamed::<llama::Text<'_>, llama::Text<'_>>(Stream::Events);
    post(summary, Body { parts: fields, required: &[], example }, answer, GENERATED)
}

pub(crate) fn llama_completion(s: &mut Schemas) -> Operation {
    let example = json!({ "prompt": "12+7=", "n_predict": 8 });
    llama(s, "Continues a text, in llama.cpp's shape", example)
}

pub(crate) fn llama_infill(s: &mut Schemas) -> Operation {
    let example = json!({ "input_prefix": "12+7", "input_suffix": "19", "n_predict": 8 });
    llama(s, "Fills the gap between two texts, in llama.cpp's shape", example)
}

pub(crate) fn llama_props(s: &mut Schemas) -> Operation {
    get("The server's facts, in llama.cpp's shape", s.json::<llama::Props<'_>>(), READ)
}

pub(crate) fn tokenizer_info(s: &mut Schemas) -> Operation {
    get("The tokenizer's facts, in vLLM's shape", s.json::<tokens::TokenizerInfo<'_>>(), READ)
}

pub(crate) fn version(s: &mut Schemas) -> Operation {
    get("The program's version", s.json::<wire_models::Version>(), READ)
}

pub(crate) fn render(s: &mut Schemas) -> Operation {
    let summary = "What a chat request makes the model read";
    let fields = wire_chat::field_schemas(&mut s.asked);
    post(
        summary,
        Body { parts: fields, required: &["messages"], example: conversation() },
        s.json::<tokens::Rendered>(),
        COUNTED,
    )
}

pub(crate) fn tokenize(s: &mut Schemas) -> Operation {
    let mut fields = wire_chat::field_schemas(&mut s.asked);
    fields.extend(tokens::field_schemas(&mut s.asked));
    let (answer, example) = (s.json::<tokens::Tokenized>(), json!({ "prompt": "12+7=" }));
    post(
        "Text or a conversation to token ids",
        Body { parts: fields, required: &[], example },
        answer,
        COUNTED,
    )
}

pub(crate) fn detokenize(s: &mut Schemas) -> Operation {
    let fields = vec![s.asked.subschema_for::<tokens::DetokenizeFields>()];
    let (answer, example) = (s.json::<tokens::Detokenized>(), json!({ "tokens": [5, 6, 7] }));
    post(
        "Token ids to text",
        Body { parts: fields, required: &["tokens"], example },
        answer,
        COUNTED,
    )
}

pub(crate) fn models(s: &mut Schemas) -> Operation {
    get("All models: the one", s.json::<wire_models::ModelList<'_>>(), READ)
}

pub(crate) fn model(s: &mut Schemas) -> Operation {
    get("The model, if that is its name", s.json::<wire_models::Model<'_>>(), NAMED)
}

pub(crate) fn slots(s: &mut Schemas) -> Operation {
    get("What is in each slot and what waits", s.json::<Vec<wire_slots::Slot>>(), READ)
}

pub(crate) fn openapi(_: &mut Schemas) -> Operation {
    let any = schemars::json_schema!({ "type": "object" });
    get("This document", Answer::Json(any), READ)
}

pub(crate) fn health(s: &mut Schemas) -> Operation {
    let answer = s.json::<wire_models::Health<'_>>();
    get("The daemon's state and the engine's counters", answer, OPEN)
}

pub(crate) fn ready(s: &mut Schemas) -> Operation {
    let fault_schema = Some(s.said.subschema_for::<wire_models::Readiness>());
    let answer = s.json::<wire_models::Readiness>();
    Operation { fault_schema, ..get("Whether requests are taken", answer, &[503]) }
}

pub(crate) fn metrics(_: &mut Schemas) -> Operation {
    let answer = Answer::Text("text/plain; version=0.0.4; charset=utf-8");
    get("Metrics in Prometheus's text format", answer, READ)
}
