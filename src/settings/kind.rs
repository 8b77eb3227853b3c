//! Kinds of settings: how each reads a layer's value and says what it accepts.

use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use config::ValueKind;

use super::socket::SocketSetting;
use super::value::{ListenAddress, host_and_port};

/// Reads one kind of value.
pub(super) trait Kind {
    /// What it reads into.
    type Value;

    /// The checked value; `None` if it is not accepted.
    fn read(&self, raw: &ValueKind) -> Option<Self::Value>;

    /// What is accepted, to follow the word "expected".
    fn accepted(&self) -> String;

    /// What the value is called in a flag's help.
    fn placeholder(&self) -> &'static str;

    /// Whether the value is a string in TOML.
    fn is_text(&self) -> bool {
        true
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

fn whole_number(raw: &ValueKind) -> Option<u64> {
    let text = as_typed(raw)?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// A whole number from `min` to `max`.
pub(super) struct Whole<T> {
    min: u64,
    max: u64,
    target: PhantomData<fn() -> T>,
}

pub(super) fn whole<T: TryFrom<u64>>(min: u64, max: u64) -> Whole<T> {
    Whole { min, max, target: PhantomData }
}

impl<T: TryFrom<u64>> Kind for Whole<T> {
    type Value = T;

    fn read(&self, raw: &ValueKind) -> Option<T> {
        let number = whole_number(raw)?;
        if !(self.min..=self.max).contains(&number) {
            return None;
        }
        T::try_from(number).ok()
    }

    fn accepted(&self) -> String {
        format!("a whole number from {} to {}", self.min, self.max)
    }

    fn placeholder(&self) -> &'static str {
        "N"
    }

    fn is_text(&self) -> bool {
        false
    }
}

/// A time in whole seconds.
pub(super) struct Seconds {
    pub(super) min: u64,
    pub(super) max: u64,
}

impl Kind for Seconds {
    type Value = Duration;

    fn read(&self, raw: &ValueKind) -> Option<Duration> {
        whole::<u64>(self.min, self.max).read(raw).map(Duration::from_secs)
    }

    fn accepted(&self) -> String {
        format!("whole seconds from {} to {}", self.min, self.max)
    }

    fn placeholder(&self) -> &'static str {
        "SECONDS"
    }

    fn is_text(&self) -> bool {
        false
    }
}

/// A time in whole seconds, or 0 for no limit.
pub(super) struct SecondsOrNone {
    pub(super) max: u64,
}

impl Kind for SecondsOrNone {
    type Value = Option<Duration>;

    fn read(&self, raw: &ValueKind) -> Option<Option<Duration>> {
        let seconds = whole::<u64>(0, self.max).read(raw)?;
        Some((seconds > 0).then(|| Duration::from_secs(seconds)))
    }

    fn accepted(&self) -> String {
        format!("whole seconds up to {}, or 0 for no limit", self.max)
    }

    fn placeholder(&self) -> &'static str {
        "SECONDS"
    }

    fn is_text(&self) -> bool {
        false
    }
}

/// A time in seconds, parts of them included, or 0 for never.
pub(super) struct SecondsOrNever {
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Kind for SecondsOrNever {
    type Value = Option<Duration>;

    fn read(&self, raw: &ValueKind) -> Option<Option<Duration>> {
        let seconds: f64 = as_typed(raw)?.parse().ok()?;
        if seconds == 0.0 {
            return Some(None);
        }
        (self.min..=self.max).contains(&seconds).then(|| Some(Duration::from_secs_f64(seconds)))
    }

    fn accepted(&self) -> String {
        format!("seconds from {} to {}, or 0 for never", self.min, self.max)
    }

    fn placeholder(&self) -> &'static str {
        "SECONDS"
    }

    fn is_text(&self) -> bool {
        false
    }
}

/// A number in a range whose lower end may be left out.
pub(super) struct Number {
    pub(super) min: f64,
    pub(super) min_included: bool,
    pub(super) max: f64,
}

impl Kind for Number {
    type Value = f64;

    fn read(&self, raw: &ValueKind) -> Option<f64> {
        let number: f64 = as_typed(raw)?.parse().ok()?;
        let above = number > self.min || (self.min_included && number >= self.min);
        (above && number <= self.max).then_some(number)
    }

    fn accepted(&self) -> String {
        let (min, max) = (self.min, self.max);
        if self.min_included {
            format!("a number from {min} to {max}")
        } else {
            format!("a number above {min} and up to {max}")
        }
    }

    fn placeholder(&self) -> &'static str {
        "X"
    }

    fn is_text(&self) -> bool {
        false
    }
}

/// A value of another kind, or `model` for what the model folder says.
pub(super) struct OrModel<K>(pub(super) K);

impl<K: Kind> Kind for OrModel<K> {
    type Value = Option<K::Value>;

    fn read(&self, raw: &ValueKind) -> Option<Option<K::Value>> {
        match text_of(raw) {
            Some("model") => Some(None),
            _ => self.0.read(raw).map(Some),
        }
    }

    fn accepted(&self) -> String {
        format!("{}, or model", self.0.accepted())
    }

    fn placeholder(&self) -> &'static str {
        self.0.placeholder()
    }
}

/// `true` or `false`.
pub(super) struct Switch;

impl Kind for Switch {
    type Value = bool;

    fn read(&self, raw: &ValueKind) -> Option<bool> {
        as_typed(raw)?.parse().ok()
    }

    fn accepted(&self) -> String {
        "true or false".to_owned()
    }

    fn placeholder(&self) -> &'static str {
        "true|false"
    }

    fn is_text(&self) -> bool {
        false
    }
}

/// One of a few words.
pub(super) struct Choice<T: 'static> {
    pub(super) placeholder: &'static str,
    pub(super) options: &'static [(&'static str, T)],
}

impl<T: Copy> Kind for Choice<T> {
    type Value = T;

    fn read(&self, raw: &ValueKind) -> Option<T> {
        let text = text_of(raw)?;
        let found = self.options.iter().find(|(name, _)| *name == text)?;
        Some(found.1)
    }

    fn accepted(&self) -> String {
        let names: Vec<&str> = self.options.iter().map(|(name, _)| *name).collect();
        format!("one of {}", names.join(", "))
    }

    fn placeholder(&self) -> &'static str {
        self.placeholder
    }
}

/// A path; empty means not given.
pub(super) struct OptionalPath {
    pub(super) placeholder: &'static str,
    pub(super) accepted: &'static str,
}

impl Kind for OptionalPath {
    type Value = Option<PathBuf>;

    fn read(&self, raw: &ValueKind) -> Option<Option<PathBuf>> {
        let text = text_of(raw)?;
        if text.contains('\0') {
            return None;
        }
        Some((!text.is_empty()).then(|| PathBuf::from(text)))
    }

    fn accepted(&self) -> String {
        self.accepted.to_owned()
    }

    fn placeholder(&self) -> &'static str {
        self.placeholder
    }
}

/// A short name; empty means not given.
pub(super) struct OptionalName;

impl Kind for OptionalName {
    type Value = Option<String>;

    fn read(&self, raw: &ValueKind) -> Option<Option<String>> {
        let text = text_of(raw)?;
        if text.len() > 128 || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return None;
        }
        Some((!text.is_empty()).then(|| text.to_owned()))
    }

    fn accepted(&self) -> String {
        "a name of at most 128 bytes without white space, or empty".to_owned()
    }

    fn placeholder(&self) -> &'static str {
        "NAME"
    }
}

/// The base of a service's URLs; empty means not given.
pub(super) struct OptionalUrl;

impl Kind for OptionalUrl {
    type Value = Option<String>;

    fn read(&self, raw: &ValueKind) -> Option<Option<String>> {
        let text = text_of(raw)?;
        if text.is_empty() {
            return Some(None);
        }
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
        host_and_port(rest.split('/').next()?)?;
        let plain = rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"?#".contains(&byte));
        plain.then(|| Some(text.to_owned()))
    }

    fn accepted(&self) -> String {
        "http://HOST:PORT or https://HOST, with or without a path, or empty".to_owned()
    }

    fn placeholder(&self) -> &'static str {
        "URL"
    }
}

/// A TCP address, or off.
pub(super) struct Listen;

impl Kind for Listen {
    type Value = Option<ListenAddress>;

    fn read(&self, raw: &ValueKind) -> Option<Option<ListenAddress>> {
        match text_of(raw)? {
            "" | "off" => Some(None),
            text => ListenAddress::parse(text).map(Some),
        }
    }

    fn accepted(&self) -> String {
        "HOST:PORT, [IPV6]:PORT or off".to_owned()
    }

    fn placeholder(&self) -> &'static str {
        "ADDR"
    }
}

/// The longest path that fits a Unix socket's address, with its end mark.
const SOCKET_PATH_BYTES: usize = 107;

/// A Unix socket's path, the default one, or off.
pub(super) struct Socket;

impl Kind for Socket {
    type Value = SocketSetting;

    fn read(&self, raw: &ValueKind) -> Option<SocketSetting> {
        match text_of(raw)? {
            "" | "default" => Some(SocketSetting::Default),
            "off" => Some(SocketSetting::Off),
            text if text.len() > SOCKET_PATH_BYTES || text.contains('\0') => None,
            text => Some(SocketSetting::At(PathBuf::from(text))),
        }
    }

    fn accepted(&self) -> String {
        format!("a path of at most {SOCKET_PATH_BYTES} bytes, default or off")
    }

    fn placeholder(&self) -> &'static str {
        "PATH"
    }
}

/// A file mode in octal. Only as text: a bare 660 in TOML is decimal, and 0660 is not TOML.
pub(super) struct Mode;

impl Kind for Mode {
    type Value = u32;

    fn read(&self, raw: &ValueKind) -> Option<u32> {
        let text = text_of(raw)?;
        if !text.bytes().all(|byte| (b'0'..=b'7').contains(&byte)) {
            return None;
        }
        u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777)
    }

    fn accepted(&self) -> String {
        "an octal mode in quotes, from \"0000\" to \"0777\"".to_owned()
    }

    fn placeholder(&self) -> &'static str {
        "MODE"
    }
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
        let kind = Number { min: 0.0, min_included: false, max: 1.0 };
        assert_eq!(kind.read(&ValueKind::I64(1)), Some(1.0));
        assert_eq!(kind.read(&text("0.5")), Some(0.5));
        for refused in ["0", "1.01", "NaN", "inf", "-1", ""] {
            assert_eq!(kind.read(&text(refused)), None, "{refused}");
        }
    }

    #[test]
    fn what_the_model_says_has_a_word() {
        let kind = OrModel(Number { min: 0.0, min_included: true, max: 2.0 });
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
            assert_eq!(OptionalUrl.read(&text(taken)), Some(Some(taken.to_owned())));
        }
        assert_eq!(OptionalUrl.read(&text("")), Some(None));
        for refused in ["h:1", "http://", "http:///a", "ftp://h", "http://h?x", "http://a b"] {
            assert_eq!(OptionalUrl.read(&text(refused)), None, "{refused}");
        }
    }

    #[test]
    fn modes_are_octal_text_only() {
        assert_eq!(Mode.read(&text("0660")), Some(0o660));
        assert_eq!(Mode.read(&text("666")), Some(0o666));
        for refused in ["0o660", "0888", "1777", "rw", ""] {
            assert_eq!(Mode.read(&text(refused)), None, "{refused}");
        }
        assert_eq!(Mode.read(&ValueKind::I64(660)), None);
    }

    #[test]
    fn zero_seconds_is_no_limit_only_where_it_says_so() {
        assert_eq!(SecondsOrNone { max: 9 }.read(&text("0")), Some(None));
        assert_eq!(Seconds { min: 1, max: 9 }.read(&text("0")), None);
    }

    #[test]
    fn never_is_0_and_parts_of_a_second_are_taken() {
        let kind = SecondsOrNever { min: 0.01, max: 9.0 };
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
        assert_eq!(Socket.read(&text(&long)), None);
        assert_eq!(Socket.read(&text("off")), Some(SocketSetting::Off));
        assert_eq!(
            Socket.read(&text(&long[..SOCKET_PATH_BYTES])),
            Some(SocketSetting::At(PathBuf::from(&long[..SOCKET_PATH_BYTES])))
        );
    }
}
