//! What Anthropic's clients ask.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::wire::bounds;
use crate::wire::chat::ChatRequest;
use crate::wire::common::{Entries, Integer, List, Object, TextOr, read_fields, shown};
use crate::wire::known::{names_of, unread};
use crate::wire::names::{ChatBody, Names, Renaming};

const NAMES: Names = &[
    ("stop", "stop_sequences"),
    ("thinking_token_budget", "thinking.budget_tokens"),
    ("reasoning_effort", "output_config.effort"),
    ("response_format.json_schema.schema", "output_config.format.schema"),
    ("response_format", "output_config.format"),
    ("tool_choice.function.name", "tool_choice.name"),
    ("tools[].function.parameters", "tools[].input_schema"),
    ("tools[].function", "tools[]"),
    ("parallel_tool_calls", "tool_choice.disable_parallel_tool_use"),
];

/// A message's content, or a part of it that is made of blocks, too.
type Blocks = TextOr<Object<Block>, { bounds::PARTS }>;

const BLOCKS: &str = "\"text\", \"tool_use\", \"tool_result\" or \"thinking\"";

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct MessagesFields {
    model: Option<String>,
    max_tokens: Option<Integer>,
    stream: Option<bool>,
    stop_sequences: Option<List<String, { bounds::STOPS }>>,
    temperature: Option<Value>,
    top_p: Option<Value>,
    top_k: Option<Value>,
    // Accepted, and nothing follows from them.
    #[serde(rename = "metadata")]
    _metadata: Option<Value>,
    #[serde(rename = "service_tier")]
    _service_tier: Option<Value>,
    #[serde(rename = "cache_control")]
    _cache_control: Option<Value>,
}

/// What is read by the model.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct PromptFields {
    system: Option<Blocks>,
    messages: Option<List<Object<Turn>, { bounds::TURNS }>>,
    tools: Option<List<Object<WireTool>, { bounds::TOOLS }>>,
    tool_choice: Option<Object<ToolChoice>>,
    thinking: Option<Object<Thinking>>,
    output_config: Option<Object<OutputConfig>>,
    output_format: Option<Object<OutputFormat>>,
    container: Option<Value>,
    mcp_servers: Option<Value>,
    context_management: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Turn {
    role: Option<String>,
    content: Option<Blocks>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Block {
    #[serde(rename = "type")]
    kind: Option<String>,
    text: Option<String>,
    id: Option<String>,
    name: Option<String>,
    input: Option<Entries<Value, { bounds::ARGUMENTS }>>,
    tool_use_id: Option<String>,
    content: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct WireTool {
    #[serde(rename = "type")]
    kind: Option<String>,
    name: Option<String>,
    description: Option<String>,
    input_schema: Option<Entries<Value, { bounds::KEYWORDS }>>,
    strict: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct ToolChoice {
    #[serde(rename = "type")]
    kind: Option<String>,
    name: Option<String>,
    disable_parallel_tool_use: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Thinking {
    #[serde(rename = "type")]
    kind: Option<String>,
    budget_tokens: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct OutputConfig {
    effort: Option<String>,
    format: Option<Object<OutputFormat>>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct OutputFormat {
    #[serde(rename = "type")]
    kind: Option<String>,
    schema: Option<Value>,
}

/// `POST /v1/messages`.
#[derive(Debug)]
pub(crate) struct MessagesRequest {
    pub(crate) chat: ChatRequest,
    pub(crate) renaming: Renaming,
    pub(crate) ignored: Vec<String>,
}

/// `POST /v1/messages/count_tokens`.
#[derive(Debug)]
pub(crate) struct CountRequest(pub(crate) MessagesRequest);

impl MessagesRequest {
    /// Reads a request's JSON.
    ///
    /// # Errors
    /// A 400 that names the first field at fault.
    pub(crate) fn parse(body: &Value) -> Result<Self, ApiError> {
        Self::read(body, true)
    }

    fn read(body: &Value, limited: bool) -> Result<Self, ApiError> {
        let fields: MessagesFields = read_fields(body)?;
        let prompt: PromptFields = read_fields(body)?;
        let ignored = unread(body, &[names_of::<MessagesFields>(), names_of::<PromptFields>()])?;
        let mut chat = ChatBody::default();
        chat.put("model", fields.model);
        const COUNT: &str = "an integer of 1 or more";
        match fields.max_tokens {
            Some(count) => chat.put("max_tokens", Some(count.fit::<u64>("max_tokens", COUNT)?)),
            None if limited => return Err(ApiError::missing("max_tokens", COUNT)),
            None => {}
        }
        chat.put("stream", fields.stream);
        chat.put("stop", fields.stop_sequences.map(|list| list.0));
        chat.put("temperature", fields.temperature);
        chat.put("top_p", fields.top_p);
        chat.put("top_k", fields.top_k);
        prompt.add_to(&mut chat)?;
        let (body, renaming) = chat.finish(NAMES);
        let chat = ChatRequest::parse(&body).map_err(|error| renaming.tell(error))?;
        Ok(Self { chat, renaming, ignored })
    }
}

impl CountRequest {
    /// Reads a request's JSON.
    ///
    /// # Errors
    /// A 400 that names the first field at fault.
    pub(crate) fn parse(body: &Value) -> Result<Self, ApiError> {
        MessagesRequest::read(body, false).map(Self)
    }
}

/// The fields that are read, for the OpenAPI document.
#[cfg(test)]
pub(crate) fn field_schemas(generator: &mut schemars::SchemaGenerator) -> Vec<schemars::Schema> {
    vec![generator.subschema_for::<MessagesFields>(), generator.subschema_for::<PromptFields>()]
}

impl PromptFields {
    fn add_to(self, chat: &mut ChatBody) -> Result<(), ApiError> {
        for (name, value) in [
            ("container", &self.container),
            ("mcp_servers", &self.mcp_servers),
            ("context_management", &self.context_management),
        ] {
            if let Some(value) = value.as_ref().filter(|value| **value != json!([])) {
                return Err(ApiError::unsupported(name, shown(value), "null"));
            }
        }
        match self.system {
            None => {}
            Some(TextOr::Text(text)) if text.is_empty() => {}
            Some(TextOr::Text(text)) => {
                chat.say("system", json!({ "role": "system", "content": text }));
            }
            Some(TextOr::List(blocks)) => {
                let text = texts(blocks, "system")?;
                chat.say("system", json!({ "role": "system", "content": text }));
            }
        }
        const MESSAGES: &str = "a list of at least one message";
        let Some(List(messages)) = self.messages else {
            return Err(ApiError::missing("messages", MESSAGES));
        };
        if messages.is_empty() {
            return Err(ApiError::invalid_value("messages", "[]", MESSAGES));
        }
        for (index, Object(turn)) in messages.into_iter().enumerate() {
            turn.add_to(chat, &format!("messages[{index}]"))?;
        }
        if chat.last().is_some_and(|last| last["role"] == "assistant") {
            // The answer goes on where the conversation ends.
            chat.put("continue_final_message", Some(true));
            chat.put("add_generation_prompt", Some(false));
        }
        if let Some(List(tools)) = self.tools {
            chat.put("tools", Some(wire_tools(tools)?));
        }
        if let Some(Object(choice)) = self.tool_choice {
            choice.add_to(chat)?;
        }
        if let Some(Object(thinking)) = self.thinking {
            thinking.add_to(chat)?;
        }
        let format = match self.output_config {
            Some(Object(config)) => {
                chat.put("reasoning_effort", config.effort);
                config.format.or(self.output_format)
            }
            None => self.output_format,
        };
        if let Some(Object(format)) = format {
            if format.kind.as_deref() != Some("json_schema") {
                let kind =
                    format.kind.map_or_else(|| "null".to_owned(), |kind| format!("{kind:?}"));
                let field = "output_config.format.type";
                return Err(ApiError::invalid_value(field, kind, "\"json_schema\""));
            }
            let schema = json!({ "name": "output", "schema": format.schema });
            let format = json!({ "type": "json_schema", "json_schema": schema });
            chat.put("response_format", Some(format));
        }
        Ok(())
    }
}

impl Turn {
    fn add_to(self, chat: &mut ChatBody, place: &str) -> Result<(), ApiError> {
        const ROLES: &str = "\"user\" or \"assistant\"";
        let role = match self.role {
            Some(role) if role == "user" || role == "assistant" => role,
            None => return Err(ApiError::missing(format!("{place}.role"), ROLES)),
            Some(other) => {
                let other = format_args!("{other:?}");
                return Err(ApiError::invalid_value(format!("{place}.role"), other, ROLES));
            }
        };
        let place = format!("{place}.content");
        let blocks = match self.content {
            None => return Err(ApiError::missing(place, "a string or a list of blocks")),
            Some(TextOr::Text(text)) => {
                chat.say(place, json!({ "role": role, "content": text }));
                return Ok(());
            }
            Some(TextOr::List(blocks)) => blocks,
        };
        let (mut text, mut calls, mut said) = (String::new(), Vec::new(), false);
        for (index, Object(block)) in blocks.into_iter().enumerate() {
            let place = format!("{place}[{index}]");
            let missing = |name: &str| ApiError::missing(format!("{place}.{name}"), "a string");
            match (block.kind.as_deref(), role.as_str()) {
                (Some("text"), _) => {
                    text.push_str(&block.text.ok_or_else(|| missing("text"))?);
                    said = true;
                }
                // What was thought about earlier turns is not read again.
                (Some("thinking" | "redacted_thinking"), "assistant") => {}
                (Some("tool_use"), "assistant") => {
                    let name = block.name.ok_or_else(|| missing("name"))?;
                    let arguments = block.input.map(Entries::into_map).unwrap_or_default();
                    let arguments = Value::Object(arguments).to_string();
                    let function = json!({ "name": name, "arguments": arguments });
                    let id = block.id.ok_or_else(|| missing("id"))?;
                    calls.push(json!({ "id": id, "type": "function", "function": function }));
                }
                (Some("tool_result"), "user") => {
                    let id = block.tool_use_id.ok_or_else(|| missing("tool_use_id"))?;
                    let content = result_text(block.content, &format!("{place}.content"))?;
                    let result = json!({ "role": "tool", "tool_call_id": id, "content": content });
                    chat.say(place, result);
                }
                (None, _) => return Err(missing("type")),
                (Some(kind), _) => {
                    let accepted = format!("{BLOCKS}, each in turns of its side");
                    let kind = format!("{kind:?}");
                    return Err(ApiError::unsupported(format!("{place}.type"), kind, &accepted));
                }
            }
        }
        if said || !calls.is_empty() {
            let mut message = json!({ "role": role, "content": text });
            if !calls.is_empty() {
                message["tool_calls"] = calls.into();
            }
            chat.say(place, message);
        }
        Ok(())
    }
}

/// The texts of blocks that must be texts.
fn texts(blocks: Vec<Object<Block>>, place: &str) -> Result<String, ApiError> {
    let mut whole = String::new();
    for (index, Object(block)) in blocks.into_iter().enumerate() {
        let place = format!("{place}[{index}]");
        match block.kind.as_deref() {
            Some("text") => {}
            None => return Err(ApiError::missing(format!("{place}.type"), "\"text\"")),
            Some(kind) => {
                let kind = format_args!("{kind:?}");
                return Err(ApiError::unsupported(format!("{place}.type"), kind, "\"text\""));
            }
        }
        let text = block.text.ok_or_else(|| ApiError::missing(format!("{place}.text"), "a string"));
        whole.push_str(&text?);
    }
    Ok(whole)
}

fn result_text(content: Option<Value>, place: &str) -> Result<String, ApiError> {
    #[derive(Deserialize)]
    #[cfg_attr(test, derive(schemars::JsonSchema))]
    struct Wrapped {
        content: Blocks,
    }
    match content {
        None | Some(Value::Null) => Ok(String::new()),
        Some(content) => {
            let wrapped = json!({ "content": content });
            let read = read_fields::<Wrapped>(&wrapped).map_err(|error| {
                let rest = error.param.as_deref().unwrap_or_default().replacen("content", "", 1);
                error.about(format!("{place}{rest}"))
            })?;
            match read.content {
                TextOr::Text(text) => Ok(text),
                TextOr::List(blocks) => texts(blocks, place),
            }
        }
    }
}

fn wire_tools(tools: Vec<Object<WireTool>>) -> Result<Vec<Value>, ApiError> {
    let tool = |(index, Object(tool)): (usize, Object<WireTool>)| {
        if let Some(kind) = tool.kind.filter(|kind| kind != "custom") {
            let kind = format_args!("{kind:?}");
            let field = format!("tools[{index}].type");
            return Err(ApiError::unsupported(field, kind, "\"custom\" or null"));
        }
        let Some(name) = tool.name else {
            return Err(ApiError::missing(format!("tools[{index}].name"), "a string"));
        };
        Ok(json!({ "type": "function", "function": {
            "name": name, "description": tool.description, "parameters": tool.input_schema.map(Entries::into_map),
            "strict": tool.strict,
        }}))
    };
    tools.into_iter().enumerate().map(tool).collect()
}

impl ToolChoice {
    fn add_to(self, chat: &mut ChatBody) -> Result<(), ApiError> {
        const KINDS: &str = "\"auto\", \"any\", \"tool\" or \"none\"";
        let choice = match self.kind.as_deref() {
            Some("auto") => json!("auto"),
            Some("any") => json!("required"),
            Some("none") => json!("none"),
            Some("tool") => {
                let Some(name) = self.name else {
                    return Err(ApiError::missing("tool_choice.name", "a function's name"));
                };
                json!({ "type": "function", "function": { "name": name } })
            }
            None => return Err(ApiError::missing("tool_choice.type", KINDS)),
            Some(other) => {
                let other = format_args!("{other:?}");
                return Err(ApiError::invalid_value("tool_choice.type", other, KINDS));
            }
        };
        chat.put("tool_choice", Some(choice));
        chat.put("parallel_tool_calls", self.disable_parallel_tool_use.map(|disabled| !disabled));
        Ok(())
    }
}

impl Thinking {
    fn add_to(self, chat: &mut ChatBody) -> Result<(), ApiError> {
        const KINDS: &str = "\"enabled\", \"adaptive\" or \"disabled\"";
        match self.kind.as_deref() {
            Some("adaptive") => {}
            Some("enabled") => chat.put("thinking_token_budget", self.budget_tokens),
            Some("disabled") => chat.put("thinking_token_budget", Some(0)),
            None => return Err(ApiError::missing("thinking.type", KINDS)),
            Some(other) => {
                let other = format_args!("{other:?}");
                return Err(ApiError::invalid_value("thinking.type", other, KINDS));
            }
        }
        Ok(())
    }
}
