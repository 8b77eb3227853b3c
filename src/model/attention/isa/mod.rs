//! Instruction sets: sixteen numbers in single precision at a time.

mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::f32::consts::LN_2;
use std::sync::OnceLock;

/// The variable that forces an instruction set, for tests.
const VARIABLE: &str = "PHI4D_ISA";

/// An instruction set of this processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// None in particular. It defines the results.
    Scalar,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// All that this processor has, the fastest last.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let all = [
            Self::Scalar,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512,
        ];
        all.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// The one to use: the fastest, or what the variable `PHI4D_ISA` names if this processor has it.
    #[must_use]
    pub fn chosen() -> Self {
        static CHOSEN: OnceLock<Isa> = OnceLock::new();
        *CHOSEN.get_or_init(|| {
            let available = Self::available();
            let forced = std::env::var(VARIABLE).unwrap_or_default();
            let named = available.iter().find(|isa| isa.name() == forced);
            named.or(available.last()).copied().unwrap_or(Self::Scalar)
        })
    }

    /// Its name in `PHI4D_ISA`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
        }
    }

    /// Whether narrow tiles read blocks as they are stored.
    pub(crate) fn is_direct(self) -> bool {
        match self {
            Self::Scalar => scalar::Scalar::DIRECT,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 | Self::Avx512 => true,
        }
    }

    fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86::has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => x86::has_avx512(),
        }
    }

    /// Does `work` with these instructions.
    ///
    /// # Panics
    /// If this processor does not have them.
    pub(crate) fn run<W: Work>(self, work: W) {
        match self {
            Self::Scalar => work.run(scalar::Scalar),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86::run_avx2(work),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => x86::run_avx512(work),
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
