//! Other surfaces' requests become chat requests; faults found there are told under the names that
//! the client used.

use serde_json::{Map, Value, json};

use crate::error::ApiError;

/// Pairs of a chat request's field and what it is called elsewhere. What comes behind a field's
/// name, like an index, stays. `[]` stands for any index.
pub(crate) type Names = &'static [(&'static str, &'static str)];

/// A chat request in the making, as JSON.
#[derive(Debug, Default)]
pub(crate) struct ChatBody {
    fields: Map<String, Value>,
    messages: Vec<Value>,
    /// Where each message came from.
    places: Vec<String>,
}

impl ChatBody {
    /// Puts a field, if it was given.
    pub(crate) fn put(&mut self, name: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.fields.insert(name.to_owned(), value.into());
        }
    }

    /// Adds a message that came from `place`.
    pub(crate) fn say(&mut self, place: impl Into<String>, message: Value) {
        self.messages.push(message);
        self.places.push(place.into());
    }

    /// Adds a call, to the model's turn where that came last, else as a turn of its own.
    pub(crate) fn call(&mut self, place: impl Into<String>, call: Value) {
        match self.messages.last_mut() {
            Some(Value::Object(last)) if last.get("role") == Some(&"assistant".into()) => {
                let calls = last.entry("tool_calls").or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(calls) = calls {
                    calls.push(call);
                }
            }
            _ => {
                self.say(
                    place,
                    json!({ "role": "assistant", "content": "", "tool_calls": [call] }),
                );
            }
        }
    }

    /// The last message.
    pub(crate) fn last(&self) -> Option<&Value> {
        self.messages.last()
    }

    /// The JSON, and the way back to the client's names.
    pub(crate) fn finish(mut self, names: Names) -> (Value, Renaming) {
        self.fields.insert("messages".to_owned(), self.messages.into());
        (Value::Object(self.fields), Renaming { names, places: self.places })
    }
}

/// From a chat request's names to the client's.
#[derive(Debug, Clone, Default)]
pub(crate) struct Renaming {
    names: Names,
    places: Vec<String>,
}

impl Renaming {
    pub(crate) fn new(names: Names) -> Self {
        Self { names, places: Vec::new() }
    }

    /// The fault as the client knows it.
    pub(crate) fn tell(&self, error: ApiError) -> ApiError {
        let Some(name) = error.param.as_deref().and_then(|param| self.name_of(param)) else {
            return error;
        };
        error.about(name)
    }

    fn name_of(&self, param: &str) -> Option<String> {
        if let Some((index, rest)) =
            param.strip_prefix("messages[").and_then(|rest| rest.split_once(']'))
        {
            let place = self.places.get(index.parse::<usize>().ok()?)?;
            return Some(format!("{place}{rest}"));
        }
        self.names.iter().find_map(|(name, theirs)| {
            if let (Some((list, field)), Some((their_list, their_field))) =
                (name.split_once("[]"), theirs.split_once("[]"))
            {
                let (index, rest) = param.strip_prefix(list)?.strip_prefix('[')?.split_once(']')?;
                let rest = rest.strip_prefix(field)?;
                return Some(format!("{their_list}[{index}]{their_field}{rest}"));
            }
            let rest = param.strip_prefix(name)?;
            (rest.is_empty() || rest.starts_with(['.', '['])).then(|| format!("{theirs}{rest}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_under_the_client_s_names() {
        let mut body = ChatBody::default();
        body.say("system", json!({}));
        body.say("messages[0].content[1]", json!({}));
        body.put("temperature", Some(3));
        let (body, renaming) =
            body.finish(&[("stop", "stop_sequences"), ("tools[].function", "tools[]")]);
        assert_eq!(body, json!({"temperature": 3, "messages": [{}, {}]}));
        let told = |param: &str| {
            let error = renaming.tell(ApiError::invalid_value(param, 7, "more"));
            assert!(error.message.starts_with(error.param.as_deref().unwrap()), "{error:?}");
            error.param.unwrap()
        };
        assert_eq!(told("stop[3]"), "stop_sequences[3]");
        assert_eq!(told("stop_token_ids"), "stop_token_ids");
        assert_eq!(told("messages[0].role"), "system.role");
        assert_eq!(told("messages[1].tool_call_id"), "messages[0].content[1].tool_call_id");
        assert_eq!(told("messages"), "messages");
        assert_eq!(told("tools[2].function.name"), "tools[2].name");
        assert_eq!(told("tools[2].type"), "tools[2].type");
    }
}
