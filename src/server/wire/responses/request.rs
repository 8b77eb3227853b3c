//! What clients of the responses API ask.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::wire::bounds;
use crate::wire::chat::ChatRequest;
use crate::wire::common::{Entries, List, Object, TextOr, read_fields, shown};
use crate::wire::known::{names_of, unread};
use crate::wire::names::{ChatBody, Names, Renaming};

const NAMES: Names = &[
    ("max_tokens", "max_output_tokens"),
    ("reasoning_effort", "reasoning.effort"),
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    ("tool_choice.function.name", "tool_choice.name"),
    ("tools[].function", "tools[]"),
];

const ITEMS: &str = "\"message\", \"function_call\", \"function_call_output\" or \"reasoning\"";

/// Fields that become fields of the chat request.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct AskedFields {
    model: Option<String>,
    input: Option<TextOr<Object<InputItem>, { bounds::TURNS }>>,
    instructions: Option<String>,
    max_output_tokens: Option<Value>,
    temperature: Option<Value>,
    top_p: Option<Value>,
    stream: Option<bool>,
    text: Option<Object<TextFields>>,
    tools: Option<List<Object<WireTool>, { bounds::TOOLS }>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    reasoning: Option<Object<ReasoningFields>>,
}

/// Fields that are refused, or from which nothing follows.
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
    name: Option<Value>,
    schema: Option<Value>,
    strict: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct ReasoningFields {
    effort: Option<String>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct WireTool {
    #[serde(rename = "type")]
    kind: Option<String>,
    name: Option<Value>,
    description: Option<Value>,
    parameters: Option<Value>,
    strict: Option<Value>,
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

/// The content of an item.
type InputParts = TextOr<Object<InputPart>, { bounds::PARTS }>;

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct InputPart {
    #[serde(rename = "type")]
    kind: Option<String>,
    text: Option<String>,
    refusal: Option<String>,
}

/// `POST /v1/responses`.
#[derive(Debug)]
pub(crate) struct ResponsesRequest {
    pub(crate) chat: ChatRequest,
    pub(crate) renaming: Renaming,
    pub(crate) ignored: Vec<String>,
    /// What the answer repeats of the request.
    pub(crate) echo: Map<String, Value>,
}

impl ResponsesRequest {
    /// Reads a request's JSON.
    ///
    /// # Errors
    /// A 400 that names the first field at fault.
    pub(crate) fn parse(body: &Value) -> Result<Self, ApiError> {
        let asked: AskedFields = read_fields(body)?;
        let others: OtherFields = read_fields(body)?;
        let ignored = unread(body, &[names_of::<AskedFields>(), names_of::<OtherFields>()])?;
        others.check()?;
        let echo = echo(body);
        let mut chat = ChatBody::default();
        asked.apply(&mut chat)?;
        let (body, renaming) = chat.finish(NAMES);
        let chat = ChatRequest::parse(&body).map_err(|error| renaming.tell(error))?;
        Ok(Self { chat, renaming, ignored, echo })
    }
}

/// The fields that are read, for the OpenAPI document.
#[cfg(test)]
pub(crate) fn field_schemas(generator: &mut schemars::SchemaGenerator) -> Vec<schemars::Schema> {
    vec![generator.subschema_for::<AskedFields>(), generator.subschema_for::<OtherFields>()]
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
            if let Some(given) =
                given.as_ref().filter(|given| **given != first && **given != second)
            {
                let accepted = format!("{first:?} or {second:?}");
                return Err(ApiError::unsupported(name, format_args!("{given:?}"), &accepted));
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
    fn apply(self, chat: &mut ChatBody) -> Result<(), ApiError> {
        chat.put("model", self.model);
        chat.put("max_tokens", self.max_output_tokens);
        chat.put("temperature", self.temperature);
        chat.put("top_p", self.top_p);
        chat.put("stream", self.stream);
        chat.put("parallel_tool_calls", self.parallel_tool_calls);
        chat.put("reasoning_effort", self.reasoning.and_then(|Object(fields)| fields.effort));
        if let Some(Object(text)) = self.text {
            text.add_to(chat)?;
        }
        if let Some(List(tools)) = self.tools {
            chat.put("tools", Some(wire_tools(tools)?));
        }
        chat.put("tool_choice", self.tool_choice.map(tool_choice));
        if let Some(instructions) = self.instructions.filter(|text| !text.is_empty()) {
            chat.say("instructions", json!({ "role": "system", "content": instructions }));
        }
        match self.input {
            None => Err(ApiError::missing("input", "a string or a list of items")),
            Some(TextOr::Text(text)) => {
                chat.say("input", json!({ "role": "user", "content": text }));
                Ok(())
            }
            Some(TextOr::List(items)) => {
                for (index, Object(item)) in items.into_iter().enumerate() {
                    item.add_to(chat, &format!("input[{index}]"))?;
                }
                Ok(())
            }
        }
    }
}

impl TextFields {
    fn add_to(self, chat: &mut ChatBody) -> Result<(), ApiError> {
        if let Some(verbosity) = self.verbosity.filter(|verbosity| verbosity != "medium") {
            let verbosity = format_args!("{verbosity:?}");
            return Err(ApiError::unsupported("text.verbosity", verbosity, "\"medium\""));
        }
        let Some(Object(format)) = self.format else { return Ok(()) };
        let wire = match format.kind.as_deref() {
            Some("json_schema") => {
                let mut named = json!({ "name": format.name, "schema": format.schema });
                if let Some(strict) = format.strict {
                    named["strict"] = strict;
                }
                json!({ "type": "json_schema", "json_schema": named })
            }
            kind => json!({ "type": kind }),
        };
        chat.put("response_format", Some(wire));
        Ok(())
    }
}

fn wire_tools(tools: Vec<Object<WireTool>>) -> Result<Vec<Value>, ApiError> {
    let tool = |(index, Object(tool)): (usize, Object<WireTool>)| {
        let field = format!("tools[{index}].type");
        match tool.kind.as_deref() {
            Some("function") => {}
            None => return Err(ApiError::missing(field, "\"function\"")),
            Some(kind) => {
                return Err(ApiError::unsupported(field, format_args!("{kind:?}"), "\"function\""));
            }
        }
        Ok(json!({ "type": "function", "function": {
            "name": tool.name, "description": tool.description, "parameters": tool.parameters,
            "strict": tool.strict,
        }}))
    };
    tools.into_iter().enumerate().map(tool).collect()
}

/// The chat request's form of a choice, whose functions are objects of their own.
fn tool_choice(choice: Value) -> Value {
    let wrapped =
        |choice: &Value| json!({ "type": "function", "function": { "name": choice["name"] } });
    match choice["type"].as_str() {
        Some("function") => wrapped(&choice),
        Some("allowed_tools") => {
            let tools = choice["tools"].as_array().map(|tools| tools.iter().map(wrapped).collect());
            let tools: Vec<Value> = tools.unwrap_or_default();
            let allowed = json!({ "mode": choice["mode"], "tools": tools });
            json!({ "type": "allowed_tools", "allowed_tools": allowed })
        }
        _ => choice,
    }
}

impl InputItem {
    fn add_to(self, chat: &mut ChatBody, place: &str) -> Result<(), ApiError> {
        let missing = |name: &str| ApiError::missing(format!("{place}.{name}"), "a string");
        match self.kind.as_deref() {
            None | Some("message") => {
                let role = self.role.ok_or_else(|| missing("role"))?;
                let place = format!("{place}.content");
                let content = match self.content {
                    None => return Err(ApiError::missing(place, "a string or a list of parts")),
                    Some(content) => text_of(content, &place)?,
                };
                chat.say(place, json!({ "role": role, "content": content }));
            }
            Some("function_call") => {
                let name = self.name.ok_or_else(|| missing("name"))?;
                let arguments = self.arguments.ok_or_else(|| missing("arguments"))?;
                let id = self.call_id.ok_or_else(|| missing("call_id"))?;
                let function = json!({ "name": name, "arguments": arguments });
                chat.call(place, json!({ "id": id, "type": "function", "function": function }));
            }
            Some("function_call_output") => {
                let id = self.call_id.ok_or_else(|| missing("call_id"))?;
                let output = self.output.ok_or_else(|| missing("output"))?;
                let content = text_of(output, &format!("{place}.output"))?;
                chat.say(place, json!({ "role": "tool", "tool_call_id": id, "content": content }));
            }
            // What was thought about earlier turns is not read again.
            Some("reasoning") => {}
            Some(kind) => {
                let kind = format_args!("{kind:?}");
                return Err(ApiError::unsupported(format!("{place}.type"), kind, ITEMS));
            }
        }
        Ok(())
    }
}

/// The parts' texts as one, with nothing between them.
fn text_of(content: InputParts, place: &str) -> Result<String, ApiError> {
    let parts = match content {
        TextOr::Text(text) => return Ok(text),
        TextOr::List(parts) => parts,
    };
    let mut whole = String::new();
    for (index, Object(part)) in parts.into_iter().enumerate() {
        let place = format!("{place}[{index}]");
        const KINDS: &str = "\"input_text\", \"output_text\" or \"refusal\"";
        let (name, text) = match part.kind.as_deref() {
            Some("input_text" | "output_text" | "text") => ("text", part.text),
            Some("refusal") => ("refusal", part.refusal),
            None => return Err(ApiError::missing(format!("{place}.type"), KINDS)),
            Some(kind) => {
                let kind = format_args!("{kind:?}");
                return Err(ApiError::unsupported(format!("{place}.type"), kind, KINDS));
            }
        };
        let text = text.ok_or_else(|| ApiError::missing(format!("{place}.{name}"), "a string"))?;
        whole.push_str(&text);
    }
    Ok(whole)
}
