//! Keeps finished responses in memory, so that a later request can go on from one by its id.
//!
//! Bounded by count and bytes over all callers; the one that was not used for the longest is dropped
//! first, and of those the ones of the caller that holds most, so that no caller displaces the
//! others'. A response is its caller's only: to others it does not exist.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use phi4d_engine::CallerId;

/// Most responses at once. Few enough that finding one is a short walk.
const MOST: usize = 1024;

/// Most responses that one goes back to by `previous_response_id`.
const LONGEST_CHAIN: usize = 512;

/// What a response takes beside its texts.
const OVERHEAD: usize = 512;

/// A finished response.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) owner: CallerId,
    pub(super) id: String,
    /// The response that it goes on from.
    pub(super) previous: Option<String>,
    /// The request's own items, a JSON list.
    pub(super) input: String,
    /// Ids of the items that it answered with.
    pub(super) items: Vec<String>,
    /// The response as it was sent.
    pub(super) response: String,
    /// What its JSON takes when it is parsed.
    pub(super) parsed_bytes: usize,
}

impl Stored {
    fn bytes(&self) -> usize {
        OVERHEAD + self.items.iter().map(String::len).sum::<usize>() + self.text_bytes()
    }

    /// The length of its JSON.
    pub(super) fn text_bytes(&self) -> usize {
        self.input.len() + self.response.len()
    }

    /// The request's own items.
    pub(super) fn input(&self) -> Vec<Value> {
        // It was written from values, so it parses.
        serde_json::from_str(&self.input).unwrap_or_default()
    }

    /// The items that it answered with.
    pub(super) fn output(&self) -> Vec<Value> {
        let response: Value = serde_json::from_str(&self.response).unwrap_or_default();
        response["output"].as_array().cloned().unwrap_or_default()
    }
}

/// All stored responses.
#[derive(Debug)]
pub(crate) struct Store {
    most_bytes: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// From the one that was not used for the longest to the last used.
    responses: Vec<Arc<Stored>>,
    bytes: usize,
}

impl Store {
    /// A store of up to `most_bytes` of JSON text; 0 keeps nothing.
    pub(crate) fn new(most_bytes: usize) -> Self {
        Self { most_bytes, inner: Mutex::default() }
    }

    /// Whether anything is ever kept.
    pub(super) fn is_on(&self) -> bool {
        self.most_bytes > 0
    }

    /// Keeps a response, if it fits at all.
    pub(super) fn put(&self, stored: Stored) {
        let bytes = stored.bytes();
        if bytes > self.most_bytes {
            return;
        }
        let mut inner = self.lock();
        while inner.responses.len() >= MOST || inner.bytes + bytes > self.most_bytes {
            inner.evict();
        }
        inner.bytes += bytes;
        inner.responses.push(Arc::new(stored));
    }

    /// The caller's response of that id, which counts as used now.
    pub(super) fn get(&self, owner: CallerId, id: &str) -> Option<Arc<Stored>> {
        self.lock().used(|stored| stored.owner == owner && stored.id == id)
    }

    /// The caller's response that answered with the item of that id.
    pub(super) fn with_item(&self, owner: CallerId, id: &str) -> Option<Arc<Stored>> {
        let has = |stored: &Stored| stored.items.iter().any(|item| item == id);
        self.lock().used(|stored| stored.owner == owner && has(stored))
    }

    /// The response `id` and those that it goes on from, the first one first.
    ///
    /// # Errors
    /// The id that is not there, of the response or of one before it.
    pub(super) fn chain(&self, owner: CallerId, id: &str) -> Result<Vec<Arc<Stored>>, String> {
        let mut chain: Vec<Arc<Stored>> = Vec::new();
        let mut next = Some(id.to_owned());
        while let Some(id) = next {
            let found = (chain.len() < LONGEST_CHAIN).then(|| self.get(owner, &id)).flatten();
            let Some(found) = found else { return Err(id) };
            next = found.previous.clone();
            chain.push(found);
        }
        chain.reverse();
        Ok(chain)
    }

    /// Drops the caller's response of that id. Returns whether it was there.
    pub(super) fn delete(&self, owner: CallerId, id: &str) -> bool {
        let mut inner = self.lock();
        let place = inner.place(|stored| stored.owner == owner && stored.id == id);
        place.map(|place| inner.remove(place)).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics between two changes that belong together.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn place(&self, is_wanted: impl Fn(&Stored) -> bool) -> Option<usize> {
        self.responses.iter().position(|stored| is_wanted(stored))
    }

    fn remove(&mut self, place: usize) -> Arc<Stored> {
        let removed = self.responses.remove(place);
        self.bytes -= removed.bytes();
        removed
    }

    /// Finds a response and makes it the last used.
    fn used(&mut self, is_wanted: impl Fn(&Stored) -> bool) -> Option<Arc<Stored>> {
        let found = self.responses.remove(self.place(is_wanted)?);
        self.responses.push(Arc::clone(&found));
        Some(found)
    }

    /// Drops the least recently used response of the caller that holds most.
    fn evict(&mut self) {
        let mut held: HashMap<CallerId, usize> = HashMap::new();
        for stored in &self.responses {
            *held.entry(stored.owner).or_default() += stored.bytes();
        }
        let most = held.into_iter().max_by_key(|(owner, bytes)| (*bytes, owner.0));
        let place = most.and_then(|(owner, _)| self.place(|stored| stored.owner == owner));
        place.map(|place| self.remove(place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(owner: u64, id: &str, previous: Option<&str>, bytes: usize) -> Stored {
        Stored {
            owner: CallerId(owner),
            id: id.to_owned(),
            previous: previous.map(str::to_owned),
            input: "[]".to_owned(),
            items: vec![format!("item-of-{id}")],
            response: "x".repeat(bytes),
            parsed_bytes: 0,
        }
    }

    fn has(store: &Store, owner: u64, id: &str) -> bool {
        store.get(CallerId(owner), id).is_some()
    }

    #[test]
    fn a_response_is_its_callers_only() {
        let store = Store::new(1 << 20);
        store.put(stored(1, "a", None, 9));
        assert!(has(&store, 1, "a") && !has(&store, 2, "a"));
        assert!(store.with_item(CallerId(1), "item-of-a").is_some());
        assert!(store.with_item(CallerId(2), "item-of-a").is_none());
        assert!(!store.delete(CallerId(2), "a"));
        assert_eq!(store.chain(CallerId(2), "a").unwrap_err(), "a");
        assert!(store.delete(CallerId(1), "a") && !store.delete(CallerId(1), "a"));
        assert_eq!(store.lock().bytes, 0);
    }

    #[test]
    fn the_caller_that_holds_most_loses_what_it_used_longest_ago() {
        let store = Store::new(6 * (1000 + OVERHEAD + 20));
        store.put(stored(2, "other", None, 1000));
        for id in ["a", "b", "c", "d", "e"] {
            store.put(stored(1, id, None, 1000));
        }
        assert!(has(&store, 1, "a"));
        store.put(stored(1, "f", None, 1000));
        assert!(has(&store, 2, "other") && has(&store, 1, "a") && !has(&store, 1, "b"));
        store.put(stored(1, "too large", None, 1 << 20));
        assert!(!has(&store, 1, "too large") && has(&store, 1, "f"));
    }

    #[test]
    fn both_bounds_hold() {
        let store = Store::new(1 << 20);
        for number in 0..3 * MOST {
            store.put(stored(number as u64 % 7, &number.to_string(), None, number % 3000));
            let inner = store.lock();
            let bytes: usize = inner.responses.iter().map(|stored| stored.bytes()).sum();
            assert_eq!(inner.bytes, bytes);
            assert!(inner.responses.len() <= MOST && bytes <= 1 << 20);
        }
        let off = Store::new(0);
        off.put(stored(1, "a", None, 0));
        assert!(!off.is_on() && !has(&off, 1, "a"));
    }

    #[test]
    fn a_chain_ends_where_a_response_is_gone() {
        let store = Store::new(1 << 20);
        store.put(stored(1, "a", None, 9));
        store.put(stored(1, "b", Some("a"), 9));
        store.put(stored(1, "c", Some("b"), 9));
        let ids = |id: &str| -> Result<Vec<String>, String> {
            let chain = store.chain(CallerId(1), id)?;
            Ok(chain.iter().map(|stored| stored.id.clone()).collect())
        };
        assert_eq!(ids("c").unwrap(), ["a", "b", "c"]);
        store.delete(CallerId(1), "a");
        assert_eq!(ids("c").unwrap_err(), "a");
        // One that names itself, which no client can make, ends too.
        store.put(stored(1, "loop", Some("loop"), 9));
        assert_eq!(ids("loop").unwrap_err(), "loop");
    }
}
