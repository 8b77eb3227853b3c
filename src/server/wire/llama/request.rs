//! Requests of `/completion` and `/infill`.

use serde::Deserialize;
use serde_json::Value;

use crate::error::ApiError;
use crate::wire::common::{Delivery, Integer, List, Object, TextOr};
use crate::wire::form::FormFields;
use crate::wire::known::{Endpoint, Groups, ignored, refuse};
use crate::wire::parameters::{SamplingFields, SteeringFields, max_tokens, token_ids};
use crate::wire::{Parsed, bounds};
use phi4d_generate::{ParameterNames, Prompt, Request};

const NAMES: ParameterNames = ParameterNames {
    max_tokens: "n_predict",
    repetition_penalty: "repeat_penalty",
    ..ParameterNames::OPENAI
};

/// Which endpoint it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Completion,
    Infill,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct TextFields {
    model: Option<String>,
    /// A text or token ids; of `/infill` the text between prefix and gap.
    prompt: Option<Text>,
    n_predict: Option<Integer>,
    n_probs: Option<Integer>,
    stream: Option<bool>,
    input_prefix: Option<String>,
    input_suffix: Option<String>,
    input_extra: Option<List<Object<Extra>, { bounds::EXTRAS }>>,
    response_fields: Option<List<String, { bounds::INCLUDED }>>,
    // How llama.cpp runs it, and what it saves by that.
    #[serde(rename = "id_slot")]
    _id_slot: Option<Value>,
    #[serde(rename = "n_keep")]
    _n_keep: Option<Value>,
    #[serde(rename = "n_cache_reuse")]
    _n_cache_reuse: Option<Value>,
    #[serde(rename = "n_indent")]
    _n_indent: Option<Value>,
    #[serde(rename = "samplers")]
    _samplers: Option<Value>,
    #[serde(rename = "t_max_prompt_ms")]
    _t_max_prompt_ms: Option<Value>,
    #[serde(rename = "t_max_predict_ms")]
    _t_max_predict_ms: Option<Value>,
    #[serde(rename = "return_tokens")]
    _return_tokens: Option<bool>,
    #[serde(rename = "timings_per_token")]
    _timings_per_token: Option<bool>,
}

/// A text from elsewhere, such as another file of the project.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Extra {
    filename: Option<String>,
    text: Option<String>,
}

type AllFields = (SamplingFields, SteeringFields, FormFields, TextFields);

/// `POST /completion` or `POST /infill`.
#[derive(Debug)]
pub(crate) struct LlamaRequest {
    pub(crate) parsed: Parsed,
    /// Only these fields of the answer are wanted, if any are named.
    pub(crate) response_fields: Vec<String>,
    /// Nothing is to be shown: the request only brings the prompt into the cache.
    pub(crate) prompt_only: bool,
}

/// The fields that are read, for the OpenAPI document.
#[cfg(test)]
pub(crate) fn field_schemas(generator: &mut schemars::SchemaGenerator) -> Vec<schemars::Schema> {
    AllFields::schemas(generator)
}

impl LlamaRequest {
    /// Reads the JSON of a request for a completion.
    ///
    /// # Errors
    /// A 400 that names the first field at fault.
    pub(crate) fn completion(body: &Value) -> Result<Self, ApiError> {
        Self::parse(body, Kind::Completion)
    }

    /// Reads the JSON of a request to fill a gap.
    ///
    /// # Errors
    /// A 400 that names the first field at fault.
    pub(crate) fn infill(body: &Value) -> Result<Self, ApiError> {
        Self::parse(body, Kind::Infill)
    }

    fn parse(body: &Value, kind: Kind) -> Result<Self, ApiError> {
        let (sampling, steering, form, fields) = AllFields::read(body)?;
        refuse(body, Endpoint::Text)?;
        let mut parameters = sampling.parameters()?;
        steering.steer(&mut parameters)?;
        if parameters.prompt_logprobs.is_some() {
            return Err(ApiError::unsupported("prompt_logprobs", "a number", "null"));
        }
        parameters.constraint = form.constraint()?;
        parameters.names = NAMES;
        // Negative: as many as fit, which is what is generated where nothing is said, too.
        let wanted = fields.n_predict.filter(|count| !count.is_negative());
        let prompt_only = wanted.is_some_and(Integer::is_zero);
        if prompt_only {
            // One is generated, since the prompt is read for it, and it is not shown.
            parameters.max_tokens = Some(1);
        } else if let Some(count) = wanted {
            parameters.max_tokens = Some(max_tokens(NAMES.max_tokens, count)?);
        }
        if let Some(count) = fields.n_probs.filter(|count| !count.is_zero()) {
            let accepted = "0; /v1/completions has log-probabilities";
            return Err(ApiError::unsupported(
                "n_probs",
                count.fit::<i64>("n_probs", accepted)?,
                accepted,
            ));
        }
        let prompt = match kind {
            Kind::Completion => completed(fields.prompt)?,
            Kind::Infill => filled(&fields)?,
        };
        let request = Request { prompts: vec![prompt], parameters, ..Request::default() };
        let delivery = Delivery::of(fields.stream == Some(true));
        let ignored = ignored(body, &AllFields::names(), Endpoint::Text)?.names;
        Ok(Self {
            parsed: Parsed { model: fields.model, request, delivery, ignored },
            response_fields: fields.response_fields.map_or_else(Vec::new, |List(names)| names),
            prompt_only,
        })
    }
}

const PROMPT: &str = "a text or a list of token ids";

type Text = TextOr<Integer, { bounds::TOKEN_IDS }>;

fn completed(prompt: Option<Text>) -> Result<Prompt, ApiError> {
    match prompt {
        None => Err(ApiError::missing("prompt", PROMPT)),
        // As llama.cpp has it, text that spells a special token becomes that token.
        Some(TextOr::Text(text)) => Ok(Prompt::Text { text, parse_special: true }),
        Some(TextOr::List(ids)) if ids.is_empty() => {
            Err(ApiError::invalid_value("prompt", "[]", PROMPT))
        }
        Some(TextOr::List(ids)) => token_ids("prompt", ids).map(Prompt::Tokens),
    }
}

/// The texts around the gap. Those from elsewhere come first, each under its file's name.
fn filled(fields: &TextFields) -> Result<Prompt, ApiError> {
    let mut before = String::new();
    for Object(extra) in fields.input_extra.iter().flat_map(|List(extras)| extras) {
        let name = extra.filename.as_deref().unwrap_or("unnamed");
        before.push_str(&format!("# {name}\n{}\n\n", extra.text.as_deref().unwrap_or_default()));
    }
    let Some(prefix) = &fields.input_prefix else {
        return Err(ApiError::missing("input_prefix", "the text before the gap"));
    };
    before.push_str(prefix);
    match &fields.prompt {
        None => {}
        Some(TextOr::Text(text)) => before.push_str(text),
        Some(TextOr::List(_)) => {
            return Err(ApiError::invalid_value("prompt", "a list", "a text"));
        }
    }
    let Some(after) = fields.input_suffix.clone() else {
        return Err(ApiError::missing("input_suffix", "the text after the gap"));
    };
    Ok(Prompt::Fill { before, after })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn editors_requests_arrive() {
        let body = json!({
            "id_slot": 0, "input_prefix": "a\n", "input_suffix": "\nc", "prompt": "b",
            "input_extra": [{"filename": "x.rs", "text": "fn x() {}"}], "n_predict": 128,
            "n_indent": 4, "top_k": 40, "top_p": 0.9, "stream": false, "cache_prompt": true,
            "samplers": ["top_k", "infill"], "t_max_prompt_ms": 500, "t_max_predict_ms": 1000,
            "response_fields": ["content"], "strict": true
        });
        let asked = LlamaRequest::infill(&body).unwrap();
        let before = "# x.rs\nfn x() {}\n\na\nb".to_owned();
        assert_eq!(
            asked.parsed.request.prompts,
            [Prompt::Fill { before, after: "\nc".to_owned() }]
        );
        assert_eq!(asked.parsed.request.parameters.max_tokens, Some(128));
        assert_eq!(asked.response_fields, ["content"]);
    }

    #[test]
    fn counts_of_tokens_are_llama_cpps() {
        for (given, wanted, prompt_only) in [
            (json!(null), None, false),
            (json!(-1), None, false),
            (json!(-2), None, false),
            (json!(0), Some(1), true),
            (json!(7), Some(7), false),
        ] {
            let asked =
                LlamaRequest::completion(&json!({"prompt": "a", "n_predict": given})).unwrap();
            assert_eq!(asked.parsed.request.parameters.max_tokens, wanted, "{given}");
            assert_eq!(asked.prompt_only, prompt_only, "{given}");
        }
    }

    #[test]
    fn faults_name_their_field() {
        for (body, kind, field) in [
            (json!({}), Kind::Completion, "prompt"),
            (json!({"prompt": []}), Kind::Completion, "prompt"),
            (json!({"prompt": [1, -1]}), Kind::Completion, "prompt[1]"),
            (json!({"prompt": "a", "n_predict": "x"}), Kind::Completion, "n_predict"),
            (json!({"prompt": "a", "n_probs": 3}), Kind::Completion, "n_probs"),
            (json!({"prompt": "a", "prompt_logprobs": 3}), Kind::Completion, "prompt_logprobs"),
            (json!({"input_suffix": "a"}), Kind::Infill, "input_prefix"),
            (json!({"input_prefix": "a"}), Kind::Infill, "input_suffix"),
            (
                json!({"input_prefix": "a", "input_suffix": "b", "prompt": [1]}),
                Kind::Infill,
                "prompt",
            ),
        ] {
            let error = LlamaRequest::parse(&body, kind).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(field), "{body}: {}", error.message);
        }
    }
}
