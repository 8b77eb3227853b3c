//! Protocol-buffer wire format, as much of it as the edits of a graph need.

/// The bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the graph file is damaged at byte {0} of a message")]
pub(super) struct Damaged(usize);

/// One field of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) number: u64,
    pub(super) value: Value<'a>,
    /// The field as it stands, tag included.
    pub(super) raw: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// A whole number.
    Number(u64),
    /// A string, a byte string, or a message.
    Bytes(&'a [u8]),
    /// Anything else.
    Other,
}

/// The fields of a message, in order.
pub(super) struct Fields<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { message, at: 0 }
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = *self.message.get(self.at)?;
            self.at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn skip(&mut self, count: u64) -> Option<&'a [u8]> {
        let end = self.at.checked_add(usize::try_from(count).ok()?)?;
        let bytes = self.message.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    fn field(&mut self) -> Option<Field<'a>> {
        let start = self.at;
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => self.varint().map(Value::Number)?,
            1 => self.skip(8).map(|_| Value::Other)?,
            2 => {
                let length = self.varint()?;
                Value::Bytes(self.skip(length)?)
            }
            5 => self.skip(4).map(|_| Value::Other)?,
            _ => return None,
        };
        Some(Field { number: tag >> 3, value, raw: &self.message[start..self.at] })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at == self.message.len() {
            return None;
        }
        let field = self.field().ok_or(Damaged(self.at));
        if field.is_err() {
            self.at = self.message.len();
        }
        Some(field)
    }
}

/// The whole numbers of a packed field, up to the first that is cut.
pub(super) fn numbers(packed: &[u8]) -> impl Iterator<Item = u64> {
    let mut fields = Fields::new(packed);
    std::iter::from_fn(move || fields.varint())
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let byte = value.to_le_bytes()[0];
        value >>= 7;
        if value == 0 {
            out.push(byte & 0x7f);
            return;
        }
        out.push(byte | 0x80);
    }
}

pub(super) fn put_number(out: &mut Vec<u8>, number: u64, value: u64) {
    put_varint(out, number << 3);
    put_varint(out, value);
}

pub(super) fn put_bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_varint(out, number << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_read_back(value in any::<u64>()) {
            let mut bytes = Vec::new();
            put_number(&mut bytes, 3, value);
            let field = Fields::new(&bytes).next().unwrap().unwrap();
            prop_assert_eq!((field.number, field.value), (3, Value::Number(value)));
            prop_assert_eq!(field.raw, &bytes[..]);
        }
    }
}
