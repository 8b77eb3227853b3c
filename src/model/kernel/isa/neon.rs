//! NEON: four columns to a vector; with multiplications of 16 bits, dot products, or matrices of bytes.
//!
//! The instructions of `dotprod` and `i8mm` have no stable intrinsics, so they are written as assembly.

use std::arch::aarch64::{
    float32x4_t, int8x16_t, int32x4_t, vabsq_f32, vaddq_s32, vaddvq_s32, vandq_s32, vbslq_f32,
    vcgtq_f32, vcombine_s16, vcombine_s32, vcvt_f32_f16, vcvtnq_s32_f32, vcvtq_f32_s32, vdup_n_s32,
    vdupq_n_f32, vdupq_n_s8, vdupq_n_s32, veorq_s8, vfmaq_f32, vget_lane_s32, vget_low_s8,
    vget_low_u16, vgetq_lane_s32, vld1_s32, vld1_u16, vld1q_f32, vld1q_s32, vmaxvq_f32,
    vmlal_high_s8, vmlal_s8, vmovl_u8, vmovl_u16, vmovn_s16, vmovn_s32, vmull_high_s8, vmull_s8,
    vmull_s16, vmulq_f32, vpadalq_s16, vpaddlq_s16, vpaddq_s32, vreinterpret_f16_u16,
    vreinterpret_s32_s8, vreinterpret_u8_s32, vreinterpretq_s8_s32, vreinterpretq_s16_s32,
    vreinterpretq_s32_s16, vreinterpretq_s32_u8, vreinterpretq_s32_u32, vreinterpretq_u8_s32,
    vshrq_n_u8, vst1q_f32, vst1q_s32, vsubq_s32,
};
use std::arch::asm;

use super::Isa;
use crate::tile::AHEAD;

/// What every 64-bit Arm processor has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neon;

/// `dotprod` beside those of [`Neon`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct NeonDot;

/// `i8mm` beside those of [`NeonDot`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct NeonI8mm;

/// An instruction, or a few, that this processor has and whose memory the caller has.
macro_rules! run {
    ($instructions:expr) => {
        // SAFETY: by the promise of this function's caller (see `Isa`); every processor has NEON.
        unsafe { $instructions }
    };
}

/// The words of two quarters' activations, of up to four rows.
type Words = [int32x4_t; 2];

/// How a set adds up a run. All vectors of weights are of one pair of quarters.
///
/// # Safety
/// As [`Isa`].
trait Steps: Isa<Int = int32x4_t, Float = float32x4_t> {
    /// Partial sums of four columns.
    type Sum: Copy;
    /// Whether weights are multiplied as [`Isa::paired`] gives them.
    fn pairs(rows: usize) -> bool;
    /// Partial sums that begin with `starts`.
    unsafe fn open<const R: usize, const V: usize>(
        starts: &[[int32x4_t; V]; R],
    ) -> [[Self::Sum; V]; R];
    /// The activations of two quarters.
    #[inline(always)]
    unsafe fn activations<const R: usize>(activations: *const i32) -> Words {
        // SAFETY: the caller's promise.
        unsafe { in_order::<R>(activations) }
    }
    /// Adds the products of two quarters of vector `v`.
    unsafe fn step<const R: usize, const V: usize, const BITS: usize>(
        parts: &mut [[Self::Sum; V]; R],
        v: usize,
        weights: [int32x4_t; 2],
        words: &Words,
    );
    /// What [`open`](Self::open) began with, and what was added.
    unsafe fn close<const R: usize, const V: usize, const BITS: usize>(
        parts: &[[Self::Sum; V]; R],
        sums: &mut [[int32x4_t; V]; R],
    );
}

/// `count`, which the compiler no longer knows. It would unroll the loop over pairs of quarters, and with all
/// assembly in one piece it spills sums.
#[inline(always)]
fn opaque(mut count: usize) -> usize {
    // SAFETY: no instruction at all.
    unsafe {
        asm!("/* {count} */", count = inout(reg) count, options(pure, nomem, nostack, preserves_flags));
    }
    count
}

/// [`Isa::add_panel`].
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn add_panel<
    I: Steps,
    const R: usize,
    const V: usize,
    const BITS: usize,
    const QUARTERS: usize,
>(
    sums: &mut [[int32x4_t; V]; R],
    panel: *const u8,
    activations: *const i32,
) {
    // SAFETY: by the caller's promise.
    unsafe {
        let mut parts = I::open(sums);
        for pair in 0..opaque(QUARTERS / 2) {
            let words = I::activations::<R>(activations.add(pair * 2 * R));
            for v in 0..V {
                let first = panel.add((pair * 2 * V + v) * 16);
                let weights = [I::load(first), I::load(first.add(V * 16))];
                I::step::<R, V, BITS>(&mut parts, v, weights, &words);
            }
        }
        I::close::<R, V, BITS>(&parts, sums);
    }
}

/// [`Isa::add_packed`].
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn add_packed<
    I: Steps,
    const R: usize,
    const V: usize,
    const BITS: usize,
    const QUARTERS: usize,
>(
    sums: &mut [[int32x4_t; V]; R],
    levels: *const u8,
    activations: *const i32,
) {
    // SAFETY: by the caller's promise.
    unsafe {
        let mut parts = I::open(sums);
        for pair in 0..opaque(QUARTERS / 2) {
            let words = I::activations::<R>(activations.add(pair * 2 * R));
            let lines = levels.add(pair * BITS / 4 * 64);
            for line in 0..BITS / 4 {
                I::prefetch(lines.add(line * 64).wrapping_add(AHEAD));
            }
            for v in 0..V {
                let bytes = I::load(lines.add(v * 16));
                // Unpacked once and used for all rows, which is why tall tiles pay.
                let weights = if BITS == 4 {
                    [I::low(bytes), I::high(bytes)]
                } else {
                    [bytes, I::load(lines.add(64 + v * 16))]
                };
                let weights = if I::pairs(R) { I::paired(weights[0], weights[1]) } else { weights };
                I::step::<R, V, BITS>(&mut parts, v, weights, &words);
            }
        }
        I::close::<R, V, BITS>(&parts, sums);
    }
}

/// What all sets have in common.
macro_rules! common {
    () => {
        type Int = int32x4_t;
        type Float = float32x4_t;
        const LANES: usize = 4;

        #[inline(always)]
        unsafe fn load(from: *const u8) -> int32x4_t {
            run!(vld1q_s32(from.cast()))
        }

        #[inline(always)]
        unsafe fn store(to: *mut u8, value: int32x4_t) {
            run!(vst1q_s32(to.cast(), value));
        }

        #[inline(always)]
        unsafe fn low(bytes: int32x4_t) -> int32x4_t {
            run!(vandq_s32(bytes, vdupq_n_s32(0x0f0f_0f0f)))
        }

        #[inline(always)]
        unsafe fn high(bytes: int32x4_t) -> int32x4_t {
            run!(vreinterpretq_s32_u8(vshrq_n_u8::<4>(vreinterpretq_u8_s32(bytes))))
        }

        #[inline(always)]
        unsafe fn splat(value: i32) -> int32x4_t {
            run!(vdupq_n_s32(value))
        }

        #[inline(always)]
        unsafe fn widen(from: *const u8) -> int32x4_t {
            let word = run!(from.cast::<i32>().read_unaligned());
            let bytes = run!(vreinterpret_u8_s32(vdup_n_s32(word)));
            run!(vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes)))))
        }

        #[inline(always)]
        unsafe fn subtract(a: int32x4_t, b: int32x4_t) -> int32x4_t {
            run!(vsubq_s32(a, b))
        }

        #[inline(always)]
        unsafe fn small_product(a: int32x4_t, b: int32x4_t) -> int32x4_t {
            run!(vmull_s16(vmovn_s32(a), vmovn_s32(b)))
        }

        #[inline(always)]
        unsafe fn add_panel<
            const R: usize,
            const V: usize,
            const BITS: usize,
            const QUARTERS: usize,
        >(
            sums: &mut [[int32x4_t; V]; R],
            panel: *const u8,
            activations: *const i32,
        ) {
            // SAFETY: the promise of this function's caller.
            unsafe { add_panel::<Self, R, V, BITS, QUARTERS>(sums, panel, activations) };
        }

        #[inline(always)]
        unsafe fn add_packed<
            const R: usize,
            const V: usize,
            const BITS: usize,
            const QUARTERS: usize,
        >(
            sums: &mut [[int32x4_t; V]; R],
            levels: *const u8,
            activations: *const i32,
        ) {
            // SAFETY: the promise of this function's caller.
            unsafe { add_packed::<Self, R, V, BITS, QUARTERS>(sums, levels, activations) };
        }

        #[inline(always)]
        unsafe fn to_float(value: int32x4_t) -> float32x4_t {
            run!(vcvtq_f32_s32(value))
        }

        #[inline(always)]
        unsafe fn splat_float(value: f32) -> float32x4_t {
            run!(vdupq_n_f32(value))
        }

        #[inline(always)]
        unsafe fn halves(from: *const u8) -> float32x4_t {
            let halves = run!(vld1_u16(from.cast()));
            run!(vcvt_f32_f16(vreinterpret_f16_u16(halves)))
        }

        #[inline(always)]
        unsafe fn load_float(from: *const f32) -> float32x4_t {
            run!(vld1q_f32(from))
        }

        #[inline(always)]
        unsafe fn store_float(to: *mut f32, value: float32x4_t) {
            run!(vst1q_f32(to, value));
        }

        #[inline(always)]
        unsafe fn multiply(a: float32x4_t, b: float32x4_t) -> float32x4_t {
            run!(vmulq_f32(a, b))
        }

        #[inline(always)]
        unsafe fn multiply_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
            run!(vfmaq_f32(c, a, b))
        }

        #[inline(always)]
        unsafe fn larger_size(value: float32x4_t, most: float32x4_t) -> float32x4_t {
            // `fmax` would keep what is no number.
            let size = run!(vabsq_f32(value));
            run!(vbslq_f32(vcgtq_f32(size, most), size, most))
        }

        #[inline(always)]
        unsafe fn largest(values: float32x4_t) -> f32 {
            run!(vmaxvq_f32(values))
        }

        #[inline(always)]
        unsafe fn levels(values: float32x4_t, inverse: float32x4_t) -> int32x4_t {
            run!(vcvtnq_s32_f32(vmulq_f32(values, inverse)))
        }

        #[inline(always)]
        unsafe fn add(a: int32x4_t, b: int32x4_t) -> int32x4_t {
            run!(vaddq_s32(a, b))
        }

        #[inline(always)]
        unsafe fn total(numbers: int32x4_t) -> i32 {
            run!(vaddvq_s32(numbers))
        }

        #[inline(always)]
        unsafe fn words(numbers: int32x4_t) -> [i32; 4] {
            let shorts = run!(vmovn_s32(numbers));
            let bytes = run!(vmovn_s16(vcombine_s16(shorts, shorts)));
            [run!(vget_lane_s32::<0>(vreinterpret_s32_s8(bytes))), 0, 0, 0]
        }

        #[inline(always)]
        fn prefetch(at: *const u8) {
            // SAFETY: a hint, which reads nothing that the program sees, wherever it points.
            unsafe {
                asm!(
                    "prfm pldl1keep, [{at}]",
                    at = in(reg) at,
                    options(nostack, preserves_flags, readonly)
                );
            }
        }
    };
}

/// What a set without matrices multiplies: two quarters one after the other.
macro_rules! not_paired {
    () => {
        #[inline(always)]
        unsafe fn paired(first: int32x4_t, second: int32x4_t) -> [int32x4_t; 2] {
            [first, second]
        }
    };
}

/// Weights of 8 bits, less 128.
#[inline(always)]
fn signed<const BITS: usize>(weights: int32x4_t) -> int8x16_t {
    let bytes = run!(vreinterpretq_s8_s32(weights));
    if BITS == 8 { run!(veorq_s8(bytes, vdupq_n_s8(-128))) } else { bytes }
}

/// The activations of two quarters as they lie: of one row or two both are in the first vector, of more
/// each has a vector of its own.
///
/// # Safety
/// As [`Isa::add_panel`]: two words for each row follow the last quarter.
#[inline(always)]
unsafe fn in_order<const R: usize>(activations: *const i32) -> Words {
    // SAFETY: the caller's promise. With three rows a word of what follows is read as well.
    unsafe {
        if R == 1 {
            let both = vcombine_s32(vld1_s32(activations), vdup_n_s32(0));
            [both, both]
        } else {
            let first = vld1q_s32(activations);
            [first, if R == 2 { first } else { vld1q_s32(activations.add(R)) }]
        }
    }
}

/// The place in [`in_order`] of a row's word: its vector and lane.
#[inline(always)]
fn place<const R: usize>(quarter: usize, row: usize) -> (usize, usize) {
    if R <= 2 { (0, quarter * R + row) } else { (quarter, row) }
}

impl Isa for Neon {
    common!();
    not_paired!();
    const OFFSET8: i32 = 128;
}

/// Sums in 16 bits of 4-bit weights, each of two vectors; in 32 bits of 8-bit ones, where a column has two.
impl Steps for Neon {
    type Sum = [int32x4_t; 2];

    fn pairs(_rows: usize) -> bool {
        false
    }

    #[inline(always)]
    unsafe fn open<const R: usize, const V: usize>(
        _starts: &[[int32x4_t; V]; R],
    ) -> [[Self::Sum; V]; R] {
        [[[run!(vdupq_n_s32(0)); 2]; V]; R]
    }

    #[inline(always)]
    unsafe fn step<const R: usize, const V: usize, const BITS: usize>(
        parts: &mut [[Self::Sum; V]; R],
        v: usize,
        weights: [int32x4_t; 2],
        words: &Words,
    ) {
        for quarter in 0..2 {
            let weights = signed::<BITS>(weights[quarter]);
            for row in 0..R {
                let (vector, lane) = place::<R>(quarter, row);
                let values = broadcast(words[vector], lane);
                let [low, high] = parts[row][v];
                parts[row][v] = if BITS == 4 {
                    // Eight products of at most 15 * 127 fit 16 bits.
                    run!({
                        let (low, high) = (vreinterpretq_s16_s32(low), vreinterpretq_s16_s32(high));
                        let low = vmlal_s8(low, vget_low_s8(weights), vget_low_s8(values));
                        let high = vmlal_high_s8(high, weights, values);
                        [vreinterpretq_s32_s16(low), vreinterpretq_s32_s16(high)]
                    })
                } else {
                    run!({
                        let products = vmull_s8(vget_low_s8(weights), vget_low_s8(values));
                        let others = vmull_high_s8(weights, values);
                        [vpadalq_s16(low, products), vpadalq_s16(high, others)]
                    })
                };
            }
        }
    }

    #[inline(always)]
    unsafe fn close<const R: usize, const V: usize, const BITS: usize>(
        parts: &[[Self::Sum; V]; R],
        sums: &mut [[int32x4_t; V]; R],
    ) {
        for row in 0..R {
            for v in 0..V {
                let [low, high] = parts[row][v];
                sums[row][v] = run!({
                    let [low, high] = if BITS == 4 {
                        let (low, high) = (vreinterpretq_s16_s32(low), vreinterpretq_s16_s32(high));
                        [vpaddlq_s16(low), vpaddlq_s16(high)]
                    } else {
                        [low, high]
                    };
                    vaddq_s32(sums[row][v], vpaddq_s32(low, high))
                });
            }
        }
    }
}

/// Word `lane` in all lanes.
#[inline(always)]
fn broadcast(words: int32x4_t, lane: usize) -> int8x16_t {
    let word = match lane {
        0 => run!(vdupq_n_s32(vgetq_lane_s32::<0>(words))),
        1 => run!(vdupq_n_s32(vgetq_lane_s32::<1>(words))),
        2 => run!(vdupq_n_s32(vgetq_lane_s32::<2>(words))),
        _ => run!(vdupq_n_s32(vgetq_lane_s32::<3>(words))),
    };
    run!(vreinterpretq_s8_s32(word))
}

impl Isa for NeonDot {
    common!();
    not_paired!();
    const OFFSET8: i32 = 128;
}

/// The dot products of columns' bytes with the word in one lane.
macro_rules! dot_by_lane {
    ($instruction:literal, $sum:expr, $weights:expr, $words:expr, $lane:literal) => {{
        let mut sum: int32x4_t = $sum;
        // SAFETY: by the promise of this function's caller the processor has the instruction, which uses
        // registers only.
        unsafe {
            asm!(
                concat!($instruction, " {sum:v}.4s, {weights:v}.16b, {words:v}.4b[", $lane, "]"),
                sum = inout(vreg) sum,
                weights = in(vreg) $weights,
                words = in(vreg) $words,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        sum
    }};
    ($instruction:literal, $sum:expr, $weights:expr, $words:expr, lane $lane:expr) => {
        match $lane {
            0 => dot_by_lane!($instruction, $sum, $weights, $words, "0"),
            1 => dot_by_lane!($instruction, $sum, $weights, $words, "1"),
            2 => dot_by_lane!($instruction, $sum, $weights, $words, "2"),
            _ => dot_by_lane!($instruction, $sum, $weights, $words, "3"),
        }
    };
}

impl Steps for NeonDot {
    type Sum = int32x4_t;

    fn pairs(_rows: usize) -> bool {
        false
    }

    #[inline(always)]
    unsafe fn open<const R: usize, const V: usize>(
        starts: &[[int32x4_t; V]; R],
    ) -> [[Self::Sum; V]; R] {
        *starts
    }

    #[inline(always)]
    unsafe fn step<const R: usize, const V: usize, const BITS: usize>(
        parts: &mut [[Self::Sum; V]; R],
        v: usize,
        weights: [int32x4_t; 2],
        words: &Words,
    ) {
        for quarter in 0..2 {
            let weights = signed::<BITS>(weights[quarter]);
            for row in 0..R {
                let (vector, lane) = place::<R>(quarter, row);
                parts[row][v] =
                    dot_by_lane!("sdot", parts[row][v], weights, words[vector], lane lane);
            }
        }
    }

    #[inline(always)]
    unsafe fn close<const R: usize, const V: usize, const BITS: usize>(
        parts: &[[Self::Sum; V]; R],
        sums: &mut [[int32x4_t; V]; R],
    ) {
        *sums = *parts;
    }
}
// After the macros that it uses.
mod i8mm;
