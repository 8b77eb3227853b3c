//! Functions that a chat request offers to the model, and the calls in its answers.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::bounds;
use super::common::{Entries, List, Object, shown, too_long};
use crate::error::ApiError;
use phi4d_generate::{CallDelta, Tool, ToolCall, ToolChoice, Tools};

/// Most characters in a function's name.
const MOST_NAME: usize = 64;

const NAME: &str = "1 to 64 letters, digits, \"_\" and \"-\"";
const CHOICES: &str = "\"none\", \"auto\", \"required\", {\"type\": \"function\", \"function\": \
                       {\"name\": …}} or {\"type\": \"allowed_tools\", …}";

/// The fields about functions.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct ToolFields {
    tools: Option<List<Object<WireTool>, { bounds::TOOLS }>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct WireTool {
    #[serde(rename = "type")]
    kind: Option<String>,
    function: Option<Object<WireFunction>>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct WireFunction {
    name: Option<String>,
    description: Option<String>,
    parameters: Option<Entries<Value, { bounds::KEYWORDS }>>,
    strict: Option<bool>,
}

impl ToolFields {
    /// The functions and the choice among them, checked.
    pub(super) fn tools(self) -> Result<Tools, ApiError> {
        let given = self.tools.map_or_else(Vec::new, |List(tools)| tools);
        let mut names = HashSet::new();
        let mut definitions = Vec::with_capacity(given.len());
        for (index, Object(tool)) in given.into_iter().enumerate() {
            let place = format!("tools[{index}]");
            let tool = tool.checked(&place)?;
            if !names.insert(tool.name.clone()) {
                let name = format_args!("{:?}", tool.name);
                let field = format!("{place}.function.name");
                return Err(ApiError::invalid_value(field, name, "a name that no other tool has"));
            }
            definitions.push(tool);
        }
        let single = self.parallel_tool_calls == Some(false);
        let mut tools = Tools { definitions, choice: ToolChoice::Auto, single };
        if let Some(choice) = self.tool_choice {
            choose(&mut tools, &choice)?;
        }
        Ok(tools)
    }
}

impl WireTool {
    fn checked(self, place: &str) -> Result<Tool, ApiError> {
        check_kind(self.kind.as_deref(), place)?;
        let place = format!("{place}.function");
        let Some(Object(function)) = self.function else {
            return Err(ApiError::missing(place, "an object with a name"));
        };
        let Some(name) = function.name else {
            return Err(ApiError::missing(format!("{place}.name"), NAME));
        };
        check_name(&name, &format!("{place}.name"))?;
        let parameters = function.parameters.map(Entries::into_map).unwrap_or_default();
        let place = format!("{place}.parameters");
        check_parameters(&parameters, &place)?;
        let strict = function.strict.unwrap_or(false);
        Ok(Tool { name, description: function.description, parameters, strict, place })
    }
}

fn check_kind(kind: Option<&str>, place: &str) -> Result<(), ApiError> {
    match kind {
        Some("function") => Ok(()),
        None => Err(ApiError::missing(format!("{place}.type"), "\"function\"")),
        Some(other) => {
            let other = format_args!("{other:?}");
            Err(ApiError::unsupported(format!("{place}.type"), other, "\"function\""))
        }
    }
}

/// Refuses a name that a function can't have.
pub(super) fn check_name(name: &str, place: &str) -> Result<(), ApiError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > MOST_NAME || !name.chars().all(fits) {
        let name = shown(&Value::String(name.to_owned()));
        return Err(ApiError::invalid_value(place, name, NAME));
    }
    Ok(())
}

/// Refuses a schema whose values are no objects: arguments always are.
pub(super) fn check_parameters(schema: &Map<String, Value>, place: &str) -> Result<(), ApiError> {
    match schema.get("type") {
        None => Ok(()),
        Some(kind) if kind == "object" => Ok(()),
        Some(other) => {
            let expected = "\"object\", which arguments are";
            Err(ApiError::invalid_value(format!("{place}.type"), shown(other), expected))
        }
    }
}

fn choose(tools: &mut Tools, choice: &Value) -> Result<(), ApiError> {
    const FIELD: &str = "tool_choice";
    tools.choice = match choice {
        Value::String(word) => by_word(word, FIELD, &["none", "auto", "required"], CHOICES)?,
        Value::Object(_) => match choice["type"].as_str() {
            Some("function") => {
                let known = |name: &str| tools.definitions.iter().any(|tool| tool.name == name);
                ToolChoice::Named(named(&choice["function"]["name"], known, FIELD)?)
            }
            Some("allowed_tools") => allowed(tools, &choice["allowed_tools"])?,
            _ => {
                let kind = shown(&choice["type"]);
                let field = "tool_choice.type";
                return Err(ApiError::invalid_value(
                    field,
                    kind,
                    "\"function\" or \"allowed_tools\"",
                ));
            }
        },
        other => {
            let reason = format!("{} is not accepted; expected {CHOICES}", shown(other));
            return Err(ApiError::invalid_type(FIELD, &reason));
        }
    };
    if tools.definitions.is_empty() && tools.choice != ToolChoice::None {
        let expected = "it only together with tools";
        return Err(ApiError::invalid_value(FIELD, shown(choice), expected));
    }
    Ok(())
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

/// The name, if it is a tool's.
fn named(name: &Value, is_known: impl Fn(&str) -> bool, place: &str) -> Result<String, ApiError> {
    let field = format!("{place}.function.name");
    match name {
        Value::Null => Err(ApiError::missing(field, "the name of one of the tools")),
        Value::String(name) if is_known(name) => Ok(name.clone()),
        other => Err(ApiError::invalid_value(field, shown(other), "the name of one of the tools")),
    }
}

/// Leaves the tools that are allowed; the model is not told of the others.
fn allowed(tools: &mut Tools, given: &Value) -> Result<ToolChoice, ApiError> {
    const PLACE: &str = "tool_choice.allowed_tools";
    let Some(Value::Array(list)) = given.get("tools").filter(|_| given.is_object()) else {
        let expected = "a list of {\"type\": \"function\", \"function\": {\"name\": …}}";
        return Err(ApiError::missing(format!("{PLACE}.tools"), expected));
    };
    if list.len() > bounds::TOOLS {
        return Err(too_long(&format!("{PLACE}.tools"), list.len(), bounds::TOOLS));
    }
    let mut names = HashSet::new();
    let known: HashSet<&str> = tools.definitions.iter().map(|tool| tool.name.as_str()).collect();
    for (index, entry) in list.iter().enumerate() {
        let place = format!("{PLACE}.tools[{index}]");
        check_kind(entry["type"].as_str(), &place)?;
        names.insert(named(&entry["function"]["name"], |name| known.contains(name), &place)?);
    }
    tools.definitions.retain(|tool| names.contains(&tool.name));
    let mode = given["mode"].as_str().unwrap_or("auto");
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
