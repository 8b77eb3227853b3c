//! The `phi4d` program.

fn main() {}
