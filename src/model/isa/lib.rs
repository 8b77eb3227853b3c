//! The instruction sets that phi4d's kernels are compiled for, and which one a process uses.
//!
//! Every kernel gives the same bits with every set, so the choice is a matter of speed only. A kernel that has
//! no code of its own for a set takes the one below that it has.

#[cfg(target_arch = "x86_64")]
mod amx;

#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;
use std::sync::OnceLock;

/// The environment variable that forces an instruction set, for tests.
pub const VARIABLE: &str = "PHI4D_ISA";

/// A set of instructions beyond what every processor of the target has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstructionSet {
    /// None in particular: plain Rust, which defines the results.
    Scalar,
    /// AVX2, FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// [`Avx2`](Self::Avx2), and AVX-VNNI for dot products of bytes.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// AVX-512 F, BW, DQ and VL, and [`Avx2`](Self::Avx2): the first processors with AVX-512 lack VNNI.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// [`Avx512`](Self::Avx512), and AVX-512 VNNI for dot products of bytes.
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni,
    /// [`Avx512Vnni`](Self::Avx512Vnni), and AMX for products of matrices of bytes, which the system lets this
    /// process use.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// NEON, which every 64-bit Arm processor has.
    #[cfg(target_arch = "aarch64")]
    Neon,
    /// [`Neon`](Self::Neon), and dot products of bytes (`sdot`, Armv8.2 with `dotprod`).
    #[cfg(target_arch = "aarch64")]
    NeonDot,
    /// [`NeonDot`](Self::NeonDot), and products of small matrices of bytes (`usmmla`, Armv8.6's `i8mm`).
    #[cfg(target_arch = "aarch64")]
    NeonI8mm,
}

impl InstructionSet {
    /// All that this processor has, the fastest first; the last is [`Scalar`](Self::Scalar).
    #[must_use]
    pub fn available() -> Vec<Self> {
        let all = [
            #[cfg(target_arch = "x86_64")]
            Self::Amx,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512,
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2,
            #[cfg(target_arch = "aarch64")]
            Self::NeonI8mm,
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot,
            #[cfg(target_arch = "aarch64")]
            Self::Neon,
            Self::Scalar,
        ];
        all.into_iter().filter(|set| set.is_available()).collect()
    }

    /// Whether this processor has it.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => Self::Avx2.is_available() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => {
                Self::Avx512.is_available() && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Self::Avx512Vnni.is_available() && amx::is_permitted(),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => Self::Neon.is_available() && is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Self::NeonI8mm => Self::NeonDot.is_available() && is_aarch64_feature_detected!("i8mm"),
        }
    }

    /// The set, or the one below it if it multiplies by a matrix unit.
    #[must_use]
    pub fn of_vectors(self) -> Self {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => Self::Avx512Vnni,
            set => set,
        }
    }

    /// A set that this processor has, and that the system does not let this process use.
    #[must_use]
    pub fn withheld() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if Self::Avx512Vnni.is_available() && amx::is_there() && !amx::is_permitted() {
            return Some(Self::Amx);
        }
        None
    }

    /// Its name in [`VARIABLE`] and in the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::AvxVnni => "avxvnni",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => "avx512vnni",
            #[cfg(target_arch = "x86_64")]
            Self::Amx => "amx",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "neon",
            #[cfg(target_arch = "aarch64")]
            Self::NeonDot => "neondot",
            #[cfg(target_arch = "aarch64")]
            Self::NeonI8mm => "neoni8mm",
        }
    }
}

/// The instruction set that a process uses: the one that [`VARIABLE`] names if the processor has it, else the
/// fastest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    set: InstructionSet,
    /// What [`VARIABLE`] holds; empty if it is not set.
    named: String,
}

impl Choice {
    /// This process's, which never changes.
    #[must_use]
    pub fn of_process() -> &'static Self {
        static CHOICE: OnceLock<Choice> = OnceLock::new();
        CHOICE.get_or_init(|| {
            Self::among(&InstructionSet::available(), std::env::var(VARIABLE).unwrap_or_default())
        })
    }

    fn among(available: &[InstructionSet], named: String) -> Self {
        let forced = available.iter().find(|set| set.name() == named);
        let set = forced.or(available.first()).copied().unwrap_or(InstructionSet::Scalar);
        Self { set, named }
    }

    /// The set.
    #[must_use]
    pub fn set(&self) -> InstructionSet {
        self.set
    }

    /// The set, unless it is plain Rust that nobody asked for: ONNX Runtime's kernels are faster.
    #[must_use]
    pub fn fast(&self) -> Option<InstructionSet> {
        (self.set != InstructionSet::Scalar || self.named == self.set.name()).then_some(self.set)
    }

    /// What [`VARIABLE`] names in vain: a set that this processor lacks, or that does not exist.
    #[must_use]
    pub fn missing(&self) -> Option<&str> {
        (!self.named.is_empty() && self.named != self.set.name()).then_some(self.named.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fastest_is_chosen_unless_another_is_named() {
        let available = InstructionSet::available();
        assert_eq!(available.last(), Some(&InstructionSet::Scalar));
        let fastest = Choice::among(&available, String::new());
        assert_eq!((fastest.set(), fastest.missing()), (available[0], None));
        for set in &available {
            let forced = Choice::among(&available, set.name().to_owned());
            assert_eq!((forced.set(), forced.fast(), forced.missing()), (*set, Some(*set), None));
        }
    }

    /// `tests/arm64-kernels` has it run on different processors.
    #[test]
    #[ignore = "needs to know the processor: the variable EXPECTED_ISA names its fastest set"]
    fn the_processor_has_the_set_that_is_expected() {
        let expected = std::env::var("EXPECTED_ISA").unwrap();
        assert_eq!(InstructionSet::available()[0].name(), expected);
    }

    #[test]
    fn a_set_that_is_missing_is_reported_and_the_fastest_used() {
        let choice = Choice::among(&[InstructionSet::Scalar], "avx512vnni".to_owned());
        assert_eq!(choice.set(), InstructionSet::Scalar);
        assert_eq!(choice.fast(), None, "nobody asked for plain Rust");
        assert_eq!(choice.missing(), Some("avx512vnni"));
    }
}
