//! Reads one tool call, `{"name": …, "arguments": {…}}`, character by character.

use serde_json::Value as Json;

use super::scan::{JsonScan, Scan, is_blank};

/// The effect of a character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// None yet.
    Waits,
    /// It is certain that this is a call: its name, and its arguments so far.
    Begins(String, String),
    /// More arguments of the call that has begun.
    Goes(String),
    /// The call has ended. It had begun.
    Ends,
    /// The call has ended and was not certain before.
    BeginsAndEnds(String, String),
    /// The character is not allowed here.
    Wrong,
}

/// What may come next.
#[derive(Debug, Clone)]
enum Due {
    Key { first: bool },
    KeyText(JsonScan, String),
    Colon,
    Value,
    ValueText(JsonScan, String),
    Arguments(JsonScan),
    CommaOrEnd,
}

/// The fields of a call. Models write the arguments under two names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Name,
    Arguments,
    /// Its value is ignored.
    Other,
}

/// A call after its opening brace.
#[derive(Debug, Clone)]
pub(super) struct CallScan {
    due: Due,
    field: Field,
    name: Option<String>,
    /// Arguments that came before the name.
    arguments: Option<String>,
    begun: bool,
}

impl CallScan {
    pub(super) fn new() -> Self {
        Self {
            due: Due::Key { first: true },
            field: Field::Other,
            name: None,
            arguments: None,
            begun: false,
        }
    }

    /// Whether the name and the beginning of the arguments are known.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Reads the next character. Only objects with one of the `known` names are calls.
    pub(super) fn push(&mut self, c: char, known: &[String]) -> Step {
        match &mut self.due {
            Due::Key { .. } | Due::Colon | Due::Value | Due::CommaOrEnd if is_blank(c) => {}
            Due::Key { first: true } | Due::CommaOrEnd if c == '}' => return self.close(),
            Due::Key { .. } if c == '"' => {
                let (mut scan, mut text) = (JsonScan::new(), String::new());
                scan.push(c, &mut text);
                self.due = Due::KeyText(scan, text);
            }
            Due::KeyText(scan, text) => match scan.push(c, text) {
                Scan::Open => {}
                Scan::Whole => {
                    let Some(field) = field(text) else { return Step::Wrong };
                    self.field = field;
                    self.due = Due::Colon;
                }
                Scan::Wrong => return Step::Wrong,
            },
            Due::Colon if c == ':' => self.due = Due::Value,
            Due::CommaOrEnd if c == ',' => self.due = Due::Key { first: false },
            Due::Value => return self.begin_value(c),
            Due::ValueText(scan, text) => match scan.push(c, text) {
                Scan::Open => {}
                Scan::Whole => {
                    let text = std::mem::take(text);
                    return self.take_value(text, known);
                }
                Scan::Wrong => return Step::Wrong,
            },
            Due::Arguments(scan) => {
                let mut out = String::new();
                match scan.push(c, &mut out) {
                    Scan::Open => {}
                    Scan::Whole => self.due = Due::CommaOrEnd,
                    Scan::Wrong => return Step::Wrong,
                }
                return Step::Goes(out);
            }
            _ => return Step::Wrong,
        }
        Step::Waits
    }

    fn begin_value(&mut self, c: char) -> Step {
        let fits = match self.field {
            Field::Name => c == '"' && self.name.is_none(),
            Field::Arguments => "{\"n".contains(c) && self.arguments.is_none() && !self.begun,
            Field::Other => true,
        };
        let (mut scan, mut text) = (JsonScan::new(), String::new());
        if !fits || scan.push(c, &mut text) == Scan::Wrong {
            return Step::Wrong;
        }
        match (&self.name, self.field, c) {
            (Some(name), Field::Arguments, '{') => {
                self.begun = true;
                self.due = Due::Arguments(scan);
                Step::Begins(name.clone(), text)
            }
            _ => {
                self.due = Due::ValueText(scan, text);
                Step::Waits
            }
        }
    }

    fn take_value(&mut self, text: String, known: &[String]) -> Step {
        self.due = Due::CommaOrEnd;
        match self.field {
            Field::Other => return Step::Waits,
            Field::Name => match serde_json::from_str::<String>(&text) {
                Ok(name) if known.contains(&name) => self.name = Some(name),
                _ => return Step::Wrong,
            },
            Field::Arguments => match object_text(text) {
                Some(text) => self.arguments = Some(text),
                None => return Step::Wrong,
            },
        }
        match (&self.name, self.arguments.take()) {
            (Some(name), Some(arguments)) => {
                self.begun = true;
                Step::Begins(name.clone(), arguments)
            }
            (_, arguments) => {
                self.arguments = arguments;
                Step::Waits
            }
        }
    }

    fn close(&mut self) -> Step {
        match &self.name {
            _ if self.begun => Step::Ends,
            // A call without arguments.
            Some(name) => Step::BeginsAndEnds(name.clone(), "{}".to_owned()),
            None => Step::Wrong,
        }
    }
}

/// A call's field by its name; `None` if calls have no such field.
fn field(text: &str) -> Option<Field> {
    match serde_json::from_str::<String>(text).ok()?.as_str() {
        "name" => Some(Field::Name),
        "arguments" | "parameters" => Some(Field::Arguments),
        "id" | "type" => Some(Field::Other),
        _ => None,
    }
}

/// Arguments as the text of an object: models write them as an object, as a string that contains
/// one, or as null.
fn object_text(text: String) -> Option<String> {
    match serde_json::from_str::<Json>(&text).ok()? {
        Json::Object(_) => Some(text),
        Json::Null => Some("{}".to_owned()),
        Json::String(inner) => {
            let holds_object =
                serde_json::from_str::<serde_json::Map<String, Json>>(&inner).is_ok();
            // Trimmed, as an object's own text is.
            holds_object.then(|| inner.trim().to_owned())
        }
        _ => None,
    }
}
