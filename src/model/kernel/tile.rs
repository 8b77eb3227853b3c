//! The innermost loops: a tile of rows times a few columns, whose sums stay in registers.
#![expect(
    clippy::needless_range_loop,
    reason = "loops of constant length over sums in registers, which the compiler unrolls by their indexes"
)]
#![expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "pointers advance through memory whose size `multiply` has checked; a bounds check here \
              would cost more than the multiplications"
)]

use crate::form::COLUMNS;
use crate::isa::{Dots, Isa};

/// How far ahead packed weights are fetched, in bytes. Without it eight rows take twice as long: the
/// processor's own look-ahead stops while it multiplies.
pub(crate) const AHEAD: usize = 4096;

/// A tile's work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    /// Unpacked weights, as [`unpack`] leaves them.
    pub(crate) panel: *const u8,
    /// The tile's activations from the first of the blocks on.
    pub(crate) activations: *const i32,
    /// Blocks along K.
    pub(crate) blocks: usize,
    /// Runs of `QUARTERS` quarters in a block; 1 where tiles are compiled for a `SINGLE` one.
    pub(crate) runs: usize,
    /// The first row's first result.
    pub(crate) results: *mut f32,
    /// Floats from a row of results to the next.
    pub(crate) stride: usize,
    /// Rows whose results are wanted, at most the tile's height.
    pub(crate) rows: usize,
    /// Whether results begin with these blocks; otherwise these add to what is there.
    pub(crate) first: bool,
}

/// Where a group's packed weights are, from a block on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packed {
    pub(crate) scales: *const u8,
    pub(crate) zeros: *const u8,
    pub(crate) levels: *const u8,
}

/// What a tile's sums begin with.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn load<I: Isa, const R: usize, const V: usize>(work: &Work) -> [[I::Float; V]; R] {
    // SAFETY: by the caller's promise.
    unsafe {
        let mut sums = [[I::splat_float(0.0); V]; R];
        if !work.first {
            for row in 0..R {
                if row < work.rows {
                    for v in 0..V {
                        let from = work.results.add(row * work.stride + v * I::LANES);
                        sums[row][v] = I::load_float(from);
                    }
                }
            }
        }
        sums
    }
}

/// Writes the sums of the rows that are wanted.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn store<I: Isa, const R: usize, const V: usize>(work: &Work, sums: &[[I::Float; V]; R]) {
    for row in 0..R {
        if row < work.rows {
            for v in 0..V {
                // SAFETY: by the caller's promise.
                unsafe {
                    let to = work.results.add(row * work.stride + v * I::LANES);
                    I::store_float(to, sums[row][v]);
                }
            }
        }
    }
}

/// Multiplies `R` rows with `V` vectors of columns.
///
/// # Safety
/// The processor has `I`'s features. `panel` has `blocks` blocks, as has the tile of height `R`, and
/// results of `rows` rows may be written.
#[inline(always)]
pub(crate) unsafe fn tile<
    I: Isa,
    const R: usize,
    const V: usize,
    const BITS: usize,
    const ZEROS: bool,
    const QUARTERS: usize,
    const SINGLE: bool,
>(
    work: &Work,
) {
    // SAFETY: by the caller's promise; pointers advance block by block as both layouts do.
    unsafe {
        let vector = I::LANES * 4;
        let mut sums = load::<I, R, V>(work);
        let mut panel = work.panel;
        let mut activations = work.activations;
        let runs = if SINGLE { 1 } else { work.runs };
        let tail = runs * QUARTERS * R;
        for _ in 0..work.blocks {
            let scales = panel;
            panel = panel.add(V * vector);
            // Integer sums begin with what the weights' zero points add too much.
            let mut starts = [[I::splat(0); V]; R];
            for row in 0..R {
                let start = I::splat(*activations.add(tail + R + row));
                for v in 0..V {
                    starts[row][v] = if ZEROS {
                        I::small_product(I::load(panel.add(v * vector)), start)
                    } else {
                        start
                    };
                }
            }
            if ZEROS {
                panel = panel.add(V * vector);
            }
            for _ in 0..runs {
                I::add_panel::<R, V, BITS, QUARTERS>(&mut starts, panel, activations);
                panel = panel.add(QUARTERS * V * vector);
                activations = activations.add(QUARTERS * R);
            }
            // In this order for all shapes of tiles, so that a result does not depend on the shape.
            for row in 0..R {
                let scale = I::splat_float(f32::from_bits((*activations.add(row)).cast_unsigned()));
                for v in 0..V {
                    let weight_scale = I::load_float(scales.add(v * vector).cast());
                    let scale = I::multiply(weight_scale, scale);
                    sums[row][v] =
                        I::multiply_add(I::to_float(starts[row][v]), scale, sums[row][v]);
                }
            }
            activations = activations.add(2 * R);
        }
        store::<I, R, V>(work, &sums);
    }
}

/// Multiplies `R` rows with the `V` vectors of a group of columns, whose weights are read as they are
/// packed. `levels` are lines; the packed weights of what comes next are fetched meanwhile.
///
/// # Safety
/// As [`tile`], for the packed weights of `blocks` blocks.
#[inline(always)]
pub(crate) unsafe fn direct<
    I: Isa,
    const R: usize,
    const V: usize,
    const BITS: usize,
    const ZEROS: bool,
    const QUARTERS: usize,
    const SINGLE: bool,
>(
    work: &Work,
    packed: Packed,
) {
    // SAFETY: by the caller's promise; pointers advance block by block as both layouts do.
    unsafe {
        let mut sums = [[I::splat_float(0.0); V]; R];
        let Packed { mut scales, mut zeros, mut levels } = packed;
        let mut activations = work.activations;
        let runs = if SINGLE { 1 } else { work.runs };
        for _ in 0..work.blocks {
            let mut starts = [[I::splat(0); V]; R];
            let tail = activations.add(runs * QUARTERS * R);
            for v in 0..V {
                let zero = if ZEROS {
                    zero_points::<I, BITS>(zeros.add(v * I::LANES))
                } else {
                    I::splat(0)
                };
                for row in 0..R {
                    let start = I::splat(*tail.add(R + row));
                    starts[row][v] = if ZEROS { I::small_product(zero, start) } else { start };
                }
            }
            for _ in 0..runs {
                I::add_packed::<R, V, BITS, QUARTERS>(&mut starts, levels, activations);
                levels = levels.add(QUARTERS * BITS / 8 * 64);
                activations = activations.add(QUARTERS * R);
            }
            for v in 0..V {
                let weight_scale = I::halves(scales.add(v * I::LANES * 2));
                for row in 0..R {
                    let scale = f32::from_bits((*activations.add(row)).cast_unsigned());
                    let scale = I::multiply(weight_scale, I::splat_float(scale));
                    sums[row][v] =
                        I::multiply_add(I::to_float(starts[row][v]), scale, sums[row][v]);
                }
            }
            scales = scales.add(COLUMNS * 2);
            zeros = zeros.wrapping_add(COLUMNS);
            activations = activations.add(2 * R);
        }
        store::<I, R, V>(work, &sums);
    }
}

/// What a run's dot products are added to, for sums that begin with `sums`.
///
/// # Safety
/// As [`Isa`].
#[inline(always)]
unsafe fn begin<I: Dots, const R: usize, const V: usize, const BITS: usize>(
    sums: &[[I::Int; V]; R],
) -> [[I::Int; V]; R] {
    let mut parts = *sums;
    for row in 0..R {
        for v in 0..V {
            // SAFETY: by the caller's promise.
            parts[row][v] = unsafe { I::begin::<BITS>(sums[row][v]) };
        }
    }
    parts
}

/// Adds what a run's dot products came to.
///
/// # Safety
/// As [`Isa`].
#[inline(always)]
unsafe fn end<I: Dots, const R: usize, const V: usize, const BITS: usize>(
    sums: &mut [[I::Int; V]; R],
    parts: &[[I::Int; V]; R],
) {
    for row in 0..R {
        for v in 0..V {
            // SAFETY: by the caller's promise.
            sums[row][v] = unsafe { I::end::<BITS>(parts[row][v], sums[row][v]) };
        }
    }
}

/// [`Isa::add_panel`] by dot products.
///
/// # Safety
/// As there.
#[inline(always)]
pub(crate) unsafe fn add_panel<
    I: Dots,
    const R: usize,
    const V: usize,
    const BITS: usize,
    const QUARTERS: usize,
>(
    sums: &mut [[I::Int; V]; R],
    panel: *const u8,
    activations: *const i32,
) {
    // SAFETY: by the caller's promise.
    unsafe {
        let vector = I::LANES * 4;
        let mut parts = begin::<I, R, V, BITS>(sums);
        // The loop that all time is spent in: for each vector of weights and each broadcast of
        // four activations there are R and V dot products, so that neither loads nor broadcasts
        // keep them waiting.
        for four in 0..QUARTERS / 4 {
            // So short a loop, and then the outer one, is unrolled by the compiler.
            for quarter in four * 4..four * 4 + 4 {
                let mut weights = [I::splat(0); V];
                for v in 0..V {
                    weights[v] = I::load(panel.add((quarter * V + v) * vector));
                }
                for row in 0..R {
                    let values = I::splat(*activations.add(quarter * R + row));
                    for v in 0..V {
                        parts[row][v] = I::dot::<BITS>(parts[row][v], weights[v], values);
                    }
                }
            }
        }
        end::<I, R, V, BITS>(sums, &parts);
    }
}

/// [`Isa::add_packed`] by dot products.
///
/// # Safety
/// As there.
#[inline(always)]
pub(crate) unsafe fn add_packed<
    I: Dots,
    const R: usize,
    const V: usize,
    const BITS: usize,
    const QUARTERS: usize,
>(
    sums: &mut [[I::Int; V]; R],
    levels: *const u8,
    activations: *const i32,
) {
    // SAFETY: by the caller's promise.
    unsafe {
        let vector = I::LANES * 4;
        let mut parts = begin::<I, R, V, BITS>(sums);
        for line in 0..QUARTERS * BITS / 8 {
            I::prefetch(levels.add(line * 64).wrapping_add(AHEAD));
            for v in 0..V {
                let bytes = I::load(levels.add(line * 64 + v * vector));
                if BITS == 4 {
                    // Unpacked once and used for all rows, which is why tall tiles pay.
                    let (low, high) = (I::low(bytes), I::high(bytes));
                    for row in 0..R {
                        let at = activations.add(line * 2 * R + row);
                        let sum = I::dot::<BITS>(parts[row][v], low, I::splat(*at));
                        parts[row][v] = I::dot::<BITS>(sum, high, I::splat(*at.add(R)));
                    }
                } else {
                    for row in 0..R {
                        let values = I::splat(*activations.add(line * R + row));
                        parts[row][v] = I::dot::<BITS>(parts[row][v], bytes, values);
                    }
                }
            }
        }
        end::<I, R, V, BITS>(sums, &parts);
    }
}

/// The zero points of a vector of columns, as [`Isa::add_panel`] needs them.
///
/// # Safety
/// As [`Isa`]; a byte for each lane may be read.
#[inline(always)]
unsafe fn zero_points<I: Isa, const BITS: usize>(from: *const u8) -> I::Int {
    // SAFETY: by the caller's promise.
    unsafe {
        let zeros = I::widen(from);
        if BITS == 8 && I::OFFSET8 != 0 { I::subtract(zeros, I::splat(I::OFFSET8)) } else { zeros }
    }
}

/// Unpacks `blocks` blocks of a vector of columns into `panel`: for each block its scales, its zero
/// points if it has some, and its quarters, each `vectors` vectors of which this is one.
///
/// # Safety
/// As [`Isa`]; the packed blocks may be read, and the panel written.
#[inline(always)]
pub(crate) unsafe fn unpack<I: Isa, const BITS: usize, const ZEROS: bool>(
    packed: Packed,
    blocks: usize,
    quarters: usize,
    vectors: usize,
    panel: *mut u8,
) {
    // SAFETY: by the caller's promise.
    unsafe {
        let step = vectors * I::LANES * 4;
        let Packed { mut scales, mut zeros, mut levels } = packed;
        let mut to = panel;
        for _ in 0..blocks {
            I::store_float(to.cast(), I::halves(scales));
            scales = scales.add(COLUMNS * 2);
            to = to.add(step);
            if ZEROS {
                I::store(to, zero_points::<I, BITS>(zeros));
                zeros = zeros.add(COLUMNS);
                to = to.add(step);
            }
            // Two quarters at a time, which are one line or two.
            for _ in 0..quarters / 2 {
                let bytes = I::load(levels);
                let (first, second) = if BITS == 4 {
                    (I::low(bytes), I::high(bytes))
                } else {
                    levels = levels.add(64);
                    (bytes, I::load(levels))
                };
                levels = levels.add(64);
                let [first, second] = I::paired(first, second);
                I::store(to, first);
                I::store(to.add(step), second);
                to = to.add(2 * step);
            }
        }
    }
}
