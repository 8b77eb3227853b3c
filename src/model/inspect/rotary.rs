//! The two rotary tables of a `longrope` graph.

use half::{bf16, f16};
use serde::Serialize;

use crate::protobuf::{
    ATTRIBUTE_GRAPH, ATTRIBUTE_NAME, ATTRIBUTE_TENSOR, BFLOAT16, Damaged, FLOAT, FLOAT16,
    GRAPH_NODE, MODEL_GRAPH, NODE_ATTRIBUTE, Node, Tensor, content, contents,
};
use crate::rotary_edit;

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
    /// By how many times the long one rotates each pair of values slower: the long factor over the
    /// short one.
    pub factors: Vec<f64>,
}

/// One of the two tables.
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
    for graph in contents(model, MODEL_GRAPH) {
        for node in contents(graph?, GRAPH_NODE) {
            let node = Node::read(node?)?;
            // A choice of tables gives two: of cosines and of sines.
            let is_choice = node.operator == b"If" && node.outputs.len() == 2;
            if is_choice && let (Some(long), Some(short)) = branches(&node)? {
                let pairs = short.angles.iter().zip(&long.angles);
                let factors = pairs.map(|(short, long)| short / long).collect();
                return Ok(Some(RotaryTables { short, long, factors }));
            }
        }
    }
    Ok(None)
}

/// The tables of an `If`: for its condition, and else.
fn branches(node: &Node<'_>) -> Result<(Option<RotaryTable>, Option<RotaryTable>), Damaged> {
    let (mut then, mut otherwise) = (None, None);
    for attribute in &node.attributes {
        let Some(graph) = content(attribute, ATTRIBUTE_GRAPH)? else { continue };
        match content(attribute, ATTRIBUTE_NAME)? {
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
    for node in contents(graph, GRAPH_NODE) {
        for attribute in contents(node?, NODE_ATTRIBUTE) {
            for tensor in contents(attribute?, ATTRIBUTE_TENSOR) {
                let tensor = Tensor::read(tensor?)?;
                if tensor.raw.is_some() && tensor.dimensions.len() == 2 {
                    constants.push(tensor);
                }
            }
        }
    }
    // A branch of any other form is none that is known: `inspect` then shows the length only.
    let [cosines, sines] = constants.as_slice() else { return Ok(None) };
    let (Some(first), Some(cosines_1), Some(sines_1)) =
        (row(cosines, 0), row(cosines, 1), row(sines, 1))
    else {
        return Ok(None);
    };
    // The angles at position 1 are at most 1 radian, so that atan2 gives them without ambiguity.
    let angles = sines_1.zip(cosines_1).map(|(sine, cosine)| sine.atan2(cosine)).collect();
    // The cosine at position 0 is 1 times the scale.
    let scale = first.into_iter().next().unwrap_or_default();
    Ok(Some(RotaryTable { positions: cosines.dimensions[0], scale, angles }))
}

/// The values of a row of a table; `None` if they are missing or not of a known type.
fn row<'a>(table: &Tensor<'a>, index: u64) -> Option<impl Iterator<Item = f64> + use<'a>> {
    let (size, read): (usize, fn(&[u8]) -> f64) = match table.element {
        FLOAT => (4, |bytes| f32::from_le_bytes(bytes.try_into().unwrap_or_default()).into()),
        FLOAT16 => (2, |bytes| f16::from_le_bytes(bytes.try_into().unwrap_or_default()).into()),
        BFLOAT16 => (2, |bytes| bf16::from_le_bytes(bytes.try_into().unwrap_or_default()).into()),
        _ => return None,
    };
    let columns = *table.dimensions.get(1)?;
    let bytes = usize::try_from(columns).ok()?.checked_mul(size)?;
    let start = usize::try_from(index).ok()?.checked_mul(bytes)?;
    let row = table.raw?.get(start..start.checked_add(bytes)?)?;
    Some(row.chunks_exact(size).map(read))
}
