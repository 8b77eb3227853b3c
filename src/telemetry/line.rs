//! How one message looks as a line of text or of JSON.

use std::fmt::Write as _;
use std::time::SystemTime;

use jiff::Timestamp;
use log::Record;

use super::disruptive::{escaped, escaped_json};
use super::record::pairs;

/// `2026-11-24T08:27:10.123Z INFO listening tcp=127.0.0.1:8484` and a line feed.
pub(super) fn text(now: SystemTime, record: &Record<'_>) -> String {
    let mut line = format!("{} {:<5} ", timestamp(now), record.level());
    // A message must not be able to forge another line.
    line.push_str(&escaped(&record.args().to_string()));
    for (key, value) in pairs(record) {
        line.push(' ');
        line.push_str(&escaped(&key));
        line.push('=');
        if value.is_empty() || value.contains([' ', '"', '=']) {
            // Debug of a string quotes and escapes it, but for some that are not seen.
            let _ = write!(line, "{}", escaped(&format!("{value:?}")));
        } else {
            line.push_str(&escaped(&value));
        }
    }
    line.push('\n');
    line
}

/// The same as a JSON object; key-values are its members as text.
pub(super) fn json(now: SystemTime, record: &Record<'_>) -> String {
    let mut object = serde_json::Map::new();
    let mut put = |key: &str, value: String| object.insert(key.to_owned(), value.into());
    put("time", timestamp(now));
    put("level", record.level().as_str().to_ascii_lowercase());
    put("target", record.target().to_owned());
    put("message", record.args().to_string());
    for (key, value) in pairs(record) {
        if !object.contains_key(&key) {
            object.insert(key, value.into());
        }
    }
    let json = serde_json::Value::Object(object).to_string();
    let mut line = escaped_json(&json).into_owned();
    line.push('\n');
    line
}

/// RFC 3339 in UTC with milliseconds.
#[must_use]
pub fn timestamp(time: SystemTime) -> String {
    // Only a clock set beyond the year 9999 is out of range.
    format!("{:.3}", Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::is_disruptive;
    use log::Level;
    use std::time::{Duration, UNIX_EPOCH};

    fn at(seconds: u64, millis: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(millis)
    }

    #[test]
    fn timestamps_are_right_over_leap_days_and_centuries() {
        // From `date -u -d @N +%FT%TZ`.
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.007Z"),
            (951_782_399, "2000-02-28T23:59:59.007Z"),
            (951_782_400, "2000-02-29T00:00:00.007Z"),
            (951_868_800, "2000-03-01T00:00:00.007Z"),
            (1_709_210_096, "2024-02-29T12:34:56.007Z"),
            (1_735_689_599, "2024-12-31T23:59:59.007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.007Z"),
        ] {
            assert_eq!(timestamp(at(seconds, 7)), expected);
        }
    }

    #[test]
    fn a_message_stays_on_its_line_and_shows_its_key_values() {
        let pairs: &[(&str, &str)] = &[("tcp", "127.0.0.1:1"), ("model", "my phi"), ("x", "a\nb")];
        let line = text(
            at(0, 0),
            &Record::builder()
                .level(Level::Info)
                .args(format_args!("one\ntwo"))
                .key_values(&pairs)
                .build(),
        );
        assert_eq!(
            line,
            "1970-01-01T00:00:00.000Z INFO  one\\ntwo tcp=127.0.0.1:1 model=\"my phi\" x=a\\nb\n"
        );
    }

    #[test]
    fn nothing_in_a_record_disturbs_the_line_in_either_format() {
        let nasty: String = ('\0'..=char::MAX).filter(|c| is_disruptive(*c)).collect();
        let spaced = format!("a {nasty}");
        let pairs: &[(&str, &str)] = &[("path", &nasty), ("name", &spaced), (&nasty, "x")];
        for write in [text, json] {
            let args = format_args!("{nasty}");
            let record = Record::builder().level(Level::Info).args(args).key_values(&pairs).build();
            let line = write(at(0, 0), &record);
            assert!(!line.trim_end_matches('\n').contains(is_disruptive), "{line}");
        }
    }

    #[test]
    fn json_lines_parse_and_key_values_do_not_replace_the_message() {
        let pairs: &[(&str, u64)] = &[("tokens", 7), ("message", 1)];
        let line = json(
            at(1, 5),
            &Record::builder()
                .level(Level::Warn)
                .target("phi4d::cli")
                .args(format_args!("say \"hi\"\n"))
                .key_values(&pairs)
                .build(),
        );
        assert_eq!(line.matches('\n').count(), 1);
        let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            parsed,
            serde_json::json!({
                "time": "1970-01-01T00:00:01.005Z", "level": "warn", "target": "phi4d::cli",
                "message": "say \"hi\"\n", "tokens": "7",
            })
        );
    }
}
