//! `POST /v1/chat/completions`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::access::Call;
use crate::error::ApiError;
use crate::handlers::generation::{Renderer, answer_by, asked, end_of_events, envelope};
use crate::reply::{Format, Reply, event};
use crate::served::{Served, Wait};
use crate::wire::Parsed;
use crate::wire::bounds;
use crate::wire::common::{
    AnswerFields, ChunkUsage, Delivery, Entries, Envelope, Extras, Integer, List, Object,
    WireUsage, finish_reason, to_json, token_ids_of,
};
use crate::wire::error::Dialect;
use crate::wire::form::FormFields;
use crate::wire::known::{Endpoint, Groups, ignored, refuse};
use crate::wire::loading::waiting;
use crate::wire::logprobs::{ChatLogprobs, PromptLogprobs, name_by_ids};
use crate::wire::messages::{WireMessage, conversation};
use crate::wire::parameters::{SamplingFields, SteeringFields, check_prompt_logprobs, copies};
use crate::wire::reasoning::ReasoningFields;
use crate::wire::timings::{progressed, timed};
use crate::wire::tools::{AnswerCall, ChunkCall, ToolFields};
use phi4d_generate::{
    Answer, CallDelta, Chat, Choices, Ending, Finished, Prompt, PromptProgress, Request, TextDelta,
    ToolCall, Usage,
};

/// Answers a conversation.
pub(crate) async fn create(call: Call<'_>) -> Result<Reply, ApiError> {
    let Call { app, request, exchange, .. } = call;
    let parse = |body: Value| ChatRequest::parse(&body);
    let (index, chat) = asked(app, request, exchange, parse, |chat| chat.parsed.asks()).await?;
    let object = match chat.parsed.delivery {
        Delivery::Whole => ChatCompletion::OBJECT,
        Delivery::Stream { .. } => ChatChunk::OBJECT,
    };
    let renderer = ChatRenderer {
        envelope: envelope(app, chat.parsed.model.clone(), "chatcmpl", object),
        extras: chat.extras,
        reasoning: chat.include_reasoning,
        prompt: None,
    };
    answer_by(app, index, chat.parsed, exchange, renderer).await
}

/// A checked chat request, ready for `generate`.
#[derive(Debug)]
pub(crate) struct ChatRequest {
    pub(crate) parsed: Parsed,
    pub(crate) extras: Extras,
    /// Whether the answer shows reasoning that is separate from its text.
    pub(crate) include_reasoning: bool,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct ChatFields {
    model: Option<String>,
    messages: Option<List<Object<WireMessage>, { bounds::MESSAGES }>>,
    logprobs: Option<bool>,
    top_logprobs: Option<Integer>,
    n: Option<Integer>,
    add_generation_prompt: Option<bool>,
    continue_final_message: Option<bool>,
    chat_template_kwargs: Option<Entries<Value, { bounds::VARIABLES }>>,
}

type AllFields = (
    SamplingFields,
    SteeringFields,
    FormFields,
    ChatFields,
    ToolFields,
    ReasoningFields,
    AnswerFields,
);

impl ChatRequest {
    /// Reads a request's JSON.
    ///
    /// # Errors
    /// A 400 that names the first field at fault.
    pub(crate) fn parse(body: &Value) -> Result<Self, ApiError> {
        let (sampling, steering, form, fields, tools, reasoning, answer) = AllFields::read(body)?;
        refuse(body, Endpoint::Chat)?;
        let mut parameters = sampling.parameters()?;
        steering.steer(&mut parameters)?;
        parameters.constraint = form.constraint()?;
        parameters.top_logprobs = top_logprobs(fields.logprobs, fields.top_logprobs)?;
        let extras = answer.extras(parameters.top_logprobs.is_some())?;
        let delivery = extras.delivery;
        check_prompt_logprobs(&parameters, delivery)?;
        let ending = ending(fields.add_generation_prompt, fields.continue_final_message)?;
        let (reasoning, include_reasoning) = reasoning.reasoning()?;
        let chat = Chat {
            messages: conversation(fields.messages, ending)?,
            ending,
            variables: fields.chat_template_kwargs.map(Entries::into_map).unwrap_or_default(),
            tools: tools.tools()?,
            reasoning,
        };
        let request = Request {
            prompts: vec![Prompt::Chat(chat)],
            copies: copies(fields.n, None)?,
            parameters,
            ..Request::default()
        };
        let ignored = ignored(body, &AllFields::names(), Endpoint::Chat)?.names;
        Ok(Self {
            parsed: Parsed { model: fields.model, request, delivery, ignored },
            include_reasoning,
            extras,
        })
    }
}

fn ending(add: Option<bool>, go_on: Option<bool>) -> Result<Ending, ApiError> {
    match (add, go_on) {
        (Some(true), Some(true)) => Err(ApiError::invalid_value(
            "continue_final_message",
            true,
            "false where add_generation_prompt is true",
        )),
        (_, Some(true)) => Ok(Ending::Open),
        (Some(false), _) => Ok(Ending::Closed),
        _ => Ok(Ending::ModelTurn),
    }
}

fn top_logprobs(asked: Option<bool>, top: Option<Integer>) -> Result<Option<u64>, ApiError> {
    match (asked, top) {
        (Some(true), None) => Ok(Some(0)),
        (Some(true), Some(top)) => top.fit("top_logprobs", "an integer from 0 to 20").map(Some),
        (_, None) => Ok(None),
        (_, Some(top)) => {
            Err(top.refused("top_logprobs", "it only together with \"logprobs\": true"))
        }
    }
}

/// The fields that are read, for the OpenAPI document.
#[cfg(test)]
pub(crate) fn field_schemas(generator: &mut schemars::SchemaGenerator) -> Vec<schemars::Schema> {
    AllFields::schemas(generator)
}

/// `chat.completion`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ChatCompletion<'a> {
    #[serde(flatten)]
    envelope: &'a Envelope,
    choices: Vec<Choice>,
    usage: WireUsage,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<&'a [u32]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<PromptLogprobs>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Choice {
    index: usize,
    message: AnswerMessage,
    logprobs: Option<ChatLogprobs>,
    finish_reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct AnswerMessage {
    role: &'static str,
    /// Null where there is nothing but calls.
    content: Option<String>,
    refusal: Option<()>,
    #[serde(flatten)]
    thought: Option<Thought>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<AnswerCall>,
}

/// The model's thought under both names that clients know it by.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Thought {
    reasoning_content: String,
    reasoning: String,
}

impl Thought {
    fn of(text: String) -> Option<Self> {
        (!text.is_empty()).then(|| Self { reasoning_content: text.clone(), reasoning: text })
    }
}

impl AnswerMessage {
    fn of(text: String, reasoning: String, calls: Vec<ToolCall>) -> Self {
        Self {
            role: "assistant",
            content: Some(text).filter(|text| !text.is_empty() || calls.is_empty()),
            refusal: None,
            thought: Thought::of(reasoning),
            tool_calls: calls.into_iter().map(AnswerCall::from).collect(),
        }
    }
}

impl<'a> ChatCompletion<'a> {
    pub(crate) const OBJECT: &'static str = "chat.completion";

    /// `prompt` is given if token ids are wanted.
    pub(crate) fn new(
        envelope: &'a Envelope,
        answers: Vec<Answer>,
        usage: Usage,
        logprobs: bool,
        prompt: Option<&'a [u32]>,
    ) -> Self {
        let choice = |(index, answer): (usize, Answer)| Choice {
            index,
            logprobs: logprobs.then(|| ChatLogprobs::new(&answer.tokens)),
            token_ids: prompt.map(|_| token_ids_of(&answer.tokens)),
            message: AnswerMessage::of(answer.text, answer.reasoning, answer.calls),
            finish_reason: finish_reason(answer.finished.reason),
        };
        // Empty where they were not asked for: a chat's prompt is never empty.
        let read = answers.first().map(|answer| answer.prompt.as_slice()).unwrap_or_default();
        Self {
            envelope,
            prompt_logprobs: (!read.is_empty()).then(|| PromptLogprobs::new(read)),
            choices: answers.into_iter().enumerate().map(choice).collect(),
            usage: usage.into(),
            prompt_token_ids: prompt,
        }
    }
}

/// `chat.completion.chunk`.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ChatChunk<'a> {
    #[serde(flatten)]
    envelope: &'a Envelope,
    /// One, or none in the chunk that brings the usage.
    choices: Vec<ChunkChoice>,
    #[serde(skip_serializing_if = "ChunkUsage::is_not_asked")]
    usage: ChunkUsage,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<&'a [u32]>,
}

#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct ChunkChoice {
    index: usize,
    delta: DeltaMessage,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
}

#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct DeltaMessage {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(flatten)]
    thought: Option<Thought>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[ChunkCall; 1]>,
}

impl DeltaMessage {
    /// A piece of an answer: of a tool call, of reasoning or of text.
    fn of(text: String, reasoning: String, call: Option<CallDelta>) -> Self {
        let thought = Thought::of(reasoning);
        let content = (call.is_none() && thought.is_none()).then_some(text);
        let tool_calls = call.map(|piece| [ChunkCall::from(piece)]);
        Self { role: None, content, thought, tool_calls }
    }
}

impl ChatChunk<'_> {
    pub(crate) const OBJECT: &'static str = "chat.completion.chunk";
}

struct ChatRenderer {
    envelope: Envelope,
    extras: Extras,
    /// Whether the answer shows reasoning that is separate from its text.
    reasoning: bool,
    /// The prompt's token ids, if they are wanted.
    prompt: Option<Vec<u32>>,
}

impl ChatRenderer {
    /// A chunk with a part of an answer, when `usage` is what was used so far.
    fn chunk(&self, choice: ChunkChoice, usage: Usage) -> ChatChunk<'_> {
        let usage = self.extras.delivery.chunk_usage(usage);
        ChatChunk { envelope: &self.envelope, choices: vec![choice], usage, prompt_token_ids: None }
    }
}

impl Renderer for ChatRenderer {
    const FORMAT: Format = Format::Events;
    const DIALECT: Dialect = Dialect::OpenAi;

    fn waiting(&mut self, wait: Wait, time: Duration) -> String {
        event(&waiting(&self.chunk(ChunkChoice::default(), Usage::default()), wait, time))
    }

    fn begin(&mut self, _served: &Served, choices: &Choices) {
        if self.extras.token_ids {
            self.prompt = choices.prompts().next().map(<[u32]>::to_vec);
        }
    }

    fn complete(&mut self, mut answers: Vec<Answer>, usage: Usage) -> String {
        if !self.reasoning {
            answers.iter_mut().for_each(|answer| answer.reasoning.clear());
        }
        if self.extras.names_by_id {
            answers.iter_mut().for_each(|answer| name_by_ids(&mut answer.tokens));
        }
        let prompt = self.prompt.as_deref();
        let body =
            ChatCompletion::new(&self.envelope, answers, usage, self.extras.logprobs, prompt);
        timed(&body, usage, self.extras.timings)
    }

    fn start(&mut self, index: usize, usage: Usage) -> String {
        let content = Some(String::new());
        let delta = DeltaMessage { role: Some("assistant"), content, ..DeltaMessage::default() };
        let chunk = self.chunk(ChunkChoice { index, delta, ..ChunkChoice::default() }, usage);
        event(&to_json(&ChatChunk { prompt_token_ids: self.prompt.as_deref(), ..chunk }))
    }

    fn progress(&mut self, index: usize, progress: PromptProgress, usage: Usage) -> String {
        let chunk = self.chunk(ChunkChoice { index, ..ChunkChoice::default() }, usage);
        event(&progressed(&chunk, progress))
    }

    fn piece(&mut self, index: usize, mut delta: TextDelta, usage: Usage) -> String {
        if !self.reasoning {
            delta.reasoning.clear();
        }
        if self.extras.names_by_id {
            name_by_ids(&mut delta.tokens);
        }
        let Extras { logprobs, token_ids, timings, .. } = self.extras;
        let says_nothing =
            delta.text.is_empty() && delta.reasoning.is_empty() && delta.call.is_none();
        if says_nothing && (delta.tokens.is_empty() || !(logprobs || token_ids)) {
            return String::new();
        }
        let choice = ChunkChoice {
            index,
            logprobs: logprobs.then(|| ChatLogprobs::new(&delta.tokens)),
            token_ids: token_ids.then(|| token_ids_of(&delta.tokens)),
            delta: DeltaMessage::of(delta.text, delta.reasoning, delta.call),
            finish_reason: None,
        };
        event(&timed(&self.chunk(choice, usage), usage, timings))
    }

    fn end(&mut self, index: usize, finished: Finished, usage: Usage) -> String {
        let finish_reason = Some(finish_reason(finished.reason));
        let choice = ChunkChoice { index, finish_reason, ..ChunkChoice::default() };
        event(&timed(&self.chunk(choice, usage), usage, self.extras.timings))
    }

    fn close(&mut self, usage: Usage) -> String {
        if !self.extras.delivery.includes_usage() {
            return end_of_events(None);
        }
        let usage = ChunkUsage::Known(usage.into());
        let last = ChatChunk {
            envelope: &self.envelope,
            choices: Vec::new(),
            usage,
            prompt_token_ids: None,
        };
        end_of_events(Some(&to_json(&last)))
    }
}

#[cfg(test)]
mod tests;
