//! The pool's memory, and the blocks of slots in it.

use phi4d_attention::{BLOCK, KvType, Layout};
use proptest::prelude::*;

use crate::gqa::pool::Pool;
use crate::paged::blocks::Blocks;

/// Blocks of 1 MiB.
fn layout() -> Layout {
    Layout { layers: 2, kv_heads: 16, head_size: 64, kind: KvType::F32 }
}

/// Writes a number into a block's every region.
fn mark(pool: &Pool, block: usize, number: u8) {
    for layer in 0..pool.arena.layout.layers {
        for head in 0..pool.arena.layout.kv_heads {
            // SAFETY: one thread uses the pool.
            unsafe { pool.arena.region_mut(block, layer, head) }.fill(number);
        }
    }
}

/// The number in all of a block's regions.
fn marked(pool: &Pool, block: usize) -> Option<u8> {
    let layout = pool.arena.layout;
    // SAFETY: one thread uses the pool.
    let region = |layer, head| unsafe { pool.arena.region(block, layer, head) };
    let first = region(0, 0)[0];
    let same = |layer, head| region(layer, head).iter().all(|&byte| byte == first);
    let all = (0..layout.layers).all(|layer| (0..layout.kv_heads).all(|head| same(layer, head)));
    all.then_some(first)
}

#[test]
fn much_free_memory_is_given_back_little_by_little_and_held_blocks_stay() {
    assert_eq!(layout().block_bytes(), 1 << 20);
    let count = 400;
    let mut pool = Pool::new(layout(), count).unwrap();
    let mut blocks = Blocks::new(2, count, BLOCK);
    for slot in 0..2 {
        blocks.reach(&mut pool, slot, 0, 150 * BLOCK).unwrap();
        pool.commit(blocks.of(slot));
        for &block in blocks.of(slot) {
            mark(&pool, block, 7);
        }
    }
    let held = pool.committed_bytes();
    assert!(held >= 300 << 20);
    pool.trim(&blocks);
    assert_eq!(pool.committed_bytes(), held);
    blocks.release(&mut pool, 0, 0);
    pool.trim(&blocks);
    // 64 MiB at once, and 64 MiB are kept.
    assert_eq!(pool.committed_bytes(), held - (64 << 20));
    for _ in 0..10 {
        pool.trim(&blocks);
    }
    assert!(pool.committed_bytes() <= (150 + 66) << 20, "{}", pool.committed_bytes());
    assert!(blocks.of(1).iter().all(|&block| marked(&pool, block) == Some(7)));
}

/// One change of the slots.
#[derive(Debug, Clone)]
enum Change {
    Grow(usize, usize),
    Share(usize, usize, usize),
    Swap(usize, usize),
    Release(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let (slot, tokens) = (0_usize..4, 0_usize..600);
    prop_oneof![
        4 => (slot.clone(), tokens.clone()).prop_map(|(slot, end)| Change::Grow(slot, end)),
        2 => (slot.clone(), slot.clone(), tokens.clone())
            .prop_map(|(from, to, tokens)| Change::Share(from, to, tokens)),
        1 => (slot.clone(), slot.clone()).prop_map(|(a, b)| Change::Swap(a, b)),
        2 => (slot, tokens).prop_map(|(slot, keep)| Change::Release(slot, keep)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// No block is lost or written while two slots hold it, and its contents stay a slot's own.
    #[test]
    fn blocks_are_counted_and_never_written_while_shared(changes in prop::collection::vec(change(), 1..40)) {
        let layout = Layout { layers: 1, kv_heads: 1, head_size: 16, kind: KvType::F16 };
        let count = 4 * 10;
        let mut pool = Pool::new(layout, count).unwrap();
        let mut blocks = Blocks::new(4, count, BLOCK);
        // What each slot's blocks hold: a number for each.
        let mut expected: Vec<Vec<u8>> = vec![Vec::new(); 4];
        for (number, change) in (1..).zip(changes) {
            match change {
                Change::Grow(slot, end) => {
                    // From the last held position on, as a step does it.
                    let past = (blocks.of(slot).len() * BLOCK).saturating_sub(10).min(end);
                    if end > past {
                        blocks.reach(&mut pool, slot, past, end).unwrap();
                        pool.commit(&blocks.of(slot)[past / BLOCK..]);
                        expected[slot].resize(blocks.of(slot).len(), 0);
                        let written = past / BLOCK..end.div_ceil(BLOCK);
                        expected[slot][written.clone()].fill(number);
                        for &block in &blocks.of(slot)[written] {
                            let holders = (0..4).flat_map(|slot| blocks.of(slot)).filter(|&&held| held == block);
                            prop_assert_eq!(holders.count(), 1);
                            mark(&pool, block, number);
                        }
                    }
                }
                Change::Share(from, to, tokens) if from != to => {
                    blocks.share(&mut pool, from, to, tokens);
                    let kept = tokens.div_ceil(BLOCK).min(expected[from].len());
                    expected[to] = expected[from][..kept].to_vec();
                }
                Change::Share(..) => {}
                Change::Swap(a, b) => {
                    blocks.swap([a, b]);
                    expected.swap(a, b);
                }
                Change::Release(slot, keep) => {
                    blocks.release(&mut pool, slot, keep);
                    expected[slot].truncate(keep.div_ceil(BLOCK));
                }
            }
            pool.trim(&blocks);
            let mut held = std::collections::HashSet::new();
            for (slot, expected) in expected.iter().enumerate() {
                prop_assert_eq!(blocks.of(slot).len(), expected.len());
                for (&block, &number) in blocks.of(slot).iter().zip(expected) {
                    held.insert(block);
                    prop_assert_eq!(marked(&pool, block), Some(number));
                }
            }
            prop_assert_eq!(blocks.free() + held.len(), count);
        }
    }
}
