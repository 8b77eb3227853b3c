//! Parameters beyond OpenAI's own that llama.cpp's and vLLM's servers have, under their names.

use serde::Deserialize;

use super::bounds;
use super::common::{Delivery, Integer, List, Number, TextOr};
use super::sampling::token_ids;
use crate::error::ApiError;
use phi4d_generate::{Copies, DryParameters, Parameters, Side};

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
        Some(other) => Err(ApiError::invalid_value(
            "truncation_side",
            format_args!("{other:?}"),
            "\"left\" or \"right\"",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::common::read_fields;
    use super::*;
    use serde_json::{Value, json};

    fn parse(body: &Value) -> Result<Parameters, ApiError> {
        let mut parameters = Parameters::default();
        read_fields::<SteeringFields>(body)?.steer(&mut parameters)?;
        Ok(parameters)
    }

    #[test]
    fn every_field_arrives() {
        let parsed = parse(&json!({
            "top_n_sigma": 1, "typical_p": 0.5, "xtc_probability": 0.25, "xtc_threshold": 0.2,
            "dry_multiplier": 0.8, "dry_base": 2, "dry_allowed_length": 3,
            "dry_penalty_last_n": -1, "dry_sequence_breakers": ["."], "min_tokens": 4,
            "bad_words": ["x"], "allowed_token_ids": [5, 6], "truncate_prompt_tokens": 7,
            "truncation_side": "right", "cache_salt": "s", "priority": -2,
            "include_stop_str_in_output": true, "skip_special_tokens": false, "prompt_logprobs": 3
        }));
        let expected = Parameters {
            top_n_sigma: Some(1.0),
            typical_p: Some(0.5),
            xtc_probability: Some(0.25),
            xtc_threshold: Some(0.2),
            dry: DryParameters {
                multiplier: Some(0.8),
                base: Some(2.0),
                allowed_length: Some(3),
                penalty_last_n: Some(-1),
                sequence_breakers: Some(vec![".".to_owned()]),
            },
            min_tokens: Some(4),
            bad_words: vec!["x".to_owned()],
            allowed_token_ids: Some(vec![5, 6]),
            truncate_prompt_tokens: Some(7),
            truncation_side: Side::Right,
            cache_salt: Some("s".to_owned()),
            priority: -2,
            include_stop: true,
            spell_special: true,
            prompt_logprobs: Some(3),
            ..Parameters::default()
        };
        assert_eq!(parsed.unwrap(), expected);
        assert_eq!(parse(&json!({"cache_salt": ""})).unwrap(), Parameters::default());
        let context = parse(&json!({"truncate_prompt_tokens": -1})).unwrap();
        assert_eq!(context.truncate_prompt_tokens, Some(u64::MAX));
    }

    #[test]
    fn faults_name_the_field() {
        for (body, param) in [
            (json!({"min_tokens": -1}), "min_tokens"),
            (json!({"dry_allowed_length": -1}), "dry_allowed_length"),
            (json!({"dry_sequence_breakers": "x"}), "dry_sequence_breakers"),
            (json!({"allowed_token_ids": [1, -1]}), "allowed_token_ids[1]"),
            (json!({"truncate_prompt_tokens": -2}), "truncate_prompt_tokens"),
            (json!({"truncation_side": "middle"}), "truncation_side"),
            (json!({"priority": 4_294_967_296_u64}), "priority"),
            (json!({"bad_words": [1]}), "bad_words[0]"),
        ] {
            assert_eq!(parse(&body).unwrap_err().param.as_deref(), Some(param));
        }
    }
}
