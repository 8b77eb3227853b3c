//! Which instruction set this process uses.

use std::ops::Range;
use std::sync::OnceLock;

use super::Isa as _;
#[cfg(target_arch = "x86_64")]
use super::avx2::{Avx2, AvxVnni};
#[cfg(target_arch = "x86_64")]
use super::avx512::Avx512;
use super::scalar::Scalar;
use super::tiles::Tiles;
use crate::activations::{Start, TileRows};
use crate::form::Form;
use crate::multiply::{Job, narrow, wide};

/// The environment variable that forces an instruction set, for tests.
pub const VARIABLE: &str = "PHI4D_ISA";

/// The kernel for one instruction set, which this processor has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel(Set);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// Calls a function compiled for the set.
macro_rules! by_set {
    ($set:expr, $isa:ident => $call:expr) => {
        match $set {
            Set::Scalar => {
                type $isa = Scalar;
                $call
            }
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => {
                type $isa = Avx2;
                $call
            }
            #[cfg(target_arch = "x86_64")]
            Set::AvxVnni => {
                type $isa = AvxVnni;
                $call
            }
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => {
                type $isa = Avx512;
                $call
            }
        }
    };
}

impl Kernel {
    /// All sets that this processor has, the fastest first; the last is plain Rust.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vnni");
            all.extend(avx512.then_some(Self(Set::Avx512)));
            all.extend((avx2 && is_x86_feature_detected!("avxvnni")).then_some(Self(Set::AvxVnni)));
            all.extend(avx2.then_some(Self(Set::Avx2)));
        }
        all.push(Self(Set::Scalar));
        all
    }

    /// The set that this process uses: the one that [`VARIABLE`] names if the processor has it, else the
    /// fastest. `None` if that is plain Rust and was not asked for: ONNX Runtime's kernels are faster.
    #[must_use]
    pub fn chosen() -> Option<Self> {
        static CHOSEN: OnceLock<Option<Kernel>> = OnceLock::new();
        *CHOSEN.get_or_init(|| {
            let all = Self::all();
            let named = std::env::var(VARIABLE).unwrap_or_default();
            let forced = all.iter().find(|kernel| kernel.name() == named).copied();
            forced.or_else(|| all.first().copied().filter(|kernel| kernel.0 != Set::Scalar))
        })
    }

    /// Its name, as [`VARIABLE`] has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            Set::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Set::AvxVnni => "avxvnni",
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512",
        }
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
