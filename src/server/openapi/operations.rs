//! What each route takes and says. A new route does not compile without its row here.

use schemars::Schema;

use super::Schemas;
use crate::route::Route;
use crate::sse::Format;
use crate::wire::ollama::{self, Kind, Line, LoadedModel, Models, Shown, TaggedModel};
use crate::wire::{anthropic, chat, completions, models, responses, slots, tokens};

/// One route's operation.
pub(super) struct Operation {
    pub(super) summary: &'static str,
    /// The body, where there is one.
    pub(super) asked: Option<Asked>,
    pub(super) answer: Answer,
    /// Statuses other than 200.
    pub(super) faults: &'static [u16],
    /// The shape of a 503 that is no fault.
    pub(super) fault_schema: Option<Schema>,
}

/// A request's body.
pub(super) struct Asked {
    /// Objects whose fields the body has.
    pub(super) parts: Vec<Schema>,
    pub(super) required: &'static [&'static str],
}

/// An answer with status 200.
pub(super) enum Answer {
    Json(Schema),
    Text(&'static str),
    /// Whole, or streamed where that was asked for.
    Streamed {
        whole: Schema,
        kind: Format,
        event: Schema,
    },
}

const OPEN: &[u16] = &[];
const READ: &[u16] = &[401, 403, 503];
const NAMED: &[u16] = &[401, 403, 404, 503];
const ASKED: &[u16] = &[400, 401, 403, 404, 408, 413, 415, 500, 503];
const COUNTED: &[u16] = &[400, 401, 403, 404, 408, 413, 415, 429, 500, 503];
const GENERATED: &[u16] = &[400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 504];

/// The operation of `route`.
pub(super) fn operation(route: Route, schemas: &mut Schemas) -> Operation {
    match route {
        Route::Chat
        | Route::Completions
        | Route::Responses
        | Route::Messages
        | Route::OllamaChat
        | Route::OllamaGenerate => generating(route, schemas),
        Route::Render | Route::Tokenize | Route::Detokenize | Route::CountTokens => {
            counting(route, schemas)
        }
        Route::OllamaShow => Operation {
            summary: "The model's kind and context, in Ollama's shape",
            asked: asked(vec![schemas.asked.subschema_for::<ollama::ShowRequest>()], &["model"]),
            answer: Answer::Json(schemas.said.subschema_for::<Shown>()),
            faults: ASKED,
            fault_schema: None,
        },
        _ => reading(route, schemas),
    }
}

fn asked(parts: Vec<Schema>, required: &'static [&'static str]) -> Option<Asked> {
    Some(Asked { parts, required })
}

fn generating(route: Route, schemas: &mut Schemas) -> Operation {
    let (read, said) = (&mut schemas.asked, &mut schemas.said);
    let (summary, parts, required, whole, kind, event): (_, _, &[&str], _, _, _) = match route {
        Route::Chat => (
            "Answers a conversation",
            chat::field_schemas(read),
            &["messages"],
            said.subschema_for::<chat::ChatCompletion<'_>>(),
            Format::Events,
            said.subschema_for::<chat::ChatChunk<'_>>(),
        ),
        Route::Completions => (
            "Continues a text",
            completions::field_schemas(read),
            &["prompt"],
            said.subschema_for::<completions::Completion<'_>>(),
            Format::Events,
            said.subschema_for::<completions::Completion<'_>>(),
        ),
        Route::Responses => (
            "Answers an input, statelessly",
            responses::field_schemas(read),
            &["input"],
            said.subschema_for::<responses::Response<'_>>(),
            Format::Events,
            said.subschema_for::<responses::Event<'_>>(),
        ),
        Route::Messages => (
            "Answers a conversation, in Anthropic's shape",
            anthropic::field_schemas(read),
            &["messages", "max_tokens"],
            said.subschema_for::<anthropic::Whole<'_>>(),
            Format::Events,
            said.subschema_for::<anthropic::Event<'_>>(),
        ),
        Route::OllamaGenerate => (
            "Answers a prompt or continues a text, in Ollama's shape",
            ollama::field_schemas(Kind::Generate, read),
            &[],
            said.subschema_for::<Line<'_>>(),
            Format::Lines,
            said.subschema_for::<Line<'_>>(),
        ),
        _ => (
            "Answers a conversation, in Ollama's shape",
            ollama::field_schemas(Kind::Chat, read),
            &[],
            said.subschema_for::<Line<'_>>(),
            Format::Lines,
            said.subschema_for::<Line<'_>>(),
        ),
    };
    Operation {
        summary,
        asked: asked(parts, required),
        answer: Answer::Streamed { whole, kind, event },
        faults: GENERATED,
        fault_schema: None,
    }
}

fn counting(route: Route, schemas: &mut Schemas) -> Operation {
    let (read, said) = (&mut schemas.asked, &mut schemas.said);
    let (summary, parts, required, answer): (_, _, &[&str], _) = match route {
        Route::Render => (
            "What a chat request makes the model read",
            chat::field_schemas(read),
            &["messages"],
            said.subschema_for::<tokens::Rendered>(),
        ),
        Route::Tokenize => {
            let mut parts = chat::field_schemas(read);
            parts.extend(tokens::field_schemas(read));
            (
                "Text or a conversation to token ids",
                parts,
                &[],
                said.subschema_for::<tokens::Tokenized>(),
            )
        }
        Route::Detokenize => (
            "Token ids to text",
            vec![read.subschema_for::<tokens::DetokenizeFields>()],
            &["tokens"],
            said.subschema_for::<tokens::Detokenized>(),
        ),
        _ => (
            "Counts what a conversation makes the model read, in Anthropic's shape",
            anthropic::field_schemas(read),
            &["messages"],
            said.subschema_for::<anthropic::Counted>(),
        ),
    };
    let answer = Answer::Json(answer);
    Operation {
        summary,
        asked: asked(parts, required),
        answer,
        faults: COUNTED,
        fault_schema: None,
    }
}

fn reading(route: Route, schemas: &mut Schemas) -> Operation {
    let said = &mut schemas.said;
    let (summary, answer, faults) = match route {
        Route::Models => {
            ("All models: the one", said.subschema_for::<models::ModelList<'_>>(), READ)
        }
        Route::Model => {
            ("The model, if that is its name", said.subschema_for::<models::Model<'_>>(), NAMED)
        }
        Route::Slots => {
            ("What is in each slot and what waits", said.subschema_for::<Vec<slots::Slot>>(), READ)
        }
        Route::OllamaTags => {
            ("All models, in Ollama's shape", said.subschema_for::<Models<TaggedModel<'_>>>(), READ)
        }
        Route::OllamaPs => (
            "Loaded models, in Ollama's shape",
            said.subschema_for::<Models<LoadedModel<'_>>>(),
            READ,
        ),
        Route::OllamaVersion => (
            "The version of Ollama's API that is spoken",
            said.subschema_for::<ollama::Version>(),
            READ,
        ),
        Route::Health => (
            "The daemon's state and the engine's counters",
            said.subschema_for::<models::Health<'_>>(),
            OPEN,
        ),
        Route::Ready => {
            let answer = said.subschema_for::<models::Readiness>();
            return Operation {
                summary: "Whether requests are taken",
                asked: None,
                answer: Answer::Json(answer.clone()),
                faults: &[503],
                fault_schema: Some(answer),
            };
        }
        Route::OpenApi => ("This document", schemars::json_schema!({ "type": "object" }), READ),
        _ => {
            return Operation {
                summary: "Metrics in Prometheus's text format",
                asked: None,
                answer: Answer::Text("text/plain; version=0.0.4; charset=utf-8"),
                faults: READ,
                fault_schema: None,
            };
        }
    };
    Operation { summary, asked: None, answer: Answer::Json(answer), faults, fault_schema: None }
}
