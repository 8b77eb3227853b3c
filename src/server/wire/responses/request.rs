//! Requests of OpenAI's responses API.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::wire::common::{
    Delivery, Entries, Integer, List, Number, Object, TextOr, shown, unsupported_word,
};
use crate::wire::form::{named_schema, no_form, of, with_strict};
use crate::wire::known::{Groups, unread};
use crate::wire::messages::{Conversation, answered, joined, role};
use crate::wire::parameters::max_tokens;
use crate::wire::reasoning::budget_of_effort;
use crate::wire::tools::{self, WireFunction};
use crate::wire::{Parsed, bounds};
use phi4d_generate::{
    Chat, Constraint, Ending, Form, Message, ParameterNames, Parameters, Prompt, Reasoning,
    Request, Role, ToolCall, Tools,
};

const NAMES: ParameterNames =
    ParameterNames { max_tokens: "max_output_tokens", ..ParameterNames::OPENAI };

const ITEMS: &str = "\"message\", \"function_call\", \"function_call_output\" or \"reasoning\"";

/// What the model reads, and how it answers.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct AskedFields {
    model: Option<String>,
    input: Option<TextOr<Object<InputItem>, { bounds::ITEMS }>>,
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
    previous_response_id: Option<Value>,
    conversation: Option<Value>,
    prompt: Option<Value>,
    background: Option<bool>,
    truncation: Option<String>,
    include: Option<List<String, { bounds::INCLUDED }>>,
    top_logprobs: Option<Value>,
    service_tier: Option<String>,
    #[serde(rename = "metadata")]
    _metadata: Option<Entries<Value, { bounds::METADATA }>>,
    #[serde(rename = "user")]
    _user: Option<String>,
    #[serde(rename = "store")]
    _store: Option<bool>,
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
    verbosity: Option<String>,
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

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct WireTool {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[cfg_attr(test, schemars(with = "Option<Value>"))]
    name: Option<String>,
    #[cfg_attr(test, schemars(with = "Option<Value>"))]
    description: Option<String>,
    #[cfg_attr(test, schemars(with = "Option<Value>"))]
    parameters: Option<Entries<Value, { bounds::KEYWORDS }>>,
    #[cfg_attr(test, schemars(with = "Option<Value>"))]
    strict: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct InputItem {
    #[serde(rename = "type")]
    kind: Option<String>,
    role: Option<String>,
    content: Option<InputParts>,
    call_id: Option<String>,
    name: Option<String>,
    arguments: Option<String>,
    output: Option<InputParts>,
}

type InputParts = TextOr<Object<InputPart>, { bounds::PARTS }>;

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct InputPart {
    #[serde(rename = "type")]
    kind: Option<String>,
    text: Option<String>,
    refusal: Option<String>,
}

type AllFields = (AskedFields, OtherFields);

/// `POST /v1/responses`.
#[derive(Debug)]
pub(crate) struct ResponsesRequest {
    pub(crate) parsed: Parsed,
    /// What the answer repeats of the request.
    pub(crate) echo: Map<String, Value>,
}

impl ResponsesRequest {
    /// Reads a request's JSON.
    ///
    /// # Errors
    /// A 400 that names the first field at fault.
    pub(crate) fn parse(body: &Value) -> Result<Self, ApiError> {
        let (asked, others) = AllFields::read(body)?;
        let ignored = unread(body, &AllFields::names())?;
        others.check()?;
        Ok(Self { parsed: asked.parsed(ignored)?, echo: echo(body) })
    }
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
        const STATELESS: &str = "null; nothing is kept here: send the conversation as input";
        for (name, value, accepted) in [
            ("previous_response_id", &self.previous_response_id, STATELESS),
            ("conversation", &self.conversation, STATELESS),
            ("prompt", &self.prompt, "null"),
        ] {
            if let Some(value) = value {
                return Err(ApiError::unsupported(name, shown(value), accepted));
            }
        }
        if self.background == Some(true) {
            return Err(ApiError::unsupported("background", true, "false"));
        }
        let words = [
            ("truncation", &self.truncation, ["disabled", "disabled"]),
            ("service_tier", &self.service_tier, ["auto", "default"]),
        ];
        for (name, given, [first, second]) in words {
            if given.as_ref().is_some_and(|given| given != first && given != second) {
                let accepted = format!("{first:?} or {second:?}");
                return Err(unsupported_word(name, given.as_deref(), &accepted));
            }
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
    fn parsed(self, ignored: Vec<String>) -> Result<Parsed, ApiError> {
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
        let chat = Chat {
            tools: tools_of(self.tools, self.tool_choice, self.parallel_tool_calls)?,
            messages: conversation(self.instructions, self.input)?,
            reasoning: Reasoning { in_text: false, budget },
            ..Chat::default()
        };
        let prompts = vec![Prompt::Chat(chat)];
        let request = Request { prompts, parameters, ..Request::default() };
        let delivery = Delivery::of(self.stream == Some(true));
        Ok(Parsed { model: self.model, request, delivery, ignored })
    }
}

fn conversation(
    instructions: Option<String>,
    input: Option<TextOr<Object<InputItem>, { bounds::ITEMS }>>,
) -> Result<Vec<Message>, ApiError> {
    let mut conversation = Conversation::default();
    if let Some(instructions) = instructions.filter(|text| !text.is_empty()) {
        conversation.add_text(Role::System, instructions, "instructions")?;
    }
    match input {
        None => return Err(ApiError::missing("input", "a string or a list of items")),
        Some(TextOr::Text(text)) => conversation.add_text(Role::User, text, "input")?,
        Some(TextOr::List(items)) => {
            for (index, Object(item)) in items.into_iter().enumerate() {
                item.add_to(&mut conversation, &format!("input[{index}]"))?;
            }
        }
    }
    conversation.finish(Ending::ModelTurn)
}

impl TextFields {
    fn constraint(self) -> Result<Option<Constraint>, ApiError> {
        if self.verbosity.as_deref().is_some_and(|verbosity| verbosity != "medium") {
            let verbosity = self.verbosity.as_deref();
            return Err(unsupported_word("text.verbosity", verbosity, "\"medium\""));
        }
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

fn tools_of(
    given: Option<List<Object<WireTool>, { bounds::TOOLS }>>,
    choice: Option<Value>,
    parallel: Option<bool>,
) -> Result<Tools, ApiError> {
    let mut definitions = tools::definitions(given, "parameters", |tool, place| {
        tools::check_kind(tool.kind.as_deref(), place)?;
        let WireTool { name, description, parameters, strict, .. } = tool;
        Ok(WireFunction { name, description, parameters, strict })
    })?;
    let choice = choice.map(|choice| tools::choose(&mut definitions, &choice, false));
    tools::offered(definitions, choice.transpose()?, parallel == Some(false))
}

impl InputItem {
    fn add_to(self, conversation: &mut Conversation, place: &str) -> Result<(), ApiError> {
        let missing = |name: &str| ApiError::missing(format!("{place}.{name}"), "a string");
        match self.kind.as_deref() {
            None | Some("message") => {
                let given = self.role.ok_or_else(|| missing("role"))?;
                let place = format!("{place}.content");
                let content = match self.content {
                    None => return Err(ApiError::missing(place, "a string or a list of parts")),
                    Some(content) => text_of(content, &place)?,
                };
                let role = role(Some(&given), &place)?;
                // A tool's result is an item of its own.
                answered(role, None, &place)?;
                conversation.add_text(role, content, &place)
            }
            Some("function_call") => {
                let name = self.name.ok_or_else(|| missing("name"))?;
                let arguments = self.arguments.ok_or_else(|| missing("arguments"))?;
                let id = self.call_id.ok_or_else(|| missing("call_id"))?;
                conversation.add_call(ToolCall { id, name, arguments }, place)
            }
            Some("function_call_output") => {
                let id = self.call_id.ok_or_else(|| missing("call_id"))?;
                let output = self.output.ok_or_else(|| missing("output"))?;
                let content = text_of(output, &format!("{place}.output"))?;
                conversation.add_result(id, content, place)
            }
            // Reasoning about earlier messages is not read again.
            Some("reasoning") => Ok(()),
            kind => Err(unsupported_word(format!("{place}.type"), kind, ITEMS)),
        }
    }
}

fn text_of(content: InputParts, place: &str) -> Result<String, ApiError> {
    const KINDS: &str = "\"input_text\", \"output_text\" or \"refusal\"";
    match content {
        TextOr::Text(text) => Ok(text),
        TextOr::List(parts) => joined(parts, place, |part| match part.kind.as_deref() {
            Some("input_text" | "output_text" | "text") => Ok(("text", part.text)),
            Some("refusal") => Ok(("refusal", part.refusal)),
            kind => Err((kind.map(str::to_owned), KINDS)),
        }),
    }
}
