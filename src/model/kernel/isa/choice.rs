//! The kernel of each instruction set.

use std::ops::Range;
use std::sync::OnceLock;

use phi4d_isa::{Choice, InstructionSet};

use super::Isa;
#[cfg(target_arch = "x86_64")]
use super::amx::Amx;
#[cfg(target_arch = "x86_64")]
use super::avx2::{Avx2, AvxVnni};
#[cfg(target_arch = "x86_64")]
use super::avx512::Avx512;
#[cfg(target_arch = "aarch64")]
use super::neon::{Neon, NeonDot, NeonI8mm};
use super::scalar::Scalar;
use super::tiles::{FewRows as _, Tiles};
use crate::activations::{Shape, Start, TileRows};
use crate::form::Form;
use crate::multiply::{Job, narrow, wide};

/// The kernel for one instruction set, which this processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel(InstructionSet);

/// Calls a function compiled for the set.
macro_rules! by_set {
    ($set:expr, $isa:ident => $call:expr) => {
        match $set {
            InstructionSet::Scalar => {
                type $isa = Scalar;
                $call
            }
            // Without VNNI the shorter vectors are what there is code for.
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx2 | InstructionSet::Avx512 => {
                type $isa = Avx2;
                $call
            }
            #[cfg(target_arch = "x86_64")]
            InstructionSet::AvxVnni => {
                type $isa = AvxVnni;
                $call
            }
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Avx512Vnni => {
                type $isa = Avx512;
                $call
            }
            #[cfg(target_arch = "x86_64")]
            InstructionSet::Amx => {
                type $isa = Amx;
                $call
            }
            #[cfg(target_arch = "aarch64")]
            InstructionSet::Neon => {
                type $isa = Neon;
                $call
            }
            #[cfg(target_arch = "aarch64")]
            InstructionSet::NeonDot => {
                type $isa = NeonDot;
                $call
            }
            #[cfg(target_arch = "aarch64")]
            InstructionSet::NeonI8mm => {
                type $isa = NeonI8mm;
                $call
            }
        }
    };
}

impl Kernel {
    /// Those of all sets that this processor has, the fastest first; the last is plain Rust.
    #[must_use]
    pub fn all() -> Vec<Self> {
        InstructionSet::available().into_iter().map(Self).collect()
    }

    /// The one that this process uses; `None` if ONNX Runtime's is faster ([`Choice::fast`]). It has given the
    /// bits of plain Rust in a small matmul.
    #[must_use]
    pub fn chosen() -> Option<Self> {
        static CHOSEN: OnceLock<Option<Kernel>> = OnceLock::new();
        *CHOSEN.get_or_init(|| {
            let set = Choice::of_process().fast()?;
            if set == InstructionSet::Scalar {
                return Some(Self(set));
            }
            Self::first(&Self::all(), Self(set), Self::is_right)
        })
    }

    /// The first of `kernels` from `kernel` on that is right, but for plain Rust, which is the last.
    fn first(kernels: &[Self], kernel: Self, is_right: impl Fn(Self) -> bool) -> Option<Self> {
        let (_plain, fast) = kernels.split_last()?;
        fast.iter().copied().skip_while(|other| *other != kernel).find(|other| is_right(*other))
    }

    /// The name of the set that this process would use if its kernel gave the right bits.
    #[must_use]
    pub fn rejected() -> Option<&'static str> {
        let set = Choice::of_process().fast()?;
        (Self::chosen() != Some(Self(set))).then_some(set.name())
    }

    /// The name of its set.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// The set that multiplies weights of `form`.
    fn set(self, form: &Form) -> InstructionSet {
        // So short a block's sums take longer to leave the matrix unit than vectors take for the block.
        if form.block < 32 { self.0.of_vectors() } else { self.0 }
    }

    /// Groups of columns that are multiplied together; shares of the work are best whole multiples.
    #[must_use]
    pub fn panel_groups(self, form: &Form) -> usize {
        by_set!(self.set(form), I => I::WIDE)
    }

    /// The tiles of `rows` rows of activations.
    pub(crate) fn shape(self, form: &Form, rows: usize) -> Shape {
        by_set!(self.set(form), I => {
            if rows > I::direct_rows(form) {
                return Shape { height: I::HEIGHT, by_row: I::BY_ROW };
            }
            // As few tiles as there can be, of as few rows each.
            let direct = <I as Tiles>::Isa::DIRECT;
            let tallest = direct.last().copied().unwrap_or(1);
            let rows = rows.div_ceil(rows.div_ceil(tallest).max(1));
            let height = direct.iter().find(|height| **height >= rows).copied();
            Shape { height: height.unwrap_or(tallest), by_row: false }
        })
    }

    pub(crate) fn round(
        self,
        form: &Form,
        factor: f32,
        activations: &[f32],
        tile: &mut TileRows<'_>,
    ) {
        by_set!(self.set(form), I => {
            let offset = if form.bits == 8 { <I as Tiles>::Isa::OFFSET8 } else { 0 };
            let start = if form.zero_points {
                Start::Factor
            } else {
                Start::Middle(form.middle() - offset)
            };
            // SAFETY: the processor has the features, or there would be no such kernel.
            unsafe { <I as Tiles>::Isa::round(form, start, factor, activations, tile) }
        });
    }

    /// Multiplies; `groups` are the caller's alone.
    pub(crate) fn multiply(self, job: &Job<'_>, groups: Range<usize>) {
        by_set!(self.set(job.form), I => {
            if job.rows() > I::direct_rows(job.form) {
                // SAFETY: the processor has the features, and sizes were checked for the job.
                unsafe { wide::<I>(job, groups) }
            } else {
                // SAFETY: as above.
                unsafe { narrow::<I>(job, groups) }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_that_is_wrong_gives_way_to_the_next() {
        let all = Kernel::all();
        for (index, kernel) in all[..all.len() - 1].iter().enumerate() {
            assert!(kernel.is_right(), "{}", kernel.name());
            assert_eq!(Kernel::first(&all, *kernel, |_| true), Some(*kernel));
            let next = Kernel::first(&all, *kernel, |other| other != *kernel);
            assert_eq!(next, all[..all.len() - 1].get(index + 1).copied());
        }
    }
}
