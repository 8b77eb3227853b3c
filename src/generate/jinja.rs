//! The functions and filters that transformers adds to Jinja for chat templates and minijinja
//! lacks.

use jiff::Timestamp;
use jiff::fmt::strtime;
use jiff::tz::Offset;
use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// `raise_exception(message)`: how a template refuses a conversation.
pub(super) fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// `value | tojson(indent=n)`: JSON as Python's `json.dumps(value, ensure_ascii=False)` writes
/// it, without escapes for HTML.
#[expect(clippy::needless_pass_by_value, reason = "minijinja hands keyword arguments over so")]
pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // transformers' filter takes these too; the defaults are what phi4d writes.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let json = match indent {
        None => write_json(value, PythonSpacing),
        Some(width) => {
            let indent = vec![b' '; width.min(16)];
            write_json(value, PrettyFormatter::with_indent(&indent))
        }
    };
    json.map(Value::from).map_err(|e| Error::new(ErrorKind::BadSerialization, e))
}

/// JSON as [`tojson`] writes it.
#[expect(clippy::expect_used, reason = "serialising to memory fails on non-string keys only")]
pub(super) fn python_json<T: Serialize + ?Sized>(value: &T) -> String {
    write_json(value, PythonSpacing).expect("the value has string keys")
}

fn write_json<T: Serialize + ?Sized, F: Formatter>(
    value: &T,
    formatter: F,
) -> Result<String, String> {
    let mut json = Vec::new();
    value
        .serialize(&mut Serializer::with_formatter(&mut json, formatter))
        .map_err(|e| e.to_string())?;
    String::from_utf8(json).map_err(|e| e.to_string())
}

/// A space after each comma and colon.
struct PythonSpacing;

impl Formatter for PythonSpacing {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        self.begin_array_value(writer, first)
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        writer: &mut W,
    ) -> std::io::Result<()> {
        writer.write_all(b": ")
    }
}

/// `strftime_now(format)`: the date and time now, in UTC.
pub(super) fn strftime_now(format: &str) -> Result<Value, Error> {
    strftime(format, Timestamp::now())
        .map(Value::from)
        .map_err(|e| Error::new(ErrorKind::InvalidOperation, e))
}

fn strftime(format: &str, now: Timestamp) -> Result<String, String> {
    // A civil time: names of time zones mean nothing here, and asking for one is an error.
    strtime::format(format, Offset::UTC.to_datetime(now))
        .map_err(|error| format!("strftime_now({format:?}): {error}"))
}

/// Most characters that `str.format` is asked to pad to, in all.
const MAX_WIDTHS: usize = 1 << 20;

/// Methods of Python's values. The library bounds what they make, but for the widths of
/// `str.format`.
pub(super) fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    if name == "format" && value.as_str().is_some_and(|text| widths(text) > MAX_WIDTHS) {
        let accepted = format!("format: accepted are widths of up to {MAX_WIDTHS} in all");
        return Err(Error::new(ErrorKind::InvalidOperation, accepted));
    }
    unknown_method_callback(state, value, name, arguments)
}

/// The sum of all numbers in a format, which are its widths and precisions, and some more.
fn widths(format: &str) -> usize {
    let numbers = format.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let number = |digits: &str| digits.parse().unwrap_or(usize::MAX);
    numbers.fold(0_usize, |sum, digits| sum.saturating_add(number(digits)))
}

/// The reason in an error, without the template's file name and source lines.
pub(super) fn describe(error: &Error) -> String {
    let what = match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => "it takes too much work".to_owned(),
        (ErrorKind::InvalidOperation, Some(detail)) => return detail.to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "Thursday 01 January 1970 00:00:00"),
            (951_782_399, "Monday 28 February 2000 23:59:59"),
            (951_782_400, "Tuesday 29 February 2000 00:00:00"),
            (1_709_251_199, "Thursday 29 February 2024 23:59:59"),
            (4_107_542_400, "Monday 01 March 2100 00:00:00"),
        ] {
            let time = Timestamp::from_second(seconds).unwrap();
            assert_eq!(strftime("%A %d %B %Y %H:%M:%S", time).unwrap(), expected);
        }
        assert_eq!(strftime("%b %a %m%%", Timestamp::UNIX_EPOCH).unwrap(), "Jan Thu 01%");
        assert!(strftime("%Q", Timestamp::UNIX_EPOCH).unwrap_err().contains("%Q"));
        assert!(strftime("%", Timestamp::UNIX_EPOCH).is_err());
    }
}
