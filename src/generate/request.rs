//! A request for text as the server passes it on: typed, but not yet checked against limits.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::error::{GenerateError, invalid};
use super::tools::types::{CallDelta, ToolCall, Tools};
use phi4d_engine::CallerId;

/// Most answers that one request may set to work.
const MAX_ANSWERS: usize = 128;

/// What to generate from, how, and for whom.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    /// What the model reads, at least one prompt. Each is answered by itself.
    pub prompts: Vec<Prompt>,
    /// How many answers each prompt gets.
    pub copies: Copies,
    /// How it answers. Fields left out take the configured or the model's defaults.
    pub parameters: Parameters,
    /// Who asked.
    pub caller: CallerId,
    /// Bytes of the request as it came in. Small ones are handled where they come in, others on
    /// threads of their own.
    pub weight: usize,
    /// For how long it had a place in the line for its model; zero if the model was there. It counts as the
    /// request's time.
    pub waited: Duration,
}

/// How many answers a request wants for each of its prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copies {
    /// How many are returned, at least 1.
    pub wanted: usize,
    /// How many are generated, at least as many; the likeliest per token are returned.
    pub made: usize,
}

impl Default for Copies {
    fn default() -> Self {
        Self { wanted: 1, made: 1 }
    }
}

impl Copies {
    /// How many answers are made to `prompts` prompts.
    ///
    /// # Errors
    /// If they are more than one request may have, or fewer than are wanted.
    pub fn answers(self, prompts: usize) -> Result<usize, GenerateError> {
        let count = prompts.saturating_mul(self.made);
        if count > MAX_ANSWERS || self.made < self.wanted || self.wanted == 0 {
            let field = if self.made > self.wanted { "best_of" } else { "n" };
            return Err(invalid(
                field,
                self.made,
                format!("1 to {MAX_ANSWERS} answers for all prompts together"),
            ));
        }
        Ok(count)
    }
}

/// What the model reads.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompt {
    /// A conversation, rendered by the model folder's chat template.
    Chat(Chat),
    /// Text as it stands. Special tokens in it are read as such only if `parse_special` is set.
    Text {
        /// The text; empty text stands for the model's begin-of-sequence token.
        text: String,
        /// Whether text that spells a special token becomes that token.
        parse_special: bool,
    },
    /// Two plain texts between which the model fills the gap, by the tokenizer's
    /// fill-in-the-middle tokens.
    Fill {
        /// What comes before the gap.
        before: String,
        /// What comes after it.
        after: String,
    },
    /// Token ids.
    Tokens(Vec<u32>),
}

impl Prompt {
    /// A conversation that the model answers, rendered as usual.
    #[must_use]
    pub fn chat(messages: Vec<Message>) -> Self {
        Self::Chat(Chat { messages, ..Chat::default() })
    }
}

/// A conversation, how it is rendered and how its answer is read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Chat {
    /// At least one.
    pub messages: Vec<Message>,
    /// How the rendered text ends.
    pub ending: Ending,
    /// Further variables for the template (`chat_template_kwargs`). Special tokens in them are
    /// never read as such.
    pub variables: Map<String, Json>,
    /// Tools that the model may call.
    pub tools: Tools,
    /// How the answer's reasoning is handled.
    pub reasoning: Reasoning,
}

/// How the reasoning (`<think>…</think>`) that begins an answer is handled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reasoning {
    /// It stays in the text with its tags; else it is separate, as [`TextDelta::reasoning`].
    pub in_text: bool,
    /// The most tokens of reasoning. At the limit the generator ends it with the closing tag.
    pub budget: Option<u64>,
}

/// How a rendered conversation ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ending {
    /// With the beginning of the model's message (`add_generation_prompt`).
    #[default]
    ModelTurn,
    /// With the end of the last message.
    Closed,
    /// Within the last message, which the model continues (`continue_final_message`).
    Open,
}

/// A message of a conversation. Special tokens in its texts are never read as such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who wrote it (`developer` is read as `system`).
    pub role: Role,
    /// Its text; for [`Role::Tool`] the result of a call.
    pub content: String,
    /// The tool calls of the assistant, after its text.
    pub calls: Vec<ToolCall>,
    /// For [`Role::Tool`]: the id of the call whose result this is.
    pub answers: Option<String>,
}

impl Message {
    /// A message without tool calls.
    #[must_use]
    pub fn text(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into(), calls: Vec::new(), answers: None }
    }
}

/// Who wrote a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Instructions for the whole conversation.
    System,
    /// The person or program that asks.
    User,
    /// The model.
    Assistant,
    /// The program that runs the model's tool calls.
    Tool,
}

impl Role {
    /// The name that chat templates know the role by.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// What errors call the parameters that the APIs name differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields of `Parameters`")]
pub struct ParameterNames {
    pub max_tokens: &'static str,
    pub temperature: &'static str,
    pub top_p: &'static str,
    pub top_k: &'static str,
    pub min_p: &'static str,
    pub typical_p: &'static str,
    pub repetition_penalty: &'static str,
    pub presence_penalty: &'static str,
    pub frequency_penalty: &'static str,
    pub stop: &'static str,
}

impl ParameterNames {
    /// The OpenAI API's names, and vLLM's for what that API lacks.
    pub const OPENAI: Self = Self {
        max_tokens: "max_tokens",
        temperature: "temperature",
        top_p: "top_p",
        top_k: "top_k",
        min_p: "min_p",
        typical_p: "typical_p",
        repetition_penalty: "repetition_penalty",
        presence_penalty: "presence_penalty",
        frequency_penalty: "frequency_penalty",
        stop: "stop",
    };
}

impl Default for ParameterNames {
    fn default() -> Self {
        Self::OPENAI
    }
}

/// How to answer, under the OpenAI API's names; `None` or empty means "not given".
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Parameters {
    /// What the client calls them.
    pub names: ParameterNames,
    /// Most tokens to generate (`max_completion_tokens` is the same); default: what fits.
    pub max_tokens: Option<u64>,
    /// 0 to 2; 0 is greedy.
    pub temperature: Option<f64>,
    /// Above 0, up to 1.
    pub top_p: Option<f64>,
    /// 0 (or -1) keeps all.
    pub top_k: Option<i64>,
    /// 0 to 1.
    pub min_p: Option<f64>,
    /// Above 0, up to 10.
    pub repetition_penalty: Option<f64>,
    /// -2 to 2.
    pub presence_penalty: Option<f64>,
    /// -2 to 2.
    pub frequency_penalty: Option<f64>,
    /// Token id and bias of -100 to 100.
    pub logit_bias: Vec<(u32, f64)>,
    /// Text and bias of -100 to 100 for each of its tokens.
    pub text_bias: Vec<(String, f64)>,
    /// 0 (or -1) keeps all; up to 100.
    pub top_n_sigma: Option<f64>,
    /// Above 0, up to 1.
    pub typical_p: Option<f64>,
    /// 0 to 1; 0 never excludes.
    pub xtc_probability: Option<f64>,
    /// 0 to 0.5, default 0.1.
    pub xtc_threshold: Option<f64>,
    /// The penalty on repetitions.
    pub dry: DryParameters,
    /// The output has at least this many tokens.
    pub min_tokens: Option<u64>,
    /// Texts that the output never holds, at most 128; each with and without a space before it.
    pub bad_words: Vec<String>,
    /// If given, no token but these is chosen.
    pub allowed_token_ids: Option<Vec<u32>>,
    /// What the output must be.
    pub constraint: Option<Constraint>,
    /// Most prompt tokens to read, at least 1; longer prompts are cut, also to fit the context.
    pub truncate_prompt_tokens: Option<u64>,
    /// Where a long prompt is cut.
    pub truncation_side: Side,
    /// Prompts are shared in the KV cache between requests of equal salt only.
    pub cache_salt: Option<String>,
    /// Lower goes first among one caller's waiting requests; 0 is usual.
    pub priority: i32,
    /// Any integer; negative ones are taken by their bits.
    pub seed: Option<i64>,
    /// Texts that end the output, at most 16; not part of it.
    pub stop: Vec<String>,
    /// Further tokens that end the output.
    pub stop_token_ids: Vec<u32>,
    /// The stop string that ends the output is part of it.
    pub include_stop: bool,
    /// The output contains the text of control tokens.
    pub spell_special: bool,
    /// Go on past the model's end-of-sequence tokens.
    pub ignore_eos: bool,
    /// Report log-probabilities with this many alternatives (0 to 20).
    pub top_logprobs: Option<u64>,
    /// Report the prompt's log-probabilities, with this many alternatives (0 to 20).
    pub prompt_logprobs: Option<u64>,
    /// Report how much of the prompt has been read, as [`Delta::Progress`], if each prompt gets one answer.
    pub progress: bool,
    /// Give up after this long.
    pub timeout: Option<Duration>,
}

/// A structured output, and the field that asks for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Constraint {
    /// What it must be.
    pub form: Form,
    /// The field's name, for messages.
    pub field: String,
}

/// What the output can be constrained to. Within the program it travels to another process as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Form {
    /// Some JSON object.
    JsonObject,
    /// JSON that fits a JSON Schema. Objects whose `properties` are listed have no others unless the
    /// schema says so.
    JsonSchema(#[serde(with = "spelt")] Json),
    /// JSON that fits a JSON Schema, by the letter of the standard.
    LiteralSchema(#[serde(with = "spelt")] Json),
    /// Text that a regular expression matches whole.
    Regex(String),
    /// Text by a Lark grammar, in llguidance's dialect.
    Lark(String),
    /// One of these texts.
    Choice(Vec<String>),
}

/// A schema as a text in JSON: nested in other values it could exceed the parser's depth.
mod spelt {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use serde_json::Value;

    pub(super) fn serialize<S: Serializer>(schema: &Value, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(schema)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Value, D::Error> {
        serde_json::from_str(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// Don't repeat yourself, under llama.cpp's names less `dry_`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DryParameters {
    /// 0 to 10; 0 is off.
    pub multiplier: Option<f64>,
    /// 1 to 10, default 1.75.
    pub base: Option<f64>,
    /// At least 1, default 2.
    pub allowed_length: Option<u64>,
    /// -1 looks at all tokens, 0 disables the penalty.
    pub penalty_last_n: Option<i64>,
    /// Texts that no repetition reaches across, each within one token of the vocabulary; default
    /// a line break, `:`, `"` and `*`.
    pub sequence_breakers: Option<Vec<String>>,
}

/// Which end of a prompt is cut off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Side {
    /// The beginning.
    #[default]
    Left,
    /// The end.
    Right,
}

/// A piece of the answer. A stream is any number of `Progress` if the request asks for them, any number of
/// `Text`, then one `Finished`.
#[derive(Debug, Clone, PartialEq)]
pub enum Delta {
    /// More of the prompt has been read.
    Progress(PromptProgress),
    /// Some more text.
    Text(TextDelta),
    /// The end.
    Finished(Finished),
}

/// How much of a prompt has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptProgress {
    /// Tokens in the prompt.
    pub total_tokens: usize,
    /// Those that were in the KV cache already.
    pub cached_tokens: usize,
    /// Those that are in the KV cache now, cached ones included.
    pub processed_tokens: usize,
    /// Time since prefill began.
    pub elapsed: Duration,
}

/// A piece of an answer and its tokens. Text is held back while it may be part
/// of a character, a stop string or a call, so a token and its text may arrive in different deltas.
///
/// Of text, reasoning and call at most one is there, so that their order is that of the deltas.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TextDelta {
    /// Whole UTF-8 characters; may be empty where only tokens are reported.
    pub text: String,
    /// A piece of the reasoning, which comes before anything else.
    pub reasoning: String,
    /// A piece of a tool call.
    pub call: Option<CallDelta>,
    /// The tokens since the last delta, with log-probabilities if they were asked for.
    pub tokens: Vec<TokenDelta>,
}

/// One generated token as text.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenDelta {
    /// Its id.
    pub id: u32,
    /// Its bytes; not always whole characters.
    pub bytes: Vec<u8>,
    /// Natural log-probability and alternatives, if asked for.
    pub logprobs: Option<Logprobs>,
    /// Whether it is the stop token that ended the answer, which is no part of its text. Reported
    /// where log-probabilities are asked for.
    pub is_end: bool,
}

/// One token of a prompt as text.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptToken {
    /// As the generated ones; the first token of a prompt has no log-probabilities.
    pub token: TokenDelta,
    /// Its place among all tokens, likeliest first, from 1; 0 where it has no log-probabilities.
    pub rank: usize,
}

/// Log-probabilities at one position.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Of the token that was chosen.
    pub chosen: f32,
    /// The likeliest tokens: id, bytes, log-probability.
    pub top: Vec<(u32, Vec<u8>, f32)>,
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// Why it ended.
    pub reason: Finish,
    /// The place of the stop string that ended it, among the request's.
    pub stop: Option<usize>,
    /// What it took.
    pub usage: Usage,
}

/// Why an answer ended, in OpenAI's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its message, or a stop string or stop token came up.
    Stop,
    /// The model ended its message, which contains tool calls.
    ToolCalls,
    /// `max_tokens` or the context was used up.
    Length,
}

/// Tokens processed and generated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens in the prompt.
    pub prompt_tokens: usize,
    /// Prompt tokens that were in the KV cache already.
    pub cached_tokens: usize,
    /// Tokens generated, the stop token included.
    pub completion_tokens: usize,
    /// Those of them that are reasoning, if that is separate from the text.
    pub reasoning_tokens: usize,
    /// From when the prompt was begun to the first token of the answer.
    pub reading: Duration,
    /// From the first token of the answer to the last.
    pub answering: Duration,
}
