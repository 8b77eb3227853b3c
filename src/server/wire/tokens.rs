//! `/tokenize`, `/detokenize` and `/v1/chat/completions/render`: text and token ids without an
//! answer, in the shapes of vLLM's and llama.cpp's servers at once.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bounds;
use super::chat::ChatRequest;
use super::common::{Integer, List, read_fields};
use super::known::{Endpoint, Groups, ignored, names_of};
use super::parameters::token_ids;
use crate::error::ApiError;
use crate::served::Asks;
use phi4d_generate::Prompt;

/// Text to tokens.
#[derive(Debug)]
pub(crate) struct TokenizeRequest {
    pub(crate) model: Option<String>,
    pub(crate) prompt: Prompt,
    /// Whether the tokens are wanted as texts, too.
    pub(crate) strings: bool,
    /// Whether each token is an object of id and text.
    pub(crate) pieces: bool,
    /// Names of fields that nobody read.
    pub(crate) ignored: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct TextFields {
    model: Option<String>,
    prompt: Option<String>,
    content: Option<String>,
    parse_special: Option<bool>,
}

/// What no conversation has.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct OutputFields {
    return_token_strs: Option<bool>,
    with_pieces: Option<bool>,
    // Nothing is added to a text: the model's tokenizer knows of nothing to add.
    #[serde(rename = "add_special")]
    _add_special: Option<bool>,
    #[serde(rename = "add_special_tokens")]
    _add_special_tokens: Option<bool>,
}

type AllFields = (OutputFields, TextFields);

impl TokenizeRequest {
    pub(crate) fn asks(&self) -> Asks<'_> {
        Asks { model: self.model.as_deref(), ..Asks::default() }
    }

    /// Reads a request's JSON: a conversation if it has `messages`, else a text.
    ///
    /// # Errors
    /// A 400 that names the first field at fault.
    pub(crate) fn parse(mut body: Value) -> Result<Self, ApiError> {
        let output: OutputFields = read_fields(&body)?;
        let strings = output.return_token_strs.unwrap_or(false);
        let pieces = output.with_pieces.unwrap_or(false);
        if body.get("messages").is_some_and(|messages| !messages.is_null()) {
            if let Some(fields) = body.as_object_mut() {
                fields.retain(|name, _| !names_of::<OutputFields>().contains(&name.as_str()));
            }
            let mut chat = ChatRequest::parse(&body)?.parsed;
            let (model, ignored) = (chat.model.take(), std::mem::take(&mut chat.ignored));
            return Ok(Self { model, prompt: chat.into_prompt(), strings, pieces, ignored });
        }
        let fields: TextFields = read_fields(&body)?;
        let text = match (fields.prompt, fields.content) {
            (Some(text), None) | (None, Some(text)) => text,
            (None, None) => {
                return Err(ApiError::missing(
                    "prompt",
                    "a string, in prompt or in content, or a conversation in messages",
                ));
            }
            (Some(_), Some(_)) => {
                let accepted = "only one of prompt and content";
                return Err(ApiError::invalid_value("content", "a string", accepted));
            }
        };
        let prompt = match text {
            // Where nothing is generated, nothing need stand for an empty text.
            text if text.is_empty() => Prompt::Tokens(Vec::new()),
            text => Prompt::Text { text, parse_special: fields.parse_special.unwrap_or(true) },
        };
        Ok(Self {
            model: fields.model,
            prompt,
            strings,
            pieces,
            ignored: ignored(&body, &AllFields::names(), Endpoint::Tokens)?.names,
        })
    }
}

/// The answer to a [`TokenizeRequest`].
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Tokenized {
    pub(crate) count: usize,
    pub(crate) max_model_len: usize,
    pub(crate) tokens: Vec<WireToken>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_strs: Option<Vec<String>>,
}

/// A token as an id, or with its text.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub(crate) enum WireToken {
    Id(u32),
    Piece { id: u32, piece: Piece },
}

/// A token's text, or its bytes where they are no whole characters.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged)]
pub(crate) enum Piece {
    Text(String),
    Bytes(Vec<u8>),
}

impl Piece {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(|e| Self::Bytes(e.into_bytes()), Self::Text)
    }
}

/// The fields that are read beside a chat request's, for the OpenAPI document.
#[cfg(test)]
pub(crate) fn field_schemas(generator: &mut schemars::SchemaGenerator) -> Vec<schemars::Schema> {
    AllFields::schemas(generator)
}

/// Tokens to text.
#[derive(Debug)]
pub(crate) struct DetokenizeRequest {
    pub(crate) model: Option<String>,
    pub(crate) tokens: Vec<u32>,
    /// Names of fields that nobody read.
    pub(crate) ignored: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct DetokenizeFields {
    model: Option<String>,
    tokens: Option<List<Integer, { bounds::DETOKENIZED }>>,
}

impl DetokenizeRequest {
    pub(crate) fn asks(&self) -> Asks<'_> {
        Asks { model: self.model.as_deref(), ..Asks::default() }
    }

    /// Reads a request's JSON.
    ///
    /// # Errors
    /// A 400 that names the first field at fault.
    pub(crate) fn parse(body: &Value) -> Result<Self, ApiError> {
        let fields: DetokenizeFields = read_fields(body)?;
        let Some(List(tokens)) = fields.tokens else {
            return Err(ApiError::missing("tokens", "a list of token ids"));
        };
        Ok(Self {
            model: fields.model,
            tokens: token_ids("tokens", tokens)?,
            ignored: ignored(body, names_of::<DetokenizeFields>(), Endpoint::Tokens)?.names,
        })
    }
}

/// The answer to a [`DetokenizeRequest`], under vLLM's name and llama.cpp's.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Detokenized {
    pub(crate) prompt: String,
    pub(crate) content: String,
}

/// What the model would read of a conversation.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Rendered {
    /// The text, special tokens spelt out.
    pub(crate) prompt: String,
    pub(crate) token_ids: Vec<u32>,
    pub(crate) count: usize,
    pub(crate) max_model_len: usize,
}

/// `GET /tokenizer_info`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct TokenizerInfo<'a> {
    pub(crate) tokenizer_class: &'static str,
    pub(crate) bos_token: String,
    /// The token that ends the model's message.
    pub(crate) eos_token: Option<String>,
    /// All tokens that end an answer.
    pub(crate) eos_token_ids: &'a [u32],
    pub(crate) model_max_length: usize,
    pub(crate) vocab_size: usize,
    pub(crate) chat_template: &'a str,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn texts_and_conversations_are_distinguished() {
        let text = |text: &str, parse_special| Prompt::Text { text: text.into(), parse_special };
        let parse = |body: Value| TokenizeRequest::parse(body).unwrap();
        assert_eq!(parse(json!({"prompt": "a"})).prompt, text("a", true));
        let llama = json!({"content": "a", "parse_special": false, "with_pieces": true});
        let parsed = parse(llama);
        assert_eq!((parsed.prompt, parsed.pieces), (text("a", false), true));
        assert_eq!(parse(json!({"content": ""})).prompt, Prompt::Tokens(Vec::new()));
        let chat = json!({
            "messages": [{"role": "user", "content": "a"}], "return_token_strs": true,
            "add_special_tokens": false, "strict": true
        });
        let parsed = parse(chat);
        assert!(matches!(parsed.prompt, Prompt::Chat(_)) && parsed.strings);
        assert_eq!(parse(json!({"content": "a", "zz": 1})).ignored, ["zz"]);
    }

    #[test]
    fn faults_name_the_field() {
        for (body, param) in [
            (json!({}), "prompt"),
            (json!({"prompt": "a", "content": "a"}), "content"),
            (json!({"prompt": ["a"]}), "prompt"),
            (json!({"prompt": "a", "zz": 1, "strict": true}), "zz"),
            (json!({"messages": []}), "messages"),
            (json!({"prompt": "a", "with_pieces": 1}), "with_pieces"),
        ] {
            let error = TokenizeRequest::parse(body).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
        }
        for (body, param) in [
            (json!({}), "tokens"),
            (json!({"tokens": 3}), "tokens"),
            (json!({"tokens": [1, -1]}), "tokens[1]"),
            (json!({"tokens": [1, "a"]}), "tokens[1]"),
        ] {
            let error = DetokenizeRequest::parse(&body).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
        }
    }
}
