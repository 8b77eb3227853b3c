//! The macro that makes the settings' struct, table and reader from one list.

use config::{Map, Value, ValueKind};

use super::error::Fault;
use super::kind::{Kind, as_in_toml};
use super::lists::as_shown;

/// What the table says about one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// Its name in the file; see [`Definition::environment`] for that of its variable.
    pub key: &'static str,
    /// Its flag's name, without the dashes in front.
    pub flag: String,
    /// What it does, as lines of text, each with a leading space.
    pub doc: &'static str,
    /// The default as it would be typed; empty where there is none or it is worked out.
    pub default: &'static str,
    /// What it is measured in, if in anything.
    pub unit: Option<&'static str>,
    /// What is accepted, to follow the word "expected".
    pub accepted: String,
    /// What the value is called in a flag's help.
    pub placeholder: &'static str,
    /// Whether the value is a string in TOML.
    pub is_text: bool,
}

impl Definition {
    /// The environment variable's name.
    #[must_use]
    pub fn environment(&self) -> String {
        environment_name(self.key)
    }

    /// What it does, in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let lines: Vec<&str> = self.doc.lines().map(str::trim).collect();
        lines.join(" ").trim().to_owned()
    }
}

pub(super) fn flag_name(key: &str) -> String {
    key.replace('_', "-")
}

pub(super) fn environment_name(key: &str) -> String {
    format!("PHI4D_{}", key.to_ascii_uppercase())
}

/// Where the value of `key` came from.
pub(super) fn origin_of(values: &Map<String, Value>, key: &str) -> String {
    values.get(key).and_then(Value::origin).unwrap_or("default").to_owned()
}

/// One key's value and its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: &'static str,
    /// The value as it would be typed; numbers as TOML has them.
    pub value: String,
    /// Where it came from.
    pub origin: String,
}

/// What `values` say of one key.
pub(super) fn entry(definition: &Definition, values: &Map<String, Value>) -> Entry {
    let value = values.get(definition.key).and_then(|value| as_shown(&value.kind));
    let value = value.unwrap_or_default();
    Entry {
        key: definition.key,
        value: if definition.is_text { value } else { as_in_toml(value) },
        origin: origin_of(values, definition.key),
    }
}

/// Reads values out of the layered map and gathers what is wrong.
pub(super) struct Reader<'a> {
    pub(super) values: &'a Map<String, Value>,
    pub(super) faults: Vec<Fault>,
}

impl Reader<'_> {
    /// The checked value of `key`; `None` after noting a fault.
    pub(super) fn read<T>(&mut self, key: &'static str, kind: &Kind<T>) -> Option<T> {
        let value = self.values.get(key);
        let raw = value.map_or(&ValueKind::Nil, |value| &value.kind);
        let read = kind.read(raw);
        if read.is_none() {
            self.faults.push(Fault::Value {
                key,
                value: as_shown(raw).unwrap_or_else(|| raw.to_string()),
                origin: origin_of(self.values, key),
                accepted: kind.accepted.clone(),
            });
        }
        read
    }
}

/// Makes `Settings`, `DEFINITIONS` and `Settings::read` from lines of
/// `/// doc` and `key: type = "default", kind, "unit" or nothing;`.
macro_rules! define_settings {
    ($(
        $(#[doc = $doc:literal])+
        $key:ident : $type:ty = $default:literal, $kind:expr $(, $unit:literal)? ;
    )+) => {
        /// The checked settings. Fields are documented as `config/phi4d.toml` shows them.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Settings {
            $( $(#[doc = $doc])+ pub $key: $type, )+
        }

        /// Every setting there is, in the order of the file.
        pub static DEFINITIONS: LazyLock<Vec<Definition>> = LazyLock::new(|| vec![
            $( {
                let kind = $kind;
                Definition {
                    key: stringify!($key),
                    flag: flag_name(stringify!($key)),
                    doc: concat!($($doc, "\n"),+),
                    default: $default,
                    unit: define_settings!(@unit $($unit)?),
                    accepted: kind.accepted,
                    placeholder: kind.placeholder,
                    is_text: kind.is_text,
                }
            } ),+
        ]);

        impl Settings {
            /// Reads every key, so that `reader` gathers every fault; `None` if there was one.
            pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
                $( let $key = reader.read(stringify!($key), &$kind); )+
                Some(Self { $( $key: $key?, )+ })
            }
        }
    };
    (@unit) => { None };
    (@unit $unit:literal) => { Some($unit) };
}

pub(super) use define_settings;
