//! What must hold for files of cached prefixes, whatever their bytes.

use std::path::PathBuf;

use super::kv::{Cache, Sizes};
use super::persist::{Store, restore};
use phi4d_model::Runner as _;
use phi4d_model::fake::FakeRunner;

const FINGERPRINT: [u8; 32] = [7; 32];

/// A prefix file, with a valid frame and hash if the first byte is odd: it is restored exactly, or refused
/// without leaving anything.
pub fn prefix_file(data: &[u8]) {
    let Some((&kind, rest)) = data.split_first() else { return };
    let mut file = Vec::new();
    if kind & 1 == 1 {
        file.extend_from_slice(b"phi4dKV1");
        file.extend_from_slice(&FINGERPRINT);
        file.extend_from_slice(rest);
        let hash = blake3::hash(&file);
        file.extend_from_slice(hash.as_bytes());
    } else {
        file.extend_from_slice(rest);
    }
    let store = Store { folder: PathBuf::new(), bytes: u64::MAX, fingerprint: FINGERPRINT };
    let mut runner = FakeRunner::new(FakeRunner::small_limits(Sizes::SMALL.rows)).0;
    let mut cache: Cache<()> = Cache::new(Sizes::SMALL);
    let restored = restore(file.as_slice(), file.len() as u64, &store, &mut cache, &mut runner);
    let held: Vec<_> = cache
        .cached_prefixes()
        .map(|(slot, scope, tokens)| (slot, scope, tokens.to_vec()))
        .collect();
    if matches!(restored, Ok(true)) {
        assert_eq!(kind & 1, 1, "a hash by chance");
        let [(slot, scope, tokens)] = held.as_slice() else { unreachable!("{held:?}") };
        let number = |at: usize| rest[at..].first_chunk().copied().map(u64::from_le_bytes);
        assert_eq!(number(0), Some(*scope));
        assert_eq!(number(8), Some(tokens.len() as u64));
        let ids = rest[24..].chunks_exact(4).take(tokens.len());
        assert!(ids.zip(tokens).all(|(bytes, token)| bytes == token.to_le_bytes()));
        let mut payload = Vec::new();
        assert!(runner.export(*slot, tokens.len(), &mut payload).is_ok());
        assert_eq!(payload.len(), tokens.len() * 8);
        assert_eq!(24 + tokens.len() * 12, rest.len());
    } else {
        assert_eq!(held, []);
    }
    // All memory is still free.
    let prompt = vec![1; Sizes::SMALL.row_tokens - 1];
    assert!(cache.admit(&prompt, usize::MAX, 1).is_some());
}
