//! Plain Rust, which compilers turn into the vector instructions of the target's baseline.
//!
//! On x86-64 the baseline has no fused multiply-add, so this is for tests and very old processors only, and
//! operations are functions of their own, which compiles several times faster.

use half::f16;

use super::Lanes;

#[derive(Debug, Clone, Copy)]
pub(super) struct Scalar;

type V = [f32; 16];

#[inline(always)]
fn zip(a: V, b: V, operation: impl Fn(f32, f32) -> f32) -> V {
    std::array::from_fn(|lane| operation(a[lane], b[lane]))
}

impl Lanes for Scalar {
    type V = V;

    const WIDE: bool = false;

    const DIRECT: bool = cfg!(not(target_arch = "x86_64"));

    #[inline(always)]
    fn splat(self, value: f32) -> V {
        [value; 16]
    }

    #[inline(always)]
    fn load(self, values: &V) -> V {
        *values
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn load_f16(self, values: &[u16; 16]) -> V {
        values.map(|bits| f16::from_bits(bits).to_f32())
    }

    #[inline(always)]
    fn load_i8(self, values: &[i8; 16]) -> V {
        values.map(f32::from)
    }

    #[inline(always)]
    fn store(self, vector: V, to: &mut V) {
        *to = vector;
    }

    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        zip(a, b, |a, b| a * b)
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn fma(self, a: V, b: V, c: V) -> V {
        std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
    }

    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        zip(a, b, f32::max)
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn largest(self, vector: V) -> f32 {
        vector.into_iter().fold(f32::MIN, f32::max)
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn first(self, count: usize, a: V, b: V) -> V {
        std::array::from_fn(|lane| if lane < count { a[lane] } else { b[lane] })
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn round(self, vector: V) -> V {
        vector.map(f32::round_ties_even)
    }

    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn scale(self, vector: V, exponent: V) -> V {
        zip(vector, exponent, |value, exponent| {
            #[expect(clippy::cast_possible_truncation, reason = "whole and from -126 to 0")]
            let biased = (exponent as i32 + 127).cast_unsigned();
            value * f32::from_bits(biased << 23)
        })
    }

    #[inline(always)]
    fn prefetch(self, _address: *const u8) {}
}
