//! The memory budget of all requests together: a body, what it is parsed into, its tokens and its
//! answers are counted here until the request ends.
//!
//! A caller may hold at most as much as it leaves free, so that the next caller finds room: a
//! single caller gets half of the total, the next one half of the rest, and so on. Small requests
//! are exempt, so that a caller's large requests do not shut out its small ones.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use phi4d_engine::CallerId;

/// Requests up to this size are admitted as long as there is room at all.
const SMALL_BYTES: usize = 64 * 1024;

/// Bytes that a running request keeps for each byte of its body, at most: a list of numbers takes
/// two bytes a number as JSON and eight once it is in use.
const KEPT: usize = 4;

/// The most that a running request keeps of a body of `length` bytes.
pub(super) fn kept_bytes(length: usize) -> usize {
    length.saturating_mul(KEPT)
}

/// The budget. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct RequestMemory(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    total: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    all: usize,
    /// By caller; those that hold nothing have no entry.
    of_callers: HashMap<CallerId, usize>,
}

/// What one request holds, released on drop.
#[derive(Debug)]
pub(super) struct Share {
    budget: RequestMemory,
    caller: CallerId,
    bytes: usize,
}

/// The budget has no room for this now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoRoom;

impl RequestMemory {
    /// A budget of `total` bytes.
    pub(super) fn new(total: usize) -> Self {
        Self(Arc::new(Budget { total, held: Mutex::default() }))
    }

    /// The most that one request can get: half, as a caller may hold no more.
    pub(super) fn most(&self) -> usize {
        self.0.total / 2
    }

    /// The size of the budget, in bytes.
    pub(super) fn total(&self) -> usize {
        self.0.total
    }

    /// Bytes that all requests hold now.
    pub(super) fn held(&self) -> usize {
        self.lock().all
    }

    /// The account of one request of `caller`, empty at first.
    pub(super) fn share(&self, caller: CallerId) -> Share {
        Share { budget: self.clone(), caller, bytes: 0 }
    }

    /// A panic while the lock is held leaves the counts as they were.
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Grows to `bytes` if it is smaller. Never blocks: waiting while holding memory could
    /// deadlock.
    ///
    /// # Errors
    /// If the caller can't have that much now; the share is unchanged then.
    pub(super) fn grow_to(&mut self, bytes: usize) -> Result<(), NoRoom> {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        let total = self.budget.0.total;
        let mut held = self.budget.lock();
        let of_caller = held.of_callers.get(&self.caller).copied().unwrap_or(0);
        let (of_caller, all) = (of_caller.saturating_add(more), held.all.saturating_add(more));
        if all > total || (bytes > SMALL_BYTES && of_caller > total - all) {
            return Err(NoRoom);
        }
        held.all = all;
        held.of_callers.insert(self.caller, of_caller);
        self.bytes = bytes;
        Ok(())
    }

    /// Shrinks to `bytes` if it is larger.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        if less == 0 {
            return;
        }
        let mut held = self.budget.lock();
        held.all -= less;
        if let Some(of_caller) = held.of_callers.get_mut(&self.caller) {
            *of_caller -= less;
            if *of_caller == 0 {
                held.of_callers.remove(&self.caller);
            }
        }
        self.bytes = bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

/// A JSON list's item, and a map's entry: hash, key and value.
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

/// Measures JSON: an upper bound of the memory that it takes once it is parsed, by one pass over its bytes.
///
/// Values take far more memory than their text: `{},` is three bytes and becomes about a hundred.
/// The bound counts what [`serde_json`] allocates: lists and maps grow by doubling, and the
/// allocator rounds each allocation up. `tests/measure.rs` compares it with what an allocator
/// counts.
///
/// If it is invalid, the result covers at least what comes before the error, which
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UNIT: usize = 1 << 20;

    #[test]
    fn a_caller_may_hold_what_it_leaves_free() {
        let memory = RequestMemory::new(600 * UNIT);
        let mut first = memory.share(CallerId(1));
        assert_eq!(first.grow_to(301 * UNIT), Err(NoRoom));
        assert_eq!(first.bytes(), 0);
        assert_eq!(first.grow_to(200 * UNIT), Ok(()));
        let mut again = memory.share(CallerId(1));
        assert_eq!(again.grow_to(101 * UNIT), Err(NoRoom));
        assert_eq!(again.grow_to(100 * UNIT), Ok(()));
        let mut second = memory.share(CallerId(2));
        assert_eq!(second.grow_to(151 * UNIT), Err(NoRoom));
        assert_eq!(second.grow_to(150 * UNIT), Ok(()));
        let mut third = memory.share(CallerId(3));
        assert_eq!(third.grow_to(75 * UNIT), Ok(()));
        assert_eq!(third.grow_to(76 * UNIT), Err(NoRoom));
        // Small requests go by all that is free.
        let mut small = memory.share(CallerId(1));
        assert_eq!(small.grow_to(SMALL_BYTES + 1), Err(NoRoom));
        assert_eq!(small.grow_to(SMALL_BYTES), Ok(()));
        drop((first, small));
        assert_eq!(third.grow_to(137 * UNIT), Ok(()));
        third.shrink_to(10 * UNIT);
        assert_eq!(memory.held(), 260 * UNIT);
        drop((again, second, third));
        assert_eq!(memory.held(), 0);
        assert!(memory.lock().of_callers.is_empty());
    }

    proptest! {
        #[test]
        fn counts_are_those_of_the_shares_and_someone_new_always_finds_room(
            steps in prop::collection::vec((0usize..12, 0u64..4, 1usize..700), 0..200),
        ) {
            let memory = RequestMemory::new(1000 * UNIT);
            let mut shares: Vec<Option<Share>> = (0..12).map(|_| None).collect();
            for (place, caller, units) in steps {
                let bytes = units * UNIT;
                match &mut shares[place] {
                    Some(share) if bytes < share.bytes() => share.shrink_to(bytes),
                    Some(share) if units % 7 > 0 => drop(share.grow_to(bytes)),
                    slot @ Some(_) => *slot = None,
                    slot @ None => {
                        let mut share = memory.share(CallerId(caller));
                        let _ = share.grow_to(bytes);
                        *slot = Some(share);
                    }
                }
                let held: usize = shares.iter().flatten().map(Share::bytes).sum();
                prop_assert_eq!(memory.held(), held);
                // Each caller leaves half of what it finds at least, so four leave a sixteenth.
                let someone = memory.share(CallerId(9)).grow_to(31 * UNIT);
                prop_assert!(someone.is_ok(), "{} are held", held);
            }
        }
    }
}
