//! Instruction sets: sixteen numbers in single precision at a time.

#[cfg(target_arch = "aarch64")]
mod arm;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::f32::consts::LN_2;

use phi4d_isa::{Choice, InstructionSet};

/// The instruction set that this process attends with; `None` if ONNX Runtime's attention is faster: on
/// x86-64 without AVX2. Plain Rust calls a function there for each fused multiply-add. Arm always has NEON.
#[must_use]
pub fn chosen() -> Option<InstructionSet> {
    let choice = Choice::of_process();
    if cfg!(target_arch = "x86_64") { choice.fast() } else { Some(choice.set()) }
}

/// Whether narrow tiles read blocks as they are stored.
pub(crate) fn is_direct(set: InstructionSet) -> bool {
    match set {
        InstructionSet::Scalar => scalar::Scalar::DIRECT,
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 | InstructionSet::AvxVnni => x86::Avx2::DIRECT,
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 | InstructionSet::Avx512Vnni | InstructionSet::Amx => {
            x86::Avx512::DIRECT
        }
        #[cfg(target_arch = "aarch64")]
        InstructionSet::Neon | InstructionSet::NeonDot | InstructionSet::NeonI8mm => {
            arm::Neon::DIRECT
        }
    }
}

/// Does `work` with the instructions of `set`; dot products of bytes are of no use here.
///
/// # Panics
/// If this processor does not have them.
pub(crate) fn run<W: Work>(set: InstructionSet, work: W) {
    match set {
        InstructionSet::Scalar => work.run(scalar::Scalar),
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 | InstructionSet::AvxVnni => x86::run_avx2(work),
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 | InstructionSet::Avx512Vnni | InstructionSet::Amx => {
            x86::run_avx512(work);
        }
        #[cfg(target_arch = "aarch64")]
        InstructionSet::Neon | InstructionSet::NeonDot | InstructionSet::NeonI8mm => {
            work.run(arm::Neon);
        }
    }
}

/// Work that is compiled for each instruction set.
///
/// All functions that it calls with its `isa` must be `#[inline(always)]`: only code within the function that
/// enables the instructions is compiled with them.
pub(crate) trait Work {
    fn run<I: Lanes>(self, isa: I);
}

/// Operations on sixteen numbers. Every implementation rounds as the scalar one does.
pub(crate) trait Lanes: Copy {
    /// Sixteen numbers.
    type V: Copy;

    /// Whether there are registers for four vectors times six rows. Without them tiles are one vector wide.
    const WIDE: bool;

    /// Whether narrow tiles read blocks as they are stored.
    const DIRECT: bool;

    fn splat(self, value: f32) -> Self::V;
    fn load(self, values: &[f32; 16]) -> Self::V;
    /// From half precision.
    fn load_f16(self, values: &[u16; 16]) -> Self::V;
    fn load_i8(self, values: &[i8; 16]) -> Self::V;
    fn store(self, vector: Self::V, to: &mut [f32; 16]);
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The largest of the sixteen.
    fn largest(self, vector: Self::V) -> f32;
    /// The first `count` of `a`, the others of `b`.
    fn first(self, count: usize, a: Self::V, b: Self::V) -> Self::V;
    /// Rounded to the nearest whole number, to the even one of two.
    fn round(self, vector: Self::V) -> Self::V;
    /// `vector` times 2 to the power of `exponent`, which holds whole numbers from -126 to 0.
    fn scale(self, vector: Self::V, exponent: Self::V) -> Self::V;
    /// Fetches the cache line at `address`, which need not be valid.
    fn prefetch(self, address: *const u8);

    /// 2 to the power of `vector`, which is at most 0; below -120 it is 2 to the power of -120. The relative
    /// error is at most 2e-7.
    #[inline(always)]
    fn exp2(self, vector: Self::V) -> Self::V {
        // (2^r - 1) / r for -0.5..=0.5, interpolated at the Chebyshev nodes: within 1e-8 before rounding.
        const TERMS: [f32; 5] = [0.001_339_086_3, 0.009_618_083, 0.055_503_57, 0.240_226_5, LN_2];
        // Powers stay normal numbers, whatever the processor does with smaller ones.
        let vector = self.max(vector, self.splat(-120.0));
        let whole = self.round(vector);
        let rest = self.sub(vector, whole);
        let mut power = self.splat(0.000_154_531_63);
        for term in TERMS {
            power = self.fma(power, rest, self.splat(term));
        }
        self.scale(self.fma(power, rest, self.splat(1.0)), whole)
    }
}
