//! AVX-512 with VNNI: sixteen columns to a vector.

use std::arch::x86_64::{
    __m512, __m512i, _MM_HINT_T0, _mm_extract_epi32, _mm_loadu_si128, _mm_prefetch,
    _mm256_loadu_si256, _mm512_abs_ps, _mm512_add_epi32, _mm512_and_si512, _mm512_cvtepi32_epi8,
    _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtph_ps, _mm512_cvtps_epi32,
    _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_madd_epi16,
    _mm512_max_ps, _mm512_mul_ps, _mm512_reduce_add_epi32, _mm512_reduce_max_ps, _mm512_set1_epi8,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_srli_epi16, _mm512_storeu_ps, _mm512_storeu_si512,
    _mm512_sub_epi32,
};

use super::{Dots, Isa, by_dots};

/// AVX-512F, BW and VNNI.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512;

/// An instruction, or a few, that this processor has and whose memory the caller has.
macro_rules! run {
    ($instructions:expr) => {
        // SAFETY: by the promise of this function's caller (see `Isa`).
        unsafe { $instructions }
    };
}

impl Isa for Avx512 {
    type Int = __m512i;
    type Float = __m512;
    const LANES: usize = 16;
    const OFFSET8: i32 = 0;
    by_dots!();

    #[inline(always)]
    unsafe fn load(from: *const u8) -> __m512i {
        run!(_mm512_loadu_si512(from.cast()))
    }

    #[inline(always)]
    unsafe fn store(to: *mut u8, value: __m512i) {
        run!(_mm512_storeu_si512(to.cast(), value));
    }

    #[inline(always)]
    unsafe fn low(bytes: __m512i) -> __m512i {
        run!(_mm512_and_si512(bytes, _mm512_set1_epi8(15)))
    }

    #[inline(always)]
    unsafe fn high(bytes: __m512i) -> __m512i {
        run!(_mm512_and_si512(_mm512_srli_epi16::<4>(bytes), _mm512_set1_epi8(15)))
    }

    #[inline(always)]
    unsafe fn splat(value: i32) -> __m512i {
        run!(_mm512_set1_epi32(value))
    }

    #[inline(always)]
    unsafe fn widen(from: *const u8) -> __m512i {
        run!(_mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())))
    }

    #[inline(always)]
    unsafe fn subtract(a: __m512i, b: __m512i) -> __m512i {
        run!(_mm512_sub_epi32(a, b))
    }

    #[inline(always)]
    unsafe fn small_product(a: __m512i, b: __m512i) -> __m512i {
        run!(_mm512_madd_epi16(a, b))
    }

    #[inline(always)]
    unsafe fn to_float(value: __m512i) -> __m512 {
        run!(_mm512_cvtepi32_ps(value))
    }

    #[inline(always)]
    unsafe fn splat_float(value: f32) -> __m512 {
        run!(_mm512_set1_ps(value))
    }

    #[inline(always)]
    unsafe fn halves(from: *const u8) -> __m512 {
        run!(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast())))
    }

    #[inline(always)]
    unsafe fn load_float(from: *const f32) -> __m512 {
        run!(_mm512_loadu_ps(from))
    }

    #[inline(always)]
    unsafe fn store_float(to: *mut f32, value: __m512) {
        run!(_mm512_storeu_ps(to, value));
    }

    #[inline(always)]
    unsafe fn multiply(a: __m512, b: __m512) -> __m512 {
        run!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    unsafe fn multiply_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        run!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    unsafe fn larger_size(value: __m512, most: __m512) -> __m512 {
        run!(_mm512_max_ps(_mm512_abs_ps(value), most))
    }

    #[inline(always)]
    unsafe fn largest(values: __m512) -> f32 {
        run!(_mm512_reduce_max_ps(values))
    }

    #[inline(always)]
    unsafe fn levels(values: __m512, inverse: __m512) -> __m512i {
        run!(_mm512_cvtps_epi32(_mm512_mul_ps(values, inverse)))
    }

    #[inline(always)]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        run!(_mm512_add_epi32(a, b))
    }

    #[inline(always)]
    unsafe fn total(numbers: __m512i) -> i32 {
        run!(_mm512_reduce_add_epi32(numbers))
    }

    #[inline(always)]
    unsafe fn words(numbers: __m512i) -> [i32; 4] {
        let bytes = run!(_mm512_cvtepi32_epi8(numbers));
        [
            run!(_mm_extract_epi32::<0>(bytes)),
            run!(_mm_extract_epi32::<1>(bytes)),
            run!(_mm_extract_epi32::<2>(bytes)),
            run!(_mm_extract_epi32::<3>(bytes)),
        ]
    }

    #[inline(always)]
    fn prefetch(at: *const u8) {
        // SAFETY: a hint, which reads nothing that the program sees, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
}

impl Dots for Avx512 {
    #[inline(always)]
    unsafe fn begin<const BITS: usize>(start: __m512i) -> __m512i {
        start
    }

    #[inline(always)]
    unsafe fn dot<const BITS: usize>(sum: __m512i, weights: __m512i, values: __m512i) -> __m512i {
        run!(_mm512_dpbusd_epi32(sum, weights, values))
    }

    #[inline(always)]
    unsafe fn end<const BITS: usize>(sum: __m512i, _start: __m512i) -> __m512i {
        sum
    }
}
