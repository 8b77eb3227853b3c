//! AVX2 and AVX-512.
//!
//! A value of [`Avx2`] or [`Avx512`] exists only in functions that are compiled with these instructions, and
//! these run only on processors that have them; so the operations are safe to call.
#![expect(unsafe_code, reason = "calls that need processor features, and vector loads and stores")]

use std::arch::x86_64::*;

use phi4d_isa::InstructionSet;

use super::{Lanes, Work};

#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512(());

#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2(());

pub(super) fn run_avx512<W: Work>(work: W) {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn run<W: Work>(work: W) {
        work.run(Avx512(()));
    }
    assert!(InstructionSet::Avx512.is_available());
    // SAFETY: the processor has the features.
    unsafe { run(work) }
}

pub(super) fn run_avx2<W: Work>(work: W) {
    #[target_feature(enable = "avx2,fma,f16c")]
    fn run<W: Work>(work: W) {
        work.run(Avx2(()));
    }
    assert!(InstructionSet::Avx2.is_available());
    // SAFETY: the processor has the features.
    unsafe { run(work) }
}

/// Calls an intrinsic.
macro_rules! op {
    ($call:expr) => {
        // SAFETY: `self` shows that the processor has the features; references are to sixteen numbers.
        unsafe { $call }
    };
}

impl Lanes for Avx512 {
    type V = __m512;

    const WIDE: bool = true;

    const DIRECT: bool = true;

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        op!(_mm512_set1_ps(value))
    }

    #[inline(always)]
    fn load(self, values: &[f32; 16]) -> __m512 {
        op!(_mm512_loadu_ps(values.as_ptr()))
    }

    #[inline(always)]
    fn load_f16(self, values: &[u16; 16]) -> __m512 {
        let half = op!(_mm256_loadu_si256(values.as_ptr().cast()));
        op!(_mm512_cvtph_ps(half))
    }

    #[inline(always)]
    fn load_i8(self, values: &[i8; 16]) -> __m512 {
        let bytes = op!(_mm_loadu_si128(values.as_ptr().cast()));
        let whole = op!(_mm512_cvtepi8_epi32(bytes));
        op!(_mm512_cvtepi32_ps(whole))
    }

    #[inline(always)]
    fn store(self, vector: __m512, to: &mut [f32; 16]) {
        op!(_mm512_storeu_ps(to.as_mut_ptr(), vector));
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        op!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        op!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn largest(self, vector: __m512) -> f32 {
        op!(_mm512_reduce_max_ps(vector))
    }

    #[inline(always)]
    fn first(self, count: usize, a: __m512, b: __m512) -> __m512 {
        #[expect(clippy::cast_possible_truncation, reason = "sixteen bits")]
        let mask = ((1_u32 << count.min(16)) - 1) as u16;
        op!(_mm512_mask_blend_ps(mask, b, a))
    }

    #[inline(always)]
    fn round(self, vector: __m512) -> __m512 {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        op!(_mm512_roundscale_ps::<NEAREST>(vector))
    }

    #[inline(always)]
    fn scale(self, vector: __m512, exponent: __m512) -> __m512 {
        op!(_mm512_scalef_ps(vector, exponent))
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        op!(_mm_prefetch::<_MM_HINT_T0>(address.cast()));
    }
}

/// Lanes 0 to 7, and 8 to 15.
type Pair = [__m256; 2];

impl Lanes for Avx2 {
    type V = Pair;

    const WIDE: bool = false;

    const DIRECT: bool = true;

    #[inline(always)]
    fn splat(self, value: f32) -> Pair {
        [op!(_mm256_set1_ps(value)); 2]
    }

    #[inline(always)]
    fn load(self, values: &[f32; 16]) -> Pair {
        let (low, high) = values.split_at(8);
        [op!(_mm256_loadu_ps(low.as_ptr())), op!(_mm256_loadu_ps(high.as_ptr()))]
    }

    #[inline(always)]
    fn load_f16(self, values: &[u16; 16]) -> Pair {
        let (low, high) = values.split_at(8);
        let low = op!(_mm_loadu_si128(low.as_ptr().cast()));
        let high = op!(_mm_loadu_si128(high.as_ptr().cast()));
        [op!(_mm256_cvtph_ps(low)), op!(_mm256_cvtph_ps(high))]
    }

    #[inline(always)]
    fn load_i8(self, values: &[i8; 16]) -> Pair {
        let bytes = op!(_mm_loadu_si128(values.as_ptr().cast()));
        let high = op!(_mm_unpackhi_epi64(bytes, bytes));
        let low = op!(_mm256_cvtepi8_epi32(bytes));
        let high = op!(_mm256_cvtepi8_epi32(high));
        [op!(_mm256_cvtepi32_ps(low)), op!(_mm256_cvtepi32_ps(high))]
    }

    #[inline(always)]
    fn store(self, [low, high]: Pair, to: &mut [f32; 16]) {
        let (first, second) = to.split_at_mut(8);
        op!(_mm256_storeu_ps(first.as_mut_ptr(), low));
        op!(_mm256_storeu_ps(second.as_mut_ptr(), high));
    }

    #[inline(always)]
    fn add(self, a: Pair, b: Pair) -> Pair {
        [op!(_mm256_add_ps(a[0], b[0])), op!(_mm256_add_ps(a[1], b[1]))]
    }

    #[inline(always)]
    fn sub(self, a: Pair, b: Pair) -> Pair {
        [op!(_mm256_sub_ps(a[0], b[0])), op!(_mm256_sub_ps(a[1], b[1]))]
    }

    #[inline(always)]
    fn mul(self, a: Pair, b: Pair) -> Pair {
        [op!(_mm256_mul_ps(a[0], b[0])), op!(_mm256_mul_ps(a[1], b[1]))]
    }

    #[inline(always)]
    fn fma(self, a: Pair, b: Pair, c: Pair) -> Pair {
        [op!(_mm256_fmadd_ps(a[0], b[0], c[0])), op!(_mm256_fmadd_ps(a[1], b[1], c[1]))]
    }

    #[inline(always)]
    fn max(self, a: Pair, b: Pair) -> Pair {
        [op!(_mm256_max_ps(a[0], b[0])), op!(_mm256_max_ps(a[1], b[1]))]
    }

    #[inline(always)]
    fn largest(self, [low, high]: Pair) -> f32 {
        let eight = op!(_mm256_max_ps(low, high));
        let upper = op!(_mm256_extractf128_ps::<1>(eight));
        let four = op!(_mm_max_ps(_mm256_castps256_ps128(eight), upper));
        let two = op!(_mm_max_ps(four, _mm_movehl_ps(four, four)));
        let one = op!(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)));
        op!(_mm_cvtss_f32(one))
    }

    #[inline(always)]
    fn first(self, count: usize, a: Pair, b: Pair) -> Pair {
        let limit = op!(_mm256_set1_ps(count as f32));
        let low = op!(_mm256_setr_ps(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0));
        let high = op!(_mm256_setr_ps(8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0));
        let low = op!(_mm256_cmp_ps::<_CMP_LT_OQ>(low, limit));
        let high = op!(_mm256_cmp_ps::<_CMP_LT_OQ>(high, limit));
        [op!(_mm256_blendv_ps(b[0], a[0], low)), op!(_mm256_blendv_ps(b[1], a[1], high))]
    }

    #[inline(always)]
    fn round(self, [low, high]: Pair) -> Pair {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        [op!(_mm256_round_ps::<NEAREST>(low)), op!(_mm256_round_ps::<NEAREST>(high))]
    }

    #[inline(always)]
    fn scale(self, vector: Pair, exponent: Pair) -> Pair {
        let bias = op!(_mm256_set1_epi32(127));
        let [low, high] =
            [op!(_mm256_cvtps_epi32(exponent[0])), op!(_mm256_cvtps_epi32(exponent[1]))];
        let low = op!(_mm256_slli_epi32::<23>(_mm256_add_epi32(low, bias)));
        let high = op!(_mm256_slli_epi32::<23>(_mm256_add_epi32(high, bias)));
        self.mul(vector, [op!(_mm256_castsi256_ps(low)), op!(_mm256_castsi256_ps(high))])
    }

    #[inline(always)]
    fn prefetch(self, address: *const u8) {
        op!(_mm_prefetch::<_MM_HINT_T0>(address.cast()));
    }
}
