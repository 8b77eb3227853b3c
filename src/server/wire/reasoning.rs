//! How much the model may reason before it answers, and whether the answer shows it.

use serde::Deserialize;

use super::common::{Integer, unknown_word};
use crate::error::ApiError;
use phi4d_generate::Reasoning;

#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct ReasoningFields {
    reasoning_effort: Option<String>,
    thinking_token_budget: Option<Integer>,
    reasoning_format: Option<String>,
    include_reasoning: Option<bool>,
}

impl ReasoningFields {
    /// The budget of reasoning, and whether the answer shows it.
    pub(super) fn reasoning(self) -> Result<(Reasoning, bool), ApiError> {
        let in_text = match self.reasoning_format.as_deref() {
            None | Some("auto" | "deepseek") => false,
            Some("none") => true,
            other => {
                let accepted = "\"deepseek\", \"auto\" (the same) or \"none\"";
                return Err(unknown_word("reasoning_format", other, accepted));
            }
        };
        let effort = self.reasoning_effort.as_deref();
        let effort = budget_of_effort(effort, "reasoning_effort")?;
        let given = self.thinking_token_budget;
        let given = given.map(|tokens| budget(tokens, "thinking_token_budget")).transpose()?;
        let budget = given.flatten().or(effort);
        Ok((Reasoning { in_text, budget }, self.include_reasoning.unwrap_or(true)))
    }
}

/// The most tokens of reasoning for an effort that `field` gives; `None` is no limit.
pub(super) fn budget_of_effort(effort: Option<&str>, field: &str) -> Result<Option<u64>, ApiError> {
    match effort {
        Some("none") => Ok(Some(0)),
        Some("minimal") => Ok(Some(256)),
        Some("low") => Ok(Some(1024)),
        Some("medium") => Ok(Some(4096)),
        None | Some("high" | "xhigh" | "max") => Ok(None),
        other => {
            let accepted =
                "\"none\", \"minimal\", \"low\", \"medium\", \"high\", \"xhigh\" or \"max\"";
            Err(unknown_word(field, other, accepted))
        }
    }
}

/// The most tokens of reasoning, given by `field`; -1 is no limit.
pub(super) fn budget(given: Integer, field: &str) -> Result<Option<u64>, ApiError> {
    let accepted = "an integer of at least 0, or -1 for no limit";
    match given.fit::<i64>(field, accepted)? {
        -1 => Ok(None),
        tokens => match u64::try_from(tokens) {
            Ok(tokens) => Ok(Some(tokens)),
            Err(_) => Err(given.refused(field, accepted)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::common::read_fields;
    use super::*;
    use serde_json::{Value, json};

    fn read(body: &Value) -> Result<(Reasoning, bool), ApiError> {
        read_fields::<ReasoningFields>(body).and_then(ReasoningFields::reasoning)
    }

    #[test]
    fn a_budget_goes_before_an_effort() {
        let table = [
            (json!({}), None),
            (json!({"reasoning_effort": "none"}), Some(0)),
            (json!({"reasoning_effort": "low"}), Some(1024)),
            (json!({"reasoning_effort": "high"}), None),
            (json!({"reasoning_effort": "low", "thinking_token_budget": 7}), Some(7)),
            (json!({"thinking_token_budget": -1}), None),
        ];
        for (body, budget) in table {
            let expected = (Reasoning { in_text: false, budget }, true);
            assert_eq!(read(&body).unwrap(), expected, "{body}");
        }
    }

    #[test]
    fn the_thought_may_stay_in_the_text_or_be_left_out() {
        assert!(read(&json!({"reasoning_format": "none"})).unwrap().0.in_text);
        assert!(!read(&json!({"reasoning_format": "deepseek"})).unwrap().0.in_text);
        assert!(!read(&json!({"include_reasoning": false})).unwrap().1);
    }

    #[test]
    fn faults_name_their_field() {
        for (field, value) in [
            ("reasoning_effort", json!("most")),
            ("reasoning_format", json!("xml")),
            ("thinking_token_budget", json!(-2)),
            ("thinking_token_budget", json!(1.5)),
            ("include_reasoning", json!("no")),
        ] {
            let error = read(&json!({ field: value })).unwrap_err();
            assert_eq!(error.param.as_deref(), Some(field), "{}", error.message);
        }
    }
}
