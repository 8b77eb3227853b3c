//! Protocol-buffer wire format, and as much of onnx.proto (ONNX 1.x) as reading and editing a graph
//! needs.
//!
//! A model's file is edited without a schema: only the messages on the way to an edit are taken
//! apart, and all other bytes are copied as they are. So fields that this program does not know
//! survive, and a graph of many megabytes costs one pass.

// Field numbers of onnx.proto's messages.
pub(super) const MODEL_PRODUCER: u64 = 2;
pub(super) const MODEL_PRODUCER_VERSION: u64 = 3;
pub(super) const MODEL_GRAPH: u64 = 7;
pub(super) const MODEL_OPSET: u64 = 8;
pub(super) const GRAPH_NODE: u64 = 1;
pub(super) const GRAPH_INITIALIZER: u64 = 5;
pub(super) const GRAPH_INPUT: u64 = 11;
pub(super) const GRAPH_OUTPUT: u64 = 12;
pub(super) const GRAPH_VALUE: u64 = 13;
pub(super) const NODE_INPUT: u64 = 1;
pub(super) const NODE_OUTPUT: u64 = 2;
pub(super) const NODE_NAME: u64 = 3;
pub(super) const NODE_OPERATOR: u64 = 4;
pub(super) const NODE_ATTRIBUTE: u64 = 5;
pub(super) const NODE_DOMAIN: u64 = 7;
pub(super) const ATTRIBUTE_NAME: u64 = 1;
pub(super) const ATTRIBUTE_FLOAT: u64 = 2;
pub(super) const ATTRIBUTE_INT: u64 = 3;
pub(super) const ATTRIBUTE_TENSOR: u64 = 5;
pub(super) const ATTRIBUTE_GRAPH: u64 = 6;
pub(super) const ATTRIBUTE_INTS: u64 = 8;
const ATTRIBUTE_TYPE: u64 = 20;
pub(super) const TENSOR_DIMENSION: u64 = 1;
pub(super) const TENSOR_TYPE: u64 = 2;
pub(super) const TENSOR_INT32: u64 = 5;
pub(super) const TENSOR_INT64: u64 = 7;
pub(super) const TENSOR_NAME: u64 = 8;
pub(super) const TENSOR_RAW: u64 = 9;
pub(super) const TENSOR_EXTERNAL: u64 = 13;
pub(super) const ENTRY_KEY: u64 = 1;
pub(super) const ENTRY_VALUE: u64 = 2;
pub(super) const VALUE_NAME: u64 = 1;
pub(super) const VALUE_TYPE: u64 = 2;

// Numbers of `TensorProto.DataType`.
pub(super) const FLOAT: u64 = 1;
pub(super) const UINT8: u64 = 2;
pub(super) const INT8: u64 = 3;
pub(super) const INT64: u64 = 7;
pub(super) const BOOL: u64 = 9;
pub(super) const FLOAT16: u64 = 10;
pub(super) const BFLOAT16: u64 = 16;
pub(super) const UINT4: u64 = 21;
pub(super) const INT4: u64 = 22;

/// The bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the graph file is damaged at byte {0} of a message")]
pub(super) struct Damaged(usize);

/// One field of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) number: u64,
    pub(super) value: Value<'a>,
    /// The field's bytes, tag included.
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
        // Seven bits in each byte, the lowest first. What goes on past 64 bits is no number.
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
        // A damaged length may be anything up to 2^64, so the sum is checked.
        let end = self.at.checked_add(usize::try_from(count).ok()?)?;
        let bytes = self.message.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    fn field(&mut self) -> Option<Field<'a>> {
        let start = self.at;
        let tag = self.varint()?;
        // The low three bits are the wire type. Groups (3 and 4) are obsolete and not in ONNX.
        let value = match tag & 7 {
            0 => self.varint().map(Value::Number)?,
            // Fixed-size values are floating-point numbers here: edits only copy them.
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
        // Messages carry no length of their own: they end where their bytes do.
        if self.at == self.message.len() {
            return None;
        }
        let field = self.field().ok_or(Damaged(self.at));
        if field.is_err() {
            // One error ends the iteration: where the next field begins is unknown.
            self.at = self.message.len();
        }
        Some(field)
    }
}

/// The contents of a message's fields `number` that hold bytes.
pub(super) fn contents(
    message: &[u8],
    number: u64,
) -> impl Iterator<Item = Result<&[u8], Damaged>> {
    Fields::new(message).filter_map(move |field| match field {
        // A field of this number with another wire type is none that the schema knows.
        Ok(Field { number: found, value: Value::Bytes(bytes), .. }) if found == number => {
            Some(Ok(bytes))
        }
        Ok(_) => None,
        Err(damage) => Some(Err(damage)),
    })
}

/// The first of [`contents`].
pub(super) fn content(message: &[u8], number: u64) -> Result<Option<&[u8]>, Damaged> {
    contents(message, number).next().transpose()
}

/// The whole numbers of a packed field, up to the first that is cut.
pub(super) fn numbers(packed: &[u8]) -> impl Iterator<Item = u64> {
    let mut fields = Fields::new(packed);
    std::iter::from_fn(move || fields.varint())
}

/// `message` with the contents of its fields `number` edited; those for which `edit` gives `None` stay
/// as they are, byte for byte.
pub(super) fn edited<E: From<Damaged>>(
    message: &[u8],
    number: u64,
    mut edit: impl FnMut(&[u8]) -> Result<Option<Vec<u8>>, E>,
) -> Result<Vec<u8>, E> {
    // Edits add a few nodes; the room avoids a second copy of a large graph.
    let mut edited = Vec::with_capacity(message.len() + 1024);
    for field in Fields::new(message) {
        let field = field?;
        let content = match field.value {
            Value::Bytes(content) if field.number == number => edit(content)?,
            _ => None,
        };
        match content {
            Some(content) => put_bytes(&mut edited, number, &content),
            None => edited.extend_from_slice(field.raw),
        }
    }
    Ok(edited)
}

/// The fields of `message` that `stays` keeps, byte for byte.
pub(super) fn kept(message: &[u8], stays: impl Fn(&Field<'_>) -> bool) -> Result<Vec<u8>, Damaged> {
    let mut kept = Vec::with_capacity(message.len());
    for field in Fields::new(message) {
        let field = field?;
        if stays(&field) {
            kept.extend_from_slice(field.raw);
        }
    }
    Ok(kept)
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

/// A message of one field with `bytes`.
pub(super) fn message(number: u64, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 8);
    put_bytes(&mut out, number, bytes);
    out
}

/// A message of one field with a whole number.
pub(super) fn message_of_number(number: u64, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_number(&mut out, number, value);
    out
}

/// A `NodeProto`, without what only ONNX Runtime reads.
#[derive(Debug, Default)]
pub(super) struct Node<'a> {
    pub(super) operator: &'a [u8],
    /// Names of tensors; an optional input that is left out is empty.
    pub(super) inputs: Vec<&'a [u8]>,
    pub(super) outputs: Vec<&'a [u8]>,
    /// `AttributeProto`s.
    pub(super) attributes: Vec<&'a [u8]>,
}

impl<'a> Node<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Damaged> {
        let mut node = Self::default();
        for field in Fields::new(bytes) {
            let field = field?;
            let Value::Bytes(bytes) = field.value else { continue };
            match field.number {
                NODE_INPUT => node.inputs.push(bytes),
                NODE_OUTPUT => node.outputs.push(bytes),
                NODE_OPERATOR => node.operator = bytes,
                NODE_ATTRIBUTE => node.attributes.push(bytes),
                _ => {}
            }
        }
        Ok(node)
    }
}

/// The name and the whole number of an `AttributeProto`. A number that is 0 may be left out.
pub(super) fn attribute(bytes: &[u8]) -> Result<(&[u8], Option<u64>), Damaged> {
    // Where a field comes twice, the last one counts, as in every reader of this format.
    let (mut name, mut number): (&[u8], _) = (b"", None);
    for field in Fields::new(bytes) {
        let field = field?;
        match field.value {
            Value::Bytes(bytes) if field.number == ATTRIBUTE_NAME => name = bytes,
            Value::Number(value) if field.number == ATTRIBUTE_INT => number = Some(value),
            _ => {}
        }
    }
    Ok((name, number))
}

/// The whole numbers of an `AttributeProto` that has a list of them.
pub(super) fn attribute_list(bytes: &[u8]) -> Result<Vec<u64>, Damaged> {
    let mut list = Vec::new();
    for field in Fields::new(bytes) {
        // They may come one by one or packed.
        match field? {
            Field { number: ATTRIBUTE_INTS, value: Value::Number(value), .. } => list.push(value),
            Field { number: ATTRIBUTE_INTS, value: Value::Bytes(packed), .. } => {
                list.extend(numbers(packed));
            }
            _ => {}
        }
    }
    Ok(list)
}

/// A `TensorProto`: where its values are and how they are stored.
#[derive(Debug, Default)]
pub(super) struct Tensor<'a> {
    pub(super) name: &'a [u8],
    pub(super) dimensions: Vec<u64>,
    /// A number of `TensorProto.DataType`.
    pub(super) element: u64,
    /// The values, where they are in the graph's own file.
    pub(super) raw: Option<&'a [u8]>,
    /// The file that the values are in, else.
    pub(super) file: Option<&'a str>,
    /// Where they begin in `file`.
    pub(super) offset: u64,
    /// How many bytes they take in `file`.
    pub(super) length: u64,
}

impl<'a> Tensor<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Damaged> {
        let mut tensor = Self::default();
        for field in Fields::new(bytes) {
            let field = field?;
            match (field.number, field.value) {
                // Repeated numbers may come one by one or packed.
                (TENSOR_DIMENSION, Value::Number(size)) => tensor.dimensions.push(size),
                (TENSOR_DIMENSION, Value::Bytes(packed)) => {
                    tensor.dimensions.extend(numbers(packed));
                }
                (TENSOR_TYPE, Value::Number(element)) => tensor.element = element,
                (TENSOR_NAME, Value::Bytes(name)) => tensor.name = name,
                (TENSOR_RAW, Value::Bytes(raw)) => tensor.raw = Some(raw),
                (TENSOR_EXTERNAL, Value::Bytes(bytes)) => {
                    let (key, value) = entry(bytes)?;
                    // Numbers are written as text here. What is none counts as 0, and ONNX Runtime
                    // refuses the tensor when it reads it.
                    let value = std::str::from_utf8(value).unwrap_or_default();
                    match key {
                        b"location" => tensor.file = Some(value),
                        b"offset" => tensor.offset = value.parse().unwrap_or(0),
                        b"length" => tensor.length = value.parse().unwrap_or(0),
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        Ok(tensor)
    }
}

/// The key and the value of an entry of `TensorProto.external_data`.
pub(super) fn entry(bytes: &[u8]) -> Result<(&[u8], &[u8]), Damaged> {
    let (mut key, mut value) = (&b""[..], &b""[..]);
    for field in Fields::new(bytes) {
        let field = field?;
        match (field.number, field.value) {
            (ENTRY_KEY, Value::Bytes(bytes)) => key = bytes,
            (ENTRY_VALUE, Value::Bytes(bytes)) => value = bytes,
            _ => {}
        }
    }
    Ok((key, value))
}

/// A `NodeProto` with one output, which names the node as well.
pub(super) fn node(operator: &str, inputs: &[&[u8]], output: &[u8], name: &str) -> Vec<u8> {
    let mut node = Vec::new();
    for input in inputs {
        put_bytes(&mut node, NODE_INPUT, input);
    }
    put_bytes(&mut node, NODE_OUTPUT, output);
    put_bytes(&mut node, NODE_NAME, name.as_bytes());
    put_bytes(&mut node, NODE_OPERATOR, operator.as_bytes());
    node
}

/// Adds an attribute with a whole number to a `NodeProto`.
pub(super) fn put_attribute(node: &mut Vec<u8>, name: &str, value: u64) {
    /// `AttributeProto.AttributeType.INT`.
    const INT: u64 = 2;
    let mut attribute = message(ATTRIBUTE_NAME, name.as_bytes());
    put_number(&mut attribute, ATTRIBUTE_INT, value);
    // ONNX Runtime refuses an attribute that does not say which of its fields is meant.
    put_number(&mut attribute, ATTRIBUTE_TYPE, INT);
    put_bytes(node, NODE_ATTRIBUTE, &attribute);
}

/// A `TensorProto`: int64 `[1]`.
pub(super) fn int64_constant(name: &str, value: i64) -> Vec<u8> {
    let mut tensor = Vec::new();
    put_number(&mut tensor, TENSOR_DIMENSION, 1);
    put_number(&mut tensor, TENSOR_TYPE, INT64);
    put_bytes(&mut tensor, TENSOR_NAME, name.as_bytes());
    // Raw values are little-endian on every machine, by the format.
    put_bytes(&mut tensor, TENSOR_RAW, &value.to_le_bytes());
    tensor
}

/// A dimension of a tensor that a graph takes or gives.
#[derive(Debug, Clone, Copy)]
pub(super) enum Size<'a> {
    Fixed(u64),
    /// Left open, by this name.
    Open(&'a str),
}

/// A `ValueInfoProto`: a tensor that a graph takes or gives. Without `sizes` it is a scalar.
pub(super) fn value_info(name: &str, element: u64, sizes: &[Size<'_>]) -> Vec<u8> {
    // TensorShapeProto.dim; of a Dimension 1 is dim_value and 2 is dim_param.
    let sizes = sizes.iter().map(|size| match size {
        Size::Open(name) => message(1, &message(2, name.as_bytes())),
        Size::Fixed(size) => message(1, &message_of_number(1, *size)),
    });
    let shape: Vec<u8> = sizes.flatten().collect();
    // TypeProto.tensor_type: its element is field 1, its shape field 2.
    let tensor = [message_of_number(1, element), message(2, &shape)].concat();
    [message(VALUE_NAME, name.as_bytes()), message(VALUE_TYPE, &message(1, &tensor))].concat()
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
