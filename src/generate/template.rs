//! The model folder's chat template: a conversation to text.

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, context};
use regex::Regex;
use serde_json::Value as Json;

use super::error::TextLoadError;
use super::files;
use super::jinja;
use super::request::{Chat, Ending};
use super::stack::with_stack;

/// Work that one rendering may do: about this many instructions, or 64 times as many bytes. A
/// conversation of 100,000 messages takes most of it.
const FUEL: u64 = 4_000_000;

/// Stack of a rendering whose values only its fuel limits, to about 600,000 levels: minijinja
/// writes and drops values by recursion. Measured: 90 bytes a level to drop, up to 800 to write.
const RENDER_STACK: usize = 768 << 20;

/// The largest template. Published ones have up to 20 KB.
const MAX_BYTES: usize = 64 << 10;

/// Most words and signs in a template. Published ones have up to 7,000. A chain of operators is
/// compiled in time that grows with the square of its length.
const MAX_UNITS: usize = 1 << 14;

/// Stack for each byte of a template while it is compiled. The parser, and what comes after it,
/// recurse once for each operator of a chain (`--x`, `not not x`, `a+b+c`, `x.y.z`, `x|f|g`), and
/// an operator has at least one byte. Measured: up to 1 KiB a byte in a build for tests
/// (`template_tests::chains_of_any_length_compile_or_are_refused`).
const STACK_PER_BYTE: usize = 4 << 10;

const NAME: &str = "chat template";

/// A message as a template sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TemplateMessage {
    /// The role's name.
    pub(super) role: &'static str,
    /// The message's text, in which special tokens are neutralised.
    pub(super) content: String,
    /// Tools for templates that place them, as the text of a JSON list.
    pub(super) tools: Option<String>,
}

impl TemplateMessage {
    /// A message without tools.
    pub(super) fn text(role: &'static str, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), tools: None }
    }
}

/// A compiled chat template, and the tokens that it may name.
#[derive(Debug)]
pub(super) struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

impl ChatTemplate {
    /// Reads the template of a model folder: chat_template.jinja if there is one, else
    /// tokenizer_config.json's `chat_template`. `None` if the folder has neither.
    pub(super) fn load(folder: &Path) -> Result<Option<Self>, TextLoadError> {
        let config_path = folder.join("tokenizer_config.json");
        let invalid =
            |path: &Path, reason: String| TextLoadError::Invalid { path: path.to_owned(), reason };
        let json = files::required(&config_path, files::MAX_JSON_BYTES)?;
        let config: Json =
            serde_json::from_slice(&json).map_err(|e| invalid(&config_path, e.to_string()))?;
        let file = folder.join("chat_template.jinja");
        let (source, path) = match files::read(&file, MAX_BYTES as u64)? {
            Some(bytes) => {
                let source = String::from_utf8(bytes).map_err(|e| invalid(&file, e.to_string()))?;
                (Some(source), file)
            }
            None => {
                let source = inline_template(&config["chat_template"])
                    .map_err(|reason| invalid(&config_path, reason))?;
                (source, config_path)
            }
        };
        let Some(source) = source else { return Ok(None) };
        // Compiling recurses for each operator of a chain.
        let stack = source.len().min(MAX_BYTES) * STACK_PER_BYTE;
        let compiled = with_stack(stack, || Self::compile(source, &config))
            .map_err(|source| TextLoadError::Thread { path: path.clone(), source })?;
        compiled.map(Some).map_err(|reason| invalid(&path, format!("chat template: {reason}")))
    }

    /// Compiles a template on a stack that is large enough for it. `config` is
    /// tokenizer_config.json's content.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn new(source: String, config: &Json) -> Result<Self, String> {
        let stack = source.len().min(MAX_BYTES) * STACK_PER_BYTE;
        with_stack(stack, || Self::compile(source, config)).map_err(|error| error.to_string())?
    }

    /// Compiles a template. Takes up to [`STACK_PER_BYTE`] of stack for each byte of `source`.
    fn compile(source: String, config: &Json) -> Result<Self, String> {
        if source.len() > MAX_BYTES {
            return Err(format!("it has {} bytes; accepted are up to {MAX_BYTES}", source.len()));
        }
        let units = units(&source);
        if units > MAX_UNITS {
            return Err(format!("it has {units} words and signs; accepted are up to {MAX_UNITS}"));
        }
        let mut environment = Environment::new();
        // As transformers' apply_chat_template sets its environment up.
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|e| e.to_string())?;
        environment.set_syntax(syntax);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(jinja::method);
        environment.add_filter("tojson", jinja::tojson);
        environment.add_function("raise_exception", jinja::raise_exception);
        environment.add_function("strftime_now", jinja::strftime_now);
        let compiled = without_generation_tags(&source);
        environment.add_template_owned(NAME, compiled).map_err(|e| jinja::describe(&e))?;
        Ok(Self {
            environment,
            source,
            bos_token: token_text(&config["bos_token"]),
            eos_token: token_text(&config["eos_token"]),
        })
    }

    /// The template's source text.
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// Renders the messages of `chat`, with its variables, up to its ending. Texts appear as the
    /// template places them: the caller has neutralised special tokens in them and in the
    /// variables.
    ///
    /// # Errors
    /// The template's reason for refusing the conversation.
    pub(super) fn render(
        &self,
        conversation: &[TemplateMessage],
        chat: &Chat,
    ) -> Result<String, String> {
        // Only a namespace lives from one iteration of a loop to the next, so only with one can a
        // value nest by a level in each.
        if self.source.contains("namespace")
            && let Ok(rendered) = with_stack(RENDER_STACK, || self.render_here(conversation, chat))
        {
            return rendered;
        }
        self.render_here(conversation, chat)
    }

    fn render_here(&self, conversation: &[TemplateMessage], chat: &Chat) -> Result<String, String> {
        let message = |one: &TemplateMessage| {
            let plain = context! { role => one.role, content => one.content.as_str() };
            match &one.tools {
                Some(tools) => context! { tools => tools.as_str(), ..plain },
                None => plain,
            }
        };
        let messages: Vec<Value> = conversation.iter().map(message).collect();
        let variables = context! {
            messages,
            add_generation_prompt => chat.ending == Ending::ModelTurn,
            bos_token => self.bos_token.as_deref().unwrap_or(""),
            eos_token => self.eos_token.as_deref().unwrap_or(""),
            ..Value::from(Serde(&chat.variables))
        };
        let mut text = self
            .environment
            .get_template(NAME)
            .and_then(|template| template.render(variables))
            .map_err(|e| jinja::describe(&e))?;
        if chat.ending == Ending::Open {
            let last = conversation.last().map_or("", |one| one.content.trim());
            // As transformers does: everything after the last message's text is removed.
            let end = text.rfind(last).filter(|_| !last.is_empty()).ok_or_else(|| {
                "continue_final_message needs a last message whose text the template keeps"
                    .to_owned()
            })?;
            text.truncate(end + last.len());
        }
        Ok(text)
    }
}

/// `source` with `{% generation %}` blocks, by which transformers marks what a model is trained on,
/// as blocks that do nothing.
fn without_generation_tags(source: &str) -> String {
    let tag = Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}");
    tag.map_or_else(
        |_| source.to_owned(),
        |tag| tag.replace_all(source, "{%$1 ${2}with $3%}").into_owned(),
    )
}

/// Words, numbers and signs in `source`, an upper bound for those of any expression in it.
fn units(source: &str) -> usize {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut units, mut in_word) = (0, false);
    for character in source.chars() {
        let begins = is_word(character) && !in_word;
        in_word = is_word(character);
        units += usize::from(begins || !(in_word || character.is_whitespace()));
    }
    units
}

/// `chat_template` is text, or a list of named templates of which "default" is for plain chats.
fn inline_template(value: &Json) -> Result<Option<String>, String> {
    match value {
        Json::Null => Ok(None),
        Json::String(source) => Ok(Some(source.clone())),
        Json::Array(named) => named
            .iter()
            .find(|entry| entry["name"] == "default")
            .and_then(|entry| entry["template"].as_str())
            .map(|source| Some(source.to_owned()))
            .ok_or_else(|| {
                "chat_template is a list without a template named \"default\"".to_owned()
            }),
        _ => Err("chat_template is neither text nor a list of named templates".to_owned()),
    }
}

/// A special token in tokenizer_config.json: its text, or an object that holds it.
fn token_text(value: &Json) -> Option<String> {
    let text = value.as_str().or_else(|| value["content"].as_str())?;
    Some(text.to_owned())
}

#[cfg(test)]
#[path = "template_tests.rs"]
mod tests;
