//! Requests of OpenAI's responses API.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::input;
use super::tools::{Shapes, WireTool, tools_of};
use crate::error::ApiError;
use crate::served::Asks;
use crate::store::Stored;
use crate::wire::common::{
    Delivery, Entries, Integer, List, Number, Object, TextOr, shown, to_json, too_long,
    unknown_word,
};
use crate::wire::form::{named_schema, no_form, of, with_strict};
use crate::wire::known::{Groups, Ignored, unread};
use crate::wire::messages::Conversation;
use crate::wire::parameters::max_tokens;
use crate::wire::reasoning::budget_of_effort;
use crate::wire::{Parsed, bounds};
use phi4d_generate::{
    Chat, Constraint, Ending, Form, Message, ParameterNames, Parameters, Prompt, Reasoning,
    Request, Role, Tools,
};

const NAMES: ParameterNames =
    ParameterNames { max_tokens: "max_output_tokens", ..ParameterNames::OPENAI };

/// What the model reads, and how it answers.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct AskedFields {
    model: Option<String>,
    // Items are read when those are there that the input refers to.
    #[cfg_attr(
        test,
        schemars(with = "Option<TextOr<Object<input::InputItem>, { bounds::ITEMS }>>")
    )]
    input: Option<TextOr<Value, { bounds::ITEMS }>>,
    previous_response_id: Option<String>,
    store: Option<bool>,
    instructions: Option<String>,
    #[cfg_attr(test, schemars(with = "Option<Value>"))]
    max_output_tokens: Option<Integer>,
    #[cfg_attr(test, schemars(with = "Option<Value>"))]
    temperature: Option<Number>,
    #[cfg_attr(test, schemars(with = "Option<Value>"))]
    top_p: Option<Number>,
    stream: Option<bool>,
    text: Option<Object<TextFields>>,
    tools: Option<List<Object<WireTool>, { bounds::TOOLS }>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    reasoning: Option<Object<WireReasoning>>,
}

/// Fields that are refused, or accepted without effect.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct OtherFields {
    conversation: Option<Value>,
    prompt: Option<Value>,
    background: Option<bool>,
    truncation: Option<String>,
    include: Option<List<String, { bounds::INCLUDED }>>,
    top_logprobs: Option<Value>,
    #[serde(rename = "service_tier")]
    _service_tier: Option<String>,
    #[serde(rename = "metadata")]
    _metadata: Option<Entries<Value, { bounds::METADATA }>>,
    #[serde(rename = "user")]
    _user: Option<String>,
    #[serde(rename = "max_tool_calls")]
    _max_tool_calls: Option<Value>,
    #[serde(rename = "stream_options")]
    _stream_options: Option<Value>,
    #[serde(rename = "safety_identifier")]
    _safety_identifier: Option<Value>,
    #[serde(rename = "prompt_cache_key")]
    _prompt_cache_key: Option<Value>,
    #[serde(rename = "prompt_cache_retention")]
    _prompt_cache_retention: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct TextFields {
    format: Option<Object<FormatFields>>,
    // How much the model says is its own matter.
    #[serde(rename = "verbosity")]
    _verbosity: Option<String>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct FormatFields {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[cfg_attr(test, schemars(with = "Option<Value>"))]
    name: Option<String>,
    schema: Option<Value>,
    strict: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct WireReasoning {
    effort: Option<String>,
}

type AllFields = (AskedFields, OtherFields);

/// `POST /v1/responses`, before what it refers to is there.
#[derive(Debug)]
pub(crate) struct Asked {
    fields: AskedFields,
    ignored: Ignored,
    /// What the answer repeats of the request.
    echo: Map<String, Value>,
}

/// What a request refers to.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    /// The responses that it goes on from, the first one first.
    pub(super) chain: Vec<Arc<Stored>>,
    /// Responses with the items that its input names by their ids.
    pub(super) named: Vec<Arc<Stored>>,
}

/// `POST /v1/responses`.
#[derive(Debug)]
pub(crate) struct ResponsesRequest {
    pub(crate) parsed: Parsed,
    pub(super) echo: Map<String, Value>,
    /// How calls are written in the answer.
    pub(super) shapes: Shapes,
    /// The response that it goes on from.
    pub(super) previous: Option<String>,
    /// The request's own items as a JSON list, if the response is to be kept.
    pub(super) input: Option<String>,
}

impl ResponsesRequest {
    /// Reads a request's JSON that refers to nothing.
    ///
    /// # Errors
    /// A 400 that names the first field at fault.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn parse(body: &Value) -> Result<Self, ApiError> {
        Asked::read(body)?.after(&Earlier::default())
    }
}

impl Asked {
    /// Reads a request's JSON, but for the items of its input.
    ///
    /// # Errors
    /// A 400 that names the first field at fault.
    pub(super) fn read(body: &Value) -> Result<Self, ApiError> {
        let (fields, others) = AllFields::read(body)?;
        let ignored = unread(body, &AllFields::names())?;
        others.check()?;
        Ok(Self { fields, ignored, echo: echo(body) })
    }

    pub(super) fn asks(&self) -> Asks<'_> {
        Asks { model: self.fields.model.as_deref(), ..Asks::default() }
    }

    /// The response that it goes on from.
    pub(super) fn previous(&self) -> Option<&str> {
        self.fields.previous_response_id.as_deref()
    }

    /// The ids of items that its input names, each with its place.
    pub(super) fn references(&self) -> impl Iterator<Item = (usize, &str)> {
        let items = match &self.fields.input {
            Some(TextOr::List(items)) => items.as_slice(),
            _ => &[],
        };
        let found = items.iter().enumerate();
        found.filter_map(|(index, item)| Some((index, input::reference(item)?)))
    }

    /// The request, after what it refers to.
    ///
    /// # Errors
    /// A 400 that names the first field at fault.
    pub(super) fn after(self, earlier: &Earlier) -> Result<ResponsesRequest, ApiError> {
        let Self { mut fields, mut ignored, echo } = self;
        let own = match fields.input.take() {
            None if earlier.chain.is_empty() => {
                return Err(ApiError::missing("input", "a string or a list of items"));
            }
            None => Vec::new(),
            Some(TextOr::Text(text)) => vec![input::message(&text)],
            Some(TextOr::List(items)) => resolved(items, &earlier.named),
        };
        let instructions = fields.instructions.take();
        let messages = conversation(instructions, &own, &earlier.chain, &mut ignored)?;
        let keeps = fields.store != Some(false);
        let input = keeps.then(|| own.into_iter().map(input::identified).collect::<Vec<_>>());
        let previous = fields.previous_response_id.take();
        let (parsed, shapes) = fields.parsed(messages, ignored)?;
        let input = input.map(|items| to_json(&items));
        Ok(ResponsesRequest { parsed, echo, shapes, previous, input })
    }
}

/// The items, where those that name another are that one. One that is not found stays, and is an
/// error when it is read.
fn resolved(items: Vec<Value>, named: &[Arc<Stored>]) -> Vec<Value> {
    let mut known: HashMap<String, Value> = HashMap::new();
    for item in named.iter().flat_map(|stored| stored.output()) {
        if let Some(id) = item["id"].as_str() {
            known.insert(id.to_owned(), item);
        }
    }
    let resolve = |item: Value| {
        let found = input::reference(&item).and_then(|id| known.get(id)).cloned();
        found.unwrap_or(item)
    };
    items.into_iter().map(resolve).collect()
}

/// The fields that are read, for the OpenAPI document.
#[cfg(test)]
pub(crate) fn field_schemas(generator: &mut schemars::SchemaGenerator) -> Vec<schemars::Schema> {
    AllFields::schemas(generator)
}

/// The request's fields that an answer has, too, with what stands for those that were not given.
fn echo(body: &Value) -> Map<String, Value> {
    let given = |name: &str| body.get(name).filter(|value| !value.is_null()).cloned();
    let fields = [
        ("instructions", Value::Null),
        ("max_output_tokens", Value::Null),
        ("metadata", json!({})),
        ("parallel_tool_calls", json!(true)),
        ("reasoning", json!({ "effort": null, "summary": null })),
        ("temperature", Value::Null),
        ("text", json!({ "format": { "type": "text" } })),
        ("tool_choice", json!("auto")),
        ("tools", json!([])),
        ("top_p", Value::Null),
        ("truncation", json!("disabled")),
        ("user", Value::Null),
    ];
    fields
        .into_iter()
        .map(|(name, usual)| (name.to_owned(), given(name).unwrap_or(usual)))
        .collect()
}

impl OtherFields {
    fn check(&self) -> Result<(), ApiError> {
        const CONVERSATION: &str = "null; previous_response_id goes on from a response";
        for (name, value, accepted) in
            [("conversation", &self.conversation, CONVERSATION), ("prompt", &self.prompt, "null")]
        {
            if let Some(value) = value {
                return Err(ApiError::unsupported(name, shown(value), accepted));
            }
        }
        if self.background == Some(true) {
            return Err(ApiError::unsupported("background", true, "false"));
        }
        let truncation = self.truncation.as_deref();
        if truncation.is_some_and(|word| !["auto", "disabled"].contains(&word)) {
            return Err(unknown_word("truncation", truncation, "\"auto\" or \"disabled\""));
        }
        if let Some(top) = self.top_logprobs.as_ref().filter(|top| **top != 0) {
            let accepted = "0; /v1/chat/completions has them";
            return Err(ApiError::unsupported("top_logprobs", shown(top), accepted));
        }
        let included = self.include.iter().flat_map(|list| &list.0);
        for (index, name) in included.enumerate() {
            // There is none, so that there is nothing to leave out.
            if name != "reasoning.encrypted_content" {
                let name = format_args!("{name:?}");
                let accepted = "\"reasoning.encrypted_content\"";
                return Err(ApiError::unsupported(format!("include[{index}]"), name, accepted));
            }
        }
        Ok(())
    }
}

impl AskedFields {
    fn parsed(
        self,
        messages: Vec<Message>,
        mut ignored: Ignored,
    ) -> Result<(Parsed, Shapes), ApiError> {
        let max_output_tokens = self.max_output_tokens;
        let parameters = Parameters {
            names: NAMES,
            max_tokens: max_output_tokens.map(|n| max_tokens(NAMES.max_tokens, n)).transpose()?,
            temperature: self.temperature.map(|n| n.0),
            top_p: self.top_p.map(|n| n.0),
            constraint: match self.text {
                Some(Object(text)) => text.constraint()?,
                None => None,
            },
            ..Parameters::default()
        };
        let effort = self.reasoning.and_then(|Object(fields)| fields.effort);
        let budget = budget_of_effort(effort.as_deref(), "reasoning.effort")?;
        let (tools, shapes): (Tools, Shapes) =
            tools_of(self.tools, self.tool_choice, self.parallel_tool_calls, &mut ignored)?;
        let reasoning = Reasoning { in_text: false, budget };
        let chat = Chat { tools, messages, reasoning, ..Chat::default() };
        let prompts = vec![Prompt::Chat(chat)];
        let request = Request { prompts, parameters, ..Request::default() };
        let delivery = Delivery::of(self.stream == Some(true));
        Ok((Parsed { model: self.model, request, delivery, ignored: ignored.names }, shapes))
    }
}

/// The messages of the responses before, and of the request's `own` items.
fn conversation(
    instructions: Option<String>,
    own: &[Value],
    chain: &[Arc<Stored>],
    ignored: &mut Ignored,
) -> Result<Vec<Message>, ApiError> {
    let mut conversation = Conversation::default();
    if let Some(instructions) = instructions.filter(|text| !text.is_empty()) {
        conversation.add_text(Role::System, instructions, "instructions")?;
    }
    let mut count = own.len();
    for stored in chain {
        let items = [stored.input(), stored.output()].concat();
        count += items.len();
        if count > bounds::ITEMS {
            return Err(too_long("previous_response_id", count, bounds::ITEMS));
        }
        for item in &items {
            // What is left out of them was named when they were new.
            input::add(item, "previous_response_id", &mut conversation, &mut Ignored::default())?;
        }
    }
    for (index, item) in own.iter().enumerate() {
        input::add(item, &format!("input[{index}]"), &mut conversation, ignored)?;
    }
    conversation.finish(Ending::ModelTurn)
}

impl TextFields {
    fn constraint(self) -> Result<Option<Constraint>, ApiError> {
        let place = "text.format";
        let Some(Object(format)) = self.format else { return Ok(None) };
        match format.kind.as_deref() {
            Some("json_object") => Ok(Some(of(place, Form::JsonObject))),
            Some("json_schema") => {
                let constraint = named_schema(format.name.as_deref(), format.schema, place)?;
                Ok(Some(with_strict(constraint, format.strict.as_ref())))
            }
            kind => no_form(kind, place),
        }
    }
}
