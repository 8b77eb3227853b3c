//! Items of a conversation in the responses API.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::tools::{arguments_of, called};
use crate::access::random_hex;
use crate::error::ApiError;
use crate::wire::bounds;
use crate::wire::common::{Object, TextOr, read_at, unsupported_word};
use crate::wire::known::Ignored;
use crate::wire::messages::{Conversation, answered, joined, role};
use phi4d_generate::{Role, ToolCall};

const KINDS: &str = "\"message\", \"function_call\", \"function_call_output\", \
                     \"custom_tool_call\", \"custom_tool_call_output\", \"local_shell_call\", \
                     \"local_shell_call_output\", \"item_reference\" or \"reasoning\"";

/// Items about tools that OpenAI's servers run, and about the conversation itself. They are left out.
const HOSTED: &[&str] = &[
    "apply_patch_call",
    "apply_patch_call_output",
    "code_interpreter_call",
    "compaction",
    "computer_call",
    "computer_call_output",
    "file_search_call",
    "image_generation_call",
    "mcp_approval_request",
    "mcp_approval_response",
    "mcp_call",
    "mcp_list_tools",
    "shell_call",
    "shell_call_output",
    "tool_search_call",
    "tool_search_output",
    "web_search_call",
];

/// The name that calls of the hosted shell have in a conversation.
const SHELL: &str = "local_shell";

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct InputItem {
    #[serde(rename = "type")]
    kind: Option<String>,
    id: Option<String>,
    role: Option<String>,
    content: Option<InputParts>,
    call_id: Option<String>,
    name: Option<String>,
    namespace: Option<String>,
    arguments: Option<String>,
    /// A custom tool's text.
    #[serde(rename = "input")]
    text: Option<String>,
    /// What the shell is to do.
    action: Option<Value>,
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

/// Reads the item at `place` and adds it to the conversation.
pub(super) fn add(
    item: &Value,
    place: &str,
    conversation: &mut Conversation,
    ignored: &mut Ignored,
) -> Result<(), ApiError> {
    let Object(item) = read_at::<Object<InputItem>>(item, place)?;
    item.add_to(conversation, place, ignored)
}

/// A conversation of one text, as an item.
pub(super) fn message(text: &str) -> Value {
    let content = json!([{ "type": "input_text", "text": text }]);
    json!({ "type": "message", "role": "user", "content": content })
}

/// The id of the item that `item` refers to, if it does.
pub(super) fn reference(item: &Value) -> Option<&str> {
    let is_reference = item["type"] == "item_reference";
    // OpenAI's clients leave the type out where there is an id alone.
    let is_bare = item["type"].is_null() && item["role"].is_null();
    item["id"].as_str().filter(|_| is_reference || is_bare)
}

/// Gives an item an id and a type, if it has none, so that lists of items have them.
pub(super) fn identified(mut item: Value) -> Value {
    if let Some(fields) = item.as_object_mut() {
        let kind = fields.entry("type").or_insert_with(|| "message".into());
        let prefix = if kind == "message" { "msg" } else { "item" };
        set_if_null(fields, "id", || format!("{prefix}_{}", random_hex()));
    }
    item
}

fn set_if_null(fields: &mut Map<String, Value>, name: &str, value: impl FnOnce() -> String) {
    let field = fields.entry(name).or_insert(Value::Null);
    if field.is_null() {
        *field = value().into();
    }
}

impl InputItem {
    fn add_to(
        self,
        conversation: &mut Conversation,
        place: &str,
        ignored: &mut Ignored,
    ) -> Result<(), ApiError> {
        let missing = |name: &str| ApiError::missing(format!("{place}.{name}"), "a string");
        match self.kind.as_deref() {
            None | Some("message") => self.add_message(conversation, place),
            Some(kind @ ("function_call" | "custom_tool_call")) => {
                let name = self.name.ok_or_else(|| missing("name"))?;
                let name = called(self.namespace.as_deref(), &name);
                let arguments = match kind {
                    "function_call" => self.arguments.ok_or_else(|| missing("arguments"))?,
                    _ => arguments_of(&self.text.ok_or_else(|| missing("input"))?),
                };
                let id = self.call_id.ok_or_else(|| missing("call_id"))?;
                conversation.add_call(ToolCall { id, name, arguments }, place)
            }
            Some("local_shell_call") => {
                let id = self.call_id.or(self.id).ok_or_else(|| missing("call_id"))?;
                let arguments = self.action.unwrap_or_else(|| json!({})).to_string();
                conversation.add_call(ToolCall { id, name: SHELL.to_owned(), arguments }, place)
            }
            Some(
                "function_call_output" | "custom_tool_call_output" | "local_shell_call_output",
            ) => {
                let id = self.call_id.or(self.id).ok_or_else(|| missing("call_id"))?;
                let output = self.output.ok_or_else(|| missing("output"))?;
                let content = text_of(output, &format!("{place}.output"))?;
                conversation.add_result(id, content, place)
            }
            // Reasoning about earlier messages is not read again.
            Some("reasoning") => Ok(()),
            Some(kind) if HOSTED.contains(&kind) => {
                ignored.leave_out(place, &format!("{kind:?}"), KINDS)
            }
            kind => Err(unsupported_word(format!("{place}.type"), kind, KINDS)),
        }
    }

    fn add_message(self, conversation: &mut Conversation, place: &str) -> Result<(), ApiError> {
        let given =
            self.role.ok_or_else(|| ApiError::missing(format!("{place}.role"), "a string"))?;
        let place = format!("{place}.content");
        let content = match self.content {
            None => return Err(ApiError::missing(place, "a string or a list of parts")),
            Some(content) => text_of(content, &place)?,
        };
        let role: Role = role(Some(&given), &place)?;
        // A tool's result is an item of its own.
        answered(role, None, &place)?;
        conversation.add_text(role, content, &place)
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
