//! `POST /v1/completions`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::common::{
    ChunkUsage, Delivery, Envelope, Integer, List, StreamFields, WireUsage, finish_reason,
    read_fields, shown,
};
use super::logprobs::CompletionLogprobs;
use super::sampling::{GivenNames, SamplingFields, token_ids};
use super::steering::SteeringFields;
use super::unsupported;
use crate::generate::{Answer, Finished, Parameters, Prompt, TextDelta};
use crate::server::error::ApiError;

/// The API's own default, unlike chat's.
const DEFAULT_MAX_TOKENS: u64 = 16;

/// Most alternatives to a token that this API reports.
const MAX_LOGPROBS: u64 = 5;

const PROMPT: &str = "a string, a list of token ids, or a list with one of either";

/// A checked completion request, ready for `generate`.
#[derive(Debug)]
pub(crate) struct CompletionRequest {
    pub(crate) model: Option<String>,
    pub(crate) prompt: Prompt,
    pub(crate) parameters: Parameters,
    pub(crate) names: GivenNames,
    pub(crate) delivery: Delivery,
}

#[derive(Debug, Deserialize)]
struct CompletionFields {
    model: Option<String>,
    prompt: Option<Value>,
    parse_special: Option<bool>,
    logprobs: Option<Integer>,
}

impl CompletionRequest {
    /// Reads a request's JSON.
    ///
    /// # Errors
    /// A 400 that names the first field at fault.
    pub(crate) fn parse(body: &Value) -> Result<Self, ApiError> {
        let sampling: SamplingFields = read_fields(body)?;
        let steering: SteeringFields = read_fields(body)?;
        let fields: CompletionFields = read_fields(body)?;
        let stream: StreamFields = read_fields(body)?;
        unsupported::check_completions(body)?;
        let names = sampling.given_names();
        let mut parameters = sampling.parameters()?;
        steering.steer(&mut parameters)?;
        parameters.max_tokens.get_or_insert(DEFAULT_MAX_TOKENS);
        parameters.top_logprobs = fields.logprobs.map(logprobs).transpose()?;
        Ok(Self {
            model: fields.model,
            prompt: prompt(fields.prompt, fields.parse_special.unwrap_or(false))?,
            parameters,
            names,
            delivery: stream.delivery()?,
        })
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

fn prompt(given: Option<Value>, parse_special: bool) -> Result<Prompt, ApiError> {
    match given {
        None => Err(ApiError::missing("prompt", PROMPT)),
        Some(Value::Array(mut items)) => match items.as_mut_slice() {
            [] => Err(ApiError::invalid_value("prompt", "[]", PROMPT)),
            [only @ (Value::String(_) | Value::Array(_))] => {
                single("prompt[0]", only.take(), parse_special)
            }
            [Value::String(_) | Value::Array(_), ..] => Err(ApiError::unsupported(
                "prompt",
                format_args!("a list of {} prompts", items.len()),
                "one prompt a request",
            )),
            _ => single("prompt", Value::Array(items), parse_special),
        },
        Some(other) => single("prompt", other, parse_special),
    }
}

/// One prompt: text or token ids.
fn single(field: &str, given: Value, parse_special: bool) -> Result<Prompt, ApiError> {
    match given {
        Value::String(text) => Ok(Prompt::Text { text, parse_special }),
        Value::Array(items) if items.is_empty() => {
            Err(ApiError::invalid_value(field, "[]", PROMPT))
        }
        Value::Array(items) => {
            let ids = items
                .into_iter()
                .enumerate()
                .map(|(index, item)| {
                    serde_json::from_value::<Integer>(item).map_err(|error| {
                        ApiError::invalid_type(&format!("{field}[{index}]"), &error.to_string())
                    })
                })
                .collect::<Result<_, _>>()?;
            token_ids(field, Some(List(ids))).map(Prompt::Tokens)
        }
        other => {
            let reason = format!("{} is not accepted; expected {PROMPT}", shown(&other));
            Err(ApiError::invalid_type(field, &reason))
        }
    }
}

/// `text_completion`, whole or a chunk of one.
#[derive(Debug, Serialize)]
pub(crate) struct Completion<'a> {
    #[serde(flatten)]
    envelope: &'a Envelope,
    /// One, or none in the chunk that brings the usage.
    choices: Vec<Choice>,
    #[serde(skip_serializing_if = "ChunkUsage::is_not_asked")]
    usage: ChunkUsage,
}

#[derive(Debug, Serialize)]
struct Choice {
    text: String,
    index: u32,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<&'static str>,
}

impl<'a> Completion<'a> {
    pub(crate) const OBJECT: &'static str = "text_completion";

    pub(crate) fn whole(envelope: &'a Envelope, answer: Answer, logprobs: bool) -> Self {
        let choice = Choice {
            text: answer.text,
            index: 0,
            logprobs: logprobs.then(|| CompletionLogprobs::new(&answer.tokens, &mut 0)),
            finish_reason: Some(finish_reason(answer.finished.reason)),
        };
        let usage = WireUsage::from(answer.finished.usage);
        Self { envelope, choices: vec![choice], usage: ChunkUsage::Known(usage) }
    }

    /// A chunk with text. `offset`, if log-probabilities are asked for, counts the characters
    /// so far and is moved on.
    pub(crate) fn text(
        envelope: &'a Envelope,
        usage: ChunkUsage,
        delta: TextDelta,
        offset: Option<&mut usize>,
    ) -> Self {
        let choice = Choice {
            text: delta.text,
            index: 0,
            logprobs: offset.map(|offset| CompletionLogprobs::new(&delta.tokens, offset)),
            finish_reason: None,
        };
        Self { envelope, choices: vec![choice], usage }
    }

    pub(crate) fn end(envelope: &'a Envelope, usage: ChunkUsage, finished: Finished) -> Self {
        let choice = Choice {
            text: String::new(),
            index: 0,
            logprobs: None,
            finish_reason: Some(finish_reason(finished.reason)),
        };
        Self { envelope, choices: vec![choice], usage }
    }

    pub(crate) fn usage(envelope: &'a Envelope, finished: Finished) -> Self {
        Self {
            envelope,
            choices: Vec::new(),
            usage: ChunkUsage::Known(WireUsage::from(finished.usage)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Finish, Usage};
    use crate::server::wire::common::SYSTEM_FINGERPRINT;
    use serde_json::{json, to_value};

    fn prompt_of(prompt: &Value) -> Result<Prompt, ApiError> {
        CompletionRequest::parse(&json!({ "prompt": prompt })).map(|request| request.prompt)
    }

    fn text(text: &str) -> Prompt {
        Prompt::Text { text: text.to_owned(), parse_special: false }
    }

    #[test]
    fn prompts_of_all_forms_arrive() {
        assert_eq!(prompt_of(&json!("a")).unwrap(), text("a"));
        assert_eq!(prompt_of(&json!("")).unwrap(), text(""));
        assert_eq!(prompt_of(&json!(["a"])).unwrap(), text("a"));
        assert_eq!(prompt_of(&json!([1, 2])).unwrap(), Prompt::Tokens(vec![1, 2]));
        assert_eq!(prompt_of(&json!([[1, 2]])).unwrap(), Prompt::Tokens(vec![1, 2]));
        let body = json!({"prompt": "a", "parse_special": true});
        let special = Prompt::Text { text: "a".to_owned(), parse_special: true };
        assert_eq!(CompletionRequest::parse(&body).unwrap().prompt, special);
    }

    #[test]
    fn faulty_prompts_name_the_place() {
        let (value, kind) = ("invalid_value", "invalid_type");
        let table = [
            (json!(null), "prompt", "missing_required_parameter"),
            (json!([]), "prompt", value),
            (json!([[]]), "prompt[0]", value),
            (json!(7), "prompt", kind),
            (json!({"text": "a"}), "prompt", kind),
            (json!([1, "a"]), "prompt[1]", kind),
            (json!([1, 2.5]), "prompt[1]", kind),
            (json!([1, null]), "prompt[1]", kind),
            (json!([null]), "prompt[0]", kind),
            (json!([1, -2]), "prompt[1]", value),
            (json!([[1, 4294967296u64]]), "prompt[0][1]", value),
            (json!(["a", "b"]), "prompt", "unsupported_parameter"),
            (json!([[1], [2]]), "prompt", "unsupported_parameter"),
        ];
        for (given, param, code) in table {
            let error = prompt_of(&given).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(param), "{given}: {}", error.message);
            assert_eq!(error.code, code, "{given}: {}", error.message);
            assert!(error.message.contains("expected ") || code == "unsupported_parameter");
        }
    }

    #[test]
    fn logprobs_are_0_to_5() {
        let parse = |value: Value| {
            CompletionRequest::parse(&json!({"prompt": "a", "logprobs": value}))
                .map(|request| request.parameters.top_logprobs)
        };
        assert_eq!(parse(json!(null)).unwrap(), None);
        assert_eq!(parse(json!(0)).unwrap(), Some(0));
        assert_eq!(parse(json!(5)).unwrap(), Some(5));
        for bad in [json!(6), json!(-1), json!(true), json!(1.0)] {
            assert_eq!(parse(bad).unwrap_err().param.as_deref(), Some("logprobs"));
        }
    }

    #[test]
    fn sixteen_tokens_are_the_default() {
        let limit = |body: Value| CompletionRequest::parse(&body).unwrap().parameters.max_tokens;
        assert_eq!(limit(json!({"prompt": "a"})), Some(16));
        assert_eq!(limit(json!({"prompt": "a", "max_tokens": 3})), Some(3));
    }

    #[test]
    fn the_shapes_are_openais() {
        let envelope = Envelope {
            id: "cmpl-1".to_owned(),
            object: Completion::OBJECT,
            created: 5,
            model: "phi-4".to_owned(),
            system_fingerprint: SYSTEM_FINGERPRINT,
        };
        let finished = Finished { reason: Finish::Stop, usage: Usage::default() };
        let answer = Answer { text: "hi".to_owned(), tokens: Vec::new(), finished };
        let usage = json!({
            "prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0,
            "prompt_tokens_details": {"cached_tokens": 0}
        });
        let whole = to_value(Completion::whole(&envelope, answer, false)).unwrap();
        assert_eq!(whole["object"], "text_completion");
        assert_eq!(whole["usage"], usage);
        let choice = json!([{"text": "hi", "index": 0, "logprobs": null, "finish_reason": "stop"}]);
        assert_eq!(whole["choices"], choice);
        let delta = TextDelta { text: "a".to_owned(), tokens: Vec::new() };
        let chunk = Completion::text(&envelope, ChunkUsage::NotAsked, delta, None);
        let chunk = to_value(chunk).unwrap();
        assert!(chunk.get("usage").is_none());
        assert_eq!(chunk["choices"][0]["finish_reason"], json!(null));
        let last = to_value(Completion::usage(&envelope, finished)).unwrap();
        assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &usage));
    }
}
