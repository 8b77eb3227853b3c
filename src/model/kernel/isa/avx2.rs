//! AVX2, without and with VNNI's 256-bit form: eight columns to a vector.

use std::arch::asm;
use std::arch::x86_64::{
    __m256, __m256i, _MM_HINT_T0, _mm_add_epi32, _mm_cvtsi128_si32, _mm_cvtss_f32,
    _mm_extract_epi32, _mm_loadl_epi64, _mm_loadu_si128, _mm_max_ps, _mm_max_ss, _mm_movehdup_ps,
    _mm_movehl_ps, _mm_packs_epi16, _mm_packs_epi32, _mm_prefetch, _mm_shuffle_epi32,
    _mm256_abs_epi8, _mm256_add_epi16, _mm256_add_epi32, _mm256_and_si256, _mm256_andnot_ps,
    _mm256_castps256_ps128, _mm256_castsi256_si128, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32,
    _mm256_cvtph_ps, _mm256_cvtps_epi32, _mm256_dpbusd_avx_epi32, _mm256_extractf128_ps,
    _mm256_extracti128_si256, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256,
    _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_max_ps, _mm256_mul_ps, _mm256_set1_epi8,
    _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_si256, _mm256_sign_epi8,
    _mm256_srli_epi16, _mm256_storeu_ps, _mm256_storeu_si256, _mm256_sub_epi32, _mm256_xor_si256,
};

use super::{Dots, Isa, by_dots};

/// AVX2, FMA and F16C.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2;

/// AVX-VNNI beside those of [`Avx2`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct AvxVnni;

/// An instruction, or a few, that this processor has and whose memory the caller has.
macro_rules! run {
    ($instructions:expr) => {
        // SAFETY: by the promise of this function's caller (see `Isa`).
        unsafe { $instructions }
    };
}

/// What both sets have in common.
macro_rules! common {
    () => {
        type Int = __m256i;
        type Float = __m256;
        const LANES: usize = 8;
        by_dots!();

        #[inline(always)]
        unsafe fn load(from: *const u8) -> __m256i {
            run!(_mm256_loadu_si256(from.cast()))
        }

        #[inline(always)]
        unsafe fn store(to: *mut u8, value: __m256i) {
            run!(_mm256_storeu_si256(to.cast(), value));
        }

        #[inline(always)]
        unsafe fn low(bytes: __m256i) -> __m256i {
            run!(_mm256_and_si256(bytes, _mm256_set1_epi8(15)))
        }

        #[inline(always)]
        unsafe fn high(bytes: __m256i) -> __m256i {
            run!(_mm256_and_si256(_mm256_srli_epi16::<4>(bytes), _mm256_set1_epi8(15)))
        }

        #[inline(always)]
        unsafe fn splat(value: i32) -> __m256i {
            run!(_mm256_set1_epi32(value))
        }

        #[inline(always)]
        unsafe fn widen(from: *const u8) -> __m256i {
            run!(_mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast())))
        }

        #[inline(always)]
        unsafe fn subtract(a: __m256i, b: __m256i) -> __m256i {
            run!(_mm256_sub_epi32(a, b))
        }

        #[inline(always)]
        unsafe fn small_product(a: __m256i, b: __m256i) -> __m256i {
            run!(_mm256_madd_epi16(a, b))
        }

        #[inline(always)]
        unsafe fn to_float(value: __m256i) -> __m256 {
            run!(_mm256_cvtepi32_ps(value))
        }

        #[inline(always)]
        unsafe fn splat_float(value: f32) -> __m256 {
            run!(_mm256_set1_ps(value))
        }

        #[inline(always)]
        unsafe fn halves(from: *const u8) -> __m256 {
            run!(_mm256_cvtph_ps(_mm_loadu_si128(from.cast())))
        }

        #[inline(always)]
        unsafe fn load_float(from: *const f32) -> __m256 {
            run!(_mm256_loadu_ps(from))
        }

        #[inline(always)]
        unsafe fn store_float(to: *mut f32, value: __m256) {
            run!(_mm256_storeu_ps(to, value));
        }

        #[inline(always)]
        unsafe fn multiply(a: __m256, b: __m256) -> __m256 {
            run!(_mm256_mul_ps(a, b))
        }

        #[inline(always)]
        unsafe fn multiply_add(a: __m256, b: __m256, c: __m256) -> __m256 {
            run!(_mm256_fmadd_ps(a, b, c))
        }

        #[inline(always)]
        unsafe fn larger_size(value: __m256, most: __m256) -> __m256 {
            run!(_mm256_max_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0), value), most))
        }

        #[inline(always)]
        unsafe fn largest(values: __m256) -> f32 {
            run!({
                let four =
                    _mm_max_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps::<1>(values));
                let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
            })
        }

        #[inline(always)]
        unsafe fn levels(values: __m256, inverse: __m256) -> __m256i {
            run!(_mm256_cvtps_epi32(_mm256_mul_ps(values, inverse)))
        }

        #[inline(always)]
        unsafe fn add(a: __m256i, b: __m256i) -> __m256i {
            run!(_mm256_add_epi32(a, b))
        }

        #[inline(always)]
        unsafe fn total(numbers: __m256i) -> i32 {
            run!({
                let four = _mm_add_epi32(
                    _mm256_castsi256_si128(numbers),
                    _mm256_extracti128_si256::<1>(numbers),
                );
                let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b1110>(four));
                _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<1>(two)))
            })
        }

        #[inline(always)]
        unsafe fn words(numbers: __m256i) -> [i32; 4] {
            // Levels fit a byte, so nothing is lost on the way.
            let bytes = run!({
                let shorts = _mm_packs_epi32(
                    _mm256_castsi256_si128(numbers),
                    _mm256_extracti128_si256::<1>(numbers),
                );
                _mm_packs_epi16(shorts, shorts)
            });
            [run!(_mm_cvtsi128_si32(bytes)), run!(_mm_extract_epi32::<1>(bytes)), 0, 0]
        }

        #[inline(always)]
        fn prefetch(at: *const u8) {
            // SAFETY: a hint, which reads nothing that the program sees, wherever it points.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
        }
    };
}

/// Returns `sum`, which has to be whole and in a register here. Left alone, the compiler adds the products of a
/// row up in pairs, one row after another, and wants all weights of a block in registers for that: there are too
/// few, and every other instruction moves a vector to the stack or back.
#[inline]
#[target_feature(enable = "avx2")]
fn pinned(mut sum: __m256i) -> __m256i {
    // SAFETY: no instruction.
    unsafe {
        asm!("/* {0} */", inout(ymm_reg) sum, options(nomem, nostack, preserves_flags));
    }
    sum
}

impl Isa for Avx2 {
    common!();
    // With 8 bits, two products of unsigned bytes overflow the 16 bits of `maddubs`. Of signed ones, at
    // most 128 * 127 each, they do not.
    const OFFSET8: i32 = 128;
}

impl Dots for Avx2 {
    #[inline(always)]
    unsafe fn begin<const BITS: usize>(start: __m256i) -> __m256i {
        if BITS == 4 { run!(_mm256_setzero_si256()) } else { start }
    }

    #[inline(always)]
    unsafe fn dot<const BITS: usize>(sum: __m256i, weights: __m256i, values: __m256i) -> __m256i {
        if BITS == 4 {
            // Eight times two products of at most 15 * 127 fit 16 bits.
            run!(pinned(_mm256_add_epi16(sum, _mm256_maddubs_epi16(weights, values))))
        } else {
            run!({
                let signed = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
                // The size of -128 is 128, which is right for an unsigned byte.
                let sizes = _mm256_abs_epi8(signed);
                let pairs = _mm256_maddubs_epi16(sizes, _mm256_sign_epi8(values, signed));
                pinned(_mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))))
            })
        }
    }

    #[inline(always)]
    unsafe fn end<const BITS: usize>(sum: __m256i, start: __m256i) -> __m256i {
        if BITS == 4 {
            run!(_mm256_add_epi32(_mm256_madd_epi16(sum, _mm256_set1_epi16(1)), start))
        } else {
            sum
        }
    }
}

impl Isa for AvxVnni {
    common!();
    const OFFSET8: i32 = 0;
}

impl Dots for AvxVnni {
    #[inline(always)]
    unsafe fn begin<const BITS: usize>(start: __m256i) -> __m256i {
        start
    }

    #[inline(always)]
    unsafe fn dot<const BITS: usize>(sum: __m256i, weights: __m256i, values: __m256i) -> __m256i {
        run!(_mm256_dpbusd_avx_epi32(sum, weights, values))
    }

    #[inline(always)]
    unsafe fn end<const BITS: usize>(sum: __m256i, _start: __m256i) -> __m256i {
        sum
    }
}
