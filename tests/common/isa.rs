//! The instruction set that tests are to run with.

/// The variable that forces an instruction set, if these tests run with it.
pub fn isa() -> Option<(&'static str, String)> {
    std::env::var("PHI4D_ISA").ok().map(|set| ("PHI4D_ISA", set))
}
