//! Attention against a reference in double precision, and bit by bit against itself.
#![expect(unsafe_code, reason = "reads numbers as bytes")]

use half::f16;
use phi4d_isa::{Choice, InstructionSet};
use proptest::prelude::*;

use crate::{BLOCK, Band, KvType, Layout, NARROW, SPLIT};

/// Random numbers of roughly a normal distribution.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> f32 {
        let uniform = |state: &mut u64| {
            *state ^= *state << 13;
            *state ^= *state >> 7;
            *state ^= *state << 17;
            (*state >> 40) as f32 / (1_u64 << 24) as f32
        };
        (0..4).map(|_| uniform(&mut self.0)).sum::<f32>() - 2.0
    }

    fn take(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next()).collect()
    }
}

/// A sequence's keys and values of one KV head, stored in blocks.
struct Cached {
    layout: Layout,
    regions: Vec<Vec<u32>>,
    /// As they read back: `[position][dimension]`.
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// The bytes of a region that is aligned as numbers are.
fn bytes(region: &[u32]) -> &[u8] {
    // SAFETY: whole numbers without gaps between them.
    unsafe { std::slice::from_raw_parts(region.as_ptr().cast(), size_of_val(region)) }
}

fn bytes_mut(region: &mut [u32]) -> &mut [u8] {
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts_mut(region.as_mut_ptr().cast(), size_of_val(region)) }
}

impl Cached {
    fn new(layout: Layout, length: usize, numbers: &mut Numbers) -> Self {
        let size = layout.head_size;
        // What was there before shows if it is read.
        let region = || vec![0x7fc0_7fff; layout.region_bytes() / 4];
        let mut regions: Vec<_> = (0..length.div_ceil(BLOCK)).map(|_| region()).collect();
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for position in 0..length {
            let (key, value) = (numbers.take(size), numbers.take(size));
            let region = bytes_mut(&mut regions[position / BLOCK]);
            layout.store(region, position % BLOCK, &key, &value);
            keys.extend(read_back(layout.kind, &key));
            values.extend(read_back(layout.kind, &value));
        }
        Self { layout, regions, keys, values }
    }

    /// The rows of tokens from `position` on, whose queries are `queries`: `[token][group][dimension]`.
    fn attend(
        &self,
        set: InstructionSet,
        group: usize,
        position: usize,
        queries: &[f32],
    ) -> Vec<f32> {
        let size = self.layout.head_size;
        let tokens = queries.len() / size / group;
        let mut band = Band::default();
        band.fill(&self.layout, group, position..position + tokens, |token, head, row| {
            row.copy_from_slice(&queries[(token * group + head) * size..][..size]);
        });
        for split in 0..(position + tokens).div_ceil(SPLIT) {
            let blocks = band.blocks(split);
            let regions: Vec<_> = self.regions[blocks].iter().map(|region| bytes(region)).collect();
            band.attend(set, split, &regions);
            band.merge(set);
        }
        outputs(&band, group, size)
    }
}

fn outputs(band: &Band, group: usize, size: usize) -> Vec<f32> {
    let mut out = vec![0.0; band.rows() * size];
    band.finish(|token, head, write| write(&mut out[(token * group + head) * size..][..size]));
    out
}

/// A head's key or value as the cache gives it back.
fn read_back(kind: KvType, values: &[f32]) -> Vec<f32> {
    let most = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let int8 = |value: &f32| (value * (127.0 / most)).round_ties_even() * (most / 127.0);
    match kind {
        KvType::F32 => values.to_vec(),
        KvType::F16 => values.iter().map(|value| f16::from_f32(*value).to_f32()).collect(),
        KvType::Int8 => values.iter().map(int8).collect(),
    }
}

/// Attention of one row to the first `length` positions, in double precision.
fn reference(query: &[f32], cached: &Cached, length: usize) -> Vec<f64> {
    let size = query.len();
    let dot = |key: &[f32]| -> f64 {
        query.iter().zip(key).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let scores: Vec<f64> = cached.keys.chunks(size).take(length).map(dot).collect();
    let most = scores.iter().copied().fold(f64::MIN, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp2()).collect();
    let sum: f64 = weights.iter().sum();
    let mut out = vec![0.0; size];
    for (weight, value) in weights.iter().zip(cached.values.chunks(size)) {
        for (out, value) in out.iter_mut().zip(value) {
            *out += weight / sum * f64::from(*value);
        }
    }
    out
}

fn kinds() -> impl Strategy<Value = KvType> {
    prop::sample::select(vec![KvType::F32, KvType::F16, KvType::Int8])
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any shape and length, on each instruction set: near the reference, and equal to the scalar one.
    #[test]
    fn rows_are_near_the_reference_and_equal_on_all_instruction_sets(
        kind in kinds(),
        size in (1_usize..=8).prop_map(|count| 16 * count),
        group in 1_usize..=9,
        tokens in 1_usize..=5,
        past in prop_oneof![0_usize..200, 1000_usize..1100, 0_usize..3000],
        seed in 1_u64..,
    ) {
        let layout = Layout { layers: 1, kv_heads: 1, head_size: size, kind };
        let mut numbers = Numbers(seed);
        let cached = Cached::new(layout, past + tokens, &mut numbers);
        let queries: Vec<f32> = numbers.take(tokens * group * size);
        let expected = cached.attend(InstructionSet::Scalar, group, past, &queries);
        for set in InstructionSet::available() {
            let given = cached.attend(set, group, past, &queries);
            prop_assert_eq!(bits(&given), bits(&expected), "{}", set.name());
        }
        for (row, (query, out)) in queries.chunks(size).zip(expected.chunks(size)).enumerate() {
            let reference = reference(query, &cached, past + row / group + 1);
            for (out, reference) in out.iter().zip(reference) {
                prop_assert!((f64::from(*out) - reference).abs() < 2e-4, "{} {}", out, reference);
            }
        }
    }

    /// A token's rows alone, in chunks of any width, and with splits merged from parts.
    #[test]
    fn a_row_is_the_same_alone_in_a_chunk_and_from_parts(
        kind in kinds(),
        size in prop::sample::select(vec![16_usize, 64, 96, 128]),
        group in 1_usize..=5,
        tokens in 2_usize..=70,
        past in prop_oneof![0_usize..200, 960_usize..1100],
        seed in 1_u64..,
    ) {
        let layout = Layout { layers: 1, kv_heads: 1, head_size: size, kind };
        let set = Choice::of_process().set();
        let mut numbers = Numbers(seed);
        let cached = Cached::new(layout, past + tokens, &mut numbers);
        let queries: Vec<f32> = numbers.take(tokens * group * size);
        let whole = cached.attend(set, group, past, &queries);
        let width = group * size;
        for (token, query) in queries.chunks(width).enumerate() {
            let alone = cached.attend(set, group, past + token, query);
            prop_assert_eq!(bits(&alone), bits(&whole[token * width..][..width]));
        }
        let few = NARROW / group;
        for first in (0..tokens).step_by(few.max(1)) {
            let part = &queries[first * width..(first + few.max(1)).min(tokens) * width];
            prop_assert_eq!(
                bits(&from_parts(&cached, set, group, past + first, part)),
                bits(&whole[first * width..][..part.len()])
            );
        }
    }

    /// What is packed fits where it is unpacked, and takes as much as its positions.
    #[test]
    fn positions_are_packed_and_unpacked(
        kind in kinds(),
        size in (1_usize..=8).prop_map(|count| 16 * count),
        count in 1_usize..=BLOCK,
        seed in 1_u64..,
    ) {
        let layout = Layout { layers: 1, kv_heads: 1, head_size: size, kind };
        let mut numbers = Numbers(seed);
        let cached = Cached::new(layout, count, &mut numbers);
        let mut packed = Vec::new();
        layout.pack(bytes(&cached.regions[0]), count, &mut packed).unwrap();
        prop_assert_eq!(packed.len(), layout.region_bytes() / BLOCK * count);
        let mut region = vec![0_u32; layout.region_bytes() / 4];
        layout.unpack(bytes_mut(&mut region), count, &mut packed.as_slice()).unwrap();
        let query = numbers.take(size);
        let other = Cached { regions: vec![region], ..Cached::new(layout, 0, &mut numbers) };
        let [before, after] = [&cached, &other].map(|cached| {
            bits(&cached.attend(Choice::of_process().set(), 1, count - 1, &query))
        });
        prop_assert_eq!(before, after);
    }
}

/// As several threads compute it: each split in a band of its own.
fn from_parts(
    cached: &Cached,
    set: InstructionSet,
    group: usize,
    position: usize,
    queries: &[f32],
) -> Vec<f32> {
    let size = cached.layout.head_size;
    let tokens = queries.len() / size / group;
    let filled = || {
        let mut band = Band::default();
        band.fill(&cached.layout, group, position..position + tokens, |token, head, row| {
            row.copy_from_slice(&queries[(token * group + head) * size..][..size]);
        });
        band
    };
    let mut total = filled();
    for split in 0..(position + tokens).div_ceil(SPLIT) {
        let mut band = filled();
        let blocks = band.blocks(split);
        let regions: Vec<_> = cached.regions[blocks].iter().map(|region| bytes(region)).collect();
        band.attend(set, split, &regions);
        let mut part = vec![0.0; Band::part_len(&cached.layout, band.rows())];
        band.take_part(&mut part);
        total.put_part(&part);
        total.merge(set);
    }
    outputs(&total, group, size)
}

#[test]
fn long_contexts_of_every_type_are_near_the_reference_and_equal_on_all_instruction_sets() {
    let mut numbers = Numbers(11);
    for kind in [KvType::F16, KvType::Int8, KvType::F32] {
        let layout = Layout { layers: 1, kv_heads: 1, head_size: 64, kind };
        let cached = Cached::new(layout, 20_000, &mut numbers);
        let query = numbers.take(64);
        for length in [1, 64, 65, 1023, 1024, 1025, 16_384, 19_999, 20_000] {
            let given = cached.attend(InstructionSet::Scalar, 1, length - 1, &query);
            for (given, expected) in given.iter().zip(reference(&query, &cached, length)) {
                assert!(
                    (f64::from(*given) - expected).abs() < 1e-4,
                    "{length}: {given} {expected}"
                );
            }
            for set in InstructionSet::available() {
                let other = cached.attend(set, 1, length - 1, &query);
                assert_eq!(bits(&other), bits(&given), "{} {length}", set.name());
            }
        }
    }
}

/// FNV-1a of the results' bits for each type of KV cache, with each instruction set. The number is what x86-64
/// gave, so another architecture that computes otherwise fails here.
#[test]
fn all_architectures_give_the_same_bits() {
    for set in InstructionSet::available() {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for kind in [KvType::F32, KvType::F16, KvType::Int8] {
            for (size, group, tokens) in [(64, 2, 1), (96, 4, 5), (16, 1, 3)] {
                let layout = Layout { layers: 1, kv_heads: 1, head_size: size, kind };
                let mut numbers = Numbers(5);
                let cached = Cached::new(layout, 1100 + tokens, &mut numbers);
                let queries = numbers.take(tokens * group * size);
                for value in cached.attend(set, group, 1100, &queries) {
                    hash = (hash ^ u64::from(value.to_bits())).wrapping_mul(0x100_0000_01b3);
                }
            }
        }
        assert_eq!(hash, 0x45a8_69c6_6c78_b705, "{}: {hash:#x}", set.name());
    }
}

#[test]
fn values_beyond_half_precision_stay_numbers() {
    let layout = Layout { layers: 1, kv_heads: 1, head_size: 16, kind: KvType::F16 };
    let mut region = vec![0_u32; layout.region_bytes() / 4];
    layout.store(bytes_mut(&mut region), 0, &[1e9; 16], &[-1e9; 16]);
    layout.store(bytes_mut(&mut region), 1, &[-1e9; 16], &[2.0; 16]);
    let mut band = Band::default();
    band.fill(&layout, 1, 1..2, |_, _, row| row.fill(-1.0));
    band.attend(Choice::of_process().set(), 0, &[bytes(&region)]);
    band.merge(Choice::of_process().set());
    assert_eq!(outputs(&band, 1, 16), [2.0; 16]);
}
