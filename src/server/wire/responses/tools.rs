//! Tools of the responses API. The model knows functions only: a `custom` tool, which takes free text,
//! is offered as a function of one string, and the tools of a `namespace` as functions with longer
//! names. Tools that OpenAI's servers run are left out.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::ApiError;
use crate::wire::bounds;
use crate::wire::common::{Entries, List, Object, read_at, shown};
use crate::wire::known::Ignored;
use crate::wire::tools::{self, Definitions, WireFunction};
use phi4d_generate::{Tool, Tools};

/// The argument that holds a custom tool's text.
const INPUT: &str = "input";

const KINDS: &str = "\"function\", \"custom\" or \"namespace\"";

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct WireTool {
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
    /// Of a custom tool: text, or a grammar.
    format: Option<Value>,
    /// The tools of a namespace.
    tools: Option<List<Value, { bounds::TOOLS }>>,
}

/// How calls of a tool are written in an answer, where they differ from what the model writes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// The client's name of the tool.
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    /// The call is a `custom_tool_call`, with text for arguments.
    pub(super) is_custom: bool,
}

/// The shapes of calls, by the names that the model calls tools by.
pub(super) type Shapes = HashMap<String, Shape>;

/// The tools as the model is offered them, and how their calls are written.
pub(super) fn tools_of(
    given: Option<List<Object<WireTool>, { bounds::TOOLS }>>,
    choice: Option<Value>,
    parallel: Option<bool>,
    ignored: &mut Ignored,
) -> Result<(Tools, Shapes), ApiError> {
    let mut read = Read { definitions: Definitions::default(), shapes: Shapes::new(), ignored };
    for (index, Object(tool)) in given.into_iter().flat_map(|List(tools)| tools).enumerate() {
        read.add(tool, &format!("tools[{index}]"))?;
    }
    let Read { mut definitions, shapes, .. } = read;
    let choice = choice.map(|choice| tools::choose(&mut definitions.tools, &choice, false));
    let tools = tools::offered(definitions.tools, choice.transpose()?, parallel == Some(false))?;
    Ok((tools, shapes))
}

struct Read<'a> {
    definitions: Definitions,
    shapes: Shapes,
    ignored: &'a mut Ignored,
}

impl Read<'_> {
    fn add(&mut self, mut tool: WireTool, place: &str) -> Result<(), ApiError> {
        if tool.kind.as_deref() != Some("namespace") {
            return self.add_callable(tool, place, None);
        }
        let field = format!("{place}.name");
        let Some(name) = tool.name.take() else {
            return Err(ApiError::missing(field, "the namespace's name"));
        };
        tools::check_name(&name, &field)?;
        for (index, inner) in tool.tools.into_iter().flat_map(|List(tools)| tools).enumerate() {
            let place = format!("{place}.tools[{index}]");
            let Object(inner) = read_at(&inner, &place)?;
            self.add_callable(inner, &place, Some(&name))?;
        }
        Ok(())
    }

    /// Adds a tool that can be called, of `namespace` if it is in one.
    fn add_callable(
        &mut self,
        tool: WireTool,
        place: &str,
        namespace: Option<&str>,
    ) -> Result<(), ApiError> {
        let is_custom = match tool.kind.as_deref() {
            Some("function") => false,
            Some("custom") => true,
            Some(kind) => return self.ignored.leave_out(place, &format!("{kind:?}"), KINDS),
            None => return Err(ApiError::missing(format!("{place}.type"), KINDS)),
        };
        let WireTool { name, description, mut parameters, strict, format, .. } = tool;
        if is_custom {
            parameters = Some(Entries(free_text().into_iter().collect()));
            let is_text = |format: &Value| format["type"] == "text";
            if let Some(format) = format.filter(|format| !is_text(format)) {
                let field = format!("{place}.format");
                self.ignored.leave_out(field, &shown(&format), "{\"type\": \"text\"}")?;
            }
        }
        let function = WireFunction { name, description, parameters, strict };
        let mut tool = function.checked(place, "parameters")?;
        if is_custom || namespace.is_some() {
            self.shape(&mut tool, namespace, is_custom);
        }
        self.definitions.add(tool, place)
    }

    /// Gives `tool` the name that the model calls it by, and notes what it stands for.
    fn shape(&mut self, tool: &mut Tool, namespace: Option<&str>, is_custom: bool) {
        let name = tool.name.clone();
        tool.name = called(namespace, &name);
        let shape = Shape { name, namespace: namespace.map(str::to_owned), is_custom };
        self.shapes.insert(tool.name.clone(), shape);
    }
}

/// The name that the model calls the tool `name` by.
pub(super) fn called(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        None => name.to_owned(),
        Some(space) if space.ends_with('_') => format!("{space}{name}"),
        Some(space) => format!("{space}__{name}"),
    }
}

/// The schema of a custom tool's arguments.
fn free_text() -> Map<String, Value> {
    let schema = json!({
        "type": "object",
        "properties": { INPUT: { "type": "string" } },
        "required": [INPUT],
        "additionalProperties": false
    });
    match schema {
        Value::Object(schema) => schema,
        _ => Map::new(),
    }
}

/// A custom tool's text as the arguments of a function.
pub(super) fn arguments_of(input: &str) -> String {
    json!({ INPUT: input }).to_string()
}

/// The text in a custom tool's arguments, as far as there is one: an answer that was cut short ends
/// within it. Arguments of another shape are the text themselves.
pub(super) fn input_of(arguments: &str) -> String {
    /// The longest part of an escape that may be missing its end: `\uD83D\uDE0`.
    const ESCAPE: usize = 11;
    let text_of = |json: &str| match serde_json::from_str::<Value>(json) {
        Ok(mut value) => match value.get_mut(INPUT).map(Value::take) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        },
        Err(_) => None,
    };
    if let Some(text) = text_of(arguments) {
        return text;
    }
    let squeezed: String = arguments.chars().filter(|c| !c.is_whitespace()).collect();
    if format!("{{\"{INPUT}\":\"").starts_with(&squeezed) {
        // Cut before the text begins.
        return String::new();
    }
    let ends = (0..=ESCAPE).filter_map(|cut| arguments.get(..arguments.len().checked_sub(cut)?));
    let mut closed = ends.filter_map(|kept| text_of(&format!("{kept}\"}}")));
    closed.next().unwrap_or_else(|| arguments.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Any text comes back as it was; cut anywhere, it is a beginning of it.
        #[test]
        fn free_text_survives_being_an_argument(text in ".{0,40}", cut in 0_usize..60) {
            let arguments = arguments_of(&text);
            prop_assert_eq!(&input_of(&arguments), &text);
            let end = cut.min(arguments.len());
            if let Some(cut) = arguments.get(..end) {
                let read = input_of(cut);
                prop_assert!(text.starts_with(&read), "{cut} gave {read:?}");
            }
        }
    }

    #[test]
    fn arguments_of_another_shape_are_the_text() {
        for other in ["{}", "[1]", "{\"input\":1}"] {
            assert_eq!(input_of(other), other);
        }
    }

    #[test]
    fn names_of_a_namespace_are_joined_once() {
        assert_eq!(called(None, "f"), "f");
        assert_eq!(called(Some("agents"), "f"), "agents__f");
        assert_eq!(called(Some("mcp__files__"), "f"), "mcp__files__f");
    }
}
