//! The messages between the daemon and a form's process: JSON, but for what may follow a token, which is many
//! bits for each. Numbers outside of JSON are little-endian.

use serde::{Deserialize, Serialize};

use super::super::request::{Constraint, Form};

/// A form to compile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Order {
    /// The form's field in the request.
    pub(super) field: String,
    pub(super) form: Form,
    /// Schemas within the form with their fields, to find out which of them is at fault.
    pub(super) parts: Vec<Constraint>,
}

/// From the daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Ask {
    Compile(Order),
    /// A token was chosen.
    Token(u32),
    /// Fork, and serve the link that comes with this frame.
    Fork,
}

/// From a form's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The process is ready.
    Ready,
    /// The chosen token was followed; whether nothing may follow it.
    Progress { complete: bool },
    /// What may follow.
    #[serde(skip)]
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

/// Begins the frame of a [`Following`], as it begins no JSON.
const FOLLOWING: u8 = b'M';

impl Ask {
    pub(super) fn encode(&self) -> Vec<u8> {
        json(self)
    }

    /// `None` if the bytes are no such message.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

impl Answer {
    pub(super) fn encode(&self) -> Vec<u8> {
        let Self::Following(following) = self else { return json(self) };
        let mut out = Vec::with_capacity(following.allowed.len() * 4 + 64);
        out.push(FOLLOWING);
        out.extend_from_slice(&(following.weight as u64).to_le_bytes());
        put(&mut out, &following.forced);
        for word in &following.allowed {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out
    }

    /// `None` if the bytes are no such message.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let Some(rest) = bytes.strip_prefix(&[FOLLOWING]) else {
            return serde_json::from_slice(bytes).ok();
        };
        let mut reader = Reader(rest);
        let weight = usize::try_from(reader.long()?).ok()?;
        let forced = reader.bytes()?.to_vec();
        let word = |word: &[u8]| Some(u32::from_le_bytes(word.try_into().ok()?));
        let allowed = reader.0.chunks(4).map(word).collect::<Option<_>>()?;
        Some(Self::Following(Following { allowed, forced, weight }))
    }
}

fn json(message: &impl Serialize) -> Vec<u8> {
    // Can't fail: all names are texts. An empty frame is no message.
    serde_json::to_vec(message).unwrap_or_default()
}

/// Writes `bytes` after their number. A text that is too long for that makes a frame that is too long, which
/// sending refuses.
pub(super) fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Reads what [`put`] has written, and numbers.
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
