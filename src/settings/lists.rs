//! Settings that hold several words, or names with values.

use std::collections::BTreeMap;

use config::ValueKind;

use super::kind::{Kind, as_typed};

/// Words without white space or commas: a list, or a text with commas between them.
pub(super) fn words(placeholder: &'static str, accepted: &str) -> Kind<Vec<String>> {
    let accepted = format!("a list of {accepted}, or a text with commas between them");
    Kind::text(placeholder, accepted, |raw| {
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
    })
}

/// Origins of web pages: a scheme and a host, as browsers send them, or `*`.
pub(super) fn origins() -> Kind<Vec<String>> {
    let kind = words("ORIGINS", "origins like https://host or http://host:port, or *");
    let is_origin = |word: &String| {
        // Not `https://host/`: no browser sends a path, so that it would allow nothing.
        let host = word.split_once("://").map(|(_, host)| host);
        word == "*" || host.is_some_and(|host| !host.is_empty() && !host.contains('/'))
    };
    Kind::text(kind.placeholder, kind.accepted.clone(), move |raw| {
        kind.read(raw).filter(|words| words.iter().all(is_origin))
    })
}

/// Names with values: a table, or a text `name=value, name=value`.
pub(super) fn pairs(placeholder: &'static str, accepted: &str) -> Kind<Vec<(String, String)>> {
    let accepted = format!("a table of {accepted}, or a text NAME=VALUE with commas between them");
    Kind::text(placeholder, accepted, |raw| {
        // In the order of the names, so that both ways to write them are the same.
        let pairs: BTreeMap<String, String> = match raw {
            ValueKind::String(text) => {
                let parts: Vec<&str> =
                    text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
                let pairs: BTreeMap<String, String> =
                    parts.iter().map(|part| pair(part)).collect::<Option<_>>()?;
                // A name that is given twice can't be meant.
                (pairs.len() == parts.len()).then_some(pairs)?
            }
            ValueKind::Table(table) => table
                .iter()
                .map(|(name, value)| Some((name.clone(), as_typed(&value.kind)?)))
                .collect::<Option<_>>()?,
            _ => return None,
        };
        let plain = |(name, value): (&String, &String)| {
            is_plain(name) && !name.is_empty() && is_plain(value) && !name.contains('=')
        };
        pairs.iter().all(plain).then(|| pairs.into_iter().collect())
    })
}

fn pair(part: &str) -> Option<(String, String)> {
    let (name, value) = part.split_once('=')?;
    Some((name.trim().to_owned(), value.trim().to_owned()))
}

/// Whether the text can stand between commas.
fn is_plain(text: &str) -> bool {
    text.trim() == text && !text.chars().any(|c| c.is_control() || c == ',')
}

/// A value as it would be typed, where lists and tables are texts with commas.
pub(super) fn as_shown(raw: &ValueKind) -> Option<String> {
    match raw {
        ValueKind::Table(table) => {
            let sorted: BTreeMap<_, _> = table.iter().collect();
            let pairs = sorted
                .iter()
                .map(|(name, value)| Some(format!("{name}={}", as_typed(&value.kind)?)));
            Some(pairs.collect::<Option<Vec<String>>>()?.join(", "))
        }
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

    fn text(text: &str) -> ValueKind {
        ValueKind::String(text.to_owned())
    }

    fn list(words: &[&str]) -> ValueKind {
        ValueKind::Array(words.iter().map(|word| config::Value::from(*word)).collect())
    }

    #[test]
    fn origins_have_a_scheme_and_no_path() {
        let read = |text: &str| origins().read(&ValueKind::String(text.to_owned()));
        for taken in ["", "*", "https://a.example", "http://[::1]:3000, app://obsidian.md"] {
            assert!(read(taken).is_some(), "{taken}");
        }
        for refused in ["localhost", "a.example:80", "https://", "https://a/", "https://a, b"] {
            assert_eq!(read(refused), None, "{refused}");
        }
    }

    #[test]
    fn lists_and_texts_are_the_same() {
        for raw in [list(&["a", "b-c"]), text("a, b-c"), text(" a,b-c ,"), text("a,,b-c")] {
            assert_eq!(words("NAMES", "names").read(&raw).unwrap(), ["a", "b-c"], "{raw}");
        }
        assert_eq!(as_shown(&list(&["a", "b-c"])).unwrap(), "a, b-c");
        assert_eq!(words("NAMES", "names").read(&text("")).unwrap(), Vec::<String>::new());
        assert_eq!(words("NAMES", "names").read(&list(&[])).unwrap(), Vec::<String>::new());
        for raw in [text("a b"), list(&["a b"]), list(&[""]), list(&["a,b"]), ValueKind::I64(3)] {
            assert_eq!(words("NAMES", "names").read(&raw), None, "{raw}");
        }
    }

    fn table(pairs: &[(&str, ValueKind)]) -> ValueKind {
        let pairs = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), config::Value::new(None, value.clone())));
        ValueKind::Table(pairs.collect())
    }

    #[test]
    fn tables_and_texts_are_the_same() {
        let made = table(&[("tf32", ValueKind::Boolean(false)), ("device", ValueKind::I64(1))]);
        let expected =
            [("device".to_owned(), "1".to_owned()), ("tf32".to_owned(), "false".to_owned())];
        for raw in [made.clone(), text("tf32=false,device=1"), text(" device = 1 , tf32=false,")] {
            assert_eq!(pairs("OPTIONS", "options").read(&raw).unwrap(), expected, "{raw}");
        }
        assert_eq!(as_shown(&made).unwrap(), "device=1, tf32=false");
        assert_eq!(pairs("OPTIONS", "options").read(&text("")).unwrap(), []);
        assert_eq!(
            pairs("OPTIONS", "options").read(&text("path=/a=b")).unwrap(),
            [("path".to_owned(), "/a=b".to_owned())]
        );
    }

    #[test]
    fn what_is_no_pair_is_refused() {
        for raw in [
            text("device"),
            text("=1"),
            text("a=1,a=2"),
            text("a=\u{7}"),
            table(&[("a", ValueKind::String("b,c".into()))]),
            table(&[("a", ValueKind::Array(Vec::new()))]),
            ValueKind::I64(1),
        ] {
            assert_eq!(pairs("OPTIONS", "options").read(&raw), None, "{raw}");
        }
    }
}
