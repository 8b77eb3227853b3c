//! An upper bound of the memory that a body's JSON takes once it is parsed, by one pass over its
//! bytes.
//!
//! Values take far more memory than their text: `{},` is three bytes and becomes about a hundred.
//! The bound counts what [`serde_json`] allocates: lists and maps grow by doubling, and the
//! allocator rounds each allocation up. `tests/measure.rs` compares it with what an allocator
//! counts.

use serde_json::Value;

/// A list's item, and a map's entry: hash, key and value.
const ITEM: usize = size_of::<Value>();
const ENTRY: usize = size_of::<u64>() + size_of::<String>() + ITEM;

/// A map's index of an entry: a number and a control byte, in a table that is up to half empty
/// and always a power of two.
const SLOT: usize = size_of::<usize>() + 1;

/// The first capacity of lists and maps.
const FIRST: usize = 4;

/// Overhead of one allocation.
const ALLOCATION: usize = 32;

/// The longest text that is parsed as JSON in its turn, in bytes: a schema that is given as a string.
pub(super) const MOST_SPELT: usize = 1 << 20;

/// The parser's recursion limit.
const DEEPEST: u32 = 128;

/// What is in a body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Measured {
    /// Values: lists, objects, and what is in them.
    pub(super) values: usize,
    /// Bytes of memory that they take at most, all together.
    pub(super) bytes: usize,
    /// Bytes that texts among them take at most if they are parsed, too.
    pub(super) spelt: usize,
}

/// Measures JSON. If it is invalid, the result covers at least what comes before the error, which
/// is all that the parser allocates for.
pub(super) fn measure(json: &[u8]) -> Measured {
    let mut measured = Measured { values: 1, bytes: ITEM, spelt: 0 };
    // One bit for each open container, the innermost last: whether it is an object.
    let (mut kinds, mut depth) = (0_u128, 0_u32);
    let (mut at, mut longest_escaped) = (0, 0);
    while let Some(&byte) = json.get(at) {
        at += 1;
        match byte {
            b'"' => {
                let (length, escaped) = string(&json[at..]);
                measured.spelt += spelt(&json[at..][..length]);
                at += length + 1;
                if escaped {
                    longest_escaped = longest_escaped.max(length);
                }
                if length > 0 {
                    measured.bytes += length + ALLOCATION;
                }
            }
            b'[' | b'{' => {
                if depth == DEEPEST {
                    break;
                }
                let object = byte == b'{';
                kinds = kinds << 1 | u128::from(object);
                depth += 1;
                // Empty containers allocate nothing.
                if next(json, at) != Some(if object { b'}' } else { b']' }) {
                    measured.values += 1;
                    let (one, table) = if object { (ENTRY, 2 * FIRST * SLOT) } else { (ITEM, 0) };
                    let allocations = if object { 2 * ALLOCATION } else { ALLOCATION };
                    measured.bytes += FIRST * one + table + allocations;
                }
            }
            b']' | b'}' => {
                kinds >>= 1;
                depth = depth.saturating_sub(1);
            }
            b',' => {
                measured.values += 1;
                let object = kinds & 1 == 1;
                measured.bytes += 2 * if object { ENTRY + 2 * SLOT } else { ITEM };
            }
            _ => {}
        }
    }
    // The parser assembles strings with escapes in one buffer, which grows by doubling.
    measured.bytes += 2 * longest_escaped;
    measured
}

/// The first byte from `at` on that is no white space.
fn next(json: &[u8], at: usize) -> Option<u8> {
    json[at..].iter().copied().find(|byte| !byte.is_ascii_whitespace())
}

/// The bytes up to a string's closing quote, and whether there are escapes among them.
fn string(rest: &[u8]) -> (usize, bool) {
    let (mut at, mut escaped) = (0, false);
    while let Some(&byte) = rest.get(at) {
        match byte {
            b'"' => return (at, escaped),
            b'\\' => {
                escaped = true;
                at += 2;
            }
            _ => at += 1,
        }
    }
    (rest.len(), escaped)
}

/// What an object that `text` spells takes once it is parsed, at most: `text` is within a JSON string, so
/// each character may be an escape. 0 for texts that are no object's, and for those longer than
/// [`MOST_SPELT`], which nobody parses.
fn spelt(text: &[u8]) -> usize {
    let mut rest = text;
    while let [b' ', after @ ..] | [b'\\', b'n' | b'r' | b't', after @ ..] = rest {
        rest = after;
    }
    if !matches!(rest, [b'{', ..] | [b'\\', b'u', ..]) {
        return 0;
    }
    let (mut length, mut containers, mut items, mut quotes) = (0, 0, 0, 0);
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        length += 1;
        match byte {
            b'{' | b'[' => containers += 1,
            b',' => items += 1,
            b'\\' => match bytes.next() {
                // The number of any character, in four digits.
                Some(b'u') => {
                    bytes.nth(3);
                    containers += 1;
                }
                Some(b'"') => quotes += 1,
                _ => {}
            },
            _ => {}
        }
    }
    if length > MOST_SPELT {
        return 0;
    }
    // Its strings and the buffer for those with escapes, which grows by doubling.
    let strings = 3 * text.len() + (quotes / 2 + 1) * ALLOCATION;
    let container = FIRST * ENTRY + 2 * FIRST * SLOT + 2 * ALLOCATION;
    ITEM + strings + containers * container + items * 2 * (ENTRY + 2 * SLOT)
}
