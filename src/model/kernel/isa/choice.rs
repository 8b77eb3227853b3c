//! The kernel of each instruction set.

use std::ops::Range;

use phi4d_isa::{Choice, InstructionSet};

use super::Isa as _;
#[cfg(target_arch = "x86_64")]
use super::avx2::{Avx2, AvxVnni};
#[cfg(target_arch = "x86_64")]
use super::avx512::Avx512;
#[cfg(target_arch = "aarch64")]
use super::neon::{Neon, NeonDot, NeonI8mm};
use super::scalar::Scalar;
use super::tiles::Tiles;
use crate::activations::{Start, TileRows};
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

    /// The one that this process uses; `None` if ONNX Runtime's is faster ([`Choice::fast`]).
    #[must_use]
    pub fn chosen() -> Option<Self> {
        Choice::of_process().fast().map(Self)
    }

    /// The name of its set.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// Groups of columns that are multiplied together; shares of the work are best whole multiples.
    #[must_use]
    pub fn panel_groups(self) -> usize {
        by_set!(self.0, I => I::WIDE)
    }

    /// Rows of a tile of `rows` rows of activations.
    pub(crate) fn height(self, rows: usize) -> usize {
        by_set!(self.0, I => {
            if rows > I::DIRECT_ROWS {
                return I::HEIGHT;
            }
            // As few tiles as there can be, of as few rows each.
            let tallest = I::DIRECT.last().copied().unwrap_or(1);
            let rows = rows.div_ceil(rows.div_ceil(tallest).max(1));
            I::DIRECT.iter().find(|height| **height >= rows).copied().unwrap_or(tallest)
        })
    }

    pub(crate) fn round(
        self,
        form: &Form,
        factor: f32,
        activations: &[f32],
        tile: &mut TileRows<'_>,
    ) {
        by_set!(self.0, I => {
            let offset = if form.bits == 8 { I::OFFSET8 } else { 0 };
            let start = if form.zero_points {
                Start::Factor
            } else {
                Start::Middle(form.middle() - offset)
            };
            // SAFETY: the processor has the features, or there would be no such kernel.
            unsafe { I::round(form, start, factor, activations, tile) }
        });
    }

    /// Multiplies; `groups` are the caller's alone.
    pub(crate) fn multiply(self, job: &Job<'_>, groups: Range<usize>) {
        by_set!(self.0, I => {
            if job.rows() > I::DIRECT_ROWS {
                // SAFETY: the processor has the features, and sizes were checked for the job.
                unsafe { wide::<I>(job, groups) }
            } else {
                // SAFETY: as above.
                unsafe { narrow::<I>(job, groups) }
            }
        });
    }
}
