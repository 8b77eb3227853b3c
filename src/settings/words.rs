//! Settings that hold several words.

use config::ValueKind;

use super::kind::{Kind, as_typed};
use super::pairs;

/// Words without white space or commas: a list, or a text with commas between them.
pub(super) struct Words {
    pub(super) placeholder: &'static str,
    pub(super) accepted: &'static str,
}

impl Kind for Words {
    type Value = Vec<String>;

    fn read(&self, raw: &ValueKind) -> Option<Vec<String>> {
        let words: Vec<String> = match raw {
            ValueKind::String(text) => text
                .split(',')
                .map(|word| word.trim().to_owned())
                .filter(|word| !word.is_empty())
                .collect(),
            ValueKind::Array(values) => {
                values.iter().map(|value| as_typed(&value.kind)).collect::<Option<_>>()?
            }
            _ => return None,
        };
        let plain = |word: &String| {
            !word.is_empty()
                && !word.chars().any(|c| c.is_whitespace() || c.is_control() || c == ',')
        };
        words.iter().all(plain).then_some(words)
    }

    fn accepted(&self) -> String {
        format!("a list of {}, or a text with commas between them", self.accepted)
    }

    fn placeholder(&self) -> &'static str {
        self.placeholder
    }
}

/// A value as it would be typed, where lists and tables are texts with commas.
pub(super) fn as_shown(raw: &ValueKind) -> Option<String> {
    match raw {
        ValueKind::Table(_) => pairs::as_shown(raw),
        ValueKind::Array(values) => {
            let words: Option<Vec<String>> =
                values.iter().map(|value| as_typed(&value.kind)).collect();
            Some(words?.join(", "))
        }
        other => as_typed(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Words = Words { placeholder: "NAMES", accepted: "names" };

    fn list(words: &[&str]) -> ValueKind {
        ValueKind::Array(words.iter().map(|word| config::Value::from(*word)).collect())
    }

    #[test]
    fn lists_and_texts_are_the_same() {
        let text = |text: &str| ValueKind::String(text.to_owned());
        for raw in [list(&["a", "b-c"]), text("a, b-c"), text(" a,b-c ,"), text("a,,b-c")] {
            assert_eq!(KIND.read(&raw).unwrap(), ["a", "b-c"], "{raw}");
        }
        assert_eq!(as_shown(&list(&["a", "b-c"])).unwrap(), "a, b-c");
        assert_eq!(KIND.read(&text("")).unwrap(), Vec::<String>::new());
        assert_eq!(KIND.read(&list(&[])).unwrap(), Vec::<String>::new());
        for raw in [text("a b"), list(&["a b"]), list(&[""]), list(&["a,b"]), ValueKind::I64(3)] {
            assert_eq!(KIND.read(&raw), None, "{raw}");
        }
    }
}
