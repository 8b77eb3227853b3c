//! The grammar of a model's message in a chat: a forced tool call, arguments by their schema, an
//! answer by the response schema or a call in its place, and reasoning before them.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::super::error::{GenerateError, invalid};
use super::super::reasoning;
use super::super::request::{Chat, Constraint, Form};
use super::super::tools::parse::OPENERS;
use super::super::tools::{Dialect, Tool, ToolChoice};
use super::check::check;
use super::lower::Closing;
use super::schema;

/// Bytes of all schemas of one message: the tools' and the answer's.
const MOST_BYTES: usize = 2 << 20;

/// What constrains a message, and the schemas that it was built from.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct MessageGrammar {
    /// `None` is free text.
    pub(crate) constraint: Option<Constraint>,
    /// The schemas within the constraint's grammar with their fields, to find out which of them is
    /// at fault if the grammar does not compile.
    pub(crate) parts: Vec<Constraint>,
}

/// What a message without calls may be.
#[derive(Debug, Clone, Copy)]
enum Content<'a> {
    Free,
    /// JSON by a schema.
    Json(&'a Json, Closing),
}

impl MessageGrammar {
    /// The answer to a prompt of text: `given` as it is.
    ///
    /// # Errors
    /// As [`check`].
    pub(crate) fn of_text(
        given: Option<&Constraint>,
        closing: Closing,
    ) -> Result<Self, GenerateError> {
        given.map_or(Ok(0), check)?;
        Ok(Self::plain(given, closing))
    }

    /// What was given and no more.
    fn plain(given: Option<&Constraint>, closing: Closing) -> Self {
        let constraint = given.map(|given| match &given.form {
            Form::JsonSchema(schema) if closing == Closing::Literal => {
                let form = Form::LiteralSchema(schema.clone());
                Constraint { form, field: given.field.clone() }
            }
            _ => given.clone(),
        });
        Self { constraint, parts: Vec::new() }
    }

    /// The message that answers `chat`, if the request constrains its text by `given`. `closing` is
    /// for schemas that the request says nothing else of.
    ///
    /// # Errors
    /// A schema that is too large or not supported, by its place.
    pub(crate) fn of_chat(
        chat: &Chat,
        dialect: Dialect,
        given: Option<&Constraint>,
        closing: Closing,
    ) -> Result<Self, GenerateError> {
        // Also where a forced call takes the place of the answer.
        let given_bytes = given.map_or(Ok(0), check)?;
        let any_object = json!({"type": "object"});
        let offered = chat.tools.offered();
        let forced = chat.tools.is_forced();
        let content = match given.map(|given| &given.form) {
            None => Some(Content::Free),
            Some(Form::JsonObject) => Some(Content::Json(&any_object, closing)),
            Some(Form::JsonSchema(schema)) => Some(Content::Json(schema, closing)),
            Some(Form::LiteralSchema(schema)) => Some(Content::Json(schema, Closing::Literal)),
            Some(_) => None,
        };
        let content = match content {
            _ if forced => None,
            Some(Content::Free) if !offered.iter().any(|tool| tool.strict == Some(true)) => {
                return Ok(Self::plain(given, closing));
            }
            Some(Content::Json(..)) if offered.is_empty() && !dialect.thinks() => {
                return Ok(Self::plain(given, closing));
            }
            // Other constraints apply to the whole message, which leaves no room for calls.
            None => return Ok(Self::plain(given, closing)),
            content => content,
        };
        let (text, parts) = (String::new(), Vec::new());
        let mut grammar = Grammar { dialect, closing, text, parts, bytes: 0 };
        if let (Some(Content::Json(schema, closing)), Some(given)) = (content, given) {
            grammar.part(schema, closing, &given.field, given_bytes)?;
        }
        let callable = offered.iter().filter(|tool| match &chat.tools.choice {
            ToolChoice::Named(name) => tool.name == *name,
            _ => true,
        });
        let callable: Vec<&Tool> = callable.collect();
        if !callable.is_empty() {
            grammar.calls(&callable, forced, chat.tools.single)?;
        }
        grammar.start(content, !callable.is_empty());
        let field = match given {
            Some(given) if !forced => given.field.clone(),
            _ if forced => "tool_choice".to_owned(),
            _ => "tools".to_owned(),
        };
        let constraint = Some(Constraint { form: Form::Lark(grammar.text), field });
        Ok(Self { constraint, parts: grammar.parts })
    }
}

/// A grammar that is being built.
struct Grammar {
    dialect: Dialect,
    /// Of tools that say nothing else.
    closing: Closing,
    text: String,
    parts: Vec<Constraint>,
    /// Of all parts.
    bytes: usize,
}

impl Grammar {
    /// Adds a checked schema of `bytes` bytes.
    fn part(
        &mut self,
        schema: &Json,
        closing: Closing,
        place: &str,
        bytes: usize,
    ) -> Result<(), GenerateError> {
        self.bytes += bytes;
        if self.bytes > MOST_BYTES {
            let value = format!("a schema beside others, {} bytes together", self.bytes);
            return Err(invalid(place, value, format!("at most {MOST_BYTES} bytes in all")));
        }
        let form = match closing {
            Closing::Listed => Form::JsonSchema(schema.clone()),
            Closing::Literal => Form::LiteralSchema(schema.clone()),
        };
        self.parts.push(Constraint { form, field: place.to_owned() });
        Ok(())
    }

    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// A list of calls. Arguments follow their schema if the tool is strict or a call is `forced`.
    fn calls(&mut self, tools: &[&Tool], forced: bool, single: bool) -> Result<(), GenerateError> {
        let mut names = String::new();
        for (index, tool) in tools.iter().enumerate() {
            let closing = match tool.strict {
                Some(false) => Closing::Literal,
                _ => self.closing,
            };
            let schema = if forced || tool.strict == Some(true) {
                let schema = arguments(tool);
                let bytes = schema::check(&schema, &tool.place)?;
                self.part(&schema, closing, &tool.place, bytes)?;
                schema
            } else {
                json!({"type": "object"})
            };
            let head = json!(format!("{{\"name\": {}, \"arguments\": ", json!(tool.name)));
            self.line(&format!("call_{index}: {head} arguments_{index} \"}}\""));
            self.line(&format!("arguments_{index}: %json {}", schema::prepared(&schema, closing)));
            let or = if index == 0 { "" } else { " | " };
            // Writing to a string can't fail.
            let _ = write!(names, "{or}call_{index}");
        }
        self.line(&format!("call: {names}"));
        let more = if single { "" } else { " (\", \" call)*" };
        self.line(&format!("list: \"[\" call{more} \"]\""));
        Ok(())
    }

    fn start(&mut self, content: Option<Content<'_>>, calls: bool) {
        let [open, close] = self.dialect.marks().map(|mark| {
            if self.dialect.has_call_tokens() { mark.to_owned() } else { json!(mark).to_string() }
        });
        match content {
            None => self.reasoning_and(&format!("{open} list {close}")),
            Some(Content::Json(schema, closing)) => {
                self.line(&format!("content: %json {}", schema::prepared(schema, closing)));
                let calls = if calls { format!(" | {open} list {close}") } else { String::new() };
                self.reasoning_and(&format!("(content{calls})"));
            }
            // Text must not contain an opening tag, since it would be read as a call. If the tag is
            // plain text and no token, the text before a call ends with it, hence `lead`.
            Some(Content::Free) if self.dialect.has_call_tokens() => {
                self.line(&format!("start: TEXT? ({open} list {close})?"));
                self.line(&format!("TEXT: /(?s:.+)/ & ~/{}/", holds(&OPENERS)));
            }
            Some(Content::Free) => {
                let opener = self.dialect.marks()[0];
                let others: Vec<&str> = OPENERS.into_iter().filter(|o| *o != opener).collect();
                self.line(&format!("start: TEXT? | lead list {close}"));
                self.line(&format!("TEXT: /(?s:.+)/ & ~/{}/", holds(&OPENERS)));
                self.line(&format!("lead[suffix={open}]: LEAD"));
                self.line(&format!("LEAD: /(?s:.*)/ & ~/{}/", holds(&others)));
            }
        }
    }

    /// The start rule: `rest`, with reasoning before it if the template asks for it.
    fn reasoning_and(&mut self, rest: &str) {
        if !self.dialect.thinks() {
            return self.line(&format!("start: {rest}"));
        }
        self.line(&format!("start: (reasoning BLANKS?)? {rest}"));
        self.line(&format!(
            "reasoning[suffix={}]: /{}(?s:.*)/",
            json!(reasoning::CLOSER),
            reasoning::OPENER
        ));
        self.line("BLANKS: /[ \\n]{1,4}/");
    }
}

/// A regular expression for texts that contain one of `texts`.
fn holds(texts: &[&str]) -> String {
    let escaped: Vec<String> = texts.iter().map(|text| escape(text)).collect();
    format!("(?s:.*)({})(?s:.*)", escaped.join("|"))
}

/// A text as a regular expression between slashes.
fn escape(text: &str) -> String {
    let special = |c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '<' && c != '>';
    text.chars().fold(String::new(), |mut escaped, c| {
        if special(c) {
            escaped.push('\\');
        }
        escaped.push(c);
        escaped
    })
}

/// The schema of a tool's arguments, which are an object in any case.
fn arguments(tool: &Tool) -> Json {
    if tool.parameters.is_empty() {
        return json!({"type": "object", "properties": {}, "additionalProperties": false});
    }
    let mut schema = tool.parameters.clone();
    schema.entry("type").or_insert_with(|| json!("object"));
    Json::Object(schema)
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;
