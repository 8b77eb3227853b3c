//! Requests of Anthropic's messages API.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::wire::common::{
    Delivery, Entries, Integer, List, Number, Object, TextOr, read_at, shown, unknown_word,
    unsupported_word,
};
use crate::wire::form::named_schema;
use crate::wire::known::{Groups, Ignored, unread};
use crate::wire::messages::{Conversation, append, joined};
use crate::wire::parameters::{max_tokens, top_k};
use crate::wire::reasoning::{budget, budget_of_effort};
use crate::wire::tools::{self, WireFunction};
use crate::wire::{Parsed, bounds};
use phi4d_generate::{
    Chat, Constraint, Ending, Message, ParameterNames, Parameters, Prompt, Reasoning, Request,
    Role, Tool, ToolCall, ToolChoice, Tools,
};

const NAMES: ParameterNames = ParameterNames { stop: "stop_sequences", ..ParameterNames::OPENAI };

/// A message's content, or a part of it that is made of blocks, too.
type Blocks = TextOr<Object<Block>, { bounds::PARTS }>;

/// How the first block of Claude Code's system prompt begins. It is for Anthropic's accounts, and
/// changes with the client's version and requests, so that nothing behind it would be found in the
/// prefix cache.
const BILLING: &str = "x-anthropic-billing-header:";

const BLOCKS: &str = "\"text\", \"tool_use\", \"tool_result\" or \"thinking\", each in turns of \
                      its side";

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct MessagesFields {
    model: Option<String>,
    max_tokens: Option<Integer>,
    stream: Option<bool>,
    stop_sequences: Option<List<String, { bounds::STOPS }>>,
    #[cfg_attr(test, schemars(with = "Option<Value>"))]
    temperature: Option<Number>,
    #[cfg_attr(test, schemars(with = "Option<Value>"))]
    top_p: Option<Number>,
    #[cfg_attr(test, schemars(with = "Option<Value>"))]
    top_k: Option<Integer>,
    // Accepted, and nothing follows from them.
    #[serde(rename = "metadata")]
    _metadata: Option<Value>,
    #[serde(rename = "service_tier")]
    _service_tier: Option<Value>,
    #[serde(rename = "cache_control")]
    _cache_control: Option<Value>,
}

/// What the model reads, and how it answers.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct PromptFields {
    system: Option<Blocks>,
    messages: Option<List<Object<WireMessage>, { bounds::ITEMS }>>,
    tools: Option<List<Object<WireTool>, { bounds::TOOLS }>>,
    tool_choice: Option<Object<WireChoice>>,
    thinking: Option<Object<Thinking>>,
    output_config: Option<Object<OutputConfig>>,
    output_format: Option<Object<OutputFormat>>,
    container: Option<Value>,
    mcp_servers: Option<Value>,
    context_management: Option<Object<ContextManagement>>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct ContextManagement {
    edits: Option<List<Object<Edit>, { bounds::EDITS }>>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Edit {
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct WireMessage {
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
struct WireChoice {
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

type AllFields = (MessagesFields, PromptFields);

/// Reads the JSON of a request to `/v1/messages`.
///
/// # Errors
/// A 400 that names the first field at fault.
pub(crate) fn messages(body: &Value) -> Result<Parsed, ApiError> {
    parse(body, true)
}

/// Reads the JSON of a request to `/v1/messages/count_tokens`, where `max_tokens` may be missing.
///
/// # Errors
/// A 400 that names the first field at fault.
pub(crate) fn counted(body: &Value) -> Result<Parsed, ApiError> {
    parse(body, false)
}

fn parse(body: &Value, limited: bool) -> Result<Parsed, ApiError> {
    let (fields, prompt) = AllFields::read(body)?;
    let mut ignored = unread(body, &AllFields::names())?;
    if limited && fields.max_tokens.is_none() {
        return Err(ApiError::missing("max_tokens", "an integer of 1 or more"));
    }
    let mut parameters = Parameters {
        names: NAMES,
        max_tokens: fields.max_tokens.map(|n| max_tokens("max_tokens", n)).transpose()?,
        temperature: fields.temperature.map(|n| n.0),
        top_p: fields.top_p.map(|n| n.0),
        top_k: fields.top_k.map(|k| top_k("top_k", k)).transpose()?,
        stop: fields.stop_sequences.map_or_else(Vec::new, |list| list.0),
        ..Parameters::default()
    };
    let (chat, constraint) = prompt.read(&mut ignored)?;
    parameters.constraint = constraint;
    let prompts = vec![Prompt::Chat(chat)];
    let request = Request { prompts, parameters, ..Request::default() };
    let delivery = Delivery::of(fields.stream == Some(true));
    Ok(Parsed { model: fields.model, request, delivery, ignored: ignored.names })
}

/// The fields that are read, for the OpenAPI document.
#[cfg(test)]
pub(crate) fn field_schemas(generator: &mut schemars::SchemaGenerator) -> Vec<schemars::Schema> {
    AllFields::schemas(generator)
}

impl PromptFields {
    fn read(self, ignored: &mut Ignored) -> Result<(Chat, Option<Constraint>), ApiError> {
        for (name, value) in [("container", &self.container), ("mcp_servers", &self.mcp_servers)] {
            if let Some(value) = value.as_ref().filter(|value| **value != json!([])) {
                return Err(ApiError::unsupported(name, shown(value), "null"));
            }
        }
        if let Some(Object(management)) = self.context_management {
            management.apply(ignored)?;
        }
        let (messages, ending) = conversation(self.system, self.messages, ignored)?;
        let tools = tools_of(self.tools, self.tool_choice, ignored)?;
        let (effort, format) = match self.output_config {
            Some(Object(config)) => (config.effort, config.format.or(self.output_format)),
            None => (None, self.output_format),
        };
        let effort = budget_of_effort(effort.as_deref(), "output_config.effort")?;
        let given = match self.thinking {
            Some(Object(thinking)) => thinking.budget()?,
            None => None,
        };
        let reasoning = Reasoning { in_text: false, budget: given.or(effort) };
        let constraint = format.map(|Object(format)| format.constraint()).transpose()?;
        Ok((Chat { messages, ending, tools, reasoning, ..Chat::default() }, constraint))
    }
}

fn conversation(
    system: Option<Blocks>,
    messages: Option<List<Object<WireMessage>, { bounds::ITEMS }>>,
    ignored: &mut Ignored,
) -> Result<(Vec<Message>, Ending), ApiError> {
    const MESSAGES: &str = "a list of at least one message";
    let mut conversation = Conversation::default();
    match system {
        None => {}
        Some(TextOr::Text(text)) if text.is_empty() => {}
        Some(TextOr::Text(text)) => conversation.add_text(Role::System, text, "system")?,
        Some(TextOr::List(mut blocks)) => {
            let is_billing = |Object(block): &Object<Block>| {
                block.text.as_deref().is_some_and(|text| text.starts_with(BILLING))
            };
            if blocks.first().is_some_and(is_billing) {
                ignored.leave_out("system[0]", "a billing header", "text for the model")?;
                // Errors name the places of the others as the client knows them.
                blocks[0].0.text = Some(String::new());
            }
            let text = texts(blocks, "system")?;
            conversation.add_text(Role::System, text, "system")?;
        }
    }
    let Some(List(messages)) = messages else {
        return Err(ApiError::missing("messages", MESSAGES));
    };
    if messages.is_empty() {
        return Err(ApiError::invalid_value("messages", "[]", MESSAGES));
    }
    for (index, Object(message)) in messages.into_iter().enumerate() {
        message.add_to(&mut conversation, &format!("messages[{index}]"))?;
    }
    let ending = match conversation.last_role() {
        // The model continues its own message.
        Some(Role::Assistant) => Ending::Open,
        _ => Ending::ModelTurn,
    };
    Ok((conversation.finish(ending)?, ending))
}

impl WireMessage {
    fn add_to(self, conversation: &mut Conversation, place: &str) -> Result<(), ApiError> {
        const ROLES: &str = "\"user\", \"assistant\" or \"system\"";
        let role = match self.role.as_deref() {
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            // Instructions that change in the middle of a conversation.
            Some("system") => Role::System,
            other => return Err(unknown_word(format!("{place}.role"), other, ROLES)),
        };
        let place = format!("{place}.content");
        let blocks = match self.content {
            None => return Err(ApiError::missing(place, "a string or a list of blocks")),
            Some(TextOr::Text(text)) => return conversation.add_text(role, text, &place),
            Some(TextOr::List(blocks)) => blocks,
        };
        let (mut text, mut calls, mut has_text) = (String::new(), Vec::new(), false);
        for (index, Object(block)) in blocks.into_iter().enumerate() {
            let place = format!("{place}[{index}]");
            let missing = |name: &str| ApiError::missing(format!("{place}.{name}"), "a string");
            match (block.kind.as_deref(), role) {
                (Some("text"), _) => {
                    append(&mut text, &block.text.ok_or_else(|| missing("text"))?);
                    has_text = true;
                }
                // Reasoning about earlier messages is not read again.
                (Some("thinking" | "redacted_thinking"), Role::Assistant) => {}
                (Some("tool_use"), Role::Assistant) => {
                    let name = block.name.ok_or_else(|| missing("name"))?;
                    let input = block.input.map(Entries::into_map).unwrap_or_default();
                    let id = block.id.ok_or_else(|| missing("id"))?;
                    calls.push(ToolCall { id, name, arguments: Value::Object(input).to_string() });
                }
                (Some("tool_result"), Role::User) => {
                    let id = block.tool_use_id.ok_or_else(|| missing("tool_use_id"))?;
                    let content = result_text(block.content, &format!("{place}.content"))?;
                    conversation.add_result(id, content, &place)?;
                }
                (None, _) => return Err(missing("type")),
                (kind, _) => {
                    return Err(unsupported_word(format!("{place}.type"), kind, BLOCKS));
                }
            }
        }
        if has_text || !calls.is_empty() {
            conversation.add(Message { calls, ..Message::text(role, text) }, &place)?;
        }
        Ok(())
    }
}

/// The texts of blocks that must be texts.
fn texts(blocks: Vec<Object<Block>>, place: &str) -> Result<String, ApiError> {
    joined(blocks, place, |block| match block.kind.as_deref() {
        Some("text") => Ok(("text", block.text)),
        kind => Err((kind.map(str::to_owned), "\"text\"")),
    })
}

fn result_text(content: Option<Value>, place: &str) -> Result<String, ApiError> {
    match content {
        None | Some(Value::Null) => Ok(String::new()),
        Some(content) => match read_at(&content, place)? {
            Blocks::Text(text) => Ok(text),
            Blocks::List(blocks) => texts(blocks, place),
        },
    }
}

fn tools_of(
    given: Option<List<Object<WireTool>, { bounds::TOOLS }>>,
    choice: Option<Object<WireChoice>>,
    ignored: &mut Ignored,
) -> Result<Tools, ApiError> {
    let definitions = tools::definitions(given, "input_schema", |tool, place| {
        // Anthropic's servers run it, or its definition is known to their models alone.
        if let Some(kind) = tool.kind.as_deref().filter(|kind| *kind != "custom") {
            ignored.leave_out(place.as_str(), &format!("{kind:?}"), "\"custom\" or null")?;
            return Ok(None);
        }
        let Some(name) = tool.name else {
            return Err(ApiError::missing(format!("{place}.name"), "a string"));
        };
        Ok(Some(WireFunction {
            name: Some(name),
            description: tool.description,
            parameters: tool.input_schema,
            strict: tool.strict,
        }))
    })?;
    let Some(Object(choice)) = choice else { return tools::offered(definitions, None, false) };
    let single = choice.disable_parallel_tool_use == Some(true);
    let choice = choice.read(&definitions)?;
    tools::offered(definitions, Some(choice), single)
}

impl ContextManagement {
    /// Reasoning about earlier messages is never read again, so that `clear_thinking` is applied in
    /// any case; other edits are left out.
    fn apply(self, ignored: &mut Ignored) -> Result<(), ApiError> {
        for (index, Object(edit)) in
            self.edits.into_iter().flat_map(|List(edits)| edits).enumerate()
        {
            let kind = edit.kind.unwrap_or_default();
            if !kind.starts_with("clear_thinking_") {
                let field = format!("context_management.edits[{index}]");
                ignored.leave_out(
                    field,
                    &format!("{kind:?}"),
                    "an edit of type \"clear_thinking_…\"",
                )?;
            }
        }
        Ok(())
    }
}

impl WireChoice {
    /// The choice among `tools`, and how errors show it.
    fn read(self, tools: &[Tool]) -> Result<(ToolChoice, String), ApiError> {
        const KINDS: &str = "\"auto\", \"any\", \"tool\" or \"none\"";
        match self.kind.as_deref() {
            Some("auto") => Ok((ToolChoice::Auto, "\"auto\"".to_owned())),
            Some("any") => Ok((ToolChoice::Required, "\"required\"".to_owned())),
            Some("none") => Ok((ToolChoice::None, "\"none\"".to_owned())),
            Some("tool") => {
                let Some(name) = self.name else {
                    return Err(ApiError::missing("tool_choice.name", "a function's name"));
                };
                let choice = tools::named(tools, &name.into(), "tool_choice.name")?;
                Ok((choice, "an object".to_owned()))
            }
            other => Err(unknown_word("tool_choice.type", other, KINDS)),
        }
    }
}

impl Thinking {
    /// The most tokens of reasoning, if there is a limit.
    fn budget(self) -> Result<Option<u64>, ApiError> {
        const KINDS: &str = "\"enabled\", \"adaptive\" or \"disabled\"";
        match self.kind.as_deref() {
            Some("adaptive") => Ok(None),
            Some("enabled") => {
                let field = "thinking.budget_tokens";
                let tokens =
                    self.budget_tokens.map(|tokens| read_at(&tokens, field)).transpose()?;
                Ok(tokens.map(|tokens| budget(tokens, field)).transpose()?.flatten())
            }
            Some("disabled") => Ok(Some(0)),
            other => Err(unknown_word("thinking.type", other, KINDS)),
        }
    }
}

impl OutputFormat {
    fn constraint(self) -> Result<Constraint, ApiError> {
        let place = "output_config.format";
        if self.kind.as_deref() != Some("json_schema") {
            let kind = self.kind.map_or_else(|| "null".to_owned(), |kind| format!("{kind:?}"));
            return Err(ApiError::invalid_value(format!("{place}.type"), kind, "\"json_schema\""));
        }
        named_schema(None, self.schema, place)
    }
}
