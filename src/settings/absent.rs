//! Settings that ask for what Windows does not have.

use config::{Map, Value};

use super::define::origin_of;
use super::error::Fault;
use super::lists::as_shown;

/// A key, what it may be where there are no Unix sockets and no journal, and why.
const ABSENT: &[(&str, &[&str], &str)] = &[
    ("socket", &["default", "off"], "off, as phi4d has no Unix sockets on Windows"),
    ("socket_allow_users", &[""], "nothing, as phi4d has no Unix sockets on Windows"),
    ("socket_allow_groups", &[""], "nothing, as phi4d has no Unix sockets on Windows"),
    ("idle_exit", &["", "0"], "0, as Windows has no socket activation"),
    ("log_format", &["auto", "text", "json"], "auto, text or json, as Windows has no journal"),
];

/// A fault for each value that asks for something that Windows does not have.
pub(super) fn faults_on_windows(values: &Map<String, Value>) -> Vec<Fault> {
    let asked = ABSENT.iter().filter_map(|&(key, allowed, accepted)| {
        let value = values.get(key).and_then(|value| as_shown(&value.kind)).unwrap_or_default();
        (!allowed.contains(&value.trim())).then(|| Fault::Value {
            key,
            value,
            origin: origin_of(values, key),
            accepted: accepted.to_owned(),
        })
    });
    asked.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_asks_for_something_absent_is_a_fault() {
        let values = |pairs: &[(&str, &str)]| -> Map<String, Value> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), Value::new(None, *value))).collect()
        };
        let fine = [("socket", "off"), ("socket_allow_users", ""), ("log_format", "json")];
        assert_eq!(
            faults_on_windows(&values(&[("socket", "default"), ("log_format", "auto")])),
            faults_on_windows(&values(&fine)),
        );
        let asked = [("socket", "/run/s"), ("socket_allow_users", "me"), ("log_format", "journal")];
        let faults = faults_on_windows(&values(&asked));
        let texts: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 3, "{texts:?}");
        for ((key, value), text) in asked.iter().zip(texts) {
            assert!(text.contains(key) && text.contains(value), "{text}");
            assert!(text.contains("Windows"), "{text}");
        }
    }
}
