//! NEON, which every 64-bit Arm processor has.
#![expect(unsafe_code, reason = "vector loads and stores")]

use std::arch::aarch64::*;
use std::arch::asm;

use super::Lanes;

#[derive(Debug, Clone, Copy)]
pub(super) struct Neon;

/// Calls an intrinsic.
macro_rules! op {
    ($call:expr) => {
        // SAFETY: every processor has NEON; references are to sixteen numbers.
        unsafe { $call }
    };
}

/// Lanes 0 to 3, and so on.
type V = [float32x4_t; 4];

#[inline(always)]
fn zip(a: V, b: V, operation: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> V {
    [operation(a[0], b[0]), operation(a[1], b[1]), operation(a[2], b[2]), operation(a[3], b[3])]
}

impl Lanes for Neon {
    type V = V;

    // Six rows of sixteen lanes take 24 of the 32 registers.
    const WIDE: bool = false;

    const DIRECT: bool = true;

    #[inline(always)]
    fn splat(self, value: f32) -> V {
        [op!(vdupq_n_f32(value)); 4]
    }

    #[inline(always)]
    fn load(self, values: &[f32; 16]) -> V {
        [0, 4, 8, 12].map(|at| op!(vld1q_f32(values.as_ptr().add(at))))
    }

    #[inline(always)]
    fn load_f16(self, values: &[u16; 16]) -> V {
        let halves = [0, 4, 8, 12].map(|at| op!(vld1_u16(values.as_ptr().add(at))));
        halves.map(|halves| op!(vcvt_f32_f16(vreinterpret_f16_u16(halves))))
    }

    #[inline(always)]
    fn load_i8(self, values: &[i8; 16]) -> V {
        let bytes = op!(vld1q_s8(values.as_ptr()));
        let (low, high) = (op!(vmovl_s8(vget_low_s8(bytes))), op!(vmovl_high_s8(bytes)));
        [
            op!(vcvtq_f32_s32(vmovl_s16(vget_low_s16(low)))),
            op!(vcvtq_f32_s32(vmovl_high_s16(low))),
            op!(vcvtq_f32_s32(vmovl_s16(vget_low_s16(high)))),
            op!(vcvtq_f32_s32(vmovl_high_s16(high))),
        ]
    }

    #[inline(always)]
    fn store(self, vector: V, to: &mut [f32; 16]) {
        for (four, to) in vector.into_iter().zip(to.as_chunks_mut::<4>().0) {
            op!(vst1q_f32(to.as_mut_ptr(), four));
        }
    }

    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        zip(a, b, |a, b| op!(vaddq_f32(a, b)))
    }

    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        zip(a, b, |a, b| op!(vsubq_f32(a, b)))
    }

    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        zip(a, b, |a, b| op!(vmulq_f32(a, b)))
    }

    #[inline(always)]
    fn fma(self, a: V, b: V, c: V) -> V {
        [
            op!(vfmaq_f32(c[0], a[0], b[0])),
            op!(vfmaq_f32(c[1], a[1], b[1])),
            op!(vfmaq_f32(c[2], a[2], b[2])),
            op!(vfmaq_f32(c[3], a[3], b[3])),
        ]
    }

    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        zip(a, b, |a, b| op!(vmaxnmq_f32(a, b)))
    }

    #[inline(always)]
    fn largest(self, [a, b, c, d]: V) -> f32 {
        op!(vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(a, b), vmaxnmq_f32(c, d))))
    }

    #[inline(always)]
    fn first(self, count: usize, a: V, b: V) -> V {
        const LANES: [[u32; 4]; 4] = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]];
        #[expect(clippy::cast_possible_truncation, reason = "at most 16")]
        let count = op!(vdupq_n_u32(count.min(16) as u32));
        let taken = LANES.map(|lanes| op!(vcltq_u32(vld1q_u32(lanes.as_ptr()), count)));
        [
            op!(vbslq_f32(taken[0], a[0], b[0])),
            op!(vbslq_f32(taken[1], a[1], b[1])),
            op!(vbslq_f32(taken[2], a[2], b[2])),
            op!(vbslq_f32(taken[3], a[3], b[3])),
        ]
    }

    #[inline(always)]
    fn round(self, vector: V) -> V {
        vector.map(|four| op!(vrndnq_f32(four)))
    }

    #[inline(always)]
    fn scale(self, vector: V, exponent: V) -> V {
        let power = |exponent| {
            let biased = op!(vaddq_s32(vcvtq_s32_f32(exponent), vdupq_n_s32(127)));
            op!(vreinterpretq_f32_s32(vshlq_n_s32::<23>(biased)))
        };
        self.mul(vector, exponent.map(power))
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        // SAFETY: a hint, which reads nothing that the program sees, wherever it points.
        unsafe {
            asm!(
                "prfm pldl1keep, [{address}]",
                address = in(reg) address,
                options(nostack, preserves_flags, readonly)
            );
        }
    }
}
