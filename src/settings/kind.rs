//! Kinds of settings: how each reads a layer's value and says what it accepts.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use config::ValueKind;

use super::socket::SocketSetting;
use super::value::{ListenAddress, host_and_port};

type Read<T> = dyn Fn(&ValueKind) -> Option<T>;

/// Reads one kind of value.
pub(super) struct Kind<T> {
    read: Box<Read<T>>,
    /// What is accepted, to follow the word "expected".
    pub(super) accepted: String,
    /// What the value is called in a flag's help.
    pub(super) placeholder: &'static str,
    /// Whether the value is a string in TOML.
    pub(super) is_text: bool,
}

impl<T> Kind<T> {
    /// A kind of texts.
    pub(super) fn text(
        placeholder: &'static str,
        accepted: impl Into<String>,
        read: impl Fn(&ValueKind) -> Option<T> + 'static,
    ) -> Self {
        Self { read: Box::new(read), accepted: accepted.into(), placeholder, is_text: true }
    }

    /// A kind of numbers or booleans, which TOML has without quotes.
    fn bare(
        placeholder: &'static str,
        accepted: impl Into<String>,
        read: impl Fn(&ValueKind) -> Option<T> + 'static,
    ) -> Self {
        Self { is_text: false, ..Self::text(placeholder, accepted, read) }
    }

    /// The checked value; `None` if it is not accepted.
    pub(super) fn read(&self, raw: &ValueKind) -> Option<T> {
        (self.read)(raw)
    }
}

/// Text, numbers and booleans as they would be typed; `None` for lists and tables.
pub(super) fn as_typed(raw: &ValueKind) -> Option<String> {
    match raw {
        ValueKind::String(text) => Some(text.trim().to_owned()),
        ValueKind::I64(number) => Some(number.to_string()),
        ValueKind::U64(number) => Some(number.to_string()),
        ValueKind::I128(number) => Some(number.to_string()),
        ValueKind::U128(number) => Some(number.to_string()),
        ValueKind::Float(number) => Some(number.to_string()),
        ValueKind::Boolean(value) => Some(value.to_string()),
        ValueKind::Nil | ValueKind::Table(_) | ValueKind::Array(_) => None,
    }
}

/// A number or boolean spelt as TOML has it: a flag or variable may say `01`, `+1`, `.5` or `1.`,
/// which TOML does not take.
pub(super) fn as_in_toml(typed: String) -> String {
    if let Ok(number) = typed.parse::<u64>() {
        return number.to_string();
    }
    typed.parse::<f64>().map_or(typed, |number| format!("{number:?}"))
}

fn text_of(raw: &ValueKind) -> Option<&str> {
    match raw {
        ValueKind::String(text) => Some(text.trim()),
        _ => None,
    }
}

fn whole_in(raw: &ValueKind, min: u64, max: u64) -> Option<u64> {
    let text = as_typed(raw)?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|number| (min..=max).contains(number))
}

/// A whole number from `min` to `max`.
pub(super) fn whole<T: TryFrom<u64>>(min: u64, max: u64) -> Kind<T> {
    Kind::bare("N", format!("a whole number from {min} to {max}"), move |raw| {
        T::try_from(whole_in(raw, min, max)?).ok()
    })
}

/// A time in whole seconds.
pub(super) fn seconds(min: u64, max: u64) -> Kind<Duration> {
    Kind::bare("SECONDS", format!("whole seconds from {min} to {max}"), move |raw| {
        whole_in(raw, min, max).map(Duration::from_secs)
    })
}

/// A time in whole seconds, or 0 for no limit.
pub(super) fn seconds_or_none(max: u64) -> Kind<Option<Duration>> {
    Kind::bare("SECONDS", format!("whole seconds up to {max}, or 0 for no limit"), move |raw| {
        let seconds = whole_in(raw, 0, max)?;
        Some((seconds > 0).then(|| Duration::from_secs(seconds)))
    })
}

/// A time in seconds, parts of them included, or 0 for never.
pub(super) fn seconds_or_never(range: RangeInclusive<f64>) -> Kind<Option<Duration>> {
    let accepted = format!("seconds from {} to {}, or 0 for never", range.start(), range.end());
    Kind::bare("SECONDS", accepted, move |raw| {
        let seconds: f64 = as_typed(raw)?.parse().ok()?;
        if seconds == 0.0 {
            return Some(None);
        }
        range.contains(&seconds).then(|| Some(Duration::from_secs_f64(seconds)))
    })
}

/// A number in `range`.
pub(super) fn number(range: RangeInclusive<f64>) -> Kind<f64> {
    Kind::bare("X", format!("a number from {} to {}", range.start(), range.end()), move |raw| {
        as_typed(raw)?.parse().ok().filter(|number| range.contains(number))
    })
}

/// A number above 0, up to `max`.
pub(super) fn positive(max: f64) -> Kind<f64> {
    let kind = number(0.0..=max);
    Kind::bare("X", format!("a number above 0 and up to {max}"), move |raw| {
        kind.read(raw).filter(|number| *number > 0.0)
    })
}

/// A value of another kind, or `model` for what the model folder says.
pub(super) fn or_model<T: 'static>(kind: Kind<T>) -> Kind<Option<T>> {
    let accepted = format!("{}, or model", kind.accepted);
    Kind::text(kind.placeholder, accepted, move |raw| match text_of(raw) {
        Some("model") => Some(None),
        _ => kind.read(raw).map(Some),
    })
}

/// `true` or `false`.
pub(super) fn switch() -> Kind<bool> {
    Kind::bare("true|false", "true or false", |raw| as_typed(raw)?.parse().ok())
}

/// One of a few words.
pub(super) fn choice<T: Copy>(
    placeholder: &'static str,
    options: &'static [(&'static str, T)],
) -> Kind<T> {
    let names: Vec<&str> = options.iter().map(|(name, _)| *name).collect();
    Kind::text(placeholder, format!("one of {}", names.join(", ")), |raw| {
        let text = text_of(raw)?;
        options.iter().find(|(name, _)| *name == text).map(|(_, value)| *value)
    })
}

/// A path; empty means not given.
pub(super) fn path(placeholder: &'static str, accepted: &'static str) -> Kind<Option<PathBuf>> {
    Kind::text(placeholder, accepted, |raw| {
        let text = text_of(raw).filter(|text| !text.contains('\0'))?;
        Some((!text.is_empty()).then(|| PathBuf::from(text)))
    })
}

/// A short name; empty means not given.
pub(super) fn name() -> Kind<Option<String>> {
    let accepted = "a name of at most 128 bytes without white space, or empty";
    Kind::text("NAME", accepted, |raw| {
        let text = text_of(raw)?;
        if text.len() > 128 || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return None;
        }
        Some((!text.is_empty()).then(|| text.to_owned()))
    })
}

/// The base of a service's URLs; empty means not given.
pub(super) fn url() -> Kind<Option<String>> {
    let accepted = "http://HOST:PORT or https://HOST, with or without a path, or empty";
    Kind::text("URL", accepted, |raw| {
        let text = text_of(raw)?;
        if text.is_empty() {
            return Some(None);
        }
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
        host_and_port(rest.split('/').next()?)?;
        let plain = rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte));
        plain.then(|| Some(text.to_owned()))
    })
}

/// A TCP address, or off.
pub(super) fn listen() -> Kind<Option<ListenAddress>> {
    Kind::text("ADDR", "HOST:PORT, [IPV6]:PORT or off", |raw| match text_of(raw)? {
        "" | "off" => Some(None),
        text => ListenAddress::parse(text).map(Some),
    })
}

/// The longest path that fits a Unix socket's address, with its end mark.
const SOCKET_PATH_BYTES: usize = 107;

/// A Unix socket's path, the default one, or off.
pub(super) fn socket() -> Kind<SocketSetting> {
    let accepted = format!("a path of at most {SOCKET_PATH_BYTES} bytes, default or off");
    Kind::text("PATH", accepted, |raw| match text_of(raw)? {
        "" | "default" => Some(SocketSetting::Default),
        "off" => Some(SocketSetting::Off),
        text if text.len() > SOCKET_PATH_BYTES || text.contains('\0') => None,
        text => Some(SocketSetting::At(PathBuf::from(text))),
    })
}

/// A file mode in octal. Only as text: a bare 660 in TOML is decimal, and 0660 is not TOML.
pub(super) fn mode() -> Kind<u32> {
    let accepted = "an octal mode in quotes, from \"0000\" to \"0777\"";
    Kind::text("MODE", accepted, |raw| {
        let text = text_of(raw)?;
        if !text.bytes().all(|byte| (b'0'..=b'7').contains(&byte)) {
            return None;
        }
        u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> ValueKind {
        ValueKind::String(value.to_owned())
    }

    #[test]
    fn whole_numbers_keep_to_their_range() {
        let kind = whole::<usize>(1, 8);
        assert_eq!(kind.read(&text("8")), Some(8));
        assert_eq!(kind.read(&ValueKind::I64(1)), Some(1));
        for refused in ["0", "9", "-1", "+1", "1.0", "", "x", "99999999999999999999"] {
            assert_eq!(kind.read(&text(refused)), None, "{refused}");
        }
        assert_eq!(kind.read(&ValueKind::Float(1.5)), None);
        assert_eq!(kind.read(&ValueKind::Boolean(true)), None);
    }

    #[test]
    fn numbers_take_whole_ones_and_refuse_what_is_none() {
        let kind = positive(1.0);
        assert_eq!(kind.read(&ValueKind::I64(1)), Some(1.0));
        assert_eq!(kind.read(&text("0.5")), Some(0.5));
        for refused in ["0", "1.01", "NaN", "inf", "-1", ""] {
            assert_eq!(kind.read(&text(refused)), None, "{refused}");
        }
    }

    #[test]
    fn what_the_model_says_has_a_word() {
        let kind = or_model(number(0.0..=2.0));
        assert_eq!(kind.read(&text("model")), Some(None));
        assert_eq!(kind.read(&text("0.5")), Some(Some(0.5)));
        assert_eq!(kind.read(&ValueKind::I64(1)), Some(Some(1.0)));
        for refused in ["", "Model", "3"] {
            assert_eq!(kind.read(&text(refused)), None, "{refused}");
        }
    }

    #[test]
    fn urls_name_a_host() {
        for taken in ["http://h", "https://h:1/", "http://127.0.0.1:4318", "http://[::1]:4318/a/b"]
        {
            assert_eq!(url().read(&text(taken)), Some(Some(taken.to_owned())));
        }
        assert_eq!(url().read(&text("")), Some(None));
        for refused in ["h:1", "http://", "http:///a", "ftp://h", "http://h?x", "http://a b"] {
            assert_eq!(url().read(&text(refused)), None, "{refused}");
        }
    }

    #[test]
    fn modes_are_octal_text_only() {
        assert_eq!(mode().read(&text("0660")), Some(0o660));
        assert_eq!(mode().read(&text("666")), Some(0o666));
        for refused in ["0o660", "0888", "1777", "rw", ""] {
            assert_eq!(mode().read(&text(refused)), None, "{refused}");
        }
        assert_eq!(mode().read(&ValueKind::I64(660)), None);
    }

    #[test]
    fn zero_seconds_is_no_limit_only_where_it_says_so() {
        assert_eq!(seconds_or_none(9).read(&text("0")), Some(None));
        assert_eq!(seconds(1, 9).read(&text("0")), None);
    }

    #[test]
    fn never_is_0_and_parts_of_a_second_are_taken() {
        let kind = seconds_or_never(0.01..=9.0);
        assert_eq!(kind.read(&text("0")), Some(None));
        assert_eq!(kind.read(&ValueKind::I64(9)), Some(Some(Duration::from_secs(9))));
        assert_eq!(kind.read(&text("0.25")), Some(Some(Duration::from_millis(250))));
        for refused in ["", "-1", "0.001", "9.1", "NaN", "inf", "1 s"] {
            assert_eq!(kind.read(&text(refused)), None, "{refused}");
        }
    }

    #[test]
    fn sockets_fit_their_address() {
        let long = format!("/{}", "a".repeat(SOCKET_PATH_BYTES));
        assert_eq!(socket().read(&text(&long)), None);
        assert_eq!(socket().read(&text("off")), Some(SocketSetting::Off));
        assert_eq!(
            socket().read(&text(&long[..SOCKET_PATH_BYTES])),
            Some(SocketSetting::At(PathBuf::from(&long[..SOCKET_PATH_BYTES])))
        );
    }
}
