//! The parameters of a conversation's requests.

use std::fmt;

use serde_json::{Map, Value};

use super::super::args::ClientArgs;

/// Those that are no parameters here, and why.
const REFUSED: [(&str, &str); 8] = [
    ("messages", "they are the conversation"),
    ("stream", "answers are always streamed"),
    ("stream_options", "answers are always streamed"),
    ("n", "a conversation continues from one answer"),
    ("tools", "functions are not called here"),
    ("tool_choice", "functions are not called here"),
    ("functions", "functions are not called here"),
    ("function_call", "functions are not called here"),
];

/// Names that are completed and whose values are checked before they are sent.
const CHECKED: [(&str, &str); 4] = [
    ("temperature", "a number from 0 to 2"),
    ("top_p", "a number above 0, up to 1"),
    ("max_tokens", "a whole number of 1 or more"),
    ("seed", "a whole number of 64 bits"),
];

/// Names and values, as the API has them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Parameters(Map<String, Value>);

impl Parameters {
    /// Those of the command line. The daemon checks them.
    pub(super) fn of_arguments(arguments: &ClientArgs) -> Self {
        let given = [
            ("model", arguments.model.clone().map(Value::from)),
            ("temperature", arguments.temperature.map(Value::from)),
            ("top_p", arguments.top_p.map(Value::from)),
            ("max_tokens", arguments.max_tokens.map(Value::from)),
            ("seed", arguments.seed.map(Value::from)),
        ];
        let given = given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Self(given.collect())
    }

    /// Those of a saved conversation.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub(super) fn of_saved(map: Map<String, Value>) -> Result<Self, String> {
        let mut parameters = Self::default();
        for (name, value) in map {
            parameters.put(&name, value)?;
        }
        Ok(parameters)
    }

    /// Sets one to what is written as JSON.
    ///
    /// # Errors
    /// As [`Self::put`], and if it is no JSON.
    pub(super) fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
        let value = serde_json::from_str(text).map_err(|_| {
            let expected = expectation(name)
                .unwrap_or("JSON, such as 0.5, true, \"text\" or [1, 2]; null unsets it");
            format!("{name} = {text} is not accepted; expected {expected}")
        })?;
        self.put(name, value)
    }

    /// Sets one; `null` unsets it.
    ///
    /// # Errors
    /// If it is none of the API's that can be had here, or the value is not accepted.
    pub(super) fn put(&mut self, name: &str, value: Value) -> Result<(), String> {
        if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
            return Err(format!("{name} can't be set: {why}"));
        }
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '.';
        if name.is_empty() || !name.chars().all(fits) {
            return Err(format!("{name:?} is no name; expected one of the API's, as temperature"));
        }
        if value.is_null() {
            self.0.remove(name);
            return Ok(());
        }
        if let Some(expected) = expectation(name).filter(|_| !is_accepted(name, &value)) {
            return Err(format!("{name} = {value} is not accepted; expected {expected}"));
        }
        self.0.insert(name.to_owned(), value);
        Ok(())
    }

    /// The value of one.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    pub(super) fn as_map(&self) -> &Map<String, Value> {
        &self.0
    }
}

/// Each as `NAME = VALUE`, or that there are none.
impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing is set: the daemon's defaults hold");
        }
        let lines: Vec<String> =
            self.0.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// Names for completion.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    CHECKED.iter().map(|(name, _)| *name).chain(["model", "stop", "top_k", "min_p"])
}

fn expectation(name: &str) -> Option<&'static str> {
    CHECKED.iter().find(|(checked, _)| *checked == name).map(|(_, expected)| *expected)
}

fn is_accepted(name: &str, value: &Value) -> bool {
    match name {
        "temperature" => value.as_f64().is_some_and(|number| (0.0..=2.0).contains(&number)),
        "top_p" => value.as_f64().is_some_and(|number| number > 0.0 && number <= 1.0),
        "max_tokens" => value.as_u64().is_some_and(|number| number >= 1),
        "seed" => value.is_i64(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_json_and_the_common_ones_checked() {
        let mut parameters = Parameters::default();
        for (name, text) in [
            ("temperature", "0"),
            ("seed", "-7"),
            ("max_tokens", "9"),
            ("stop", "[\"\\n\"]"),
            ("logit_bias", "{\"1\": -100}"),
        ] {
            assert_eq!(parameters.set(name, text), Ok(()), "{name}");
        }
        let shown = parameters.to_string();
        assert!(
            shown.contains("temperature = 0\n") && shown.contains("stop = [\"\\n\"]"),
            "{shown}"
        );
        assert_eq!(parameters.set("seed", "null"), Ok(()));
        assert_eq!(parameters.get("seed"), None);
        for (name, text, expected) in [
            ("temperature", "hot", "a number from 0 to 2"),
            ("temperature", "2.5", "a number from 0 to 2"),
            ("top_p", "0", "above 0"),
            ("max_tokens", "0", "1 or more"),
            ("seed", "1.5", "64 bits"),
            ("stop", "a b", "JSON"),
            ("messages", "[]", "the conversation"),
            ("n", "2", "one answer"),
            ("Top P", "1", "no name"),
        ] {
            let error = parameters.set(name, text).unwrap_err();
            assert!(error.contains(expected) && error.contains(name), "{error}");
        }
    }
}
