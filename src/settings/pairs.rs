//! Settings that are names with values.

use std::collections::BTreeMap;

use config::ValueKind;

use super::kind::{Kind, as_typed};

/// Names with values: a table, or a text `name=value, name=value`.
pub(super) struct Pairs {
    pub(super) placeholder: &'static str,
    pub(super) accepted: &'static str,
}

impl Kind for Pairs {
    type Value = Vec<(String, String)>;

    fn read(&self, raw: &ValueKind) -> Option<Vec<(String, String)>> {
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
    }

    fn accepted(&self) -> String {
        format!("a table of {}, or a text NAME=VALUE with commas between them", self.accepted)
    }

    fn placeholder(&self) -> &'static str {
        self.placeholder
    }
}

fn pair(part: &str) -> Option<(String, String)> {
    let (name, value) = part.split_once('=')?;
    Some((name.trim().to_owned(), value.trim().to_owned()))
}

/// Whether the text can stand between commas.
fn is_plain(text: &str) -> bool {
    text.trim() == text && !text.chars().any(|c| c.is_control() || c == ',')
}

/// A table as the text that reads the same.
pub(super) fn as_shown(raw: &ValueKind) -> Option<String> {
    let ValueKind::Table(table) = raw else { return None };
    let sorted: BTreeMap<_, _> = table.iter().collect();
    let parts =
        sorted.iter().map(|(name, value)| Some(format!("{name}={}", as_typed(&value.kind)?)));
    Some(parts.collect::<Option<Vec<String>>>()?.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Pairs = Pairs { placeholder: "OPTIONS", accepted: "options" };

    fn table(pairs: &[(&str, ValueKind)]) -> ValueKind {
        let pairs = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), config::Value::new(None, value.clone())));
        ValueKind::Table(pairs.collect())
    }

    fn text(text: &str) -> ValueKind {
        ValueKind::String(text.into())
    }

    #[test]
    fn tables_and_texts_are_the_same() {
        let made = table(&[("tf32", ValueKind::Boolean(false)), ("device", ValueKind::I64(1))]);
        let pairs =
            [("device".to_owned(), "1".to_owned()), ("tf32".to_owned(), "false".to_owned())];
        for raw in [made.clone(), text("tf32=false,device=1"), text(" device = 1 , tf32=false,")] {
            assert_eq!(KIND.read(&raw).unwrap(), pairs, "{raw}");
        }
        assert_eq!(as_shown(&made).unwrap(), "device=1, tf32=false");
        assert_eq!(KIND.read(&text("")).unwrap(), []);
        assert_eq!(
            KIND.read(&text("path=/a=b")).unwrap(),
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
            assert_eq!(KIND.read(&raw), None, "{raw}");
        }
    }
}
