//! Prompts to token ids: the chat template, then the tokenizer, one stretch of text at a time.

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::added::AddedTokens;
use super::encoding::{Encoding, Part};
use super::error::{GenerateError, invalid};
use super::request::{Chat, Parameters, Prompt};
use super::template::ChatTemplate;
use super::tokenizer::{EncodeError, Markup, Tokenizer};
use super::tools::Dialect;
use super::words;
use phi4d_engine::TokenSet;

/// Characters that stand for "what follows is no special token" while a template is rendered.
const GUARDS: std::ops::RangeInclusive<char> = '\u{E000}'..='\u{F8FF}';

/// Bytes of text that cost at least one token, however few tokens they become.
const BYTES_PER_TOKEN: usize = 16;

impl Prompt {
    /// A lower bound of the prompt's cost in tokens, before it is tokenised: one for each 16 bytes
    /// of its text, and its token ids. Takes time where it has many texts.
    #[must_use]
    pub fn least_cost(&self) -> usize {
        cost_of(byte_length(self)).saturating_add(self.ids())
    }

    fn ids(&self) -> usize {
        if let Self::Tokens(ids) = self { ids.len() } else { 0 }
    }
}

impl Parameters {
    /// As [`Prompt::least_cost`], for all prompts of a request and for the parameters' texts that
    /// the tokenizer reads.
    #[must_use]
    pub fn least_cost(&self, prompts: &[Prompt]) -> usize {
        let bytes = prompts.iter().map(byte_length).fold(words::bytes(self), usize::saturating_add);
        let ids = prompts.iter().map(Prompt::ids).fold(0, usize::saturating_add);
        cost_of(bytes).saturating_add(ids)
    }
}

fn cost_of(bytes: usize) -> usize {
    bytes.div_ceil(BYTES_PER_TOKEN)
}

/// The tokens around a gap's texts: before the text before it, before the text after it, and where
/// the model fills it.
const GAP_TOKENS: [&str; 3] = ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"];

/// Reads prompts as a model folder's tokenizer and template define it.
#[derive(Debug)]
pub(super) struct PromptReader {
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
    dialect: Dialect,
    /// What an empty text prompt is read as.
    bos_token_id: u32,
    /// Tokens that contain the default sequence breakers.
    usual_breakers: TokenSet,
}

/// A prompt on its way to token ids.
#[derive(Debug)]
pub(super) enum Tokenizing {
    /// All its ids.
    Done(Vec<u32>),
    /// Being tokenised.
    Going {
        /// The state of the tokenizer.
        encoding: Encoding,
        /// Its field, for error messages.
        field: &'static str,
        /// This many tokens or more are too many.
        context_tokens: usize,
    },
}

/// Whether these are the added tokens of a model that fills gaps.
pub(super) fn fills_gaps(added: &AddedTokens) -> bool {
    let has = |name: &&str| added.iter().any(|token| token.content == **name);
    GAP_TOKENS.iter().all(has)
}

impl PromptReader {
    /// A reader with this tokenizer and this template.
    pub(super) fn new(
        tokenizer: Arc<Tokenizer>,
        template: Option<ChatTemplate>,
        bos_token_id: u32,
    ) -> Self {
        Self {
            dialect: Dialect::of(template.as_ref(), tokenizer.added()),
            usual_breakers: words::usual_breakers(tokenizer.vocabulary()),
            tokenizer,
            template,
            bos_token_id,
        }
    }

    /// How tools are written for the model.
    pub(super) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The tokenizer.
    pub(super) fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// The chat template's source, if there is one.
    pub(super) fn template(&self) -> Option<&str> {
        self.template.as_ref().map(ChatTemplate::source)
    }

    /// Whether the tokenizer has the tokens of [`Prompt::Fill`].
    pub(super) fn fills_gaps(&self) -> bool {
        fills_gaps(self.tokenizer.added())
    }

    /// Tokens that contain the default sequence breakers.
    pub(super) fn usual_breakers(&self) -> &TokenSet {
        &self.usual_breakers
    }

    /// Begins to tokenise `prompt`: renders it if it is a conversation.
    ///
    /// If its length alone shows that it has at least `context_tokens` tokens, it is refused before
    /// the expensive part.
    pub(super) fn begin(
        &self,
        prompt: Prompt,
        context_tokens: usize,
    ) -> Result<Tokenizing, GenerateError> {
        let field = if matches!(prompt, Prompt::Chat(_)) { "messages" } else { "prompt" };
        let begun = match prompt {
            Prompt::Tokens(ids) => return Ok(Tokenizing::Done(ids)),
            Prompt::Text { text, .. } if text.is_empty() => {
                return Ok(Tokenizing::Done(vec![self.bos_token_id]));
            }
            Prompt::Text { text, parse_special } => {
                let markup = if parse_special { Markup::Parsed } else { Markup::Plain };
                self.tokenizer.begin(text, markup, context_tokens)
            }
            Prompt::Fill { before, after } => self.fill(before, &after, context_tokens)?,
            Prompt::Chat(chat) => {
                let (text, markup) = self.render(&chat)?;
                drop(chat);
                self.tokenizer.begin(text, markup, context_tokens)
            }
        };
        match begun {
            Ok(encoding) => Ok(Tokenizing::Going { encoding, field, context_tokens }),
            Err(error) => Err(failed(error, field, context_tokens)),
        }
    }

    /// Tokenises the next stretch. After the last one, returns the prompt's ids, at least one.
    pub(super) fn advance(
        &self,
        reading: &mut Tokenizing,
    ) -> Option<Result<Vec<u32>, GenerateError>> {
        match reading {
            Tokenizing::Done(ids) => return Some(Ok(std::mem::take(ids))),
            Tokenizing::Going { encoding, field, context_tokens } => {
                match self.tokenizer.advance(encoding) {
                    Ok(false) => return None,
                    Ok(true) => {}
                    Err(error) => return Some(Err(failed(error, field, *context_tokens))),
                }
            }
        }
        let Tokenizing::Going { encoding, .. } =
            std::mem::replace(reading, Tokenizing::Done(Vec::new()))
        else {
            return None;
        };
        let mut ids = encoding.into_ids();
        if ids.is_empty() {
            // Only white space that a special token strips, or a template without output.
            ids.push(self.bos_token_id);
        }
        Some(Ok(ids))
    }

    /// The token ids of `prompt`, read at once.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn read_now(
        &self,
        prompt: &Prompt,
        context_tokens: usize,
    ) -> Result<Vec<u32>, GenerateError> {
        let mut reading = self.begin(prompt.clone(), context_tokens)?;
        loop {
            if let Some(read) = self.advance(&mut reading) {
                return read;
            }
        }
    }

    /// Prefix, suffix, middle: the order that models with these tokens are trained on.
    fn fill(
        &self,
        before: String,
        after: &str,
        context_tokens: usize,
    ) -> Result<Result<Encoding, EncodeError>, GenerateError> {
        let added = self.tokenizer.added();
        let token = |name: &str| {
            let found = added.iter().find(|token| token.content == name);
            found.map(|token| Part::Token(token.id)).ok_or_else(|| {
                let value = "a text, but the model's tokenizer has no fill-in-the-middle tokens";
                invalid("suffix", value, "null with this model")
            })
        };
        let [prefix, suffix, middle] = GAP_TOKENS;
        let [prefix, suffix, middle] = [token(prefix)?, token(suffix)?, token(middle)?];
        let gap = before.len();
        let text = before + after;
        let (before, after) = (Part::Text(0..gap), Part::Text(gap..text.len()));
        let parts = vec![prefix, before, suffix, after, middle];
        Ok(self.tokenizer.begin_with(text, parts, None, context_tokens))
    }

    /// Whether conversations can be read.
    pub(super) fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// A conversation as text, with the markup by which only the template's own special tokens are
    /// read as such.
    ///
    /// If no text of the request could be read as a special token, the template is rendered as it
    /// is. Else the texts get a guard character that occurs nowhere, which the tokenizer removes
    /// again.
    fn render(&self, chat: &Chat) -> Result<(String, Markup), GenerateError> {
        let template = self.template.as_ref().ok_or_else(|| {
            GenerateError::Template(
                "the model folder has no chat template; expected chat_template.jinja, or \
                 chat_template in tokenizer_config.json"
                    .to_owned(),
            )
        })?;
        let added = self.tokenizer.added();
        let mut texts: Vec<String> = Vec::new();
        let messages = self.dialect.messages(chat, &mut |text| {
            texts.push(text.to_owned());
            text.to_owned()
        });
        each_text(&chat.variables, &mut |text| texts.push(text.to_owned()));
        if !texts.iter().any(|text| added.has_token_text(text)) {
            let text = template.render(&messages, chat).map_err(GenerateError::Template)?;
            return Ok((text, Markup::Parsed));
        }
        let taken = texts
            .iter()
            .map(String::as_str)
            .chain([template.source()])
            .chain(added.iter().map(|token| token.content.as_str()));
        let guard = unused_guard(taken).ok_or_else(|| {
            invalid(
                "messages",
                "text that holds special tokens and every private-use character",
                "text that leaves one character of U+E000 to U+F8FF unused",
            )
        })?;
        let neutralise = |text: &str| added.neutralise(text, guard).into_owned();
        let messages = self.dialect.messages(chat, &mut |text| neutralise(text));
        let neutralised = Chat {
            variables: changed(&chat.variables, &neutralise),
            ending: chat.ending,
            ..Chat::default()
        };
        let text = template
            .render(&messages, &neutralised)
            .map_err(|reason| GenerateError::Template(reason.replace(guard, "")))?;
        Ok((text, Markup::Guarded(guard)))
    }
}

/// Calls `see` with every text in `fields`, names included. Iterative, so that nesting costs no
/// stack.
fn each_text<'t>(fields: &'t Map<String, Json>, see: &mut impl FnMut(&'t str)) {
    let mut left: Vec<&Json> = Vec::new();
    let mut open = vec![fields];
    loop {
        if let Some(fields) = open.pop() {
            for (name, value) in fields {
                see(name);
                left.push(value);
            }
            continue;
        }
        match left.pop() {
            None => return,
            Some(Json::String(text)) => see(text),
            Some(Json::Array(items)) => left.extend(items),
            Some(Json::Object(fields)) => open.push(fields),
            Some(_) => {}
        }
    }
}

/// `fields` with every text changed, except the outermost names, which templates refer to.
/// Recursive; the JSON parser of the request limits the depth.
fn changed(fields: &Map<String, Json>, change: &impl Fn(&str) -> String) -> Map<String, Json> {
    fn value(given: &Json, change: &impl Fn(&str) -> String) -> Json {
        match given {
            Json::String(text) => Json::String(change(text)),
            Json::Array(items) => items.iter().map(|item| value(item, change)).collect(),
            Json::Object(fields) => {
                fields.iter().map(|(name, item)| (change(name), value(item, change))).collect()
            }
            other => other.clone(),
        }
    }
    fields.iter().map(|(name, item)| (name.clone(), value(item, change))).collect()
}

/// A private-use character that none of `texts` holds. One pass over them, whatever they hold.
fn unused_guard<'t>(texts: impl Iterator<Item = &'t str>) -> Option<char> {
    let mut used = vec![false; GUARDS.count()];
    for character in texts.flat_map(str::chars).filter(|c| GUARDS.contains(c)) {
        used[character as usize - *GUARDS.start() as usize] = true;
    }
    GUARDS.zip(used).find_map(|(guard, used)| (!used).then_some(guard))
}

/// The error for a text of `field` without token ids.
fn failed(error: EncodeError, field: &str, context_tokens: usize) -> GenerateError {
    match error {
        EncodeError::TooLong { at_least } => {
            GenerateError::ContextExceeded { prompt_tokens: at_least, context_tokens }
        }
        EncodeError::Lossy => invalid(
            field,
            "text that the model's tokenizer can't read to its end",
            "text whose words end, and fewer than 262,144 bytes without one that does",
        ),
        EncodeError::Failed(reason) => GenerateError::Tokenizer(reason),
    }
}

fn byte_length(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Chat(chat) => {
            let mut bytes: usize = chat.messages.iter().map(|m| m.content.len() + 16).sum();
            each_text(&chat.variables, &mut |text| bytes += text.len());
            for call in chat.messages.iter().flat_map(|message| &message.calls) {
                bytes += call.name.len() + call.arguments.len();
            }
            for tool in chat.tools.offered() {
                bytes += tool.name.len() + tool.description.as_ref().map_or(0, String::len);
                each_text(&tool.parameters, &mut |text| bytes += text.len());
            }
            bytes
        }
        Prompt::Text { text, .. } => text.len(),
        Prompt::Fill { before, after } => before.len() + after.len(),
        Prompt::Tokens(_) => 0,
    }
}

#[cfg(test)]
#[path = "prompt_tests.rs"]
mod tests;
