use proptest::prelude::*;

use super::*;
use crate::kv::Sizes;
use phi4d_model::fake::FakeRunner;

fn store(folder: &Path) -> Store {
    Store { folder: folder.join("prefixes"), bytes: u64::MAX, fingerprint: [7; 32] }
}

fn runner() -> FakeRunner {
    FakeRunner::new(FakeRunner::small_limits(4)).0
}

fn cache() -> Cache<()> {
    Cache::new(Sizes::SMALL)
}

fn apply(cache: &mut Cache<()>, runner: &mut FakeRunner) {
    for action in cache.take_actions() {
        match action {
            Action::Swap { slots, tokens } => runner.swap(slots, tokens),
            Action::Copy { from, to, tokens } => runner.copy(from, to, tokens),
            Action::Release { slot, keep } => runner.release(slot, keep),
        }
    }
}

/// A cache and a runner that hold `prompts`, the last of most recent use.
fn filled(prompts: &[Vec<u32>]) -> (Cache<()>, FakeRunner) {
    let (mut cache, mut runner) = (cache(), runner());
    for prompt in prompts {
        let admission = cache.admit(prompt, usize::MAX, 5).unwrap();
        cache.place(admission, ());
        apply(&mut cache, &mut runner);
        for (index, part) in prompt.chunks(4).enumerate() {
            runner.prefill(0, index * 4, part, 1).unwrap();
        }
        cache.extend(0, prompt);
        cache.retire(0, true).unwrap();
        apply(&mut cache, &mut runner);
    }
    (cache, runner)
}

fn held(cache: &Cache<()>) -> Vec<Vec<u32>> {
    cache.cached_prefixes().map(|(_, _, tokens)| tokens.to_vec()).collect()
}

#[test]
fn prefixes_come_back_with_their_memory_and_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let prompts = [(0..9).collect(), (20..33).collect(), (40..45).collect::<Vec<u32>>()];
    let (mut old, mut old_runner) = filled(&prompts);
    assert_eq!(save(&store(folder.path()), &old, &mut old_runner).unwrap(), 3);
    let (mut new, mut new_runner) = (cache(), runner());
    assert_eq!(load(&store(folder.path()), &mut new, &mut new_runner), 3);
    assert_eq!(held(&new), held(&old));
    let mut logits = Vec::new();
    for (cache, mut runner) in [(&mut old, old_runner), (&mut new, new_runner)] {
        // A prompt of the same scope goes on from the memory that came back.
        let prompt: Vec<u32> = (20..35).collect();
        let admission = cache.admit(&prompt, usize::MAX, 5).unwrap();
        cache.place(admission, ());
        apply(cache, &mut runner);
        assert_eq!(admission.cached, 13);
        let row = runner.prefill(0, 13, &prompt[13..], 1).unwrap().row(0).to_vec();
        logits.push(row);
    }
    assert_eq!(logits[0], logits[1]);
    // What is no longer cached is removed, and so is what was half written.
    let (fewer, mut runner) = filled(&prompts[..1]);
    save(&store(folder.path()), &fewer, &mut runner).unwrap();
    assert_eq!(files(&store(folder.path()).folder, EXTENSION).unwrap().len(), 1);
}

#[test]
fn only_what_fits_on_disk_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, mut runner) = filled(&[(0..20).collect(), (30..40).collect()]);
    let bytes = FRAME_BYTES + 10 * (4 + 8);
    let small = Store { bytes, ..store(folder.path()) };
    assert_eq!(save(&small, &cache, &mut runner).unwrap(), 1);
}

#[test]
fn a_foreign_file_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (old, mut old_runner) = filled(&[(0..9).collect()]);
    save(&store(folder.path()), &old, &mut old_runner).unwrap();
    let other = Store { fingerprint: [8; 32], ..store(folder.path()) };
    assert_eq!(load(&other, &mut cache(), &mut runner()), 0);
    assert_eq!(files(&other.folder, EXTENSION).unwrap().len(), 1);
}

proptest! {
    #[test]
    fn a_damaged_file_is_refused_wherever_it_is_damaged(
        place in any::<prop::sample::Index>(),
        flip in 1u8..,
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let (old, mut old_runner) = filled(&[(0..9).collect()]);
        save(&store, &old, &mut old_runner).unwrap();
        let path = files(&store.folder, EXTENSION).unwrap().remove(0);
        let mut bytes = std::fs::read(&path).unwrap();
        let place = place.index(bytes.len());
        bytes[place] ^= flip;
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        std::fs::write(&path, bytes).unwrap();
        let (mut new, mut new_runner) = (cache(), runner());
        prop_assert_eq!(load(&store, &mut new, &mut new_runner), 0);
        prop_assert_eq!(held(&new).len(), 0);
    }
}
