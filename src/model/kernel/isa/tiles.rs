//! The kernel's inner functions, compiled for each instruction set.

use super::Isa;
#[cfg(target_arch = "x86_64")]
use super::avx2::{Avx2, AvxVnni};
#[cfg(target_arch = "x86_64")]
use super::avx512::Avx512;
#[cfg(target_arch = "aarch64")]
use super::neon::{Neon, NeonDot, NeonI8mm};
use super::scalar::Scalar;
use crate::activations::{Start, TileRows, round_tile};
use crate::form::Form;
use crate::tile::{self, Packed, Work};

/// The kernel's inner functions for few rows, made of an instruction set's vectors.
///
/// # Safety
/// All functions need the processor's features, and memory as those of [`tile`] say.
pub(crate) trait FewRows: Isa {
    /// Rows of tiles that read packed weights, from the fewest to the most.
    const DIRECT: &[usize];

    /// A tile of `rows` rows, of [`DIRECT`](Self::DIRECT).
    unsafe fn direct(form: &Form, rows: usize, work: &Work, packed: Packed);
    unsafe fn round(
        form: &Form,
        start: Start,
        factor: f32,
        activations: &[f32],
        tile: &mut TileRows<'_>,
    );
}

/// The kernel's inner functions for many rows, which read panels of unpacked weights.
///
/// # Safety
/// As [`FewRows`].
pub(crate) trait Tiles {
    /// The vectors beside these tiles, which do the few rows.
    type Isa: FewRows;
    /// What [`tile`](Self::tile) needs of its thread, and what undoes it.
    type Setup;
    /// Rows of a tile that reads a panel.
    const HEIGHT: usize;
    /// Whether such a tile takes activations by row ([`Shape`](crate::activations::Shape)).
    const BY_ROW: bool;
    /// Groups of columns of the widest panel.
    const WIDE: usize;
    /// The most rows of activations that are multiplied by [`FewRows`]: with more, unpacking pays.
    fn direct_rows(form: &Form) -> usize;

    /// Prepares this thread for tiles of `form` that read a panel.
    unsafe fn set_up(form: &Form) -> Self::Setup;
    /// A tile with `groups` groups of columns, [`WIDE`](Self::WIDE) or 1.
    unsafe fn tile(form: &Form, groups: usize, work: &Work);
    unsafe fn unpack(form: &Form, packed: Packed, blocks: usize, vectors: usize, panel: *mut u8);
}

/// Calls a function compiled for the form's bits, zero points, quarters, and whether a block has only
/// these.
macro_rules! for_form {
    ($form:expr, $function:ident<$rows:literal, $vectors:literal>$arguments:tt) => {
        match ($form.bits, $form.zero_points, $form.block) {
            (4, false, 16) => for_form!(@ $function<$rows, $vectors, 4, false, 4, true>$arguments),
            (4, false, 32) => for_form!(@ $function<$rows, $vectors, 4, false, 8, true>$arguments),
            (4, false, _) => for_form!(@ $function<$rows, $vectors, 4, false, 8, false>$arguments),
            (4, true, 16) => for_form!(@ $function<$rows, $vectors, 4, true, 4, true>$arguments),
            (4, true, 32) => for_form!(@ $function<$rows, $vectors, 4, true, 8, true>$arguments),
            (4, true, _) => for_form!(@ $function<$rows, $vectors, 4, true, 8, false>$arguments),
            (_, false, 16) => for_form!(@ $function<$rows, $vectors, 8, false, 4, true>$arguments),
            (_, false, 32) => for_form!(@ $function<$rows, $vectors, 8, false, 8, true>$arguments),
            (_, false, _) => for_form!(@ $function<$rows, $vectors, 8, false, 8, false>$arguments),
            (_, true, 16) => for_form!(@ $function<$rows, $vectors, 8, true, 4, true>$arguments),
            (_, true, 32) => for_form!(@ $function<$rows, $vectors, 8, true, 8, true>$arguments),
            (_, true, _) => for_form!(@ $function<$rows, $vectors, 8, true, 8, false>$arguments),
        }
    };
    (@ $function:ident<$rows:literal, $vectors:literal, $bits:literal, $zeros:literal, $quarters:literal,
        $single:literal>($($argument:expr),*)) => {
        // SAFETY: the promise of the function that this is expanded in.
        unsafe { $function::<$rows, $vectors, $bits, $zeros, $quarters, $single>($($argument),*) }
    };
}

/// Implements both for an instruction set with these features: tiles of a height, by groups of columns
/// and their vectors, and the rows of direct tiles, by the vectors of one group.
macro_rules! tiles {
    (
        $isa:ident, $(#[$features:meta])? height $height:literal,
        wide $wide:literal = $wide_vectors:literal, group = $vectors:literal,
        direct [$($rows:literal),*] to $direct_rows:literal
    ) => {
        impl FewRows for $isa {
            const DIRECT: &[usize] = &[$($rows),*];

            unsafe fn direct(form: &Form, rows: usize, work: &Work, packed: Packed) {
                $(#[$features])?
                unsafe fn direct<
                    const R: usize, const V: usize, const BITS: usize, const ZEROS: bool,
                    const QUARTERS: usize, const SINGLE: bool,
                >(work: &Work, packed: Packed) {
                    // SAFETY: the promise of this function's caller.
                    unsafe {
                        tile::direct::<$isa, R, V, BITS, ZEROS, QUARTERS, SINGLE>(work, packed)
                    }
                }
                match rows {
                    $($rows => for_form!(form, direct<$rows, $vectors>(work, packed)),)*
                    _ => unreachable!("tiles are as high as `DIRECT` says"),
                }
            }

            $(#[$features])?
            unsafe fn round(
                form: &Form, start: Start, factor: f32, activations: &[f32],
                tile: &mut TileRows<'_>,
            ) {
                // SAFETY: the promise of this function's caller.
                unsafe { round_tile::<$isa>(form, start, factor, activations, tile) };
            }
        }

        impl Tiles for $isa {
            type Isa = Self;
            type Setup = ();
            const BY_ROW: bool = false;
            const HEIGHT: usize = $height;
            const WIDE: usize = $wide;

            fn direct_rows(_form: &Form) -> usize {
                $direct_rows
            }

            unsafe fn set_up(_form: &Form) {}

            unsafe fn tile(form: &Form, groups: usize, work: &Work) {
                $(#[$features])?
                unsafe fn tile<
                    const R: usize, const V: usize, const BITS: usize, const ZEROS: bool,
                    const QUARTERS: usize, const SINGLE: bool,
                >(work: &Work) {
                    // SAFETY: the promise of this function's caller.
                    unsafe { tile::tile::<$isa, R, V, BITS, ZEROS, QUARTERS, SINGLE>(work) }
                }
                if groups == $wide {
                    for_form!(form, tile<$height, $wide_vectors>(work))
                } else {
                    for_form!(form, tile<$height, $vectors>(work))
                }
            }

            unsafe fn unpack(
                form: &Form, packed: Packed, blocks: usize, vectors: usize, panel: *mut u8,
            ) {
                $(#[$features])?
                unsafe fn unpack<const BITS: usize, const ZEROS: bool>(
                    packed: Packed, blocks: usize, quarters: usize, vectors: usize, panel: *mut u8,
                ) {
                    // SAFETY: the promise of this function's caller.
                    unsafe {
                        tile::unpack::<$isa, BITS, ZEROS>(packed, blocks, quarters, vectors, panel);
                    }
                }
                let quarters = form.block / 4;
                // SAFETY: the promise of this function's caller.
                unsafe {
                    match (form.bits, form.zero_points) {
                        (4, false) => unpack::<4, false>(packed, blocks, quarters, vectors, panel),
                        (4, true) => unpack::<4, true>(packed, blocks, quarters, vectors, panel),
                        (_, false) => unpack::<8, false>(packed, blocks, quarters, vectors, panel),
                        (_, true) => unpack::<8, true>(packed, blocks, quarters, vectors, panel),
                    }
                }
            }
        }
    };
}

tiles!(Scalar, height 4, wide 1 = 1, group = 1, direct [1, 2, 4] to 8);
#[cfg(target_arch = "x86_64")]
tiles!(
    Avx2, #[target_feature(enable = "avx2,fma,f16c")] height 4, wide 1 = 2, group = 2,
    direct [1, 2, 3, 4] to 8
);
#[cfg(target_arch = "x86_64")]
tiles!(
    AvxVnni, #[target_feature(enable = "avx2,fma,f16c,avxvnni")] height 4, wide 1 = 2, group = 2,
    direct [1, 2, 3, 4] to 8
);
#[cfg(target_arch = "x86_64")]
tiles!(
    Avx512, #[target_feature(enable = "avx512f,avx512bw,avx512vnni")] height 4, wide 3 = 3, group = 1,
    direct [1, 2, 3, 4, 6, 8] to 32
);
#[cfg(target_arch = "aarch64")]
tiles!(Neon, height 2, wide 1 = 4, group = 4, direct [1, 2] to 8);
#[cfg(target_arch = "aarch64")]
tiles!(
    NeonDot, #[target_feature(enable = "dotprod")] height 4, wide 1 = 4, group = 4,
    direct [1, 2, 3, 4] to 8
);
#[cfg(target_arch = "aarch64")]
tiles!(
    NeonI8mm, #[target_feature(enable = "dotprod,i8mm")] height 4, wide 1 = 4, group = 4,
    direct [1, 2, 4] to 8
);
