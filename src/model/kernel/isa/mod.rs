//! Instruction sets: what the kernel needs of each.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod choice;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;
mod tiles;

pub use choice::Kernel;
pub(crate) use tiles::{FewRows, Tiles};

/// Vector operations of an instruction set, from which the kernel is built.
///
/// Integer sums are exact, and floats are multiplied and added in the order that the kernel has, with
/// one rounding each. So all sets give the same bits.
///
/// # Safety
/// All functions need the processor's features. They are inlined into functions that have them.
pub(crate) trait Isa: Copy {
    /// A 32-bit number for each of [`LANES`](Self::LANES) columns, or four bytes.
    type Int: Copy;
    /// A float for each column.
    type Float: Copy;
    /// Columns of a vector, a divisor of [`COLUMNS`](crate::COLUMNS).
    const LANES: usize;
    /// What is taken off each weight of 8 bits: 128 where signed bytes are multiplied.
    const OFFSET8: i32;

    unsafe fn load(from: *const u8) -> Self::Int;
    unsafe fn store(to: *mut u8, value: Self::Int);
    /// The low halves of the bytes.
    unsafe fn low(bytes: Self::Int) -> Self::Int;
    /// The high halves of the bytes.
    unsafe fn high(bytes: Self::Int) -> Self::Int;
    unsafe fn splat(value: i32) -> Self::Int;
    /// Numbers from bytes.
    unsafe fn widen(from: *const u8) -> Self::Int;
    unsafe fn subtract(a: Self::Int, b: Self::Int) -> Self::Int;
    /// The products of the lower 16 bits, signed; the upper bits of `b` are 0.
    unsafe fn small_product(a: Self::Int, b: Self::Int) -> Self::Int;

    /// Two neighbouring quarters as a panel has them.
    unsafe fn paired(first: Self::Int, second: Self::Int) -> [Self::Int; 2];
    /// Adds to the sums of `R` rows and `V` vectors of columns the products of `QUARTERS` quarters, which
    /// are 4 or 8: `panel` has their weights, a vector of four bytes for each column, `activations` their
    /// words `[quarter][row]`, which two words for each row follow.
    unsafe fn add_panel<const R: usize, const V: usize, const BITS: usize, const QUARTERS: usize>(
        sums: &mut [[Self::Int; V]; R],
        panel: *const u8,
        activations: *const i32,
    );
    /// As [`add_panel`](Self::add_panel), with the weights as they are packed. What comes next is fetched.
    unsafe fn add_packed<const R: usize, const V: usize, const BITS: usize, const QUARTERS: usize>(
        sums: &mut [[Self::Int; V]; R],
        levels: *const u8,
        activations: *const i32,
    );

    unsafe fn to_float(value: Self::Int) -> Self::Float;
    unsafe fn splat_float(value: f32) -> Self::Float;
    /// Floats from half precision.
    unsafe fn halves(from: *const u8) -> Self::Float;
    unsafe fn load_float(from: *const f32) -> Self::Float;
    unsafe fn store_float(to: *mut f32, value: Self::Float);
    unsafe fn multiply(a: Self::Float, b: Self::Float) -> Self::Float;
    /// `a * b + c`, rounded once.
    unsafe fn multiply_add(a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    /// The larger of the size of `value` and `most`.
    unsafe fn larger_size(value: Self::Float, most: Self::Float) -> Self::Float;
    /// The largest of the numbers, none of which is negative.
    unsafe fn largest(values: Self::Float) -> f32;
    /// The products, of sizes up to 127, rounded to whole numbers, ties to even.
    unsafe fn levels(values: Self::Float, inverse: Self::Float) -> Self::Int;
    unsafe fn add(a: Self::Int, b: Self::Int) -> Self::Int;
    /// The sum of the numbers.
    unsafe fn total(numbers: Self::Int) -> i32;
    /// The low bytes of the numbers, four to a word; words after the lanes' are 0.
    unsafe fn words(numbers: Self::Int) -> [i32; 4];
    /// Starts to read a line that is wanted soon. A hint, which may point anywhere.
    fn prefetch(at: *const u8);
}

/// Dot products of four bytes for each column, the same activations for all: what most sets have.
///
/// # Safety
/// As [`Isa`].
pub(crate) trait Dots: Isa {
    /// What [`dot`](Self::dot) adds up from, for a sum that begins with `start`.
    unsafe fn begin<const BITS: usize>(start: Self::Int) -> Self::Int;
    /// Adds for each column the four products of unsigned weights of `BITS` with signed bytes. No more
    /// than eight are added between [`begin`](Self::begin) and [`end`](Self::end).
    unsafe fn dot<const BITS: usize>(
        sum: Self::Int,
        weights: Self::Int,
        activations: Self::Int,
    ) -> Self::Int;
    /// The sum of what was added, and `start`.
    unsafe fn end<const BITS: usize>(sum: Self::Int, start: Self::Int) -> Self::Int;
}

/// [`Isa`]'s functions of a set that has [`Dots`].
macro_rules! by_dots {
    () => {
        #[inline(always)]
        unsafe fn paired(first: Self::Int, second: Self::Int) -> [Self::Int; 2] {
            [first, second]
        }

        #[inline(always)]
        unsafe fn add_panel<
            const R: usize,
            const V: usize,
            const BITS: usize,
            const QUARTERS: usize,
        >(
            sums: &mut [[Self::Int; V]; R],
            panel: *const u8,
            activations: *const i32,
        ) {
            // SAFETY: the promise of this function's caller.
            unsafe {
                crate::tile::add_panel::<Self, R, V, BITS, QUARTERS>(sums, panel, activations);
            }
        }

        #[inline(always)]
        unsafe fn add_packed<
            const R: usize,
            const V: usize,
            const BITS: usize,
            const QUARTERS: usize,
        >(
            sums: &mut [[Self::Int; V]; R],
            levels: *const u8,
            activations: *const i32,
        ) {
            // SAFETY: the promise of this function's caller.
            unsafe {
                crate::tile::add_packed::<Self, R, V, BITS, QUARTERS>(sums, levels, activations);
            }
        }
    };
}

pub(crate) use by_dots;
