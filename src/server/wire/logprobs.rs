//! Log-probabilities in the chat API's and the older completions API's shapes.

use std::fmt::Write as _;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use phi4d_generate::{PromptToken, TokenDelta};

/// What OpenAI reports for a token that can't come up; JSON has no infinity.
const IMPOSSIBLE: f32 = -9999.0;

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { IMPOSSIBLE }
}

/// Names the tokens by their ids instead of their texts, as vLLM does.
pub(crate) fn name_by_ids<'t>(tokens: impl IntoIterator<Item = &'t mut TokenDelta>) {
    let name = |id: u32| format!("token_id:{id}").into_bytes();
    for token in tokens {
        token.bytes = name(token.id);
        for (id, bytes, _) in token.logprobs.iter_mut().flat_map(|logprobs| &mut logprobs.top) {
            *bytes = name(*id);
        }
    }
}

/// `choices[].logprobs` of chat.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ChatLogprobs {
    content: Vec<ChatToken>,
    refusal: Option<()>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct ChatToken {
    #[serde(flatten)]
    token: TokenText,
    top_logprobs: Vec<TokenText>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct TokenText {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

impl TokenText {
    fn new(bytes: &[u8], logprob: f32) -> Self {
        Self {
            token: String::from_utf8_lossy(bytes).into_owned(),
            logprob: finite(logprob),
            bytes: bytes.to_vec(),
        }
    }
}

impl ChatLogprobs {
    pub(crate) fn new(tokens: &[TokenDelta]) -> Self {
        let content = tokens
            .iter()
            .filter_map(|token| {
                let logprobs = token.logprobs.as_ref()?;
                Some(ChatToken {
                    token: TokenText::new(&token.bytes, logprobs.chosen),
                    top_logprobs: logprobs
                        .top
                        .iter()
                        .map(|(_, bytes, logprob)| TokenText::new(bytes, *logprob))
                        .collect(),
                })
            })
            .collect();
        Self { content, refusal: None }
    }
}

/// `choices[].logprobs` of completions.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct CompletionLogprobs {
    tokens: Vec<String>,
    /// Null for the first token of a prompt.
    token_logprobs: Vec<Option<f32>>,
    top_logprobs: Vec<Option<TopTokens>>,
    /// Where each token begins in the answer, in characters.
    text_offset: Vec<usize>,
}

/// vLLM's `prompt_logprobs`: for each token of the prompt its alternatives and itself by id; null for
/// the first.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct PromptLogprobs(Vec<Option<PromptPlace>>);

#[derive(Debug)]
pub(super) struct PromptPlace(Vec<(u32, PromptEntry)>);

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct PromptEntry {
    logprob: f32,
    rank: usize,
    decoded_token: String,
}

impl Serialize for PromptPlace {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let entries = self.0.iter().map(|(id, entry)| (id.to_string(), entry));
        serializer.collect_map(entries)
    }
}

impl PromptLogprobs {
    pub(crate) fn new(prompt: &[PromptToken]) -> Self {
        let place = |PromptToken { token, rank }: &PromptToken| {
            let logprobs = token.logprobs.as_ref()?;
            let entry = |logprob, rank, bytes: &[u8]| PromptEntry {
                logprob: finite(logprob),
                rank,
                decoded_token: String::from_utf8_lossy(bytes).into_owned(),
            };
            let mut entries: Vec<(u32, PromptEntry)> = (1..)
                .zip(&logprobs.top)
                .map(|(rank, (id, bytes, logprob))| (*id, entry(*logprob, rank, bytes)))
                .collect();
            if entries.iter().all(|(id, _)| *id != token.id) {
                entries.push((token.id, entry(logprobs.chosen, *rank, &token.bytes)));
            }
            Some(PromptPlace(entries))
        };
        Self(prompt.iter().map(place).collect())
    }
}

/// Texts and their log-probabilities as a JSON object, in order.
#[derive(Debug)]
pub(super) struct TopTokens(Vec<(String, f32)>);

impl Serialize for TopTokens {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (text, logprob) in &self.0 {
            map.serialize_entry(text, logprob)?;
        }
        map.end()
    }
}

impl CompletionLogprobs {
    /// Moves `offset` on by the tokens' characters.
    pub(crate) fn new<'t>(
        tokens: impl IntoIterator<Item = &'t TokenDelta>,
        offset: &mut usize,
    ) -> Self {
        let mut shape = Self {
            tokens: Vec::new(),
            token_logprobs: Vec::new(),
            top_logprobs: Vec::new(),
            text_offset: Vec::new(),
        };
        for token in tokens {
            let logprobs = token.logprobs.as_ref();
            shape.tokens.push(key(&token.bytes));
            shape.token_logprobs.push(logprobs.map(|logprobs| finite(logprobs.chosen)));
            shape.top_logprobs.push(logprobs.map(|logprobs| {
                let own = (token.bytes.as_slice(), logprobs.chosen);
                TopTokens::new(&logprobs.top, own)
            }));
            shape.text_offset.push(*offset);
            if !token.is_end {
                *offset += characters_begun(&token.bytes);
            }
        }
        shape
    }
}

impl TopTokens {
    /// The likeliest tokens and the one that is there, which may be among them. Two tokens may have
    /// one text; the likelier one, which comes first, keeps the key.
    fn new(top: &[(u32, Vec<u8>, f32)], own: (&[u8], f32)) -> Self {
        let mut entries: Vec<(String, f32)> = Vec::with_capacity(top.len() + 1);
        let top = top.iter().map(|(_, bytes, logprob)| (bytes.as_slice(), *logprob));
        for (bytes, logprob) in top.chain([own]) {
            let text = key(bytes);
            if entries.iter().all(|(known, _)| *known != text) {
                entries.push((text, finite(logprob)));
            }
        }
        Self(entries)
    }
}

/// A token's text; bytes that are not whole characters are spelled as OpenAI does.
fn key(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |mut text, byte| {
            // Writing to a string can't fail.
            let _ = write!(text, "\\x{byte:02x}");
            text
        }),
    }
}

/// Characters that begin in `bytes`, which may start or end inside one.
fn characters_begun(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use phi4d_generate::Logprobs;
    use serde_json::{json, to_value};

    fn token(bytes: &[u8], chosen: f32, top: &[(&[u8], f32)]) -> TokenDelta {
        TokenDelta {
            id: 1,
            bytes: bytes.to_vec(),
            is_end: false,
            logprobs: Some(Logprobs {
                chosen,
                top: top.iter().map(|(b, l)| (0, b.to_vec(), *l)).collect(),
            }),
        }
    }

    #[test]
    fn chat_shape() {
        let tokens = [token(b"a", -0.5, &[(b"a", -0.5), (b"\xe2", f32::NEG_INFINITY)])];
        let expected = json!({"refusal": null, "content": [{
            "token": "a", "logprob": -0.5, "bytes": [97],
            "top_logprobs": [
                {"token": "a", "logprob": -0.5, "bytes": [97]},
                {"token": "\u{fffd}", "logprob": -9999.0, "bytes": [226]}
            ]
        }]});
        assert_eq!(to_value(ChatLogprobs::new(&tokens)).unwrap(), expected);
        let mut tokens = tokens;
        name_by_ids(&mut tokens);
        let named = to_value(ChatLogprobs::new(&tokens)).unwrap();
        assert_eq!(named["content"][0]["token"], "token_id:1");
        assert_eq!(named["content"][0]["top_logprobs"][1]["token"], "token_id:0");
    }

    #[test]
    fn completion_offsets_count_characters_over_split_tokens() {
        let mut offset = 0;
        let tokens = [
            token("é".as_bytes(), -1.0, &[(b"x", -2.0), (b"x", -3.0)]),
            token(b"\xe2\x82", -1.0, &[]),
            token(b"\xac", -1.0, &[]),
            token(b"b", -1.0, &[]),
        ];
        let expected = json!({
            "tokens": ["é", "bytes:\\xe2\\x82", "bytes:\\xac", "b"],
            "token_logprobs": [-1.0, -1.0, -1.0, -1.0],
            "top_logprobs": [{"x": -2.0, "é": -1.0}, {"bytes:\\xe2\\x82": -1.0}, {"bytes:\\xac": -1.0},
                {"b": -1.0}],
            "text_offset": [0, 1, 2, 2]
        });
        let shape = to_value(CompletionLogprobs::new(&tokens, &mut offset)).unwrap();
        assert_eq!(shape, expected);
        assert_eq!(offset, 3);
    }
}
