//! `POST /v1/completions`.

mod handler;

pub(crate) use handler::create;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::ApiError;
use crate::wire::Parsed;
use crate::wire::bounds;
use crate::wire::common::{
    AnswerFields, ChunkUsage, Delivery, Envelope, Extras, Integer, TextOr, WireUsage,
    finish_reason, token_ids_of,
};
use crate::wire::form::FormFields;
use crate::wire::known::{Endpoint, Groups, ignored, refuse};
use crate::wire::logprobs::{CompletionLogprobs, PromptLogprobs};
use crate::wire::parameters::{SamplingFields, SteeringFields, check_prompt_logprobs, copies};
use crate::wire::texts::texts;
use phi4d_generate::{Finish, Prompt, PromptToken, Request, TextDelta, Usage};

/// The API's own default, unlike chat's.
const DEFAULT_MAX_TOKENS: u64 = 16;

/// Most alternatives to a token that this API reports.
const MAX_LOGPROBS: u64 = 5;

/// A checked completion request, ready for `generate`.
#[derive(Debug)]
pub(crate) struct CompletionRequest {
    pub(crate) parsed: Parsed,
    /// Whether answers begin with their prompt.
    pub(crate) echo: bool,
    /// Whether the prompts' log-probabilities are wanted by themselves.
    pub(crate) prompt_logprobs: bool,
    /// The answer is the prompt alone (`max_tokens` of 0 with `echo`).
    pub(crate) prompt_only: bool,
    pub(crate) extras: Extras,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct CompletionFields {
    model: Option<String>,
    #[cfg_attr(test, schemars(with = "Option<PromptShape>"))]
    prompt: Option<Value>,
    parse_special: Option<bool>,
    logprobs: Option<Integer>,
    n: Option<Integer>,
    best_of: Option<Integer>,
    echo: Option<bool>,
    suffix: Option<String>,
}

/// The shape of `prompt`, which [`prompts`] reads.
#[cfg(test)]
pub(super) struct PromptShape;

type AllFields = (SamplingFields, SteeringFields, FormFields, CompletionFields, AnswerFields);

impl CompletionRequest {
    /// Reads a request's JSON.
    ///
    /// # Errors
    /// A 400 that names the first field at fault.
    pub(crate) fn parse(body: &Value) -> Result<Self, ApiError> {
        let (mut sampling, steering, form, fields, answer) = AllFields::read(body)?;
        refuse(body, Endpoint::Text)?;
        let echo = fields.echo.unwrap_or(false);
        let prompt_only = echo && sampling.take_zero();
        let asks_for_all = sampling.asks_for_all();
        let mut parameters = sampling.parameters()?;
        steering.steer(&mut parameters)?;
        parameters.constraint = form.constraint()?;
        if prompt_only {
            // One is generated, since the prompt is read for it, and it is not shown.
            parameters.max_tokens = Some(1);
        } else if !asks_for_all {
            parameters.max_tokens.get_or_insert(DEFAULT_MAX_TOKENS);
        }
        parameters.top_logprobs = fields.logprobs.map(logprobs).transpose()?;
        let copies = copies(fields.n, fields.best_of)?;
        let extras = answer.extras(parameters.top_logprobs.is_some())?;
        let delivery = extras.delivery;
        if delivery != Delivery::Whole && copies.made > copies.wanted {
            let accepted = format!("n ({}) in a stream", copies.wanted);
            return Err(ApiError::invalid_value("best_of", copies.made, &accepted));
        }
        check_prompt_logprobs(&parameters, delivery)?;
        let prompt_logprobs = parameters.prompt_logprobs.is_some();
        if let (true, Some(count)) = (echo, parameters.top_logprobs) {
            if delivery != Delivery::Whole {
                let accepted = "echo without logprobs in a stream";
                return Err(ApiError::unsupported("echo", "true with logprobs", accepted));
            }
            let asked = parameters.prompt_logprobs.unwrap_or(0);
            parameters.prompt_logprobs = Some(asked.max(count));
        }
        let mut prompts = prompts(fields.prompt, fields.parse_special.unwrap_or(false))?;
        if let Some(suffix) = fields.suffix.filter(|suffix| !suffix.is_empty()) {
            prompts = prompts.into_iter().map(|p| filled(p, &suffix)).collect::<Result<_, _>>()?;
        }
        let request = Request { prompts, copies, parameters, ..Request::default() };
        let ignored = ignored(body, &AllFields::names(), Endpoint::Text)?.names;
        Ok(Self {
            parsed: Parsed { model: fields.model, request, delivery, ignored },
            echo,
            prompt_only,
            prompt_logprobs,
            extras,
        })
    }
}

/// A request to fill the gap between `prompt` and `suffix`.
fn filled(prompt: Prompt, suffix: &str) -> Result<Prompt, ApiError> {
    match prompt {
        Prompt::Text { text, parse_special: false } => {
            Ok(Prompt::Fill { before: text, after: suffix.to_owned() })
        }
        _ => Err(ApiError::unsupported(
            "suffix",
            "a text beside token ids or parse_special",
            "null, or a text beside a prompt of plain text",
        )),
    }
}

fn logprobs(given: Integer) -> Result<u64, ApiError> {
    const ACCEPTED: &str = "an integer from 0 to 5";
    let count = given.fit("logprobs", ACCEPTED)?;
    if count > MAX_LOGPROBS {
        return Err(given.refused("logprobs", ACCEPTED));
    }
    Ok(count)
}

fn prompts(given: Option<Value>, parse_special: bool) -> Result<Vec<Prompt>, ApiError> {
    let (_, texts) = texts("prompt", given, bounds::PROMPTS)?;
    let prompt = |given| match given {
        TextOr::Text(text) => Prompt::Text { text, parse_special },
        TextOr::List(ids) => Prompt::Tokens(ids),
    };
    Ok(texts.into_iter().map(prompt).collect())
}

/// `text_completion`, whole or a chunk of one.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Completion<'a> {
    #[serde(flatten)]
    envelope: &'a Envelope,
    /// One, or none in the chunk that brings the usage.
    choices: Vec<Choice>,
    #[serde(skip_serializing_if = "ChunkUsage::is_not_asked")]
    usage: ChunkUsage,
}

#[derive(Debug, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Choice {
    text: String,
    index: usize,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_ids: Option<Vec<u32>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_logprobs: Option<PromptLogprobs>,
}

/// A piece of answer `index`, or the whole.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    pub(crate) index: usize,
    pub(crate) delta: TextDelta,
    pub(crate) finish: Option<Finish>,
    /// The prompt's ids where the answer begins, if token ids are wanted.
    pub(crate) prompt_token_ids: Option<Vec<u32>>,
    /// The prompt's tokens, if the answer begins with them and their log-probabilities are wanted.
    pub(crate) echoed: Vec<PromptToken>,
    /// The prompt's log-probabilities by themselves.
    pub(crate) prompt_logprobs: Option<PromptLogprobs>,
}

impl Piece {
    /// `offset`, if log-probabilities are asked for, counts the characters so far and is moved on.
    fn choice(self, offset: Option<&mut usize>, token_ids: bool) -> Choice {
        Choice {
            index: self.index,
            logprobs: offset.map(|offset| {
                let echoed = self.echoed.iter().map(|prompt| &prompt.token);
                CompletionLogprobs::new(echoed.chain(&self.delta.tokens), offset)
            }),
            prompt_logprobs: self.prompt_logprobs,
            token_ids: token_ids.then(|| token_ids_of(&self.delta.tokens)),
            prompt_token_ids: self.prompt_token_ids,
            text: self.delta.text,
            finish_reason: self.finish.map(finish_reason),
        }
    }
}

impl<'a> Completion<'a> {
    pub(crate) const OBJECT: &'static str = "text_completion";

    pub(crate) fn whole(
        envelope: &'a Envelope,
        pieces: Vec<Piece>,
        usage: Usage,
        [logprobs, token_ids]: [bool; 2],
    ) -> Self {
        let choices = pieces
            .into_iter()
            .map(|piece| piece.choice(logprobs.then_some(&mut 0), token_ids))
            .collect();
        Self { envelope, choices, usage: ChunkUsage::Known(WireUsage::from(usage)) }
    }

    /// A chunk. `offset`, if log-probabilities are asked for, counts the answer's characters so
    /// far and is moved on.
    pub(crate) fn chunk(
        envelope: &'a Envelope,
        usage: ChunkUsage,
        piece: Piece,
        offset: Option<&mut usize>,
        token_ids: bool,
    ) -> Self {
        Self { envelope, choices: vec![piece.choice(offset, token_ids)], usage }
    }

    pub(crate) fn usage(envelope: &'a Envelope, usage: Usage) -> Self {
        let usage = ChunkUsage::Known(WireUsage::from(usage));
        Self { envelope, choices: Vec::new(), usage }
    }
}

/// The fields that are read, for the OpenAPI document.
#[cfg(test)]
pub(crate) fn field_schemas(generator: &mut schemars::SchemaGenerator) -> Vec<schemars::Schema> {
    AllFields::schemas(generator)
}

#[cfg(test)]
mod tests;
