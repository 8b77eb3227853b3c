//! Plain Rust: the reference that all other instruction sets equal bit for bit.

use half::f16;

use super::{Dots, Isa, by_dots};

/// Sixteen columns as arrays.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scalar;

type Ints = [i32; 16];
type Floats = [f32; 16];

/// `f` of each pair of columns.
#[inline(always)]
fn both<T: Copy, U: Copy + Default>(a: [T; 16], b: [T; 16], f: impl Fn(T, T) -> U) -> [U; 16] {
    let mut out = [U::default(); 16];
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        *out = f(a, b);
    }
    out
}

impl Isa for Scalar {
    type Int = Ints;
    type Float = Floats;
    const LANES: usize = 16;
    const OFFSET8: i32 = 0;
    by_dots!();

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Ints {
        // SAFETY: the caller has 64 bytes there.
        unsafe { from.cast::<Ints>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u8, value: Ints) {
        // SAFETY: the caller has 64 bytes there.
        unsafe { to.cast::<Ints>().write_unaligned(value) };
    }

    #[inline(always)]
    unsafe fn low(bytes: Ints) -> Ints {
        bytes.map(|bytes| bytes & 0x0f0f_0f0f)
    }

    #[inline(always)]
    unsafe fn high(bytes: Ints) -> Ints {
        bytes.map(|bytes| bytes >> 4 & 0x0f0f_0f0f)
    }

    #[inline(always)]
    unsafe fn splat(value: i32) -> Ints {
        [value; 16]
    }

    #[inline(always)]
    unsafe fn widen(from: *const u8) -> Ints {
        // SAFETY: the caller has 16 bytes there.
        let bytes: [u8; 16] = unsafe { from.cast::<[u8; 16]>().read_unaligned() };
        bytes.map(i32::from)
    }

    #[inline(always)]
    unsafe fn subtract(a: Ints, b: Ints) -> Ints {
        both(a, b, |a, b| a - b)
    }

    #[inline(always)]
    unsafe fn small_product(a: Ints, b: Ints) -> Ints {
        #[expect(clippy::cast_possible_truncation, reason = "the lower 16 bits")]
        both(a, b, |a, b| i32::from(a as i16) * i32::from(b as i16))
    }

    #[inline(always)]
    unsafe fn to_float(value: Ints) -> Floats {
        #[expect(clippy::cast_precision_loss, reason = "as the processors' conversion rounds")]
        value.map(|value| value as f32)
    }

    #[inline(always)]
    unsafe fn splat_float(value: f32) -> Floats {
        [value; 16]
    }

    #[inline(always)]
    unsafe fn halves(from: *const u8) -> Floats {
        // SAFETY: the caller has 32 bytes there.
        let halves: [u16; 16] = unsafe { from.cast::<[u16; 16]>().read_unaligned() };
        halves.map(|half| f16::from_bits(half).to_f32())
    }

    #[inline(always)]
    unsafe fn load_float(from: *const f32) -> Floats {
        // SAFETY: the caller has 16 floats there.
        unsafe { from.cast::<Floats>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store_float(to: *mut f32, value: Floats) {
        // SAFETY: the caller has 16 floats there.
        unsafe { to.cast::<Floats>().write_unaligned(value) };
    }

    #[inline(always)]
    unsafe fn multiply(a: Floats, b: Floats) -> Floats {
        both(a, b, |a, b| a * b)
    }

    #[inline(always)]
    unsafe fn multiply_add(a: Floats, b: Floats, c: Floats) -> Floats {
        let mut out = c;
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            *out = a.mul_add(b, *out);
        }
        out
    }

    #[inline(always)]
    unsafe fn larger_size(value: Floats, most: Floats) -> Floats {
        both(value, most, |value, most| if value.abs() > most { value.abs() } else { most })
    }

    #[inline(always)]
    unsafe fn largest(values: Floats) -> f32 {
        values.into_iter().fold(0.0, |most, value| if value > most { value } else { most })
    }

    #[inline(always)]
    unsafe fn levels(values: Floats, inverse: Floats) -> Ints {
        // Adding it rounds to a whole number, which is then in the sum's low bits.
        const ROUNDER: f32 = 12_582_912.0;
        let bits = |value: f32| value.to_bits().cast_signed();
        both(values, inverse, |value, inverse| {
            bits(value * inverse + ROUNDER).wrapping_sub(bits(ROUNDER))
        })
    }

    #[inline(always)]
    unsafe fn add(a: Ints, b: Ints) -> Ints {
        both(a, b, i32::wrapping_add)
    }

    #[inline(always)]
    unsafe fn total(numbers: Ints) -> i32 {
        numbers.into_iter().fold(0, i32::wrapping_add)
    }

    #[inline(always)]
    unsafe fn words(numbers: Ints) -> [i32; 4] {
        let mut words = [0; 4];
        for (word, numbers) in words.iter_mut().zip(numbers.as_chunks::<4>().0) {
            *word = i32::from_le_bytes(numbers.map(|number| number.to_le_bytes()[0]));
        }
        words
    }

    #[inline(always)]
    fn prefetch(_at: *const u8) {}
}

impl Dots for Scalar {
    #[inline(always)]
    unsafe fn begin<const BITS: usize>(start: Ints) -> Ints {
        start
    }

    #[inline(always)]
    unsafe fn dot<const BITS: usize>(sum: Ints, weights: Ints, activations: Ints) -> Ints {
        let products = both(weights, activations, |weights, activations| {
            let pairs = weights.to_le_bytes().into_iter().zip(activations.to_le_bytes());
            pairs.map(|(weight, value)| i32::from(weight) * i32::from(value.cast_signed())).sum()
        });
        both(sum, products, |sum, product: i32| sum + product)
    }

    #[inline(always)]
    unsafe fn end<const BITS: usize>(sum: Ints, _start: Ints) -> Ints {
        sum
    }
}
