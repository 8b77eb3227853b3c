//! What a graph with two rotary tables (`longrope`) says of them.

use half::{bf16, f16};
use serde::Serialize;

use crate::rotary_edit;
use crate::wire::{Damaged, Fields, Value, numbers};

// Field numbers of onnx.proto's messages.
const MODEL_GRAPH: u64 = 7;
const GRAPH_NODE: u64 = 1;
const NODE_OUTPUT: u64 = 2;
const NODE_OPERATOR: u64 = 4;
const NODE_ATTRIBUTE: u64 = 5;
const ATTRIBUTE_NAME: u64 = 1;
const ATTRIBUTE_TENSOR: u64 = 5;
const ATTRIBUTE_GRAPH: u64 = 6;
const TENSOR_DIMENSION: u64 = 1;
const TENSOR_TYPE: u64 = 2;
const TENSOR_RAW: u64 = 9;

/// How a graph chooses between two rotary tables.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RotaryChoice {
    /// The most tokens of a sequence, prompt and answer together, that the short table is for: the
    /// model's original context.
    pub short_tokens: usize,
    /// Both tables, where the graph has them as constants of an `If`.
    pub tables: Option<RotaryTables>,
}

/// The two tables.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RotaryTables {
    /// For short sequences.
    pub short: RotaryTable,
    /// For the others.
    pub long: RotaryTable,
    /// By how many times the long one turns each pair of values slower: the long factor over the
    /// short one.
    pub factors: Vec<f64>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RotaryTable {
    /// Positions that it is for.
    pub positions: u64,
    /// What sines and cosines are multiplied by.
    pub scale: f64,
    /// The angle of each pair at position 1.
    #[serde(skip)]
    angles: Vec<f64>,
}

/// The choice, where a graph has one that is known.
pub(super) fn read(model: &[u8], position_ids: Option<&str>) -> Option<RotaryChoice> {
    let short_tokens = rotary_edit::short_tokens(model, position_ids).ok()??;
    Some(RotaryChoice { short_tokens, tables: tables(model).ok().flatten() })
}

fn tables(model: &[u8]) -> Result<Option<RotaryTables>, Damaged> {
    for graph in messages(model, MODEL_GRAPH) {
        for node in messages(graph?, GRAPH_NODE) {
            let node = node?;
            let is_choice = matches!(messages(node, NODE_OPERATOR).next(), Some(Ok(b"If")))
                && messages(node, NODE_OUTPUT).count() == 2;
            if is_choice && let (Some(long), Some(short)) = branches(node)? {
                let pairs = short.angles.iter().zip(&long.angles);
                let factors = pairs.map(|(short, long)| short / long).collect();
                return Ok(Some(RotaryTables { short, long, factors }));
            }
        }
    }
    Ok(None)
}

/// The tables of an `If`: for its condition, and else.
fn branches(node: &[u8]) -> Result<(Option<RotaryTable>, Option<RotaryTable>), Damaged> {
    let (mut then, mut otherwise) = (None, None);
    for attribute in messages(node, NODE_ATTRIBUTE) {
        let attribute = attribute?;
        let name = messages(attribute, ATTRIBUTE_NAME).next().transpose()?;
        let Some(graph) = messages(attribute, ATTRIBUTE_GRAPH).next().transpose()? else {
            continue;
        };
        match name {
            Some(b"then_branch") => then = table(graph)?,
            Some(b"else_branch") => otherwise = table(graph)?,
            _ => {}
        }
    }
    Ok((then, otherwise))
}

/// The table of a branch: two constants, cosines and sines.
fn table(graph: &[u8]) -> Result<Option<RotaryTable>, Damaged> {
    let mut constants = Vec::new();
    for node in messages(graph, GRAPH_NODE) {
        for attribute in messages(node?, NODE_ATTRIBUTE) {
            for tensor in messages(attribute?, ATTRIBUTE_TENSOR) {
                constants.extend(Constant::read(tensor?)?);
            }
        }
    }
    let [cosines, sines] = constants.as_slice() else { return Ok(None) };
    let (Some(first), Some(cosines_1), Some(sines_1)) =
        (cosines.row(0), cosines.row(1), sines.row(1))
    else {
        return Ok(None);
    };
    // The angles at position 1 are at most 1, so that no turn is missed.
    let angles = sines_1.zip(cosines_1).map(|(sine, cosine)| sine.atan2(cosine)).collect();
    // The cosine of 0, scaled.
    let scale = first.into_iter().next().unwrap_or_default();
    Ok(Some(RotaryTable { positions: cosines.rows, scale, angles }))
}

/// A `TensorProto` of two dimensions.
struct Constant<'a> {
    rows: u64,
    columns: u64,
    kind: u64,
    raw: &'a [u8],
}

impl<'a> Constant<'a> {
    fn read(tensor: &'a [u8]) -> Result<Option<Self>, Damaged> {
        let (mut sizes, mut kind, mut raw) = (Vec::new(), 0, None);
        for field in Fields::new(tensor) {
            let field = field?;
            match (field.number, field.value) {
                (TENSOR_DIMENSION, Value::Number(size)) => sizes.push(size),
                (TENSOR_DIMENSION, Value::Bytes(packed)) => sizes.extend(numbers(packed)),
                (TENSOR_TYPE, Value::Number(number)) => kind = number,
                (TENSOR_RAW, Value::Bytes(bytes)) => raw = Some(bytes),
                _ => {}
            }
        }
        let (&[rows, columns], Some(raw)) = (sizes.as_slice(), raw) else { return Ok(None) };
        Ok(Some(Self { rows, columns, kind, raw }))
    }

    /// The values of a row; `None` where they are not there or not of a known type.
    fn row(&self, index: u64) -> Option<impl Iterator<Item = f64> + use<'a>> {
        // `TensorProto.DataType`: float32, float16, bfloat16.
        let (size, read): (usize, fn(&[u8]) -> f64) = match self.kind {
            1 => (4, |bytes| f32::from_le_bytes(bytes.try_into().unwrap_or_default()).into()),
            10 => (2, |bytes| f16::from_le_bytes(bytes.try_into().unwrap_or_default()).into()),
            16 => (2, |bytes| bf16::from_le_bytes(bytes.try_into().unwrap_or_default()).into()),
            _ => return None,
        };
        let bytes = usize::try_from(self.columns).ok()?.checked_mul(size)?;
        let start = usize::try_from(index).ok()?.checked_mul(bytes)?;
        let row = self.raw.get(start..start.checked_add(bytes)?)?;
        Some(row.chunks_exact(size).map(read))
    }
}

/// The messages, or strings, in the fields `number` of a message.
fn messages(message: &[u8], number: u64) -> impl Iterator<Item = Result<&[u8], Damaged>> {
    Fields::new(message).filter_map(move |field| match field {
        Ok(field) if field.number == number => match field.value {
            Value::Bytes(bytes) => Some(Ok(bytes)),
            _ => None,
        },
        Ok(_) => None,
        Err(damage) => Some(Err(damage)),
    })
}
