//! Time of attention for one layer of Phi-4's shape (10 KV heads of 4 query heads, 128 dimensions), on one
//! thread, in processor time: minima of several runs that alternate. Arguments name the instruction sets.
#![expect(clippy::print_stdout, reason = "prints a table")]
#![expect(clippy::expect_used, reason = "a benchmark")]

use nix::time::{ClockId, clock_gettime};
use phi4d_attention::{BLOCK, Band, KvType, Layout, SPLIT};
use phi4d_isa::InstructionSet;

const HEADS: usize = 10;
const GROUP: usize = 4;
const SIZE: usize = 128;

/// Nanoseconds that this thread has run.
fn processor_time() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock of Linux");
    (time.tv_sec() * 1_000_000_000 + time.tv_nsec()).unsigned_abs()
}

/// One layer's blocks.
struct Cache {
    layout: Layout,
    memory: Vec<u8>,
}

impl Cache {
    fn new(kind: KvType, tokens: usize) -> Self {
        let layout = Layout { layers: 1, kv_heads: HEADS, head_size: SIZE, kind };
        let blocks = tokens.div_ceil(BLOCK);
        Self { layout, memory: vec![0x11; blocks * layout.block_bytes() + 64] }
    }

    fn region(&self, block: usize, head: usize) -> &[u8] {
        let start = block * self.layout.block_bytes() + self.layout.region_offset(0, head);
        let aligned = &self.memory[self.memory.as_ptr().align_offset(64)..];
        &aligned[start..][..self.layout.region_bytes()]
    }

    fn step(
        &self,
        set: InstructionSet,
        band: &mut Band,
        [past, tokens]: [usize; 2],
        out: &mut [f32],
    ) {
        for head in 0..HEADS {
            for first in (0..tokens).step_by(32) {
                let count = (tokens - first).min(32);
                band.fill(&self.layout, GROUP, past + first..past + first + count, |_, _, row| {
                    row.fill(0.01);
                });
                for split in 0..(past + first + count).div_ceil(SPLIT) {
                    let regions: Vec<_> =
                        band.blocks(split).map(|block| self.region(block, head)).collect();
                    band.attend(set, split, &regions);
                    band.merge(set);
                }
                band.finish(|_, _, write| write(&mut out[..SIZE]));
            }
        }
    }
}

fn main() {
    let kinds = [KvType::F32, KvType::F16, KvType::Int8];
    let caches = kinds.map(|kind| Cache::new(kind, 16_640));
    let named: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let named = if named.is_empty() { vec!["avx2".into(), "avx512".into()] } else { named };
    let sets: Vec<InstructionSet> = InstructionSet::available()
        .into_iter()
        .filter(|set| named.iter().any(|name| name == set.name()))
        .collect();
    let mut band = Band::default();
    let mut out = vec![0.0; SIZE];
    println!("milliseconds of one layer, one thread");
    for (past, tokens, rounds) in [
        (63, 1, 200),
        (1023, 1, 60),
        (4095, 1, 20),
        (15_999, 1, 8),
        (4096, 8, 8),
        (0, 512, 3),
        (4096, 512, 4),
    ] {
        let mut best = vec![[u64::MAX; 3]; sets.len()];
        for _ in 0..rounds {
            for (set, best) in sets.iter().zip(&mut best) {
                for (cache, best) in caches.iter().zip(best) {
                    let before = processor_time();
                    cache.step(*set, &mut band, [past, tokens], &mut out);
                    *best = processor_time().saturating_sub(before).min(*best);
                }
            }
        }
        for (set, best) in sets.iter().zip(best) {
            let [f32, f16, int8] = best.map(|time| time as f64 / 1e6);
            println!(
                "past {past:6} tokens {tokens:4} {:7} f32 {f32:9.3} f16 {f16:9.3} int8 {int8:9.3}",
                set.name()
            );
        }
    }
}
