//! What a chat request says about the model's thought.

use serde::Deserialize;

use super::common::Integer;
use crate::error::ApiError;
use phi4d_generate::Reasoning;

/// The fields about the model's thought.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct ReasoningFields {
    reasoning_effort: Option<String>,
    thinking_token_budget: Option<Integer>,
    reasoning_format: Option<String>,
    include_reasoning: Option<bool>,
}

impl ReasoningFields {
    /// What becomes of the thought, and whether the answer shows it.
    pub(super) fn reasoning(self) -> Result<(Reasoning, bool), ApiError> {
        let in_text = match self.reasoning_format.as_deref() {
            None | Some("auto" | "deepseek") => false,
            Some("none") => true,
            Some(other) => {
                let other = format_args!("{other:?}");
                let accepted = "\"deepseek\", \"auto\" (the same) or \"none\"";
                return Err(ApiError::invalid_value("reasoning_format", other, accepted));
            }
        };
        let of_effort = match self.reasoning_effort.as_deref() {
            None => None,
            Some(effort) => budget(effort)?,
        };
        let given = self.thinking_token_budget.map(tokens).transpose()?.flatten();
        let budget = given.or(of_effort);
        Ok((Reasoning { in_text, budget }, self.include_reasoning.unwrap_or(true)))
    }
}

/// Tokens of thought that an effort stands for; `None` is no limit.
fn budget(effort: &str) -> Result<Option<u64>, ApiError> {
    match effort {
        "none" => Ok(Some(0)),
        "minimal" => Ok(Some(256)),
        "low" => Ok(Some(1024)),
        "medium" => Ok(Some(4096)),
        "high" | "xhigh" => Ok(None),
        other => {
            let accepted = "\"none\", \"minimal\", \"low\", \"medium\", \"high\" or \"xhigh\"";
            let other = format_args!("{other:?}");
            Err(ApiError::invalid_value("reasoning_effort", other, accepted))
        }
    }
}

/// A budget that was given; -1 is no limit.
fn tokens(given: Integer) -> Result<Option<u64>, ApiError> {
    let accepted = "an integer of at least 0, or -1 for no limit";
    match given.fit::<i64>("thinking_token_budget", accepted)? {
        -1 => Ok(None),
        tokens => match u64::try_from(tokens) {
            Ok(tokens) => Ok(Some(tokens)),
            Err(_) => Err(given.refused("thinking_token_budget", accepted)),
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
