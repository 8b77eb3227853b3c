//! The parameters of chat and completion requests: OpenAI's, and those that llama.cpp's and vLLM's
//! servers add, under their names.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::bounds;
use super::common::{Delivery, Entries, Integer, List, Number, TextOr, unknown_word};
use crate::error::ApiError;
use phi4d_generate::{Copies, DryParameters, ParameterNames, Parameters, Side};

/// How to choose tokens and when to stop, under all accepted names.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct SamplingFields {
    max_tokens: Option<Integer>,
    max_completion_tokens: Option<Integer>,
    temperature: Option<Number>,
    top_p: Option<Number>,
    top_k: Option<Integer>,
    min_p: Option<Number>,
    repetition_penalty: Option<Number>,
    repeat_penalty: Option<Number>,
    presence_penalty: Option<Number>,
    frequency_penalty: Option<Number>,
    logit_bias: Option<Entries<Number, { bounds::TOKEN_IDS }>>,
    seed: Option<Integer>,
    stop: Option<TextOr<String, { bounds::STOPS }>>,
    stop_token_ids: Option<List<Integer, { bounds::STOP_TOKEN_IDS }>>,
    ignore_eos: Option<bool>,
    timeout: Option<Number>,
}

const TOKEN_ID: &str = "a token id, an integer of 0 or more";

impl SamplingFields {
    /// The parameters, log-probabilities aside; ranges are `generate`'s to check.
    pub(crate) fn parameters(self) -> Result<Parameters, ApiError> {
        let names = self.names();
        let max_tokens = self.max_tokens()?;
        let repetition_penalty = self.repetition_penalty()?;
        let given = self.logit_bias.map_or_else(Vec::new, |Entries(entries)| entries);
        let (logit_bias, text_bias) = biases(given.into_iter().collect())?;
        Ok(Parameters {
            names,
            max_tokens,
            temperature: self.temperature.map(|n| n.0),
            top_p: self.top_p.map(|n| n.0),
            top_k: self.top_k.map(|k| top_k(names.top_k, k)).transpose()?,
            min_p: self.min_p.map(|n| n.0),
            repetition_penalty,
            presence_penalty: self.presence_penalty.map(|n| n.0),
            frequency_penalty: self.frequency_penalty.map(|n| n.0),
            logit_bias,
            text_bias,
            seed: self.seed.map(|value| seed("seed", value)).transpose()?,
            stop: self.stop.map_or_else(Vec::new, TextOr::into_list),
            stop_token_ids: token_ids(
                "stop_token_ids",
                self.stop_token_ids.into_iter().flat_map(|List(ids)| ids),
            )?,
            ignore_eos: self.ignore_eos.unwrap_or(false),
            timeout: self.timeout.map(timeout).transpose()?,
            ..Parameters::default()
        })
    }

    /// Whether as many tokens as fit are asked for by -1, as llama.cpp's clients do.
    pub(crate) fn asks_for_all(&self) -> bool {
        let all = |given: Option<Integer>| given.is_some_and(Integer::is_minus_one);
        all(self.max_tokens) || all(self.max_completion_tokens)
    }

    /// Whether no token is asked for, which is then forgotten.
    pub(crate) fn take_zero(&mut self) -> bool {
        let is_zero = self.max_tokens.is_some_and(Integer::is_zero);
        if is_zero {
            self.max_tokens = None;
        }
        is_zero
    }

    fn max_tokens(&self) -> Result<Option<u64>, ApiError> {
        let read = |field, given: Option<Integer>| {
            let given = given.filter(|n| !n.is_minus_one());
            given.map(|n| max_tokens(field, n)).transpose()
        };
        let old = read("max_tokens", self.max_tokens)?;
        let new = read("max_completion_tokens", self.max_completion_tokens)?;
        either("max_completion_tokens", "max_tokens", new, old)
    }

    fn repetition_penalty(&self) -> Result<Option<f64>, ApiError> {
        let value = |given: Option<Number>| given.map(|number| number.0);
        either(
            "repeat_penalty",
            "repetition_penalty",
            value(self.repeat_penalty),
            value(self.repetition_penalty),
        )
    }

    /// The names that the client used, for messages about ranges.
    fn names(&self) -> ParameterNames {
        let mut names = ParameterNames::OPENAI;
        if self.max_tokens.is_none() && self.max_completion_tokens.is_some() {
            names.max_tokens = "max_completion_tokens";
        }
        if self.repetition_penalty.is_none() && self.repeat_penalty.is_some() {
            names.repetition_penalty = "repeat_penalty";
        }
        names
    }
}

/// The most tokens of an answer, given by `field`.
pub(super) fn max_tokens(field: &str, given: Integer) -> Result<u64, ApiError> {
    const ACCEPTED: &str = "an integer of 1 or more";
    match given.fit(field, ACCEPTED)? {
        0 => Err(given.refused(field, ACCEPTED)),
        count => Ok(count),
    }
}

pub(super) fn top_k(field: &str, given: Integer) -> Result<i64, ApiError> {
    given.fit(field, "an integer of 64 bits")
}

pub(super) fn seed(field: &str, given: Integer) -> Result<i64, ApiError> {
    given.fit(field, "an integer of 64 bits with its sign")
}

/// One value that may go by two names, not by two values.
fn either<T: PartialEq + Copy + std::fmt::Display>(
    alias: &'static str,
    name: &'static str,
    of_alias: Option<T>,
    of_name: Option<T>,
) -> Result<Option<T>, ApiError> {
    match (of_alias, of_name) {
        (Some(a), Some(b)) if a != b => Err(ApiError::invalid_value(
            alias,
            a,
            &format!("the same as {name}, which is {b}, or only one of them"),
        )),
        (a, b) => Ok(a.or(b)),
    }
}

/// Biases by token id and by text. A key of digits only is an id.
type Biases = (Vec<(u32, f64)>, Vec<(String, f64)>);

fn biases(given: BTreeMap<String, Number>) -> Result<Biases, ApiError> {
    let (mut ids, mut texts) = (Vec::new(), Vec::new());
    for (key, bias) in given {
        let digits = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_digit());
        match key.parse() {
            Ok(token) if digits => ids.push((token, bias.0)),
            _ if digits || key.is_empty() => {
                return Err(ApiError::invalid_value(
                    "logit_bias",
                    format_args!("the key {key:?}"),
                    "a token id as a string of digits, or a text",
                ));
            }
            _ => texts.push((key, bias.0)),
        }
    }
    Ok((ids, texts))
}

/// Token ids that fit their type; whether the model has them is `generate`'s to check.
pub(super) fn token_ids(
    field: &str,
    given: impl IntoIterator<Item = Integer>,
) -> Result<Vec<u32>, ApiError> {
    given
        .into_iter()
        .enumerate()
        .map(|(index, id)| id.fit(&format!("{field}[{index}]"), TOKEN_ID))
        .collect()
}

fn timeout(seconds: Number) -> Result<Duration, ApiError> {
    match Duration::try_from_secs_f64(seconds.0) {
        Ok(timeout) if !timeout.is_zero() => Ok(timeout),
        _ => Err(ApiError::invalid_value("timeout", seconds.0, "a number of seconds above 0")),
    }
}

/// What steers the sampler and the queue.
#[derive(Debug, Clone, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct SteeringFields {
    top_n_sigma: Option<Number>,
    typical_p: Option<Number>,
    xtc_probability: Option<Number>,
    xtc_threshold: Option<Number>,
    dry_multiplier: Option<Number>,
    dry_base: Option<Number>,
    dry_allowed_length: Option<Integer>,
    dry_penalty_last_n: Option<Integer>,
    dry_sequence_breakers: Option<List<String, { bounds::WORDS }>>,
    min_tokens: Option<Integer>,
    bad_words: Option<TextOr<String, { bounds::WORDS }>>,
    allowed_token_ids: Option<List<Integer, { bounds::TOKEN_IDS }>>,
    truncate_prompt_tokens: Option<Integer>,
    truncation_side: Option<String>,
    cache_salt: Option<String>,
    include_stop_str_in_output: Option<bool>,
    skip_special_tokens: Option<bool>,
    prompt_logprobs: Option<Integer>,
    return_progress: Option<bool>,
    priority: Option<Integer>,
}

const COUNT: &str = "an integer of 0 or more";

impl SteeringFields {
    /// Puts what was given into `parameters`; ranges are `generate`'s to check.
    pub(crate) fn steer(self, parameters: &mut Parameters) -> Result<(), ApiError> {
        let number = |given: Option<Number>| given.map(|number| number.0);
        let count = |field, given: Option<Integer>| -> Result<Option<u64>, ApiError> {
            given.map(|integer| integer.fit(field, COUNT)).transpose()
        };
        parameters.top_n_sigma = number(self.top_n_sigma);
        parameters.typical_p = number(self.typical_p);
        parameters.xtc_probability = number(self.xtc_probability);
        parameters.xtc_threshold = number(self.xtc_threshold);
        parameters.dry = DryParameters {
            multiplier: number(self.dry_multiplier),
            base: number(self.dry_base),
            allowed_length: count("dry_allowed_length", self.dry_allowed_length)?,
            penalty_last_n: self
                .dry_penalty_last_n
                .map(|n| n.fit("dry_penalty_last_n", "an integer of at least -1"))
                .transpose()?,
            sequence_breakers: self.dry_sequence_breakers.map(|list| list.0),
        };
        parameters.min_tokens = count("min_tokens", self.min_tokens)?;
        parameters.bad_words = self.bad_words.map_or_else(Vec::new, TextOr::into_list);
        if let Some(List(ids)) = self.allowed_token_ids {
            parameters.allowed_token_ids = Some(token_ids("allowed_token_ids", ids)?);
        }
        parameters.truncate_prompt_tokens =
            self.truncate_prompt_tokens.map(truncation).transpose()?;
        parameters.truncation_side = side(self.truncation_side.as_deref())?;
        parameters.prompt_logprobs = self
            .prompt_logprobs
            .map(|count| count.fit("prompt_logprobs", "an integer from 0 to 20"))
            .transpose()?;
        parameters.progress = self.return_progress == Some(true);
        parameters.include_stop = self.include_stop_str_in_output == Some(true);
        parameters.spell_special = self.skip_special_tokens == Some(false);
        parameters.cache_salt = self.cache_salt.filter(|salt| !salt.is_empty());
        parameters.priority = self
            .priority
            .map_or(Ok(0), |priority| priority.fit("priority", "an integer of 32 bits"))?;
        Ok(())
    }
}

/// A prompt's log-probabilities come with the whole answer only.
pub(super) fn check_prompt_logprobs(
    parameters: &Parameters,
    delivery: Delivery,
) -> Result<(), ApiError> {
    match parameters.prompt_logprobs {
        Some(count) if delivery != Delivery::Whole => {
            Err(ApiError::unsupported("prompt_logprobs", count, "null in a stream"))
        }
        _ => Ok(()),
    }
}

/// How many answers for each prompt.
pub(super) fn copies(n: Option<Integer>, best_of: Option<Integer>) -> Result<Copies, ApiError> {
    const ACCEPTED: &str = "an integer of at least 1";
    let count = |field, given: Option<Integer>| -> Result<Option<usize>, ApiError> {
        match given.map(|count| count.fit(field, ACCEPTED)).transpose()? {
            Some(0) => Err(ApiError::invalid_value(field, 0, ACCEPTED)),
            count => Ok(count),
        }
    };
    let wanted = count("n", n)?.unwrap_or(1);
    let made = count("best_of", best_of)?.unwrap_or(wanted);
    if made < wanted {
        let accepted = format!("at least n, which is {wanted}");
        return Err(ApiError::invalid_value("best_of", made, &accepted));
    }
    Ok(Copies { wanted, made })
}

/// -1 asks for what fits the context.
fn truncation(given: Integer) -> Result<u64, ApiError> {
    const ACCEPTED: &str = "an integer of at least 1, or -1 for the context's size";
    match given.fit::<i64>("truncate_prompt_tokens", ACCEPTED)? {
        -1 => Ok(u64::MAX),
        _ => given.fit("truncate_prompt_tokens", ACCEPTED),
    }
}

fn side(given: Option<&str>) -> Result<Side, ApiError> {
    match given {
        None | Some("left") => Ok(Side::Left),
        Some("right") => Ok(Side::Right),
        other => Err(unknown_word("truncation_side", other, "\"left\" or \"right\"")),
    }
}

#[cfg(test)]
#[path = "parameters_tests.rs"]
mod tests;
