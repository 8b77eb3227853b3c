//! Products of small matrices of bytes.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{NeonI8mm, Steps, Words, add_packed, add_panel, in_order};
use crate::isa::Isa;

impl Isa for NeonI8mm {
    common!();
    const OFFSET8: i32 = 0;

    /// Eight neighbours along K of two columns, and of the two others.
    #[inline(always)]
    unsafe fn paired(first: int32x4_t, second: int32x4_t) -> [int32x4_t; 2] {
        [run!(vzip1q_s32(first, second)), run!(vzip2q_s32(first, second))]
    }
}

/// One instruction multiplies two columns with two rows, eight bytes of each. The sums of two rows and four
/// columns lie in two vectors: of two columns each, `[column][row]`. A single row has dot products.
impl Steps for NeonI8mm {
    type Sum = int32x4_t;

    fn pairs(rows: usize) -> bool {
        rows > 1
    }

    #[inline(always)]
    unsafe fn open<const R: usize, const V: usize>(
        starts: &[[int32x4_t; V]; R],
    ) -> [[Self::Sum; V]; R] {
        let mut parts = *starts;
        if R > 1 {
            const { assert!(R == 1 || R.is_multiple_of(2), "rows are multiplied by twos") };
            for row in (0..R).step_by(2) {
                for v in 0..V {
                    let (first, second) = (starts[row][v], starts[row + 1][v]);
                    parts[row][v] = run!(vzip1q_s32(first, second));
                    parts[row + 1][v] = run!(vzip2q_s32(first, second));
                }
            }
        }
        parts
    }

    #[inline(always)]
    unsafe fn activations<const R: usize>(activations: *const i32) -> Words {
        // SAFETY: the caller's promise.
        let [first, second] = unsafe { in_order::<R>(activations) };
        match R {
            1 => [first, second],
            // From [quarter][row] to [row][quarter].
            2 => {
                let rows = run!(vzip1q_s32(first, vextq_s32::<2>(first, first)));
                [rows, rows]
            }
            _ => [run!(vzip1q_s32(first, second)), run!(vzip2q_s32(first, second))],
        }
    }

    #[inline(always)]
    unsafe fn step<const R: usize, const V: usize, const BITS: usize>(
        parts: &mut [[Self::Sum; V]; R],
        v: usize,
        weights: [int32x4_t; 2],
        words: &Words,
    ) {
        if R == 1 {
            for quarter in 0..2 {
                let (sum, weights) = (parts[0][v], weights[quarter]);
                parts[0][v] = dot_by_lane!("usdot", sum, weights, words[0], lane quarter);
            }
            return;
        }
        for row in 0..R {
            let mut sum = parts[row][v];
            // SAFETY: by the promise of this function's caller the processor has the instruction, which
            // uses registers only.
            unsafe {
                asm!(
                    "usmmla {sum:v}.4s, {weights:v}.16b, {words:v}.16b",
                    sum = inout(vreg) sum,
                    weights = in(vreg) weights[row % 2],
                    words = in(vreg) words[row / 2],
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
            parts[row][v] = sum;
        }
    }

    #[inline(always)]
    unsafe fn close<const R: usize, const V: usize, const BITS: usize>(
        parts: &[[Self::Sum; V]; R],
        sums: &mut [[int32x4_t; V]; R],
    ) {
        if R == 1 {
            *sums = *parts;
            return;
        }
        for row in (0..R).step_by(2) {
            for v in 0..V {
                let (first, second) = (parts[row][v], parts[row + 1][v]);
                sums[row][v] = run!(vuzp1q_s32(first, second));
                sums[row + 1][v] = run!(vuzp2q_s32(first, second));
            }
        }
    }
}
