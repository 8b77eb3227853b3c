//! What the scheduler sees of the sequences that have slots.

use std::collections::BTreeMap;

use phi4d_door::CallerId;
use phi4d_model::Rotary;

/// A live sequence as the scheduler sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its slot in the KV cache.
    pub slot: usize,
    /// Who submitted it.
    pub caller: CallerId,
    /// Of one caller's prompts, higher ones are read first.
    pub priority: i32,
    /// Its number in order of arrival.
    pub arrival: u64,
    /// Its tokens in the KV cache.
    pub past: usize,
    /// Tokens that the model has not read yet, at least 1.
    pub pending: usize,
    /// Whether its prompt is read, so that it decodes.
    pub decodes: bool,
    /// The rotary table of its keys. A step has one table.
    pub rotary: Rotary,
    /// Whether it can run: its channel has room for a step's events, and it awaits no mask.
    pub ready: bool,
}

/// The candidates of each caller.
pub fn by_caller<'a>(candidates: &[&'a Candidate]) -> BTreeMap<CallerId, Vec<&'a Candidate>> {
    let mut callers: BTreeMap<CallerId, Vec<&Candidate>> = BTreeMap::new();
    for one in candidates {
        callers.entry(one.caller).or_default().push(one);
    }
    callers
}
