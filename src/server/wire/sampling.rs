//! The parameters that chat and completions share.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::bounds;
use super::common::{Entries, Integer, List, Number, TextOr};
use crate::error::ApiError;
use phi4d_generate::{ParameterNames, Parameters};

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

    fn max_tokens(&self) -> Result<Option<u64>, ApiError> {
        let read = |field, given: Option<Integer>| given.map(|n| max_tokens(field, n)).transpose();
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

#[cfg(test)]
mod tests {
    use super::super::common::read_fields;
    use super::*;
    use serde_json::{Value, json};

    fn parse(body: &Value) -> Result<Parameters, ApiError> {
        read_fields::<SamplingFields>(body)?.parameters()
    }

    #[test]
    fn every_field_arrives() {
        let parsed = parse(&json!({
            "max_tokens": 7, "temperature": 1, "top_p": 0.5, "top_k": -1, "min_p": 0.1,
            "repetition_penalty": 1.1, "presence_penalty": -2, "frequency_penalty": 2,
            "logit_bias": {"5": -100, "12": 1.5, " no": -5, "+5": 1}, "seed": -3, "stop": ["a", "b"],
            "stop_token_ids": [1, 2], "ignore_eos": true, "timeout": 0.25
        }));
        let expected = Parameters {
            max_tokens: Some(7),
            temperature: Some(1.0),
            top_p: Some(0.5),
            top_k: Some(-1),
            min_p: Some(0.1),
            repetition_penalty: Some(1.1),
            presence_penalty: Some(-2.0),
            frequency_penalty: Some(2.0),
            logit_bias: vec![(12, 1.5), (5, -100.0)],
            text_bias: vec![(" no".to_owned(), -5.0), ("+5".to_owned(), 1.0)],
            seed: Some(-3),
            stop: vec!["a".to_owned(), "b".to_owned()],
            stop_token_ids: vec![1, 2],
            ignore_eos: true,
            top_logprobs: None,
            timeout: Some(Duration::from_millis(250)),
            ..Parameters::default()
        };
        assert_eq!(parsed.unwrap(), expected);
        assert_eq!(parse(&json!({})).unwrap(), Parameters::default());
    }

    #[test]
    fn aliases_are_the_same_field() {
        assert_eq!(parse(&json!({"max_completion_tokens": 4})).unwrap().max_tokens, Some(4));
        let both = json!({"max_completion_tokens": 4, "max_tokens": 4});
        assert_eq!(parse(&both).unwrap().max_tokens, Some(4));
        let penalty = parse(&json!({"repeat_penalty": 1.5})).unwrap();
        assert_eq!(penalty.repetition_penalty, Some(1.5));
        assert_eq!(parse(&json!({"stop": "x"})).unwrap().stop, ["x"]);
    }

    #[test]
    fn faults_found_later_use_the_clients_names() {
        let names = |body| parse(&body).unwrap().names;
        let penalty = names(json!({"repeat_penalty": 99}));
        assert_eq!(penalty.repetition_penalty, "repeat_penalty");
        let both = names(json!({"repeat_penalty": 99, "repetition_penalty": 99}));
        assert_eq!(both.repetition_penalty, "repetition_penalty");
        let tokens = names(json!({"max_completion_tokens": 9}));
        assert_eq!(tokens.max_tokens, "max_completion_tokens");
    }

    #[test]
    fn faults_name_field_value_and_what_is_accepted() {
        let table = [
            (json!({"max_tokens": 0}), "max_tokens", "0"),
            (json!({"max_tokens": -4}), "max_tokens", "-4"),
            (json!({"max_completion_tokens": 0}), "max_completion_tokens", "0"),
            (
                json!({"max_completion_tokens": 4, "max_tokens": 5}),
                "max_completion_tokens",
                "which is 5",
            ),
            (json!({"seed": u64::MAX}), "seed", "18446744073709551615"),
            (json!({"top_k": u64::MAX}), "top_k", "18446744073709551615"),
            (json!({"logit_bias": {"4294967296": 1}}), "logit_bias", "4294967296"),
            (json!({"logit_bias": {"": 1}}), "logit_bias", "\"\""),
            (json!({"stop_token_ids": [1, -1]}), "stop_token_ids[1]", "-1"),
            (json!({"timeout": 0}), "timeout", "0"),
            (json!({"timeout": -1}), "timeout", "-1"),
            (json!({"timeout": 1e300}), "timeout", "seconds"),
        ];
        for (body, param, part) in table {
            let error = parse(&body).unwrap_err();
            assert_eq!(error.code, "invalid_value");
            assert_eq!(error.param.as_deref(), Some(param), "{}", error.message);
            assert!(error.message.contains(part), "{}", error.message);
            assert!(error.message.contains("expected "), "{}", error.message);
        }
    }
}
