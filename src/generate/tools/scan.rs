//! Follows one JSON value character by character, without building it.

/// The state of a value after a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scan {
    /// It is incomplete.
    Open,
    /// This character ended it.
    Whole,
    /// The character is not allowed here.
    Wrong,
}

/// What may come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    Colon,
    CommaOrEnd,
    Text { key: bool },
    Escape { key: bool },
    Hex { key: bool, left: u8 },
    Word(&'static str),
    Number(Digits),
    Nothing,
}

/// Where in a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Digits {
    Sign,
    Zero,
    Whole,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    Power,
}

/// Deepest nesting that is followed; serde_json's, too.
const DEEPEST: usize = 127;

/// A JSON object, list, string or word, read character by character. A number alone is not
/// supported, as only the character after it shows its end.
#[derive(Debug, Clone)]
pub(super) struct JsonScan {
    due: Due,
    /// Open containers, outermost first; true for objects.
    open: Vec<bool>,
}

impl JsonScan {
    /// Before the value's first character.
    pub(super) fn new() -> Self {
        Self { due: Due::Value, open: Vec::new() }
    }

    /// Reads the next character and, unless it is wrong, appends it to `out`. Control characters in
    /// strings are escaped: JSON forbids them, but models write them.
    pub(super) fn push(&mut self, c: char, out: &mut String) -> Scan {
        let in_text = matches!(self.due, Due::Text { .. });
        let scan = self.step(c);
        if scan != Scan::Wrong {
            match c {
                '\n' if in_text => out.push_str("\\n"),
                '\r' if in_text => out.push_str("\\r"),
                '\t' if in_text => out.push_str("\\t"),
                c if in_text && c < ' ' => {
                    out.push_str("\\u00");
                    out.extend(
                        [c as u32 >> 4, c as u32 & 15]
                            .map(|digit| char::from_digit(digit, 16).unwrap_or('0')),
                    );
                }
                c => out.push(c),
            }
        }
        scan
    }

    fn step(&mut self, c: char) -> Scan {
        if is_blank(c) && self.skips_blanks() {
            return Scan::Open;
        }
        match self.due {
            Due::ValueOrEnd if c == ']' => return self.close(),
            Due::KeyOrEnd if c == '}' => return self.close(),
            Due::Value | Due::ValueOrEnd => return self.begin(c),
            Due::Key | Due::KeyOrEnd if c == '"' => self.due = Due::Text { key: true },
            Due::Colon if c == ':' => self.due = Due::Value,
            Due::CommaOrEnd => return self.go_on(c),
            Due::Text { key } => match c {
                '"' => return self.end_text(key),
                '\\' => self.due = Due::Escape { key },
                _ => {}
            },
            Due::Escape { key } if c == 'u' => self.due = Due::Hex { key, left: 4 },
            Due::Escape { key } if "\"\\/bfnrt".contains(c) => self.due = Due::Text { key },
            Due::Hex { key, left } if c.is_ascii_hexdigit() => {
                let more = left > 1;
                self.due = if more { Due::Hex { key, left: left - 1 } } else { Due::Text { key } };
            }
            Due::Word(rest) if rest.starts_with(c) => {
                let rest = &rest[c.len_utf8()..];
                if rest.is_empty() {
                    return self.end_value();
                }
                self.due = Due::Word(rest);
            }
            Due::Number(at) => return self.digit(at, c),
            _ => return Scan::Wrong,
        }
        Scan::Open
    }

    fn skips_blanks(&self) -> bool {
        use Due::{Colon, CommaOrEnd, Key, KeyOrEnd, Value, ValueOrEnd};
        matches!(self.due, Value | ValueOrEnd | Key | KeyOrEnd | Colon | CommaOrEnd)
    }

    fn begin(&mut self, c: char) -> Scan {
        self.due = match c {
            '{' | '[' if self.open.len() >= DEEPEST => return Scan::Wrong,
            '{' => {
                self.open.push(true);
                Due::KeyOrEnd
            }
            '[' => {
                self.open.push(false);
                Due::ValueOrEnd
            }
            '"' => Due::Text { key: false },
            't' => Due::Word("rue"),
            'f' => Due::Word("alse"),
            'n' => Due::Word("ull"),
            '-' if !self.open.is_empty() => Due::Number(Digits::Sign),
            '0' if !self.open.is_empty() => Due::Number(Digits::Zero),
            '1'..='9' if !self.open.is_empty() => Due::Number(Digits::Whole),
            _ => return Scan::Wrong,
        };
        Scan::Open
    }

    fn digit(&mut self, at: Digits, c: char) -> Scan {
        use Digits::{Exponent, ExponentSign, Fraction, Point, Power, Sign, Whole, Zero};
        let next = match (at, c) {
            (Sign, '0') => Zero,
            (Sign, '1'..='9') | (Whole, '0'..='9') => Whole,
            (Zero | Whole, '.') => Point,
            (Point | Fraction, '0'..='9') => Fraction,
            (Zero | Whole | Fraction, 'e' | 'E') => Exponent,
            (Exponent, '+' | '-') => ExponentSign,
            (Exponent | ExponentSign | Power, '0'..='9') => Power,
            (Zero | Whole | Fraction | Power, c) => {
                // The number ended before this character.
                self.due = Due::CommaOrEnd;
                return if is_blank(c) { Scan::Open } else { self.go_on(c) };
            }
            _ => return Scan::Wrong,
        };
        self.due = Due::Number(next);
        Scan::Open
    }

    /// After a value within a container.
    fn go_on(&mut self, c: char) -> Scan {
        match (self.open.last(), c) {
            (Some(true), ',') => self.due = Due::Key,
            (Some(false), ',') => self.due = Due::Value,
            (Some(true), '}') | (Some(false), ']') => return self.close(),
            _ => return Scan::Wrong,
        }
        Scan::Open
    }

    fn end_text(&mut self, key: bool) -> Scan {
        if key {
            self.due = Due::Colon;
            return Scan::Open;
        }
        self.end_value()
    }

    fn close(&mut self) -> Scan {
        self.open.pop();
        self.end_value()
    }

    fn end_value(&mut self) -> Scan {
        if self.open.is_empty() {
            self.due = Due::Nothing;
            return Scan::Whole;
        }
        self.due = Due::CommaOrEnd;
        Scan::Open
    }
}

/// JSON's white space.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\n' | '\r' | '\t')
}

/// The bytes of the value at the beginning of `text`, and what of it is passed on; `None` if it is
/// wrong or incomplete.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn value_in(text: &str) -> Option<(usize, String)> {
    let mut scan = JsonScan::new();
    let mut out = String::new();
    for (at, c) in text.char_indices() {
        match scan.push(c, &mut out) {
            Scan::Open => {}
            Scan::Whole => return Some((at + c.len_utf8(), out)),
            Scan::Wrong => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    /// How many characters the value takes, and its text; `None` if it is wrong or never whole.
    fn scan(text: &str) -> Option<(usize, String)> {
        value_in(text).map(|(length, out)| (text[..length].chars().count(), out))
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC*|[\"\\\\\n\u{1}é𝄞]*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("\\PC{0,4}", inner), 0..4)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_serde_writes_is_whole_at_its_last_character(value in any_json(), pretty: bool) {
            prop_assume!(!value.is_number());
            let text = if pretty {
                serde_json::to_string_pretty(&value).unwrap()
            } else {
                value.to_string()
            };
            prop_assert_eq!(scan(&format!("{text} x")), Some((text.chars().count(), text)));
        }

        /// Damaged JSON: the scan and serde_json agree on whether it is JSON.
        #[test]
        fn what_is_wrong_to_serde_is_wrong_here(
            value in any_json(), at: prop::sample::Index, with in "[\\[\\]{}\",:0-9.eE+\\-\\\\a-z ]"
        ) {
            let mut text: Vec<char> = format!("[{value}]").chars().collect();
            let at = at.index(text.len());
            text.splice(at..=at, with.chars());
            let text: String = text.into_iter().collect();
            let mut stream = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
            let expected = match stream.next() {
                Some(Ok(value)) if !value.is_number() => Some(stream.byte_offset()),
                Some(Err(error)) if error.to_string().starts_with("number out of range") => {
                    return Ok(())
                }
                Some(Err(error)) if error.to_string().contains("surrogate")
                    || error.to_string().contains("hex escape") => return Ok(()),
                _ => None,
            };
            let found = scan(&text).map(|(taken, _)| {
                text.chars().take(taken).map(char::len_utf8).sum::<usize>()
            });
            prop_assert_eq!(found, expected, "{}", text);
        }
    }

    #[test]
    fn control_characters_in_texts_are_escaped() {
        let (_, out) = scan("{\"a\":\n\"x\ny\u{1}\"}").unwrap();
        assert_eq!(out, "{\"a\":\n\"x\\ny\\u0001\"}");
        assert_eq!(serde_json::from_str::<Value>(&out).unwrap()["a"], "x\ny\u{1}");
    }

    #[test]
    fn numbers_alone_and_too_deep_values_are_wrong() {
        assert_eq!(scan("12 "), None);
        assert_eq!(scan(&"[".repeat(DEEPEST + 1)), None);
        assert!(scan(&format!("{}{}", "[".repeat(DEEPEST), "]".repeat(DEEPEST))).is_some());
    }
}
