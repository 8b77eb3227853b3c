//! The matmul of activations with int4 weights, for processors with AVX-512 VNNI.
//!
//! Weights come in blocks of 32 along K, each with one scale, as `MatMulNBits` has them. They are packed
//! into another layout: a vector holds four neighbours along K of sixteen columns, which is what one
//! VNNI instruction multiplies, and scales are beside them in half precision. So 4.5 bits a weight are
//! read where ONNX Runtime's kernel reads 6. Activations are rounded to int8 in blocks of 32, as there.
//!
//! A row's result depends neither on the rows beside it nor on the number of threads, so that a
//! sequence's tokens are the same alone and in a batch.
#![cfg(target_arch = "x86_64")]
#![expect(unsafe_code, reason = "vector loads and stores, and calls that need processor features")]

use std::arch::x86_64::{
    __m128i, __m256i, __m512, __m512i, _MM_HINT_T0, _mm_prefetch, _mm256_loadu_si256,
    _mm512_abs_ps, _mm512_add_epi32, _mm512_and_si512, _mm512_cvtepi32_epi8, _mm512_cvtepi32_ps,
    _mm512_cvtph_ps, _mm512_cvtps_epi32, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_max_ps, _mm512_mul_ps, _mm512_reduce_add_epi32,
    _mm512_reduce_max_ps, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_srli_epi16, _mm512_storeu_ps,
};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use half::f16;

/// Weights that share a scale.
pub const BLOCK: usize = 32;
/// Columns whose weights lie together.
pub const COLUMNS: usize = 16;
/// Weights of a column in a [`Unit`].
const DEPTH: usize = 2 * BLOCK;
/// How far ahead weights are fetched, in units. Without it eight rows take twice as long: the
/// processor's own look-ahead stops while it multiplies.
const AHEAD: usize = 6;
/// Bytes of rounded activations that a pass over the columns works on, which the second cache holds.
const PANEL_BYTES: usize = 384 << 10;

/// Sixteen columns of two blocks: nine cache lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Unit {
    /// `[block][column]`, half precision.
    scales: [[u16; COLUMNS]; 2],
    /// `[block and quarter][column, 4]`: the low half of a byte is a weight of the quarter's first
    /// four, the high half the one four further.
    levels: [[u8; 4 * COLUMNS]; 8],
}

/// Whether this processor has the instructions that [`product`] needs.
pub fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni")
}

/// Whether weights of `k` rows and `n` columns can be laid out.
pub fn fits(k: usize, n: usize) -> bool {
    k > 0 && n > 0 && k.is_multiple_of(DEPTH) && n.is_multiple_of(COLUMNS)
}

/// Units of weights of `k` rows and `n` columns.
pub fn units(k: usize, n: usize) -> usize {
    k / DEPTH * (n / COLUMNS)
}

/// The bytes of `units`.
pub fn bytes(units: &[Unit]) -> &[u8] {
    // SAFETY: whole numbers without gaps between them.
    unsafe { std::slice::from_raw_parts(units.as_ptr().cast(), size_of_val(units)) }
}

/// Packed weights, and the factor of their scales.
#[derive(Debug, PartialEq)]
pub struct Packed {
    /// Groups of sixteen columns, and in each all rows.
    pub units: Vec<Unit>,
    /// Brings results back to size: scales are stored larger or smaller by its inverse.
    pub factor: f32,
}

/// Lays out `levels` `[n, k / 32, 16]` and `scales` `[n, k / 32]`.
///
/// # Panics
/// If they are not so large, or the sizes do not [fit](fits).
pub fn pack(levels: &[u8], scales: &[f32], k: usize, n: usize) -> Packed {
    assert!(fits(k, n) && levels.len() == k * n / 2 && scales.len() == k * n / BLOCK);
    // Half precision loses digits below 2^-14, where small scales would fall. So all are
    // multiplied by a power of two, exact and undone at the end, that brings the largest near 2^13.
    let most = scales.iter().fold(0.0_f32, |most, scale| most.max(scale.abs()));
    let exponent = if most.is_normal() { 13.0 - most.log2().floor() } else { 0.0 };
    let raise = exponent.clamp(-100.0, 100.0).exp2();
    let empty = Unit { scales: [[0; COLUMNS]; 2], levels: [[0; 4 * COLUMNS]; 8] };
    let mut packed = vec![empty; units(k, n)];
    let (blocks, group) = (k / BLOCK, k / DEPTH);
    // There are gigabytes to pack, so each thread packs columns of its own.
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = (n / COLUMNS).div_ceil(threads);
    let weights = levels.chunks(share * COLUMNS * blocks * BLOCK / 2);
    let scales = scales.chunks(share * COLUMNS * blocks);
    let parts = packed.chunks_mut(share * group).zip(weights).zip(scales);
    let parts: Vec<_> = parts.map(Mutex::new).collect();
    let pack = |part: usize| {
        let mut part = parts[part].lock().unwrap_or_else(PoisonError::into_inner);
        let ((part, weights), scales) = &mut *part;
        for (index, units) in part.chunks_mut(group).enumerate() {
            for column in 0..COLUMNS {
                let first = (index * COLUMNS + column) * blocks;
                let weights = &weights[first * BLOCK / 2..][..blocks * BLOCK / 2];
                pack_column(units, column, weights, &scales[first..][..blocks], raise);
            }
        }
    };
    let pack = &pack;
    std::thread::scope(|scope| {
        for part in 0..parts.len() {
            let thread = std::thread::Builder::new();
            if thread.spawn_scoped(scope, move || pack(part)).is_err() {
                // The system has no thread to give: this one does it.
                pack(part);
            }
        }
    });
    drop(parts);
    Packed { units: packed, factor: raise.recip() }
}

fn pack_column(units: &mut [Unit], column: usize, levels: &[u8], scales: &[f32], raise: f32) {
    // Spreads four numbers of 4 bits to four bytes, in order: one VNNI lane takes four neighbours.
    let spread = |half: u32| {
        let pairs = (half | half << 8) & 0x00ff_00ff;
        (pairs | pairs << 4) & 0x0f0f_0f0f
    };
    let (words, _) = levels.as_chunks::<4>();
    for ((unit, words), scales) in units.iter_mut().zip(words.chunks(8)).zip(scales.chunks(2)) {
        for (half, scale) in scales.iter().enumerate() {
            unit.scales[half][column] = f16::from_f32(scale * raise).to_bits();
        }
        for (out, word) in unit.levels.iter_mut().zip(words) {
            let word = u32::from_le_bytes(*word);
            // The first four in the low halves of the bytes, the next four in the high halves: the
            // kernel gets them back by one AND and one shift.
            let bytes = spread(word & 0xffff) | spread(word >> 16) << 4;
            out[column * 4..column * 4 + 4].copy_from_slice(&bytes.to_le_bytes());
        }
    }
}

/// 32 activations rounded to int8.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rounded {
    /// Four to a number.
    levels: [i32; BLOCK / 4],
    scale: f32,
    /// Minus eight times the sum of the levels: weights are stored 8 too large.
    start: i32,
}

/// Rounds `activations` to int8, each scale times `factor`.
///
/// # Panics
/// If the processor can't, or `rounded` is not a 32nd as long.
pub fn round(activations: &[f32], factor: f32, rounded: &mut [Rounded]) {
    assert!(available());
    let (blocks, rest) = activations.as_chunks::<BLOCK>();
    assert!(rest.is_empty() && blocks.len() == rounded.len());
    for (block, rounded) in blocks.iter().zip(rounded) {
        // SAFETY: the processor has the features.
        *rounded = unsafe { round_block(block, factor) };
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn round_block(block: &[f32; BLOCK], factor: f32) -> Rounded {
    let [low, high] = [0, 16].map(|at| {
        let half = &block[at..at + 16];
        // SAFETY: sixteen numbers are there.
        unsafe { _mm512_loadu_ps(half.as_ptr()) }
    });
    // Symmetric rounding to -127..=127, as ONNX Runtime's kernel does it at accuracy level 4.
    let most = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
    let inverse = _mm512_set1_ps(if most > 0.0 { 127.0 / most } else { 0.0 });
    let [low, high] = [low, high].map(|half| _mm512_cvtps_epi32(_mm512_mul_ps(half, inverse)));
    // VNNI multiplies unsigned by signed bytes, so weights are stored 8 too large. Their excess is
    // 8 times the sum of the block's activations, which is the same for all columns.
    let sum = _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
    let bytes: [__m128i; 2] = [_mm512_cvtepi32_epi8(low), _mm512_cvtepi32_epi8(high)];
    // SAFETY: both are 32 bytes of whole numbers.
    let levels = unsafe { std::mem::transmute::<[__m128i; 2], [i32; BLOCK / 4]>(bytes) };
    Rounded { levels, scale: most / 127.0 * factor, start: -8 * sum }
}

/// Where results go: `[rows, n]`, of which each thread writes columns of its own.
#[derive(Debug)]
pub struct Results<'a> {
    start: *mut f32,
    length: usize,
    n: usize,
    /// Groups of columns that somebody writes or has written.
    taken: Vec<AtomicBool>,
    memory: PhantomData<&'a mut [f32]>,
}

// SAFETY: the memory is borrowed for as long, and threads write to places of their own: `taken` gives
// each group away once.
unsafe impl Send for Results<'_> {}
// SAFETY: as above.
unsafe impl Sync for Results<'_> {}

impl<'a> Results<'a> {
    /// Results with `n` columns.
    pub fn new(results: &'a mut [f32], n: usize) -> Self {
        Self {
            start: results.as_mut_ptr(),
            length: results.len(),
            n,
            taken: (0..n / COLUMNS).map(|_| AtomicBool::new(false)).collect(),
            memory: PhantomData,
        }
    }
}

/// Multiplies `rounded` with the columns of `groups` (sixteen columns each) of `units`, which have `k`
/// rows: `results[row, column]` is the dot product of `rounded`'s row with `units`' column.
///
/// # Panics
/// If the processor can't, the sizes do not fit each other, or a group was done before.
pub fn product(
    units: &[Unit],
    rounded: &[Rounded],
    k: usize,
    groups: Range<usize>,
    results: &Results<'_>,
) {
    let rows = rounded.len() / (k / BLOCK);
    assert!(available() && fits(k, results.n) && units.len() == self::units(k, results.n));
    assert!(results.length == rows * results.n && groups.end <= results.n / COLUMNS);
    for group in groups.clone() {
        assert!(!results.taken[group].swap(true, Ordering::Relaxed), "group {group} is done twice");
    }
    // SAFETY: the processor has the features, sizes fit, and these groups are this call's alone.
    unsafe { product_checked(units, rounded, k, groups, results) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn product_checked(
    units: &[Unit],
    rounded: &[Rounded],
    k: usize,
    groups: Range<usize>,
    results: &Results<'_>,
) {
    let (group, blocks) = (k / DEPTH, k / BLOCK);
    let rows = rounded.len() / blocks;
    // Rows are taken in panels whose rounded activations stay in the second-level cache while all
    // columns pass; otherwise a long prompt would read them from memory for each group of columns.
    let panel = (PANEL_BYTES / (blocks * size_of::<Rounded>())).max(1).next_multiple_of(16);
    for first in (0..rows).step_by(panel) {
        let last = rows.min(first + panel);
        for index in groups.clone() {
            let units = &units[index * group..][..group];
            let mut row = first;
            while row < last {
                let from = &rounded[row * blocks..last * blocks];
                // SAFETY: the assertions of `product`, and its caller's promise.
                let at = unsafe { results.start.add(row * results.n + index * COLUMNS) };
                // SAFETY: as above.
                row += unsafe { widest(units, from, at, results.n) };
            }
        }
    }
}

/// Multiplies as many of the rows as one tile takes with one group of columns. Returns how many.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn widest(units: &[Unit], rounded: &[Rounded], at: *mut f32, n: usize) -> usize {
    let rows = rounded.len() / (units.len() * 2);
    // Each width is compiled on its own, so that its sums stay in registers. At 16 rows they take half
    // of the 32 vector registers; more would spill.
    match rows {
        // SAFETY: the caller's promise.
        16.. => unsafe { tile::<16>(units, rounded, at, n) },
        // SAFETY: the caller's promise.
        8.. => unsafe { tile::<8>(units, rounded, at, n) },
        // SAFETY: the caller's promise.
        4.. => unsafe { tile::<4>(units, rounded, at, n) },
        // SAFETY: the caller's promise.
        2.. => unsafe { tile::<2>(units, rounded, at, n) },
        // SAFETY: the caller's promise.
        _ => unsafe { tile::<1>(units, rounded, at, n) },
    }
}

/// The first `R` rows times one group of columns, written to `at`, `at + n`, ...
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
unsafe fn tile<const R: usize>(
    units: &[Unit],
    rounded: &[Rounded],
    at: *mut f32,
    n: usize,
) -> usize {
    let low = _mm512_set1_epi8(15);
    let blocks = units.len() * 2;
    let rows: [&[Rounded]; R] = std::array::from_fn(|row| &rounded[row * blocks..][..blocks]);
    let mut sums: [__m512; R] = [_mm512_setzero_ps(); R];
    for (index, unit) in units.iter().enumerate() {
        fetch(unit);
        for half in 0..2 {
            let scale = scales(&unit.scales[half]);
            // Unpacked once and used for all R rows, which is why wide tiles pay.
            let mut weights = [_mm512_setzero_si512(); 8];
            for quarter in 0..4 {
                let both = levels(&unit.levels[half * 4 + quarter]);
                weights[quarter * 2] = _mm512_and_si512(both, low);
                weights[quarter * 2 + 1] = _mm512_and_si512(_mm512_srli_epi16::<4>(both), low);
            }
            for (sum, row) in sums.iter_mut().zip(rows) {
                let block = &row[index * 2 + half];
                // Integer sums of one block cannot overflow: 32 products of at most 15 * 127.
                let mut products = _mm512_set1_epi32(block.start);
                for (weight, four) in weights.iter().zip(block.levels) {
                    products = _mm512_dpbusd_epi32(products, *weight, _mm512_set1_epi32(four));
                }
                let scale = _mm512_mul_ps(scale, _mm512_set1_ps(block.scale));
                *sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products), scale, *sum);
            }
        }
    }
    for (row, sum) in sums.into_iter().enumerate() {
        let place = at.wrapping_add(row * n);
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(place, sum) };
    }
    R
}

#[target_feature(enable = "avx512f")]
fn scales(scales: &[u16; COLUMNS]) -> __m512 {
    // SAFETY: sixteen halves are there.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(scales.as_ptr().cast::<__m256i>()) })
}

#[target_feature(enable = "avx512f")]
fn levels(levels: &[u8; 4 * COLUMNS]) -> __m512i {
    // SAFETY: 64 bytes are there.
    unsafe { _mm512_loadu_si512(levels.as_ptr().cast()) }
}

/// Starts to read a unit that is wanted soon.
fn fetch(unit: &Unit) {
    let ahead = std::ptr::from_ref(unit).wrapping_add(AHEAD).cast::<i8>();
    for line in 0..size_of::<Unit>() / 64 {
        // SAFETY: a hint, which reads nothing that the program sees, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(line * 64)) };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Case {
        k: usize,
        n: usize,
        levels: Vec<u8>,
        scales: Vec<f32>,
        activations: Vec<f32>,
    }

    fn case(rows: usize, k: usize, n: usize, size: f32, seed: u64) -> Case {
        let mut state = seed | 1;
        let mut random = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_be_bytes()[0]
        };
        Case {
            k,
            n,
            levels: (0..k * n / 2).map(|_| random()).collect(),
            scales: (0..k * n / BLOCK)
                .map(|_| size * (f32::from(random()) / 128.0 - 1.0))
                .collect(),
            activations: (0..rows * k).map(|_| f32::from(random()) / 50.0 - 2.5).collect(),
        }
    }

    fn run(case: &Case, activations: &[f32], share: usize) -> Vec<f32> {
        let Case { k, n, .. } = *case;
        let packed = pack(&case.levels, &case.scales, k, n);
        let mut rounded = vec![Rounded::default(); activations.len() / BLOCK];
        round(activations, packed.factor, &mut rounded);
        let mut results = vec![f32::NAN; activations.len() / k * n];
        let out = Results::new(&mut results, n);
        for first in (0..n / COLUMNS).step_by(share) {
            let groups = first..(first + share).min(n / COLUMNS);
            product(&packed.units, &rounded, k, groups, &out);
        }
        results
    }

    /// The same in double precision, activations rounded as the kernel does.
    fn reference(case: &Case) -> Vec<f64> {
        let Case { k, n, .. } = *case;
        let mut results = Vec::new();
        for row in case.activations.chunks(k) {
            for column in 0..n {
                let mut sum = 0.0;
                for (block, values) in row.chunks(BLOCK).enumerate() {
                    let most = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
                    let place = column * (k / BLOCK) + block;
                    for (index, value) in values.iter().enumerate() {
                        let byte = case.levels[place * BLOCK / 2 + index / 2];
                        let level = if index % 2 == 0 { byte & 15 } else { byte >> 4 };
                        let rounded = (value * (127.0 / most)).round_ties_even() * (most / 127.0);
                        sum += (f64::from(level) - 8.0)
                            * f64::from(case.scales[place])
                            * f64::from(rounded);
                    }
                }
                results.push(sum);
            }
        }
        results
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn equals_the_reference_whatever_the_shape_and_the_size_of_the_scales(
            rows in 1_usize..40, depth in 1_usize..5, groups in 1_usize..4,
            exponent in -30_i32..20, share in 1_usize..4, seed: u64,
        ) {
            if !available() {
                return Ok(());
            }
            let case = case(rows, depth * DEPTH, groups * COLUMNS, 2_f32.powi(exponent), seed);
            let exact = reference(&case);
            let most = exact.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
            for (own, exact) in run(&case, &case.activations, share).iter().zip(exact) {
                // Scales are rounded to half precision.
                prop_assert!((f64::from(*own) - exact).abs() < 1e-3 * most, "{own} {exact}");
            }
        }
    }

    #[test]
    fn a_row_gives_the_same_alone_and_among_others() {
        if !available() {
            return;
        }
        let case = case(37, 256, 48, 0.01, 7);
        let together = run(&case, &case.activations, 2);
        for (row, results) in case.activations.chunks(256).zip(together.chunks(48)) {
            assert_eq!(run(&case, row, 1), results);
        }
    }

    #[test]
    fn activations_of_zero_give_zero() {
        if !available() {
            return;
        }
        let case = case(1, 64, 16, 0.01, 8);
        assert_eq!(run(&case, &[0.0; 64], 1), [0.0; 16]);
    }
}
