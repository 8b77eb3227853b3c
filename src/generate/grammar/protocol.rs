//! The messages between the daemon and a form's process, as bytes. Numbers are little-endian.

use super::super::request::{Constraint, Form};

/// A form to compile.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Order {
    /// The form's field in the request.
    pub(super) field: String,
    pub(super) form: Form,
    /// Schemas within the form with their fields, to find out which of them is at fault.
    pub(super) parts: Vec<Constraint>,
}

/// From the daemon.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Ask {
    Compile(Order),
    /// A token was chosen.
    Token(u32),
    /// Fork, and serve the link that comes with this frame.
    Fork,
}

/// From a form's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The process is ready.
    Ready,
    /// The chosen token was followed; whether nothing may follow it.
    Progress { complete: bool },
    /// What may follow.
    Following(Following),
    /// The form can't be used: the field at fault, its value, and what would be accepted.
    Refused { field: String, value: String, accepted: String },
    /// The form can't be followed.
    Failed(String),
}

/// What may follow in a state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Following {
    /// One bit for each token.
    pub(super) allowed: Vec<u32>,
    /// Bytes that must follow.
    pub(super) forced: Vec<u8>,
    /// Bytes that the process has allocated.
    pub(super) weight: usize,
}

const COMPILE: u8 = b'C';
const TOKEN: u8 = b'T';
const FORK: u8 = b'F';
const READY: u8 = b'H';
const PROGRESS: u8 = b'P';
const FOLLOWING: u8 = b'M';
const REFUSED: u8 = b'R';
const FAILED: u8 = b'E';

impl Ask {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Compile(order) => {
                let mut out = vec![COMPILE];
                put(&mut out, order.field.as_bytes());
                put_form(&mut out, &order.form);
                put_count(&mut out, order.parts.len());
                for part in &order.parts {
                    put(&mut out, part.field.as_bytes());
                    put_form(&mut out, &part.form);
                }
                out
            }
            Self::Token(token) => {
                let mut out = vec![TOKEN];
                out.extend_from_slice(&token.to_le_bytes());
                out
            }
            Self::Fork => vec![FORK],
        }
    }

    /// `None` if the bytes are no such message.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let mut reader = Reader(rest);
        let ask = match *kind {
            COMPILE => {
                let field = reader.text()?;
                let form = reader.form()?;
                let parts = (0..reader.count()?)
                    .map(|_| Some(Constraint { field: reader.text()?, form: reader.form()? }))
                    .collect::<Option<_>>()?;
                Self::Compile(Order { field, form, parts })
            }
            TOKEN => Self::Token(reader.number()?),
            FORK => Self::Fork,
            _ => return None,
        };
        reader.0.is_empty().then_some(ask)
    }
}

impl Answer {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ready => vec![READY],
            Self::Progress { complete } => vec![PROGRESS, u8::from(*complete)],
            Self::Following(following) => {
                let mut out = Vec::with_capacity(following.allowed.len() * 4 + 64);
                out.push(FOLLOWING);
                out.extend_from_slice(&(following.weight as u64).to_le_bytes());
                put(&mut out, &following.forced);
                for word in &following.allowed {
                    out.extend_from_slice(&word.to_le_bytes());
                }
                out
            }
            Self::Refused { field, value, accepted } => {
                let mut out = vec![REFUSED];
                for text in [field, value, accepted] {
                    put(&mut out, text.as_bytes());
                }
                out
            }
            Self::Failed(reason) => {
                let mut out = vec![FAILED];
                put(&mut out, reason.as_bytes());
                out
            }
        }
    }

    /// `None` if the bytes are no such message.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        let mut reader = Reader(rest);
        let answer = match *kind {
            READY => Self::Ready,
            PROGRESS => Self::Progress { complete: reader.take(1)? != [0] },
            FOLLOWING => {
                let weight = usize::try_from(reader.long()?).ok()?;
                let forced = reader.bytes()?.to_vec();
                let words = reader.take(reader.0.len())?.chunks(4);
                let word = |word: &[u8]| Some(u32::from_le_bytes(word.try_into().ok()?));
                let allowed = words.map(word).collect::<Option<_>>()?;
                Self::Following(Following { allowed, forced, weight })
            }
            REFUSED => Self::Refused {
                field: reader.text()?,
                value: reader.text()?,
                accepted: reader.text()?,
            },
            FAILED => Self::Failed(reader.text()?),
            _ => return None,
        };
        reader.0.is_empty().then_some(answer)
    }
}

fn put_count(out: &mut Vec<u8>, count: usize) {
    // Longer texts make a frame that is too long, which sending refuses.
    out.extend_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
}

pub(super) fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    put_count(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_form(out: &mut Vec<u8>, form: &Form) {
    match form {
        Form::JsonObject => out.push(b'o'),
        Form::JsonSchema(schema) => {
            out.push(b's');
            put(out, schema.to_string().as_bytes());
        }
        Form::LiteralSchema(schema) => {
            out.push(b'S');
            put(out, schema.to_string().as_bytes());
        }
        Form::Regex(pattern) => {
            out.push(b'r');
            put(out, pattern.as_bytes());
        }
        Form::Lark(grammar) => {
            out.push(b'l');
            put(out, grammar.as_bytes());
        }
        Form::Choice(texts) => {
            out.push(b'c');
            put_count(out, texts.len());
            for text in texts {
                put(out, text.as_bytes());
            }
        }
    }
}

/// Reads what [`put`] and the like have written.
pub(super) struct Reader<'b>(pub(super) &'b [u8]);

impl<'b> Reader<'b> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn number(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }

    fn long(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }

    pub(super) fn count(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok()
    }

    pub(super) fn bytes(&mut self) -> Option<&'b [u8]> {
        let count = self.count()?;
        self.take(count)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn form(&mut self) -> Option<Form> {
        Some(match self.take(1)? {
            b"o" => Form::JsonObject,
            b"s" => Form::JsonSchema(serde_json::from_slice(self.bytes()?).ok()?),
            b"S" => Form::LiteralSchema(serde_json::from_slice(self.bytes()?).ok()?),
            b"r" => Form::Regex(self.text()?),
            b"l" => Form::Lark(self.text()?),
            b"c" => {
                let count = self.count()?;
                Form::Choice((0..count).map(|_| self.text()).collect::<Option<_>>()?)
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        let schema = json!({"type": "object", "properties": {"ä": {"enum": [1, null, "x"]}}});
        for form in [
            Form::JsonObject,
            Form::JsonSchema(schema.clone()),
            Form::LiteralSchema(schema),
            Form::Regex("a\n".into()),
            Form::Lark("start: \"ß\"".into()),
            Form::Choice(vec!["a".into(), String::new()]),
        ] {
            let field = "tools[0]".to_owned();
            let parts = vec![Constraint { form: Form::JsonSchema(json!({})), field }];
            let ask = Ask::Compile(Order { field: "guided_json".into(), form, parts });
            assert_eq!(Ask::decode(&ask.encode()), Some(ask));
        }
        for ask in [Ask::Token(200_017), Ask::Fork] {
            assert_eq!(Ask::decode(&ask.encode()), Some(ask));
        }
        let following = Following { allowed: vec![1, u32::MAX], forced: vec![0xFF], weight: 77 };
        for answer in [
            Answer::Ready,
            Answer::Progress { complete: true },
            Answer::Progress { complete: false },
            Answer::Following(following),
            Answer::Refused { field: "f".into(), value: "v".into(), accepted: "a".into() },
            Answer::Failed("x".into()),
        ] {
            assert_eq!(Answer::decode(&answer.encode()), Some(answer));
        }
    }

    proptest! {
        #[test]
        fn other_bytes_are_refused_and_no_more(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(ask) = Ask::decode(&bytes) {
                prop_assert_eq!(Ask::decode(&ask.encode()), Some(ask));
            }
            if let Some(answer) = Answer::decode(&bytes) {
                prop_assert_eq!(Answer::decode(&answer.encode()), Some(answer));
            }
        }
    }
}
