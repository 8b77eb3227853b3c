//! Tools that a request offers to the model, and the tool calls in answers.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::bounds;
use super::common::{Entries, List, Object, shown, too_long, unsupported_word};
use crate::error::ApiError;
use phi4d_generate::{CallDelta, Tool, ToolCall, ToolChoice, Tools};

/// Most characters in a function's name.
const MOST_NAME: usize = 64;

const NAME: &str = "1 to 64 letters, digits, \"_\" and \"-\"";
const CHOICES: &str = "\"none\", \"auto\", \"required\", {\"type\": \"function\", \"function\": \
                       {\"name\": …}} or {\"type\": \"allowed_tools\", …}";

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct ToolFields {
    tools: Option<List<Object<WireTool>, { bounds::TOOLS }>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct WireTool {
    #[serde(rename = "type")]
    kind: Option<String>,
    function: Option<Object<WireFunction>>,
}

// What defines a tool in every API. Not a doc comment, which the OpenAPI document would repeat.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct WireFunction {
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) parameters: Option<Entries<Value, { bounds::KEYWORDS }>>,
    pub(super) strict: Option<bool>,
}

impl ToolFields {
    /// The tools and the choice among them, checked.
    pub(super) fn tools(self) -> Result<Tools, ApiError> {
        let mut definitions = definitions(self.tools, "parameters", WireTool::function)?;
        let choice = self.tool_choice.map(|choice| choose(&mut definitions, &choice, true));
        offered(definitions, choice.transpose()?, self.parallel_tool_calls == Some(false))
    }
}

impl WireTool {
    /// What the tool's object `function` says; `place` becomes that of the object.
    pub(super) fn function(self, place: &mut String) -> Result<Option<WireFunction>, ApiError> {
        check_kind(self.kind.as_deref(), place)?;
        place.push_str(".function");
        match self.function {
            Some(Object(function)) => Ok(Some(function)),
            None => Err(ApiError::missing(place.as_str(), "an object with a name")),
        }
    }
}

/// The definitions of a request's tools, checked one by one. `function_of` reads an API's own shape;
/// it changes the place to that of the function's fields, among which `schema_field` is the schema.
/// It returns `None` for a tool that is left out.
pub(super) fn definitions<T>(
    given: Option<List<Object<T>, { bounds::TOOLS }>>,
    schema_field: &str,
    mut function_of: impl FnMut(T, &mut String) -> Result<Option<WireFunction>, ApiError>,
) -> Result<Vec<Tool>, ApiError> {
    let mut definitions = Definitions::default();
    for (index, Object(tool)) in given.into_iter().flat_map(|List(tools)| tools).enumerate() {
        let mut place = format!("tools[{index}]");
        if let Some(function) = function_of(tool, &mut place)? {
            definitions.add(function.checked(&place, schema_field)?, &place)?;
        }
    }
    Ok(definitions.tools)
}

/// Definitions of tools so far, whose names differ.
#[derive(Debug, Default)]
pub(super) struct Definitions {
    pub(super) tools: Vec<Tool>,
    names: HashSet<String>,
}

impl Definitions {
    /// Adds the tool at `place`.
    pub(super) fn add(&mut self, tool: Tool, place: &str) -> Result<(), ApiError> {
        // Also where several lists of tools become one.
        if self.tools.len() == bounds::TOOLS {
            return Err(too_long("tools", self.tools.len() + 1, bounds::TOOLS));
        }
        if !self.names.insert(tool.name.clone()) {
            let name = format_args!("{:?}", tool.name);
            let field = format!("{place}.name");
            return Err(ApiError::invalid_value(field, name, "a name that no other tool has"));
        }
        self.tools.push(tool);
        Ok(())
    }
}

/// The tools as the model is offered them. A choice needs tools; it comes with how errors show it.
pub(super) fn offered(
    definitions: Vec<Tool>,
    choice: Option<(ToolChoice, String)>,
    single: bool,
) -> Result<Tools, ApiError> {
    let choice = match choice {
        Some((choice, shown)) if definitions.is_empty() && choice.wants_call() => {
            let expected = "it only together with tools";
            return Err(ApiError::invalid_value("tool_choice", shown, expected));
        }
        Some((choice, _)) => choice,
        None => ToolChoice::Auto,
    };
    Ok(Tools { definitions, choice, single })
}

impl WireFunction {
    /// The tool at `place`, whose schema is in the field `schema_field`.
    pub(super) fn checked(self, place: &str, schema_field: &str) -> Result<Tool, ApiError> {
        let field = format!("{place}.name");
        let Some(name) = self.name else {
            return Err(ApiError::missing(field, NAME));
        };
        check_name(&name, &field)?;
        let parameters = self.parameters.map(Entries::into_map).unwrap_or_default();
        let place = format!("{place}.{schema_field}");
        check_parameters(&parameters, &place)?;
        Ok(Tool { name, description: self.description, parameters, strict: self.strict, place })
    }
}

pub(super) fn check_kind(kind: Option<&str>, place: &str) -> Result<(), ApiError> {
    match kind {
        Some("function") => Ok(()),
        other => Err(unsupported_word(format!("{place}.type"), other, "\"function\"")),
    }
}

/// Refuses a name that a function can't have.
pub(super) fn check_name(name: &str, place: &str) -> Result<(), ApiError> {
    if !is_name(name) {
        let name = shown(&Value::String(name.to_owned()));
        return Err(ApiError::invalid_value(place, name, NAME));
    }
    Ok(())
}

/// Whether a function or a schema may be called so.
pub(super) fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    !name.is_empty() && name.len() <= MOST_NAME && name.chars().all(fits)
}

/// Refuses a schema of other values than objects: arguments always are objects.
fn check_parameters(schema: &Map<String, Value>, place: &str) -> Result<(), ApiError> {
    match schema.get("type") {
        None => Ok(()),
        Some(kind) if kind == "object" => Ok(()),
        Some(other) => {
            let expected = "\"object\", which arguments are";
            Err(ApiError::invalid_value(format!("{place}.type"), shown(other), expected))
        }
    }
}

/// The choice that a `tool_choice` of the chat API asks for, where a function's name is `nested` in an
/// object `function` and the allowed tools in an object `allowed_tools`; or of the responses API,
/// which has neither. Tools that are not allowed are removed from `definitions`.
pub(super) fn choose(
    definitions: &mut Vec<Tool>,
    choice: &Value,
    nested: bool,
) -> Result<(ToolChoice, String), ApiError> {
    const FIELD: &str = "tool_choice";
    let wanted = match choice {
        Value::String(word) => by_word(word, FIELD, &["none", "auto", "required"], CHOICES)?,
        Value::Object(_) => match choice["type"].as_str() {
            Some(kind) if kind == "function" || kind == "custom" && !nested => {
                let field = if nested { "tool_choice.function.name" } else { "tool_choice.name" };
                named(definitions, name_in(choice, nested), field)?
            }
            Some("allowed_tools") => allowed(definitions, choice, nested)?,
            _ => {
                let kind = shown(&choice["type"]);
                let accepted = "\"function\" or \"allowed_tools\"";
                return Err(ApiError::invalid_value("tool_choice.type", kind, accepted));
            }
        },
        other => {
            let reason = format!("{} is not accepted; expected {CHOICES}", shown(other));
            return Err(ApiError::invalid_type(FIELD, &reason));
        }
    };
    Ok((wanted, shown(choice)))
}

fn by_word(
    word: &str,
    field: &str,
    words: &[&str],
    accepted: &str,
) -> Result<ToolChoice, ApiError> {
    match word {
        word if !words.contains(&word) => {
            let word = shown(&Value::String(word.to_owned()));
            Err(ApiError::invalid_value(field, word, accepted))
        }
        "none" => Ok(ToolChoice::None),
        "required" => Ok(ToolChoice::Required),
        _ => Ok(ToolChoice::Auto),
    }
}

fn name_in(choice: &Value, nested: bool) -> &Value {
    if nested { &choice["function"]["name"] } else { &choice["name"] }
}

/// The tool of that name.
pub(super) fn named(
    definitions: &[Tool],
    name: &Value,
    field: &str,
) -> Result<ToolChoice, ApiError> {
    let is_known = |name: &str| definitions.iter().any(|tool| tool.name == name);
    known_name(name, is_known, field).map(|name| ToolChoice::Named(name.to_owned()))
}

fn known_name<'v>(
    name: &'v Value,
    is_known: impl Fn(&str) -> bool,
    field: &str,
) -> Result<&'v str, ApiError> {
    const ACCEPTED: &str = "the name of one of the tools";
    match name {
        Value::Null => Err(ApiError::missing(field, ACCEPTED)),
        Value::String(name) if is_known(name) => Ok(name),
        other => Err(ApiError::invalid_value(field, shown(other), ACCEPTED)),
    }
}

/// Keeps the tools that are allowed; the model does not see the others.
fn allowed(
    definitions: &mut Vec<Tool>,
    choice: &Value,
    nested: bool,
) -> Result<ToolChoice, ApiError> {
    const PLACE: &str = "tool_choice.allowed_tools";
    let allowed = if nested { &choice["allowed_tools"] } else { choice };
    let list = match allowed["tools"].as_array() {
        Some(list) => list.as_slice(),
        None if nested => {
            let expected = "a list of {\"type\": \"function\", \"function\": {\"name\": …}}";
            return Err(ApiError::missing(format!("{PLACE}.tools"), expected));
        }
        None => &[],
    };
    if list.len() > bounds::TOOLS {
        return Err(too_long(&format!("{PLACE}.tools"), list.len(), bounds::TOOLS));
    }
    let known: HashSet<&str> = definitions.iter().map(|tool| tool.name.as_str()).collect();
    let mut names = HashSet::new();
    for (index, entry) in list.iter().enumerate() {
        let place = format!("{PLACE}.tools[{index}]");
        if nested {
            check_kind(entry["type"].as_str(), &place)?;
        }
        let field = format!("{place}.function.name");
        names.insert(known_name(name_in(entry, nested), |name| known.contains(name), &field)?);
    }
    definitions.retain(|tool| names.contains(tool.name.as_str()));
    let mode = allowed["mode"].as_str().unwrap_or("auto");
    by_word(mode, &format!("{PLACE}.mode"), &["auto", "required"], "\"auto\" or \"required\"")
}

/// A call in a whole answer.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct AnswerCall {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    function: AnswerCalled,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct AnswerCalled {
    name: String,
    arguments: String,
}

impl From<ToolCall> for AnswerCall {
    fn from(call: ToolCall) -> Self {
        let function = AnswerCalled { name: call.name, arguments: call.arguments };
        Self { id: call.id, kind: "function", function }
    }
}

/// A piece of a call in a chunk.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct ChunkCall {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: ChunkCalled,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct ChunkCalled {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
}

impl From<CallDelta> for ChunkCall {
    fn from(piece: CallDelta) -> Self {
        let kind = piece.begun.as_ref().map(|_| "function");
        let (id, name) = piece.begun.map(|begun| (begun.id, begun.name)).unzip();
        let function = ChunkCalled { name, arguments: piece.arguments };
        Self { index: piece.index, id, kind, function }
    }
}

#[cfg(test)]
#[path = "tools_tests.rs"]
mod tests;
